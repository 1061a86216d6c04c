"""AWS's rules over a topology, as a list of named passes: each yields a problem for every breach it finds.

A pass looks at one rule and skips what another pass reports, so that a mistake gives one line and all mistakes are
reported at once. Those of Gateway Load Balancers are in :mod:`topologies.managed_services`. Facts, unless a pass says
more: AWS VPC guide (route tables, subnets), AWS Transit Gateway guide, AWS Gateway Load Balancer guide.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from itertools import combinations

from topologies import managed_services
from topologies.defaults import is_usable, scaling_group_name
from topologies.fabric import INTERNET
from topologies.model import (
    BLACKHOLE,
    LOCAL,
    UNASSIGNED,
    NetworkInterface,
    RouteTable,
    Topology,
    Vpc,
    interface_name,
)
from topologies.problem import Place, Problem, did_you_mean, one_subnet_a_zone
from topologies.routing import TargetKind, attachment_table, target_kind, vpc_attachment, vpn_table


def validate(topology: Topology) -> list[Problem]:
    """Return every breach of the rules; none for a topology that can be built. Never raises."""
    passes = (
        names_are_unique,
        networks_have_a_size,
        subnets_fit,
        subnets_exist,
        addresses_fit,
        public_addresses_are_unique,
        internet_is_outside,
        associations_are_single,
        targets_exist,
        targets_can_carry,
        edge_routes_are_whole,
        local_routes_are_kept,
        endpoints_stand_alone,
        attachments_are_zonal,
        transit_tables_are_consistent,
        vpns_have_a_customer_gateway,
        *managed_services.PASSES,
        pairs_are_two_of_a_zone,
        balancers_have_targets,
        firewall_zones_are_endpoints,
        quotas_hold,
    )
    return [problem for rule in passes for problem in rule(topology)]


# -- names and addresses -----------------------------------------------------------------------------------------


RESERVED_NAMES = {INTERNET, LOCAL, BLACKHOLE, "plain", "lo"}


def names_are_unique(topology: Topology) -> Iterator[Problem]:
    """All kinds share one name space, because a name is a node's, a bridge's or a port's in the lab."""
    first: dict[str, Place] = {}
    for name, place in named(topology):
        if name in RESERVED_NAMES:
            yield Problem(place, f"the name {name} is reserved", "choose another")
        elif name in first:
            yield Problem(place, f"the name {name} is taken by {'.'.join(first[name])}", "choose another")
        first.setdefault(name, place)


def named(topology: Topology) -> Iterator[tuple[str, Place]]:
    """Yield the name and place of all that can be referred to across the topology."""
    for vpc_name, vpc in topology.vpcs.items():
        place = ("vpcs", vpc_name)
        yield vpc_name, place
        if vpc.internet_gateway:
            yield vpc.internet_gateway, (*place, "internet_gateway")
        for kind in ("instances", "load_balancers", "firewalls", "high_availability", "nat_gateways", "endpoints"):
            yield from ((name, (*place, kind, name)) for name in getattr(vpc, kind))
        for name, firewall in vpc.firewalls.items():
            for part in firewall.interfaces:
                yield interface_name(name, part), (*place, "firewalls", name, part)
    for kind, parts in (
        ("transit_gateways", ("attachments", "vpn_attachments")),
        ("gateway_load_balancers", ("appliances",)),
    ):
        for name, resource in getattr(topology, kind).items():
            yield name, (kind, name)
            yield from ((item, (kind, name, part, item)) for part in parts for item in getattr(resource, part))
    for name, gwlb in topology.gateway_load_balancers.items():
        if gwlb.auto_scaling_group:
            yield scaling_group_name(name), ("gateway_load_balancers", name, "auto_scaling_group")
    yield from ((name, ("internet", name)) for name in topology.internet)


def networks_have_a_size(topology: Topology) -> Iterator[Problem]:
    """A VPC's and a subnet's CIDR block is between /16 and /28."""
    for name, vpc in topology.vpcs.items():
        networks: list[tuple[Place, IPv4Network]] = [(("vpcs", name), vpc.cidr)]
        networks += [(("vpcs", name, "subnets", subnet), block.cidr) for subnet, block in vpc.subnets.items()]
        for place, cidr in networks:
            if not 16 <= cidr.prefixlen <= 28:
                yield Problem(place, f"{cidr} is no size that AWS allows", "use a CIDR block from /16 to /28", "cidr")


