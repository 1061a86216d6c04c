"""Which route wins: the routes of a table as AWS evaluates them, and the table that a packet meets.

The only place where precedence is written down: the walk and the controller's compiler both read it here.

Facts: AWS VPC guide, route tables (longest prefix; ``local`` for the VPC's CIDR, whose target can be replaced);
AWS Transit Gateway guide, route evaluation order (static before propagated for one prefix; blackhole routes drop).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address, IPv4Network

from topologies.model import BLACKHOLE, LOCAL, MAIN, Topology, TransitGateway, Vpc


class TargetKind(Enum):
    LOCAL = "local"
    BLACKHOLE = "blackhole"
    INTERNET_GATEWAY = "internet gateway"
    NAT_GATEWAY = "NAT gateway"
    TRANSIT_GATEWAY = "Transit Gateway"
    ENDPOINT = "GWLB endpoint"
    INSTANCE = "instance"  # its network interface, or one of a routed firewall
    ATTACHMENT = "attachment"  # in a Transit Gateway's table
    VPN = "VPN attachments"  # the same: all that advertise the destination, by ECMP


class Origin(Enum):
    LOCAL = "local"  # every VPC table has it
    STATIC = "static"
    PROPAGATED = "propagated"


@dataclass(frozen=True)
class Route:
    """One route that can win. ``target`` is a resource's name, ``local`` or ``blackhole``."""

    destination: IPv4Network
    target: str
    kind: TargetKind
    origin: Origin


def vpc_routes(topology: Topology, vpc_name: str, table_name: str) -> list[Route]:
    """Return the routes of a VPC's table, longest prefix first.

    The main table needs not be in the file. Raises KeyError for another table, or a target, that does not exist.
    """
    vpc = topology.vpcs[vpc_name]
    routes = {vpc.cidr: Route(vpc.cidr, LOCAL, TargetKind.LOCAL, Origin.LOCAL)}
    if table_name != MAIN or MAIN in vpc.route_tables:
        for destination, target in vpc.route_tables[table_name].routes.items():
            kind = target_kind(topology, vpc, target)
            if kind is None:
                raise KeyError((vpc_name, table_name, target))
            routes[destination] = Route(destination, target, kind, Origin.STATIC)
    return longest_first(routes.values())


def tgw_routes(topology: Topology, tgw_name: str, table_name: str) -> list[Route]:
    """Return the winning routes of a Transit Gateway's table, longest prefix first; targets are attachments.

    Of the VPN attachments that advertise a destination the first is named (:func:`ecmp`).
    """
    gateway = topology.transit_gateways[tgw_name]
    table = gateway.route_tables[table_name]
    routes: dict[IPv4Network, Route] = {}
    for destination, target in table.routes.items():
        kind = TargetKind.VPN if target in gateway.vpn_attachments else TargetKind.ATTACHMENT
        kind = TargetKind.BLACKHOLE if target == BLACKHOLE else kind
        routes[destination] = Route(destination, target, kind, Origin.STATIC)
    # AWS evaluates propagated routes of VPCs before those of VPNs.
    for attachment in (name for name in table.propagations if name in gateway.attachments):
        cidr = topology.vpcs[gateway.attachments[attachment].vpc].cidr
        routes.setdefault(cidr, Route(cidr, attachment, TargetKind.ATTACHMENT, Origin.PROPAGATED))
    for attachment in (name for name in table.propagations if name in gateway.vpn_attachments):
        for cidr in gateway.vpn_attachments[attachment].advertises:
            routes.setdefault(cidr, Route(cidr, attachment, TargetKind.VPN, Origin.PROPAGATED))
    return longest_first(routes.values())


def ecmp(gateway: TransitGateway, destination: IPv4Network) -> list[str]:
    """Return the VPN attachments that advertise *destination*: a hash of the flow chooses between their tunnels."""
    return [name for name, item in gateway.vpn_attachments.items() if destination in item.advertises]


def lookup(routes: Iterable[Route], address: IPv4Address) -> Route | None:
    """Return the first route that covers *address*: the longest prefix, in a list of the functions above."""
    return next((route for route in routes if address in route.destination), None)


