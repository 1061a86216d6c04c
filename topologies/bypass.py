"""The same cloud without the detour: what a benchmark compares an inspected path with."""

from __future__ import annotations

from ipaddress import IPv4Network

from topologies.model import LOCAL, Topology
from topologies.routing import subnet_table, vpc_routes


def without_inspection(topology: Topology) -> Topology:
    """Return *topology* with routes that lead past the GWLB endpoints; everything else, and every number, is the same.

    In a VPC, a route to an endpoint is replaced by the routes that a packet meets when it comes out of the endpoint.
    At a Transit Gateway, what propagates to one table propagates to all, so that VPCs reach each other directly.
    """
    document = topology.model_dump()
    for vpc_name, vpc in document["vpcs"].items():
        for table in vpc["route_tables"].values():
            for _ in vpc["endpoints"]:  # what comes out of one endpoint may be routed to another
                table["routes"] = past_endpoints(topology, vpc_name, table["routes"])
    for gateway in document["transit_gateways"].values():
        tables = gateway["route_tables"].values()
        propagating = tuple(dict.fromkeys(name for table in tables for name in table["propagations"]))
        for table in tables:
            table["propagations"] = propagating
    return Topology.model_validate(document)


def past_endpoints(topology: Topology, vpc_name: str, routes: dict[IPv4Network, str]) -> dict[IPv4Network, str]:
    """Return *routes* with each one to an endpoint replaced by what the endpoint's subnet does with its packets."""
    vpc = topology.vpcs[vpc_name]
    direct = {destination: target for destination, target in routes.items() if target not in vpc.endpoints}
    for destination, target in routes.items():
        if target in vpc.endpoints:
            beyond = vpc_routes(topology, vpc_name, subnet_table(vpc, vpc.endpoints[target].subnet))
            within = [(route.destination, route.target) for route in beyond if route.destination.subnet_of(destination)]
            # The longest of the prefixes that cover the destination decides for what is left of it.
            around = [(destination, route.target) for route in beyond if destination.subnet_of(route.destination)]
            for prefix, after in within + around[:1]:
                if after != LOCAL:
                    direct.setdefault(prefix, after)
    return direct