def subnets_fit(topology: Topology) -> Iterator[Problem]:
    """A subnet is a part of its VPC, and overlaps no other."""
    for name, vpc in topology.vpcs.items():
        for subnet_name, subnet in vpc.subnets.items():
            if not subnet.cidr.subnet_of(vpc.cidr):
                place = ("vpcs", name, "subnets", subnet_name)
                yield Problem(place, f"{subnet.cidr} is not within VPC {name}", f"choose a part of {vpc.cidr}", "cidr")
        for (one, a), (other, b) in combinations(vpc.subnets.items(), 2):
            if a.cidr.overlaps(b.cidr):
                place = ("vpcs", name, "subnets", other)
                yield Problem(place, f"{b.cidr} overlaps {one}, {a.cidr}", "subnets of a VPC do not overlap", "cidr")


@dataclass(frozen=True)
class Interface:
    """What has an address in a subnet."""

    place: Place
    vpc: str
    subnet: str
    address: IPv4Address


def interfaces(topology: Topology) -> Iterator[Interface]:
    for vpc_name, vpc in topology.vpcs.items():
        for kind in ("instances", "load_balancers", "nat_gateways"):
            for name, resident in getattr(vpc, kind).items():
                yield Interface(("vpcs", vpc_name, kind, name), vpc_name, resident.subnet, resident.address)
        for where, item in firewall_interfaces(vpc_name, vpc):
            for address in item.addresses:
                yield Interface(where, vpc_name, item.subnet, address)
    for name, gwlb in topology.gateway_load_balancers.items():
        if gwlb.vpc in topology.vpcs:
            place: Place = ("gateway_load_balancers", name)
            for subnet, address in gwlb.subnets.items():
                yield Interface((*place, "subnets"), gwlb.vpc, subnet, address)
            for appliance_name, appliance in gwlb.appliances.items():
                yield Interface((*place, "appliances", appliance_name), gwlb.vpc, appliance.subnet, appliance.address)


def firewall_interfaces(vpc_name: str, vpc: Vpc) -> Iterator[tuple[Place, NetworkInterface]]:
    """Yield the interfaces of a VPC's routed firewalls, each with its place."""
    for name, firewall in vpc.firewalls.items():
        for part, item in firewall.interfaces.items():
            yield ("vpcs", vpc_name, "firewalls", name, part), item


def subnets_exist(topology: Topology) -> Iterator[Problem]:
    """Whatever lies in a subnet names one of its own VPC."""
    residents = [(interface.place, interface.vpc, interface.subnet) for interface in interfaces(topology)]
    for name, vpc in topology.vpcs.items():
        endpoints = vpc.endpoints.items()
        residents += [(("vpcs", name, "endpoints", endpoint), name, item.subnet) for endpoint, item in endpoints]
    for place, vpc_name, subnet in residents:
        if subnet not in topology.vpcs[vpc_name].subnets:
            known = topology.vpcs[vpc_name].subnets
            yield Problem(place, f"VPC {vpc_name} has no subnet {subnet!r}", did_you_mean(subnet, known), "subnet")


def addresses_fit(topology: Topology) -> Iterator[Problem]:
    """An address is one of its subnet's, not reserved by AWS (the first four and the last), and taken once."""
    first: dict[tuple[str, IPv4Address], Place] = {}
    for interface in interfaces(topology):
        subnet = topology.vpcs[interface.vpc].subnets.get(interface.subnet)
        if subnet is None:
            continue
        place, address, name = interface.place, interface.address, interface.subnet
        key = name if place[-1] == "subnets" else "address"
        if address == UNASSIGNED:
            yield Problem(place, f"subnet {name}, {subnet.cidr}, has no free address", "use a larger subnet", "subnet")
        elif address not in subnet.cidr:
            yield Problem(
                place, f"{address} is not in its subnet {name}, {subnet.cidr}", "leave it out, or move it", key
            )
        elif not is_usable(subnet.cidr, address):
            reserved = f"{address} is reserved by AWS (the first four addresses of {name}, {subnet.cidr}, and the last)"
            yield Problem(place, reserved, "leave it out to have one assigned", key)
        elif (interface.vpc, address) in first:
            taken = ".".join(first[interface.vpc, address])
            yield Problem(place, f"{address} is taken by {taken}", "leave it out to have one assigned", key)
        first.setdefault((interface.vpc, address), place)


