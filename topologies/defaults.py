"""What a file leaves out, as AWS fills it in: the main route table, a default Transit Gateway table, addresses.

Facts: AWS VPC guide (main route table: a subnet that no other table is associated with uses it; the first four
addresses of a subnet and its last are reserved), AWS Transit Gateway guide (default association and propagation).
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from typing import Any

from topologies.model import MAIN, UNASSIGNED, Topology

Document = dict[str, Any]

#: The first addresses of each subnet: its own, the router's, the DNS server's, one for the future.
RESERVED = 4


def fill(topology: Topology) -> Topology:
    """Return the topology with nothing left out. A name that leads nowhere is left alone, for the validation."""
    document = topology.model_dump()
    for vpc in document["vpcs"].values():
        add_main_table(vpc)
    for gateway in document["transit_gateways"].values():
        if gateway["attachments"] and not gateway["route_tables"]:
            attachments = tuple(gateway["attachments"])
            gateway["route_tables"]["default"] = {"associations": attachments, "propagations": attachments}
    for gwlb in document["gateway_load_balancers"].values():
        group = gwlb["target_group"]
        group["targets"] = group["targets"] or tuple(gwlb["appliances"])
    for name, vpc in document["vpcs"].items():
        balancers = [gwlb for gwlb in document["gateway_load_balancers"].values() if gwlb["vpc"] == name]
        assign_addresses(vpc, balancers)
    return Topology.model_validate(document)


def add_main_table(vpc: Document) -> None:
    """Associate the main table with the subnets that no table names."""
    associated = {subnet for table in vpc["route_tables"].values() for subnet in table["subnets"]}
    others = tuple(subnet for subnet in vpc["subnets"] if subnet not in associated)
    if others:
        main = vpc["route_tables"].setdefault(MAIN, {"subnets": ()})
        main["subnets"] = (*main["subnets"], *others)


def assign_addresses(vpc: Document, balancers: list[Document]) -> None:
    """Give each interface without an address the lowest free one of its subnet; none where the subnet is full."""
    # Where an address is written: a dictionary, the key in it, and the subnet.
    places = [(gwlb["subnets"], subnet, subnet) for gwlb in balancers for subnet in gwlb["subnets"]]
    for residents in (*(gwlb["appliances"] for gwlb in balancers), vpc["nat_gateways"], vpc["instances"]):
        places += [(resident, "address", resident["subnet"]) for resident in residents.values()]
    taken = {holder[key] for holder, key, _ in places}
    for holder, key, subnet in places:
        if holder[key] == UNASSIGNED and subnet in vpc["subnets"]:
            cidr = vpc["subnets"][subnet]["cidr"]
            free = (cidr[offset] for offset in range(RESERVED, cidr.num_addresses - 1))
            address = next((candidate for candidate in free if candidate not in taken), UNASSIGNED)
            holder[key] = address
            taken.add(address)


def is_usable(subnet: IPv4Network, address: IPv4Address) -> bool:
    """Return whether an address of *subnet* is one that AWS does not reserve: not the first four, nor the last."""
    return RESERVED <= int(address) - int(subnet.network_address) < subnet.num_addresses - 1
