"""NAT of routed firewalls: commands of iptables, for a firewall's own network namespace.

In the inbound sandwich a firewall sends what comes to one port of its untrust address on to the internal load balancer
(DNAT), from its trust address (SNAT), so that the answer comes back to the same firewall. Outbound, and where answers
may come back over another tunnel, it translates the source only. PAN-OS writes DNAT and SNAT of an application as one
rule of its NAT policy; iptables takes one of each.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from testbed.errors import RequestError

#: Destinations inside the cloud (RFC 1918): packets to them keep their source.
PRIVATE = (IPv4Network("10.0.0.0/8"), IPv4Network("172.16.0.0/12"), IPv4Network("192.168.0.0/16"))

Rules = list[list[str]]


@dataclass(frozen=True)
class Application:
    """What the firewalls' untrust ``port`` leads to: ``listener``, address and port of the internal load balancer."""

    name: str
    port: int
    listener: tuple[IPv4Address, int]


def inbound_rules(
    applications: Sequence[Application],
    *,
    untrust_interface: str,
    untrust_address: IPv4Address,
    trust_interface: str,
    trust_address: IPv4Address,
) -> Rules:
    """Return the rules of the sandwich, two for each application. Raises RequestError where two share a port."""
    rules: Rules = []
    owners: dict[int, str] = {}
    for application in applications:
        if (owner := owners.setdefault(application.port, application.name)) != application.name:
            raise RequestError(
                f"NAT of {application.name}: port {application.port} is {owner}'s; give each application its own"
            )
        address, port = application.listener
        rules += [
            _rule(
                "PREROUTING",
                *("-i", untrust_interface, "-d", f"{untrust_address}/32", *_tcp(application.port)),
                *("-j", "DNAT", "--to-destination", f"{address}:{port}"),
            ),
            _rule(
                "POSTROUTING",
                *("-o", trust_interface, "-d", f"{address}/32", *_tcp(port)),
                *("-j", "SNAT", "--to-source", str(trust_address)),
            ),
        ]
    return rules


def outbound_rules(interface: str, address: IPv4Address, exempt: Iterable[IPv4Network] = PRIVATE) -> Rules:
    """Return the rules that give what leaves by *interface* the source *address*, but not to *exempt* destinations."""
    return [
        *(_rule("POSTROUTING", "-o", interface, "-d", str(network), "-j", "ACCEPT") for network in exempt),
        _rule("POSTROUTING", "-o", interface, "-j", "SNAT", "--to-source", str(address)),
    ]


def _rule(chain: str, *words: str) -> list[str]:
    return ["iptables", "-w", "-t", "nat", "-A", chain, *words]


def _tcp(port: int) -> tuple[str, ...]:
    return "-p", "tcp", "--dport", str(port)