def public_addresses(topology: Topology) -> Iterator[tuple[Place, str, IPv4Address]]:
    """Yield the place, VPC and public address of all interfaces and NAT gateways that have one."""
    for vpc_name, vpc in topology.vpcs.items():
        for place, item in firewall_interfaces(vpc_name, vpc):
            yield from ((place, vpc_name, public) for public in item.addresses.values() if public)
        for kind in ("instances", "load_balancers", "nat_gateways"):
            for name, resident in getattr(vpc, kind).items():
                if resident.public_address:
                    yield ("vpcs", vpc_name, kind, name), vpc_name, resident.public_address


def public_addresses_are_unique(topology: Topology) -> Iterator[Problem]:
    """A public address is one interface's, lies in no VPC, and needs an internet gateway to be mapped at."""
    first: dict[IPv4Address, Place] = {host.address: ("internet", name) for name, host in topology.internet.items()}
    for place, vpc_name, address in public_addresses(topology):
        for name, vpc in topology.vpcs.items():
            if address in vpc.cidr:
                remedy = "choose one outside all VPCs, such as from 192.0.2.0/24"
                yield Problem(place, f"public address {address} lies in VPC {name}", remedy, "public_address")
        if address in first:
            taken = f"public address {address} is taken by {'.'.join(first[address])}"
            yield Problem(place, taken, "choose another", "public_address")
        first.setdefault(address, place)
        if not topology.vpcs[vpc_name].internet_gateway:
            what = f"public address {address} is of no use: VPC {vpc_name} has no internet gateway"
            yield Problem(place, what, f"name one: vpcs.{vpc_name}.internet_gateway", "public_address")


def internet_is_outside(topology: Topology) -> Iterator[Problem]:
    """A host on the internet has an address of its own, outside all VPCs. Its router is the first of its /24."""
    first: dict[IPv4Address, str] = {}
    for name, host in topology.internet.items():
        place = ("internet", name)
        for vpc_name, vpc in topology.vpcs.items():
            if host.address in vpc.cidr:
                yield Problem(place, f"{host.address} lies in VPC {vpc_name}", "choose one outside all VPCs", "address")
        if host.address in first:
            yield Problem(
                place, f"{host.address} is taken by internet.{first[host.address]}", "choose another", "address"
            )
        first.setdefault(host.address, name)
        network = IPv4Network((host.address, 24), strict=False)
        if host.address in (network[0], network[1], network[-1]):
            what = f"{host.address} is the network's, the router's or the broadcast address of {network}"
            yield Problem(place, what, "choose another", "address")


# -- route tables ------------------------------------------------------------------------------------------------


def tables(topology: Topology) -> Iterator[tuple[Place, str, Vpc, str, RouteTable]]:
    """Yield each VPC route table: its place, the VPC's name, the VPC, its own name, the table."""
    for vpc_name, vpc in topology.vpcs.items():
        for name, table in vpc.route_tables.items():
            yield ("vpcs", vpc_name, "route_tables", name), vpc_name, vpc, name, table


def associations_are_single(topology: Topology) -> Iterator[Problem]:
    """A subnet and a gateway are associated with one route table, an attachment with one of its Transit Gateway."""
    subnets: dict[tuple[str, str], str] = {}
    gateways: dict[tuple[str, str], str] = {}
    for place, vpc_name, vpc, name, table in tables(topology):
        for subnet in table.subnets:
            if subnet not in vpc.subnets:
                yield Problem(
                    place, f"VPC {vpc_name} has no subnet {subnet!r}", did_you_mean(subnet, vpc.subnets), "subnets"
                )
            elif (vpc_name, subnet) in subnets:
                what = f"subnet {subnet} is associated with {subnets[vpc_name, subnet]} already"
                yield Problem(place, what, "a subnet has one route table: keep one association", "subnets")
            subnets.setdefault((vpc_name, subnet), name)
        if table.gateway is None:
            continue
        if table.gateway != vpc.internet_gateway:
            has = f"its internet gateway is {vpc.internet_gateway}" if vpc.internet_gateway else "it has none"
            yield Problem(place, f"{table.gateway!r} is no gateway of VPC {vpc_name}", has, "gateway")
        elif (vpc_name, table.gateway) in gateways:
            what = f"gateway {table.gateway} is associated with {gateways[vpc_name, table.gateway]} already"
            yield Problem(place, what, "a gateway has one route table: keep one association", "gateway")
        gateways.setdefault((vpc_name, table.gateway), name)


