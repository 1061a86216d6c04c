"""The ids of a topology's resources in AWS's form, derived from their names.

Facts: an endpoint's id without its prefix, read as hexadecimal, is the 64-bit value of GENEVE option type 1 (AWS
Gateway Load Balancer guide, appliance integration; gwlbtun prints it with 17 digits).
"""

from __future__ import annotations

import hashlib

from topologies.model import Topology, resource_id


def endpoint_ids(topology: Topology) -> dict[str, str]:
    """Return the id (``vpce-0…``) of each VPC endpoint by name, in the file's order."""
    names = [name for vpc in topology.vpcs.values() for name in vpc.endpoints]
    return {name: resource_id("vpce", topology.name, name) for name in names}


def endpoint_number(endpoint_id: str) -> int:
    """Return the 64-bit integer that stands for an endpoint's id on the wire."""
    return int(endpoint_id.removeprefix("vpce-"), 16)


def resource_ids(topology: Topology) -> dict[str, str]:
    """Return every resource's id by its name; by ``vpc/name`` for subnets, and ``vpc/name`` or ``tgw/name`` for tables.

    A load balancer's target group and endpoint service are ``gwlb/target-group`` and ``gwlb/endpoint-service``. Load
    balancers and target groups have the last part of their ARN.
    """
    ids: dict[str, str] = {}

    def add(kind: str, *names: str, path: tuple[str, ...] = ()) -> None:
        for name in names:
            ids["/".join((*path, name))] = resource_id(kind, topology.name, *path, name)

    for name, vpc in topology.vpcs.items():
        add("vpc", name)
        add("subnet", *vpc.subnets, path=(name,))
        add("rtb", *vpc.route_tables, path=(name,))
        add("igw", *filter(None, [vpc.internet_gateway]))
        add("i", *vpc.instances)
        add("nat", *vpc.nat_gateways)
    ids |= endpoint_ids(topology)
    for name, gateway in topology.transit_gateways.items():
        add("tgw", name)
        add("tgw-attach", *gateway.attachments)
        add("tgw-rtb", *gateway.route_tables, path=(name,))
    for name, gwlb in topology.gateway_load_balancers.items():
        ids[name] = f"loadbalancer/gwy/{name}/{digits(topology.name, 'gwy', name)}"
        ids[f"{name}/target-group"] = f"targetgroup/{name}/{digits(topology.name, 'targetgroup', name)}"
        add("vpce-svc", "endpoint-service", path=(name,))
        add("i", *gwlb.appliances)
    return ids


def digits(*path: str) -> str:
    """Return the 16 hexadecimal digits that end the ARN of a load balancer or a target group."""
    return hashlib.blake2b("/".join(path).encode(), digest_size=8).hexdigest()
