"""A packaged topology with another number of firewalls, all of them in use: what architectures are compared with."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from topologies.defaults import fill
from topologies.model import UNASSIGNED, Topology

#: Two firewalls for each of two Availability Zones.
MOST_ACTIVE_PASSIVE = 4


def with_firewalls(topology: Topology, count: int) -> Topology:
    """Return the topology with *count* firewalls, 1 to 8, named ``fw1`` and on; addresses are assigned anew.

    Of a Gateway Load Balancer all are in its first zone up to two, then in both. An active-passive pair stays one: the
    routes of both zones lead to the only active firewall with up to two, and of four each zone has its own pair.
    Without appliance mode a flow stays in its zone, so the traffic of one zone has one active firewall in any case.
    Raises ValueError for a number that cannot be built.
    """
    document = topology.model_dump()
    most = MOST_ACTIVE_PASSIVE if any(vpc["high_availability"] for vpc in document["vpcs"].values()) else 8
    if not 1 <= count <= most:
        raise ValueError(f"topology {topology.name}: {count} firewalls cannot be built; choose 1 to {most}")
    for gwlb in document["gateway_load_balancers"].values():
        _appliances(gwlb, count)
    for vpc in document["vpcs"].values():
        if vpc["high_availability"]:
            _pairs(vpc, count)
        elif vpc["firewalls"]:
            _routed(vpc, count)
    for gateway in document["transit_gateways"].values():
        if most == MOST_ACTIVE_PASSIVE:
            for attachment in gateway["attachments"].values():
                attachment["appliance_mode"] = False
        if gateway["vpn_attachments"]:
            _vpn_attachments(gateway, count)
    return fill(Topology.model_validate(document))


def _appliances(gwlb: dict[str, Any], count: int) -> None:
    subnets = list(gwlb["subnets"])
    gwlb["appliances"] = {
        f"fw{number}": {"subnet": subnets[(number - 1) // 2 % len(subnets)], "address": UNASSIGNED}
        for number in range(1, count + 1)
    }
    gwlb["target_group"]["targets"] = tuple(gwlb["appliances"])
    # Endpoints of a zone without firewalls reach those of the other.
    gwlb["load_balancing"]["cross_zone"]["enabled"] = True


def _routed(vpc: dict[str, Any], count: int) -> None:
    first = vpc["firewalls"]["fw1"]
    public = first["untrust"]["public_address"]
    before = tuple(vpc["firewalls"])
    vpc["firewalls"] = {f"fw{number}": deepcopy(first) for number in range(1, count + 1)}
    for number, firewall in enumerate(vpc["firewalls"].values()):
        for part in ("untrust", "trust"):
            firewall[part]["address"] = UNASSIGNED
        if public:
            firewall["untrust"]["public_address"] = public + number
    for balancer in vpc["load_balancers"].values():
        for listener in balancer["listeners"].values():
            if set(listener["targets"]) <= set(before):
                listener["targets"] = tuple(vpc["firewalls"])


def _vpn_attachments(gateway: dict[str, Any], count: int) -> None:
    before, first = set(gateway["vpn_attachments"]), next(iter(gateway["vpn_attachments"].values()))
    gateway["vpn_attachments"] = {
        f"vpn{number}": {**first, "firewall": f"fw{number}"} for number in range(1, count + 1)
    }
    names = tuple(gateway["vpn_attachments"])
    for table in gateway["route_tables"].values():
        for key in ("associations", "propagations"):
            if before & set(table[key]):
                table[key] = (*(name for name in table[key] if name not in before), *names)


def _pairs(vpc: dict[str, Any], count: int) -> None:
    kept = list(vpc["firewalls"])[:count]
    vpc["firewalls"] = {name: vpc["firewalls"][name] for name in kept}
    vpc["high_availability"] = {
        name: pair for name, pair in vpc["high_availability"].items() if set(pair["firewalls"]) <= set(kept)
    }
    for table in vpc["route_tables"].values():
        for destination, target in table["routes"].items():
            firewall, _, part = target.partition("-")
            if part in ("trust", "untrust") and firewall not in kept:
                table["routes"][destination] = f"{kept[0]}-{part}"