def targets_exist(topology: Topology) -> Iterator[Problem]:
    """A route's target is a resource of its own VPC or a Transit Gateway."""
    for place, vpc_name, vpc, _, table in tables(topology):
        for destination, target in table.routes.items():
            if target_kind(topology, vpc, target) is None:
                what, remedy = missing_target(topology, vpc_name, vpc, target)
                yield Problem((*place, "routes"), f"{destination}: {what}", remedy, str(destination))


def missing_target(topology: Topology, vpc_name: str, vpc: Vpc, target: str) -> tuple[str, str]:
    """Return what a target is that a table of *vpc* cannot name, and what to do."""
    if target == BLACKHOLE:
        return "a VPC's table has no blackhole routes", "leave the route out: what no route covers is dropped"
    for name, gateway in topology.transit_gateways.items():
        if target in gateway.attachments:
            return f"{target} is an attachment", f"name its Transit Gateway, {name}"
    for name, gwlb in topology.gateway_load_balancers.items():
        if target == name or target in gwlb.appliances:
            return f"{target} is reached through an endpoint only", f"name an endpoint of VPC {vpc_name} to {name}"
    known = [*vpc.endpoints, *vpc.nat_gateways, *topology.transit_gateways, *vpc.interfaces]
    known += [vpc.internet_gateway] if vpc.internet_gateway else []
    for name, other in topology.vpcs.items():
        kind = target_kind(topology, other, target)
        if kind:
            what = f"{target} belongs to VPC {name} ({kind.value})"
            return what, f"a target is in the table's own VPC: {did_you_mean(target, known)}"
    return f"no target {target!r}", did_you_mean(target, known)


def targets_can_carry(topology: Topology) -> Iterator[Problem]:
    """A route is no unintended blackhole: its target can carry what the table's subnets send to it."""
    for place, vpc_name, vpc, _, table in tables(topology):
        for destination, target in table.routes.items():
            for what, remedy in obstacles(topology, vpc_name, vpc, table, target):
                yield Problem((*place, "routes"), f"{destination}: {what}", remedy, str(destination))


def obstacles(topology: Topology, vpc_name: str, vpc: Vpc, table: RouteTable, target: str) -> Iterator[tuple[str, str]]:
    """Yield why a target cannot carry the traffic of a table, and what to do."""
    kind = target_kind(topology, vpc, target)
    if kind is TargetKind.TRANSIT_GATEWAY:
        name = vpc_attachment(topology, target, vpc_name)
        if name is None:
            yield f"VPC {vpc_name} has no attachment to {target}", f"add one to transit_gateways.{target}.attachments"
            return
        attachment = topology.transit_gateways[target].attachments[name]
        zones = {vpc.subnets[subnet].az for subnet in attachment.subnets if subnet in vpc.subnets}
        for subnet in table.subnets:
            if subnet in vpc.subnets and vpc.subnets[subnet].az not in zones:
                az = vpc.subnets[subnet].az
                yield f"subnet {subnet} is in AZ {az}, where {name} has no subnet", f"give {name} a subnet in {az}"
    elif kind is TargetKind.NAT_GATEWAY and not vpc.internet_gateway:
        yield f"{target} leads nowhere: VPC {vpc_name} has no internet gateway", "name one in internet_gateway"
    elif kind is TargetKind.INSTANCE and vpc.interfaces[target].source_dest_check:
        yield f"{target} drops what is not addressed to it", "set its source_dest_check to false"


