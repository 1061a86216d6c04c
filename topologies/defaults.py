"""What a file leaves out, as AWS fills it in: main route tables, Transit Gateway tables, instances, targets, addresses.

Facts: AWS VPC guide (main route table: a subnet that no other table is associated with uses it; the first four
addresses of a subnet and its last are reserved), AWS Transit Gateway guide (default association and propagation),
Amazon EC2 Auto Scaling guide (a group balances its instances over its zones; it registers them with its target group).
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from topologies.model import MAIN, UNASSIGNED, GatewayLoadBalancer, Topology

Document = dict[str, Any]

#: The first addresses of each subnet: its own, the router's, the DNS server's, one for the future.
RESERVED = 4


def fill(topology: Topology) -> Topology:
    """Return the topology with nothing left out. A name that leads nowhere is left alone, for the validation.

    Filling in a second time changes nothing: an empty list of targets that is written down stays empty.
    """
    document = topology.model_dump()
    for vpc in document["vpcs"].values():
        add_main_table(vpc)
    for gateway in document["transit_gateways"].values():
        if gateway["attachments"] and not gateway["route_tables"]:
            attachments = tuple(gateway["attachments"])
            gateway["route_tables"]["default"] = {"associations": attachments, "propagations": attachments}
    for name, gwlb in document["gateway_load_balancers"].items():
        if gwlb["auto_scaling_group"] and gwlb["vpc"] in document["vpcs"]:
            add_instances(gwlb, document["vpcs"][gwlb["vpc"]])
        if "targets" not in topology.gateway_load_balancers[name].target_group.model_fields_set:
            gwlb["target_group"]["targets"] = initial_targets(GatewayLoadBalancer.model_validate(gwlb))
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


def add_instances(gwlb: Document, vpc: Document) -> None:
    """Make a place for every instance that the auto scaling group could launch, the subnets by turns."""
    group = gwlb["auto_scaling_group"]
    subnets = [subnet for subnet in group["subnets"] if subnet in vpc["subnets"]]
    for number in range(group["max_size"] if subnets else 0):
        appliance = {"subnet": subnets[number % len(subnets)], "address": UNASSIGNED}
        gwlb["appliances"].setdefault(f"{group['name_prefix']}{number + 1}", appliance)


def scaling_group_name(gwlb: str) -> str:
    """Return the name of a load balancer's auto scaling group."""
    return f"{gwlb}-asg"


def scaling_instances(gwlb: GatewayLoadBalancer) -> tuple[str, ...]:
    """Return the appliances that are the auto scaling group's to launch and terminate, by number; none without one.

    They are those of its name and a number: ``max_size`` when the file was loaded, and as many for as long as it runs.
    """
    if gwlb.auto_scaling_group is None:
        return ()
    instance = re.compile(re.escape(gwlb.auto_scaling_group.name_prefix) + "([1-9][0-9]*)")
    found = {int(match[1]): name for name in gwlb.appliances if (match := instance.fullmatch(name))}
    return tuple(found[number] for number in sorted(found))


def initial_instances(gwlb: GatewayLoadBalancer) -> tuple[str, ...]:
    """Return the instances that run from the start: the first ``desired_capacity``."""
    group = gwlb.auto_scaling_group
    return scaling_instances(gwlb)[: group.desired_capacity] if group else ()


def initial_targets(gwlb: GatewayLoadBalancer) -> tuple[str, ...]:
    """Return the targets of a group that names none: all appliances that run from the start."""
    scaled = scaling_instances(gwlb)
    return (*(name for name in gwlb.appliances if name not in scaled), *initial_instances(gwlb))


def assign_addresses(vpc: Document, balancers: list[Document]) -> None:
    """Give each interface without an address the lowest free one of its subnet; none where the subnet is full."""
    # Where an address is written: a dictionary, the key in it, and the subnet.
    places = [(gwlb["subnets"], subnet, subnet) for gwlb in balancers for subnet in gwlb["subnets"]]
    hosts = vpc["instances"], vpc["load_balancers"]
    firewalls = {(name, part): item[part] for name, item in vpc["firewalls"].items() for part in ("untrust", "trust")}
    for residents in (*(gwlb["appliances"] for gwlb in balancers), vpc["nat_gateways"], *hosts, firewalls):
        places += [(resident, "address", resident["subnet"]) for resident in residents.values()]
    taken = {holder[key] for holder, key, _ in places}
    taken |= {address for item in firewalls.values() for address in item["secondary_addresses"]}
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
