"""The ids of a topology's resources in AWS's form, derived from their names.

Facts: an endpoint's id without its prefix, read as hexadecimal, is the 64-bit value of GENEVE option type 1 (AWS
Gateway Load Balancer guide, appliance integration; gwlbtun prints it with 17 digits).
"""

from __future__ import annotations

from topologies.model import Topology, resource_id

#: Where resources are in a topology, and the prefix of their ids.
PREFIXES = {
    ("vpcs", "subnets"): "subnet",
    ("vpcs", "route_tables"): "rtb",
    ("vpcs", "instances"): "i",
    ("vpcs", "firewalls"): "i",
    ("vpcs", "nat_gateways"): "nat",
    ("transit_gateways", "attachments"): "tgw-attach",
    ("transit_gateways", "route_tables"): "tgw-rtb",
    ("gateway_load_balancers", "appliances"): "i",
}


def endpoint_ids(topology: Topology) -> dict[str, str]:
    """Return the id (``vpce-0…``) of each VPC endpoint by name, in the file's order."""
    names = [name for vpc in topology.vpcs.values() for name in vpc.endpoints]
    return {name: resource_id("vpce", topology.name, name) for name in names}


def endpoint_number(endpoint_id: str) -> int:
    """Return the 64-bit integer that stands for an endpoint's id on the wire."""
    return int(endpoint_id.removeprefix("vpce-"), 16)


def service_ids(topology: Topology) -> dict[str, str]:
    """Return the id (``vpce-svc-0…``) of each load balancer's endpoint service, by the load balancer's name."""
    return {name: resource_id("vpce-svc", topology.name, name) for name in topology.gateway_load_balancers}


def resource_ids(topology: Topology) -> dict[tuple[str, ...], str]:
    """Return the id of each resource that has one in AWS (load balancers have an ARN), by its place in the file.

    A place is a path of keys: ``("vpcs", "spoke1", "subnets", "app-a")``, ``("vpcs", "spoke1", "internet_gateway")``.
    """
    kinds: dict[tuple[str, ...], str] = {("vpcs", name): "vpc" for name in topology.vpcs}
    kinds |= {("vpcs", name, "internet_gateway"): "igw" for name, vpc in topology.vpcs.items() if vpc.internet_gateway}
    kinds |= {("transit_gateways", name): "tgw" for name in topology.transit_gateways}
    for (owners, part), prefix in PREFIXES.items():
        for name, owner in getattr(topology, owners).items():
            kinds |= {(owners, name, part, resource): prefix for resource in getattr(owner, part)}
    ids = {place: resource_id(prefix, topology.name, *place) for place, prefix in kinds.items()}
    endpoints = endpoint_ids(topology)
    for name, vpc in topology.vpcs.items():
        ids |= {("vpcs", name, "endpoints", endpoint): endpoints[endpoint] for endpoint in vpc.endpoints}
    for name, service in service_ids(topology).items():
        ids["gateway_load_balancers", name, "endpoint_service"] = service
    return ids