def edge_routes_are_whole(topology: Topology) -> Iterator[Problem]:
    """An edge route's destination is the VPC's CIDR or a whole subnet's, its target local, a GWLBE or an interface."""
    allowed = {TargetKind.LOCAL, TargetKind.ENDPOINT, TargetKind.INSTANCE}
    for place, vpc_name, vpc, _, table in tables(topology):
        if table.gateway is None:
            continue
        for destination, target in table.routes.items():
            if destination != vpc.cidr:
                yield from whole_subnet((*place, "routes"), vpc_name, vpc, destination)
            kind = target_kind(topology, vpc, target)
            if kind and kind not in allowed:
                what = f"{destination}: an edge route cannot lead to {target} ({kind.value})"
                remedy = "name a GWLB endpoint, an instance or local"
                yield Problem((*place, "routes"), what, remedy, str(destination))


def local_routes_are_kept(topology: Topology) -> Iterator[Problem]:
    """More specific than ``local`` is a whole subnet only, and leads, as a replaced local route, to a middlebox."""
    middleboxes = {TargetKind.ENDPOINT, TargetKind.NAT_GATEWAY, TargetKind.INSTANCE}
    for place, vpc_name, vpc, _, table in tables(topology):
        if table.gateway is not None:
            continue
        for destination, target in table.routes.items():
            kind = target_kind(topology, vpc, target)
            inside = destination.subnet_of(vpc.cidr)
            if inside and destination != vpc.cidr:
                yield from whole_subnet((*place, "routes"), vpc_name, vpc, destination)
            if kind is TargetKind.LOCAL and destination != vpc.cidr:
                what, remedy = f"{destination}: local is for the VPC's CIDR", f"leave it out, or use {vpc.cidr}"
            elif inside and kind and kind is not TargetKind.LOCAL and kind not in middleboxes:
                what = f"{destination}: traffic within the VPC cannot be sent to {target} ({kind.value})"
                remedy = "name a GWLB endpoint, a NAT gateway or an instance"
            else:
                continue
            yield Problem((*place, "routes"), what, remedy, str(destination))


def whole_subnet(place: Place, vpc_name: str, vpc: Vpc, destination: IPv4Network) -> Iterator[Problem]:
    """Yield the problem of a destination that is no whole subnet of the VPC."""
    subnets = {name: subnet.cidr for name, subnet in vpc.subnets.items()}
    if destination in subnets.values():
        return
    if not destination.subnet_of(vpc.cidr):
        what, remedy = f"{destination} is outside VPC {vpc_name}, {vpc.cidr}", "name a subnet of the VPC"
    else:
        close = [f"{cidr} ({name})" for name, cidr in subnets.items() if cidr.overlaps(destination)]
        what = f"{destination} is not a whole subnet"
        remedy = f"AWS takes a subnet's whole CIDR here: {', '.join(close) or 'there is no subnet in this block'}"
    yield Problem(place, what, remedy, str(destination))


def endpoints_stand_alone(topology: Topology) -> Iterator[Problem]:
    """A GWLBE and the applications that are reached through it are in different subnets (AWS GWLB guide)."""
    for vpc_name, vpc in topology.vpcs.items():
        for name, endpoint in vpc.endpoints.items():
            neighbours = [other for other, item in vpc.interfaces.items() if item.subnet == endpoint.subnet]
            if neighbours:
                place: Place = ("vpcs", vpc_name, "endpoints", name)
                what = f"subnet {endpoint.subnet} also holds {', '.join(neighbours)}"
                yield Problem(place, what, "give the endpoint a subnet of its own, without instances", "subnet")
    for place, _, vpc, _, table in tables(topology):
        for destination, target in table.routes.items():
            if target in vpc.endpoints and vpc.endpoints[target].subnet in table.subnets:
                subnet = vpc.endpoints[target].subnet
                what = f"{destination}: {target} is in subnet {subnet}, which this table serves: a loop"
                remedy = f"associate {subnet} with another table"
                yield Problem((*place, "routes"), what, remedy, str(destination))


# -- Transit Gateways --------------------------------------------------------------------------------------------


def attachments_are_zonal(topology: Topology) -> Iterator[Problem]:
    """A VPC has one attachment to a Transit Gateway, with one subnet in each AZ that it serves."""
    for gateway_name, gateway in topology.transit_gateways.items():
        first: dict[str, str] = {}
        for name, attachment in gateway.attachments.items():
            place: Place = ("transit_gateways", gateway_name, "attachments", name)
            vpc = topology.vpcs.get(attachment.vpc)
            if vpc is None:
                what = f"no VPC {attachment.vpc!r}"
                yield Problem(place, what, did_you_mean(attachment.vpc, topology.vpcs), "vpc")
                continue
            if attachment.vpc in first:
                what = f"VPC {attachment.vpc} is attached by {first[attachment.vpc]} already"
                yield Problem(place, what, "a VPC has one attachment to a Transit Gateway: list all subnets there")
            first.setdefault(attachment.vpc, name)
            yield from one_subnet_a_zone(place, attachment.vpc, vpc, attachment.subnets)