def longest_first(routes: Iterable[Route]) -> list[Route]:
    return sorted(routes, key=lambda route: (-route.destination.prefixlen, route.destination))


def target_kind(topology: Topology, vpc: Vpc, target: str) -> TargetKind | None:
    """Return what the name of a target means in a VPC's table; None for a name that means nothing there."""
    if target == LOCAL:
        return TargetKind.LOCAL
    if target == vpc.internet_gateway:
        return TargetKind.INTERNET_GATEWAY
    if target in vpc.nat_gateways:
        return TargetKind.NAT_GATEWAY
    if target in vpc.endpoints:
        return TargetKind.ENDPOINT
    if target in vpc.interfaces:
        return TargetKind.INSTANCE
    if target in topology.transit_gateways:
        return TargetKind.TRANSIT_GATEWAY
    return None


def subnet_table(vpc: Vpc, subnet: str) -> str:
    """Return the name of the table that a subnet is associated with: the main one unless another names it."""
    return next((name for name, table in vpc.route_tables.items() if subnet in table.subnets), MAIN)


def gateway_table(vpc: Vpc) -> str | None:
    """Return the name of the table associated with the VPC's internet gateway (edge association), or None."""
    tables = vpc.route_tables.items()
    return next((name for name, table in tables if table.gateway and table.gateway == vpc.internet_gateway), None)


def attachment_table(gateway: TransitGateway, attachment: str) -> str | None:
    """Return the name of the Transit Gateway table that an attachment is associated with, or None."""
    return next((name for name, table in gateway.route_tables.items() if attachment in table.associations), None)


def vpn_table(gateway: TransitGateway) -> str | None:
    """Return the name of the table that all VPN attachments of a Transit Gateway are associated with, or None."""
    return next((table for name in gateway.vpn_attachments if (table := attachment_table(gateway, name))), None)


def vpc_attachment(topology: Topology, tgw_name: str, vpc_name: str) -> str | None:
    """Return the name of a VPC's attachment to a Transit Gateway (AWS allows one), or None."""
    attachments = topology.transit_gateways[tgw_name].attachments.items()
    return next((name for name, attachment in attachments if attachment.vpc == vpc_name), None)


def gateway_zones(topology: Topology, tgw_name: str) -> list[str]:
    """Return the zones in which VPCs are attached to a Transit Gateway."""
    attachments = topology.transit_gateways[tgw_name].attachments.values()
    return sorted({topology.vpcs[one.vpc].subnets[subnet].az for one in attachments for subnet in one.subnets})


def exit_zones(topology: Topology, tgw_name: str, attachment: str, az: str) -> tuple[str, ...]:
    """Return the zones that a packet can leave an attachment through, when it came to the Transit Gateway in *az*.

    In appliance mode all zones of the attachment: a hash of the flow chooses, the same in both directions. Otherwise
    *az* alone; where the attachment has no subnet in *az*, its first zone: a choice of ours, AWS names none (AWS
    Transit Gateway guide, appliance mode).
    """
    item = topology.transit_gateways[tgw_name].attachments[attachment]
    zones = tuple(sorted(topology.vpcs[item.vpc].subnets[subnet].az for subnet in item.subnets))
    if item.appliance_mode:
        return zones
    return (az,) if az in zones else zones[:1]


def gwlb_appliances(topology: Topology, gwlb_name: str, az: str) -> list[str]:
    """Return the appliances that a load balancer's node in *az* uses where they are registered.

    Those of its zone, or of all zones where cross-zone is on (AWS GWLB guide, cross-zone load balancing).
    """
    gwlb = topology.gateway_load_balancers[gwlb_name]
    subnets = topology.vpcs[gwlb.vpc].subnets
    everywhere = gwlb.load_balancing.cross_zone.enabled
    zones = {name: subnets[item.subnet].az for name, item in gwlb.appliances.items() if item.subnet in subnets}
    return [name for name, zone in zones.items() if everywhere or zone == az]


def gwlb_targets(topology: Topology, gwlb_name: str, az: str) -> list[str]:
    """Return the registered ones of these, in the order of registration."""
    used = gwlb_appliances(topology, gwlb_name, az)
    return [target for target in topology.gateway_load_balancers[gwlb_name].target_group.targets if target in used]
