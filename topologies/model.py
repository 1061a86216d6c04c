"""The cloud that a lab builds, in AWS's terms: VPCs, route tables, a Transit Gateway, a Gateway Load Balancer.

A :class:`Topology` is what a YAML file describes (see :mod:`topologies.loader`). Resources refer to each other by
name, and names are unique within a topology; ids in AWS's form are derived from the names, so that the same file
always gives the same ids. Nothing here knows how the network is emulated.

Facts: AWS VPC, Transit Gateway and Gateway Load Balancer guides, as collected in the project's reference notes.
"""

from __future__ import annotations

import hashlib
from ipaddress import IPv4Address, IPv4Network
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

LOCAL = "local"
BLACKHOLE = "blackhole"

#: Names become interface names (``bw-`` + name, at most 15 bytes on Linux) and prompts.
Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,11}$")]
Zone = Annotated[str, StringConstraints(pattern=r"^[a-f]$")]


def resource_id(kind: str, *path: str) -> str:
    """Return an id in AWS's long form: *kind*, a dash and 17 hex digits.

    The first digit is 0, as in real ids, so that an endpoint's id fits the 64 bits of GENEVE option type 1.
    """
    return f"{kind}-0{hashlib.blake2b('/'.join((kind, *path)).encode(), digest_size=8).hexdigest()}"


class Resource(BaseModel):
    """What all resources share: unknown keys are refused, and objects do not change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Subnet(Resource):
    cidr: IPv4Network
    az: Zone


class RouteTable(Resource):
    """Routes of the subnets, or of the gateway (edge association), that the table is associated with.

    ``routes`` maps a destination to a target's name: an internet gateway, NAT gateway, Transit Gateway, VPC endpoint
    or instance (its interface), or ``blackhole``. Every table also has a ``local`` route for the VPC's CIDR.
    """

    subnets: tuple[str, ...] = ()
    gateway: str | None = None
    routes: dict[IPv4Network, str] = {}


class Instance(Resource):
    """A host in a subnet. ``public_address`` is mapped 1:1 at the VPC's internet gateway."""

    subnet: str
    address: IPv4Address
    public_address: IPv4Address | None = None
    source_dest_check: bool = True


class NatGateway(Resource):
    """Source NAT for private subnets: to ``address``, which the internet gateway maps to ``public_address``."""

    subnet: str
    address: IPv4Address
    public_address: IPv4Address


class VpcEndpoint(Resource):
    """A Gateway Load Balancer endpoint (GWLBE): one subnet, so one AZ. ``service`` names a Gateway Load Balancer."""

    subnet: str
    service: str


class Vpc(Resource):
    cidr: IPv4Network
    internet_gateway: str | None = None
    subnets: dict[Name, Subnet] = {}
    route_tables: dict[Name, RouteTable] = {}
    instances: dict[Name, Instance] = {}
    nat_gateways: dict[Name, NatGateway] = {}
    endpoints: dict[Name, VpcEndpoint] = {}


class TransitGatewayVpcAttachment(Resource):
    """A VPC's attachment: one interface in each listed subnet, at most one subnet an AZ."""

    vpc: str
    subnets: tuple[str, ...]
    appliance_mode: bool = False


class TransitGatewayRouteTable(Resource):
    """Static ``routes`` go to an attachment or to ``blackhole``; propagated ones come from ``propagations``."""

    associations: tuple[str, ...] = ()
    propagations: tuple[str, ...] = ()
    routes: dict[IPv4Network, str] = {}


class TransitGateway(Resource):
    attachments: dict[Name, TransitGatewayVpcAttachment] = {}
    route_tables: dict[Name, TransitGatewayRouteTable] = {}


class Appliance(Resource):
    """A firewall: a registered target of the Gateway Load Balancer, in one of its subnets."""

    subnet: str
    address: IPv4Address


class TargetGroup(Resource):
    """GENEVE target group on port 6081, with AWS's attribute defaults."""

    targets: tuple[str, ...]
    health_check_port: int = Field(default=80, ge=1, le=65535)


class GatewayLoadBalancer(Resource):
    """One load balancer node (an elastic network interface) in each subnet of ``subnets``.

    ``subnets`` maps a subnet's name to the node's address in it; at most one subnet an AZ.
    """

    vpc: str
    subnets: dict[str, IPv4Address]
    appliances: dict[Name, Appliance] = {}
    target_group: TargetGroup
    cross_zone: bool = False
    tcp_idle_timeout: int = Field(default=350, ge=60, le=6000, description="seconds")


class InternetHost(Resource):
    """A host on the internet, outside every VPC."""

    address: IPv4Address


class Firewalls(Resource):
    """What the firewalls run: the policy file, relative to the topology's, and the zone of each endpoint."""

    policy: str
    zones: dict[str, str] = {}


class Topology(Resource):
    name: Name
    description: str = ""
    mtu: int = Field(default=8500, ge=576, le=8500, description="bytes; AWS's limit through a GWLB and a TGW is 8,500")
    vpcs: dict[Name, Vpc]
    transit_gateways: dict[Name, TransitGateway] = {}
    gateway_load_balancers: dict[Name, GatewayLoadBalancer] = {}
    internet: dict[Name, InternetHost] = {}
    firewalls: Firewalls | None = None