def transit_tables_are_consistent(topology: Topology) -> Iterator[Problem]:
    """An attachment is associated with exactly one table; what propagates to one table does not overlap."""
    for gateway_name, gateway in topology.transit_gateways.items():
        associated: dict[str, str] = {}
        every = [*gateway.attachments, *gateway.vpn_attachments]
        for name, table in gateway.route_tables.items():
            place: Place = ("transit_gateways", gateway_name, "route_tables", name)
            for key in ("associations", "propagations"):
                for attachment in getattr(table, key):
                    if attachment not in every:
                        remedy = did_you_mean(attachment, every)
                        yield Problem(place, f"{key}: no attachment {attachment!r}", remedy, key)
            for attachment in table.associations:
                if attachment in associated:
                    what = f"{attachment} is associated with {associated[attachment]} already"
                    yield Problem(
                        place, what, "an attachment has one route table: keep one association", "associations"
                    )
                associated.setdefault(attachment, name)
            for destination, target in table.routes.items():
                if target != BLACKHOLE and target not in every:
                    remedy = did_you_mean(target, [*every, BLACKHOLE])
                    yield Problem(
                        (*place, "routes"), f"{destination}: no attachment {target!r}", remedy, str(destination)
                    )
            known = [item for item in table.propagations if item in gateway.attachments]
            vpcs = {item: topology.vpcs.get(gateway.attachments[item].vpc) for item in known}
            for (one, a), (other, b) in combinations(vpcs.items(), 2):
                if a and b and a is not b and a.cidr.overlaps(b.cidr):
                    what = f"{one} ({a.cidr}) and {other} ({b.cidr}) propagate overlapping CIDRs"
                    yield Problem(place, what, "give one VPC another CIDR, or keep one propagation", "propagations")
        for name in every:
            if name not in associated:
                kind = "attachments" if name in gateway.attachments else "vpn_attachments"
                place = ("transit_gateways", gateway_name, kind, name)
                what = "associated with no route table: all that comes through it would be dropped"
                yield Problem(place, what, f"add it to the associations of one: {', '.join(gateway.route_tables)}")


def vpns_have_a_customer_gateway(topology: Topology) -> Iterator[Problem]:
    """A VPN attachment leads to a routed firewall, which has one. All of a gateway's are in one route table."""
    firewalls = [name for vpc in topology.vpcs.values() for name in vpc.firewalls]
    first: dict[str, str] = {}
    for gateway_name, gateway in topology.transit_gateways.items():
        tables = {name: attachment_table(gateway, name) for name in gateway.vpn_attachments}
        for name, attachment in gateway.vpn_attachments.items():
            place: Place = ("transit_gateways", gateway_name, "vpn_attachments", name)
            if attachment.firewall not in firewalls:
                what = f"no routed firewall {attachment.firewall!r}"
                yield Problem(place, what, did_you_mean(attachment.firewall, firewalls), "firewall")
            elif first.setdefault(attachment.firewall, name) != name:
                what = f"{attachment.firewall} is the customer gateway of {first[attachment.firewall]} already"
                yield Problem(place, what, "a firewall ends one VPN connection here: add a firewall", "firewall")
            if tables[name] and tables[name] != vpn_table(gateway):
                what = f"it is associated with {tables[name]}, other VPN attachments with {vpn_table(gateway)}"
                yield Problem(place, what, "associate all of them with one route table: the lab has one VPN router")


# -- firewalls ---------------------------------------------------------------------------------------------------------


