"""What a firewall and an attachment carry: queues on their interfaces, alike in every architecture.

A firewall forwards each packet out of one interface, so each of them has the firewall's rate: GENEVE's single one as
those of a router. What goes the other way in the same measurement, acknowledgements, counts only where it leaves by the
same interface; that is some percent.
"""

from __future__ import annotations

from collections.abc import Iterable

from testbed.errors import MachineError
from testbed.lab import Lab
from testbed.nodes import token_bucket
from topologies.fabric import tunnels_of

#: How long a packet waits for its turn at most: long enough for the windows of many flows.
LATENCY = "100ms"


def queue(interface: str, rate: float) -> list[str]:
    """Return the command that lets an interface send at most *rate* bit/s; its burst is what passes in 10 ms."""
    return token_bucket(interface, rate, 16_000, LATENCY)


def interfaces(lab: Lab, firewall: str) -> list[str]:
    """Return the interfaces by which a firewall sends inspected packets."""
    routed = any(firewall in vpc.firewalls for vpc in lab.topology.vpcs.values())
    return ["untrust", "trust", *tunnels_of(lab.topology, firewall)] if routed else ["eth0"]


def rate_firewalls(lab: Lab, rate: float) -> None:
    """Give all firewalls of the lab the same rating, in bit/s in the lab. Raises MachineError where tc refuses."""
    for name in lab.firewalls:
        _set(lab, name, interfaces(lab, name), rate)


def rate_attachments(lab: Lab, hosts: Iterable[str], rate: float) -> None:
    """Let hosts, each the only one in its VPC that sends, send what the VPC's attachment carries."""
    for name in hosts:
        _set(lab, name, ["eth0"], rate)


def _set(lab: Lab, node: str, names: Iterable[str], rate: float) -> None:
    for interface in names:
        if said := lab.host(node).run(queue(interface, rate)).stderr.strip():
            raise MachineError(f"{node}: no queue on {interface}: {said}")
