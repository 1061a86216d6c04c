"""The lab's routed firewalls: Linux routers with an untrust and a trust interface, whose packets the engine judges."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from firewall_vnf.routed import queue_rules
from testbed.errors import RequestError
from testbed.firewall import session_settings
from testbed.nat import Application, inbound_rules, outbound_rules
from testbed.nodes import no_offload
from topologies.fabric import tunnels_of
from topologies.model import RoutedFirewall, Topology, Vpc

#: The queue of forwarded packets: each firewall has a network namespace, so queues, of its own.
QUEUE = 0


def node_commands(topology: Topology, vpc: Vpc, name: str) -> list[str]:
    """Return the commands that make a router out of the node of firewall *name*."""
    firewall = vpc.firewalls[name]
    # It never tells a sender of a shorter way: what comes by an interface may leave by it.
    commands = ["echo 1 > /proc/sys/net/ipv4/ip_forward", "echo 0 > /proc/sys/net/ipv4/conf/all/send_redirects"]
    for part, item in firewall.interfaces.items():
        subnet = vpc.subnets[item.subnet].cidr
        commands += [
            f"echo 0 > /proc/sys/net/ipv4/conf/{part}/send_redirects",
            f"ip address add {item.address}/{subnet.prefixlen} dev {part}",
            f"ip link set {part} mtu {topology.mtu} up",
            no_offload(part),
        ]
    for destination, part in firewall.routes.items():
        router = vpc.subnets[firewall.interfaces[part].subnet].cidr[1]
        commands.append(f"ip route add {destination} via {router} dev {part}")
    queue = [["iptables", "-w", *rule] for rule in queue_rules(QUEUE, firewall.fail_open, firewall.bypass)]
    nat = nat_rules(vpc, firewall, tunnels_of(topology, name))
    return commands + [shlex.join(rule) for rule in (*queue, *nat)]


def nat_rules(vpc: Vpc, firewall: RoutedFirewall, tunnels: Iterable[str]) -> Iterator[list[str]]:
    """Yield the firewall's NAT rules: destination NAT of what comes to untrust, source NAT of what leaves by it.

    What goes back into a tunnel gets the trust interface's address, which BGP leads back to this firewall.
    """
    applications = [
        Application(f"port {port}", port, (vpc.hosts[nat.target].address, nat.port))
        for port, nat in firewall.destination_nat.items()
    ]
    yield from inbound_rules(
        applications,
        untrust_interface="untrust",
        untrust_address=firewall.untrust.address,
        trust_interface="trust",
        trust_address=firewall.trust.address,
    )
    if firewall.source_nat:
        yield from outbound_rules("untrust", floating_address(vpc, firewall))
        for tunnel in tunnels:
            yield from outbound_rules(tunnel, firewall.trust.address, exempt=())


def floating_address(vpc: Vpc, firewall: RoutedFirewall) -> IPv4Address:
    """Return the source address of what leaves by untrust: that which moves between the two of an HA pair, or its own.

    Both firewalls of a pair translate to it all the time. The cloud gives its packets to the one that has it.
    """
    for pair in vpc.high_availability.values():
        members = [vpc.firewalls[name] for name in pair.firewalls]
        if firewall in members:
            moving = [address for member in members for address in member.untrust.secondary_addresses]
            return moving[0] if moving else firewall.untrust.address
    return firewall.untrust.address


def configuration(
    topology: Topology, vpc: Vpc, name: str, directory: Path, management: IPv4Address, time_scale: float
) -> dict[str, Any]:
    """Return the configuration of routed firewall *name*, in the form of :mod:`firewall_vnf.config`.

    *management* is its address on the management network. Raises RequestError where the topology names no policy.
    """
    if topology.firewalls is None:
        raise RequestError(f"topology {topology.name}: {name} has no policy; name a file in firewalls.policy")
    firewall = vpc.firewalls[name]
    return {
        "name": name,
        "interfaces": {part: part for part in firewall.interfaces} | dict.fromkeys(tunnels_of(topology, name), "trust"),
        "queue": QUEUE,
        "bypass": firewall.bypass,
        "fail_open": firewall.fail_open,
        "policy": topology.firewalls.policy,
        **session_settings(name, directory, management, time_scale),
    }