def pairs_are_two_of_a_zone(topology: Topology) -> Iterator[Problem]:
    """An HA pair is two firewalls of its VPC whose interfaces share subnets: addresses can move between them."""
    for vpc_name, vpc in topology.vpcs.items():
        first: dict[str, str] = {}
        for name, pair in vpc.high_availability.items():
            place: Place = ("vpcs", vpc_name, "high_availability", name)
            unknown = [firewall for firewall in pair.firewalls if firewall not in vpc.firewalls]
            for firewall in unknown:
                what = f"VPC {vpc_name} has no firewall {firewall!r}"
                yield Problem(place, what, did_you_mean(firewall, vpc.firewalls), "firewalls")
            for firewall in set(pair.firewalls) - set(unknown):
                if first.setdefault(firewall, name) != name:
                    what = f"{firewall} is in {first[firewall]} already"
                    yield Problem(place, what, "a firewall has one peer: keep one pair", "firewalls")
            if unknown:
                continue
            one, other = (vpc.firewalls[firewall] for firewall in pair.firewalls)
            if one is other:
                yield Problem(place, f"{pair.firewalls[0]} is its own peer", "name two firewalls", "firewalls")
            for part in one.interfaces:
                here, there = (item.interfaces[part].subnet for item in (one, other))
                if here != there:
                    what = f"{part} interfaces are in subnets {here} and {there}: no address can move between them"
                    yield Problem(place, what, "put both in one subnet", "firewalls")


def firewall_zones_are_endpoints(topology: Topology) -> Iterator[Problem]:
    """The firewalls' zones are given for endpoints that exist."""
    endpoints = [name for vpc in topology.vpcs.values() for name in vpc.endpoints]
    for name in topology.firewalls.zones if topology.firewalls else ():
        if name not in endpoints:
            place = ("firewalls", "zones")
            yield Problem(place, f"no endpoint {name!r}", did_you_mean(name, endpoints), name)


# -- load balancers of a VPC -----------------------------------------------------------------------------------------


def balancers_have_targets(topology: Topology) -> Iterator[Problem]:
    """What a load balancer or a firewall's destination NAT sends to is there, in its own VPC."""
    for vpc_name, vpc in topology.vpcs.items():
        known = [*vpc.hosts, *vpc.firewalls]
        for name, balancer in vpc.load_balancers.items():
            for port, listener in balancer.listeners.items():
                for target in listener.targets:
                    if target not in known or target == name:
                        place: Place = ("vpcs", vpc_name, "load_balancers", name, "listeners", str(port))
                        what = f"VPC {vpc_name} has no target {target!r}" if target != name else "it is its own target"
                        yield Problem(place, what, did_you_mean(target, known), "targets")
        for name, firewall in vpc.firewalls.items():
            for port, nat in firewall.destination_nat.items():
                if nat.target not in vpc.hosts:
                    place = ("vpcs", vpc_name, "firewalls", name, "destination_nat", str(port))
                    what = f"VPC {vpc_name} has no load balancer or instance {nat.target!r}"
                    yield Problem(place, what, did_you_mean(nat.target, vpc.hosts), "target")


# -- quotas ------------------------------------------------------------------------------------------------------


def quotas_hold(topology: Topology) -> Iterator[Problem]:
    """AWS's quotas that cannot be raised by a wish of ours (Gateway Load Balancer, PrivateLink and TGW quotas)."""

    def quota(place: Place, count: int, most: int, what: str) -> Iterator[Problem]:
        if count > most:
            yield Problem(place, f"{count} {what}", f"AWS's quota is {most}")

    yield from quota(("transit_gateways",), len(topology.transit_gateways), 5, "Transit Gateways in an account")
    for name, gateway in topology.transit_gateways.items():
        place: Place = ("transit_gateways", name)
        routes = sum(len(table.routes) + len(table.propagations) for table in gateway.route_tables.values())
        yield from quota(place, len(gateway.route_tables), 20, "route tables of a Transit Gateway")
        yield from quota(place, routes, 10_000, "routes of a Transit Gateway")
        yield from quota(place, len(gateway.attachments), 5_000, "attachments of a Transit Gateway")
    yield from quota(("gateway_load_balancers",), len(topology.gateway_load_balancers), 100, "Gateway Load Balancers")
    for name, gwlb in topology.gateway_load_balancers.items():
        place = ("gateway_load_balancers", name, "target_group")
        yield from quota(place, len(gwlb.target_group.targets), 300, "targets of a Gateway Load Balancer")
    for name, vpc in topology.vpcs.items():
        yield from quota(("vpcs", name), len(vpc.endpoints), 50, "endpoints of a VPC")
