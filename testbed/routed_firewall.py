"""The lab's routed firewalls: Linux routers with an untrust and a trust interface, whose packets the engine judges."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from firewall_vnf.high_availability import PROFILES
from firewall_vnf.routed import queue_rules
from testbed.errors import RequestError
from testbed.firewall import session_settings
from testbed.management import CLOUD
from testbed.nat import Application, inbound_rules, outbound_rules
from testbed.nodes import no_offload
from topologies.fabric import tunnels_of
from topologies.model import HighAvailability, RoutedFirewall, Topology, Vpc, interface_name

#: The queue of forwarded packets: each firewall has a network namespace, so queues, of its own.
QUEUE = 0
#: A pair's HA ports, which never move: each a link between the two, with an address at each end. (On AWS, HA2 is
#: ethernet1/1 and HA1 the management port; here the management network keeps firewalls apart.)
HA_PORTS = {
    "ha1": (IPv4Address("169.254.255.1"), IPv4Address("169.254.255.2")),
    "ha2": (IPv4Address("169.254.255.5"), IPv4Address("169.254.255.6")),
}


def node_commands(topology: Topology, vpc: Vpc, name: str) -> list[str]:
    """Return the commands that make a router out of the node of firewall *name*."""
    firewall = vpc.firewalls[name]
    # It never tells a sender of a shorter way: what comes by an interface may leave by it.
    commands = ["echo 1 > /proc/sys/net/ipv4/ip_forward", "echo 0 > /proc/sys/net/ipv4/conf/all/send_redirects"]
    for part, item in configured(vpc, name).interfaces.items():
        subnet = vpc.subnets[item.subnet].cidr
        commands += [
            f"echo 0 > /proc/sys/net/ipv4/conf/{part}/send_redirects",
            f"ip address add {item.address}/{subnet.prefixlen} dev {part}",
            f"ip link set {part} mtu {topology.mtu} up",
            no_offload(part),
        ]
    if found := pair_of(vpc, name):
        for port, addresses in HA_PORTS.items():
            address = addresses[found[1].firewalls.index(name)]
            commands += [f"ip address add {address}/30 dev {port}", f"ip link set {port} up"]
    for destination, part in firewall.routes.items():
        router = vpc.subnets[firewall.interfaces[part].subnet].cidr[1]
        commands.append(f"ip route add {destination} via {router} dev {part}")
    queue = [["iptables", "-w", *rule] for rule in queue_rules(QUEUE, firewall.fail_open, firewall.bypass)]
    nat = nat_rules(vpc, name, tunnels_of(topology, name))
    commands += [shlex.join(rule) for rule in (*queue, *nat)]
    if found:  # a connection that was the peer's for a while is further than the kernel remembers
        commands.append("echo 1 > /proc/sys/net/netfilter/nf_conntrack_tcp_be_liberal")
    return commands


def configured(vpc: Vpc, name: str) -> RoutedFirewall:
    """Return the firewall whose interfaces *name* is configured with: its own, or those that move to it.

    Where a failover moves interfaces both of a pair have the addresses of the first's, as PAN-OS synchronizes the
    configuration. The cloud takes nothing from the one that the interfaces are not attached to: not even its ARP.
    """
    found = pair_of(vpc, name)
    return vpc.firewalls[found[1].firewalls[0] if found and found[1].move == "interface" else name]


def nat_rules(vpc: Vpc, name: str, tunnels: Iterable[str]) -> Iterator[list[str]]:
    """Yield the firewall's NAT rules: destination NAT of what comes to untrust, source NAT of what leaves by it.

    What goes back into a tunnel gets the trust interface's address, which BGP leads back to this firewall.
    """
    firewall = configured(vpc, name)
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
        yield from outbound_rules("untrust", floating_address(vpc, name))
        for tunnel in tunnels:
            yield from outbound_rules(tunnel, firewall.trust.address, exempt=())


def floating_address(vpc: Vpc, name: str) -> IPv4Address:
    """Return the source address of what leaves by untrust: that which moves between the two of an HA pair, or its own.

    Both firewalls of a pair translate to it all the time. The cloud gives its packets to the one that has it.
    """
    found = pair_of(vpc, name)
    members = [vpc.firewalls[member] for member in found[1].firewalls] if found else []
    moving = (address for member in members for address in member.untrust.secondary_addresses)
    return next(moving, configured(vpc, name).untrust.address)


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
        **pair_settings(topology, vpc, name, time_scale),
    }


def pair_of(vpc: Vpc, name: str) -> tuple[int, HighAvailability] | None:
    """Return the number, from 1, and the HA pair that firewall *name* is in."""
    pairs = enumerate(vpc.high_availability.values(), start=1)
    return next(((number, pair) for number, pair in pairs if name in pair.firewalls), None)


def pair_settings(topology: Topology, vpc: Vpc, name: str, time_scale: float) -> dict[str, Any]:
    """Return the section ``high_availability`` of firewall *name*; nothing where it is not one of a pair."""
    found = pair_of(vpc, name)
    if found is None:
        return {}
    number, pair = found
    here = pair.firewalls.index(name)
    ends = [
        {port: str(addresses[index]) for port, addresses in HA_PORTS.items()} for index in range(len(pair.firewalls))
    ]
    interfaces = {interface_name(member, part): part for member in pair.firewalls for part in ("untrust", "trust")}
    plan: dict[str, Any]
    if pair.move == "secondary-ip":
        moving: dict[str, list[str]] = {}
        for member in pair.firewalls:
            for part, item in vpc.firewalls[member].interfaces.items():
                moving.setdefault(interface_name(name, part), []).extend(map(str, item.secondary_addresses))
        routes = [
            {
                "table": f"{vpc_name}/{table_name}",
                "destination": str(destination),
                "interface": interface_name(name, interfaces[target]),
            }
            for vpc_name, other in topology.vpcs.items()
            for table_name, table in other.route_tables.items()
            for destination, target in table.routes.items()
            if target in interfaces
        ]
        plan = {"addresses": {part: addresses for part, addresses in moving.items() if addresses}, "routes": routes}
    else:  # those that the first has at the start are the pair's
        first = pair.firewalls[0]
        plan = {"instance": name, "interfaces": [interface_name(first, part) for part in ("untrust", "trust")]}
    return {
        "high_availability": {
            "group": number,
            "priority": 100 + 10 * here,
            "preemptive": pair.preemptive,
            "timers": PROFILES[pair.timers].model_dump(),
            "address": ends[here]["ha1"],
            "time_scale": time_scale,
            "here": ends[here],
            "there": ends[1 - here],
            "secret": f"{topology.name}-{number}",
            "cloud": CLOUD,
            "plan": plan,
        }
    }
