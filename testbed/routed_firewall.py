"""The lab's routed firewalls: Linux routers with an untrust and a trust interface, whose packets the engine judges."""

from __future__ import annotations

from testbed.nodes import no_offload
from topologies.model import Vpc


def node_commands(vpc: Vpc, name: str, mtu: int) -> list[str]:
    """Return the commands that make a router out of the node of firewall *name*; *mtu* in bytes."""
    firewall = vpc.firewalls[name]
    # It never tells a sender of a shorter way: what comes by an interface may leave by it.
    commands = ["echo 1 > /proc/sys/net/ipv4/ip_forward", "echo 0 > /proc/sys/net/ipv4/conf/all/send_redirects"]
    for part, item in firewall.interfaces.items():
        subnet = vpc.subnets[item.subnet].cidr
        commands += [
            f"echo 0 > /proc/sys/net/ipv4/conf/{part}/send_redirects",
            f"ip address add {item.address}/{subnet.prefixlen} dev {part}",
            f"ip link set {part} mtu {mtu} up",
            no_offload(part),
        ]
    for destination, part in firewall.routes.items():
        router = vpc.subnets[firewall.interfaces[part].subnet].cidr[1]
        commands.append(f"ip route add {destination} via {router} dev {part}")
    return commands
