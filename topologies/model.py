"""The cloud that a lab builds, in AWS's terms: VPCs, route tables, a Transit Gateway, a Gateway Load Balancer.

A :class:`Topology` is what a YAML file describes (see :mod:`topologies.loader`). Resources refer to each other by
name, and names are unique within a topology; ids in AWS's form are derived from the names (:mod:`topologies.ids`), so
that the same file always gives the same ids. Nothing here knows how the network is emulated.

What a file leaves out is filled in by :mod:`topologies.defaults`; what a loaded topology obeys is written down in
:mod:`topologies.validation`. The docstrings of classes and fields are what an editor shows, through ``schema.json``.

Facts: AWS VPC, Transit Gateway and Gateway Load Balancer guides, as collected in the project's reference notes.
"""

from __future__ import annotations

import hashlib
from ipaddress import IPv4Address, IPv4Network
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, WithJsonSchema

LOCAL = "local"
BLACKHOLE = "blackhole"
#: The route table of the subnets that no other table is associated with.
MAIN = "main"
#: An address that a file leaves out: the lowest free one of the subnet takes its place when the file is loaded.
UNASSIGNED = IPv4Address("0.0.0.0")

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

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Subnet(Resource):
    cidr: IPv4Network
    az: Zone
    """Availability Zone, a to f."""


class RouteTable(Resource):
    """Routes of the subnets, or of the internet gateway (edge association), that the table is associated with.

    Every table also has a ``local`` route for the VPC's CIDR. Subnets that no table names have the table ``main``.
    """

    subnets: tuple[str, ...] = ()
    gateway: str | None = None
    """The VPC's internet gateway: the table is for what comes in through it, after its 1:1 NAT."""
    routes: dict[IPv4Network, str] = {}
    """Destination to target: an internet gateway, NAT gateway, Transit Gateway, VPC endpoint or instance."""


class Instance(Resource):
    """A host in a subnet."""

    subnet: str
    address: IPv4Address = UNASSIGNED
    """The lowest free address of the subnet, if none is given."""
    public_address: IPv4Address | None = None
    """Mapped 1:1 to the address at the VPC's internet gateway (an Elastic IP address)."""
    source_dest_check: bool = True
    """Drop what is neither from nor to the instance. Off for an instance that forwards."""


class NatGateway(Resource):
    """Source NAT for private subnets: to ``address``, which the internet gateway maps to ``public_address``."""

    subnet: str
    address: IPv4Address = UNASSIGNED
    """The lowest free address of the subnet, if none is given."""
    public_address: IPv4Address


class VpcEndpoint(Resource):
    """A Gateway Load Balancer endpoint (GWLBE): one subnet, so one AZ."""

    subnet: str
    service: str
    """The Gateway Load Balancer whose endpoint service this connects to."""


class Vpc(Resource):
    cidr: IPv4Network
    internet_gateway: Name | None = None
    """The name of the attached internet gateway."""
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
    """Choose the AZ by a hash of the flow, the same in both directions, instead of keeping the AZ of origin."""


class TransitGatewayRouteTable(Resource):
    """The routes for what comes in through the associated attachments."""

    associations: tuple[str, ...] = ()
    propagations: tuple[str, ...] = ()
    """Attachments whose VPC's CIDR becomes a route to them. A static route for the same CIDR wins."""
    routes: dict[IPv4Network, str] = {}
    """Static routes: destination to an attachment, or to ``blackhole``."""


class TransitGateway(Resource):
    """Without ``route_tables``, all attachments are associated with and propagate to one default table."""

    attachments: dict[Name, TransitGatewayVpcAttachment] = {}
    route_tables: dict[Name, TransitGatewayRouteTable] = {}


class Appliance(Resource):
    """A firewall: a target of the Gateway Load Balancer, in its VPC."""

    subnet: str
    address: IPv4Address = UNASSIGNED
    """The lowest free address of the subnet, if none is given."""


class TargetGroup(Resource):
    """GENEVE target group on port 6081, with AWS's attribute defaults."""

    targets: tuple[str, ...] = ()
    """The registered appliances; all of the load balancer's, if this is left out."""
    health_check_port: int = Field(default=80, ge=1, le=65535)


class VpcEndpointService(Resource):
    """What the load balancer offers to endpoints in other VPCs. Endpoints name it by the load balancer's name."""

    acceptance_required: bool = False
    accepted: tuple[str, ...] = ()
    """The endpoints whose connections the owner has accepted, where acceptance is required."""


def _addresses_by_subnet(subnets: Any) -> Any:
    return dict.fromkeys(subnets, UNASSIGNED) if isinstance(subnets, list) else subnets


NodeAddresses = Annotated[
    dict[str, IPv4Address],
    BeforeValidator(_addresses_by_subnet),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "array", "items": {"type": "string"}},
                {"type": "object", "additionalProperties": {"type": "string", "format": "ipv4"}},
            ]
        }
    ),
]


class GatewayLoadBalancer(Resource):
    """One load balancer node (an elastic network interface) in each subnet of ``subnets``."""

    vpc: str
    subnets: NodeAddresses
    """A list of subnets, at most one an AZ; or subnet to the node's address in it."""
    appliances: dict[Name, Appliance] = {}
    target_group: TargetGroup = TargetGroup()
    endpoint_service: VpcEndpointService = VpcEndpointService()
    cross_zone: bool = False
    """Send to targets in all AZs, not only to those in the AZ of the endpoint."""
    tcp_idle_timeout: int = Field(default=350, ge=60, le=6000)
    """Seconds; AWS's default is 350."""


class InternetHost(Resource):
    """A host on the internet, outside every VPC."""

    address: IPv4Address


class Firewalls(Resource):
    """What the firewalls run."""

    policy: str
    """The policy's file, relative to the topology's. Absolute once loaded."""
    zones: dict[str, str] = {}
    """Endpoint to security zone, as VM-Series associates endpoints with sub-interfaces."""


class Topology(Resource):
    """A cloud for the lab: VPCs, Transit Gateways, Gateway Load Balancers, and hosts on the internet."""

    name: Name
    description: str = ""
    mtu: int = Field(default=8500, ge=576, le=8500)
    """Bytes; AWS's limit through a Gateway Load Balancer and a Transit Gateway is 8,500."""
    vpcs: dict[Name, Vpc]
    transit_gateways: dict[Name, TransitGateway] = {}
    gateway_load_balancers: dict[Name, GatewayLoadBalancer] = {}
    internet: dict[Name, InternetHost] = {}
    firewalls: Firewalls | None = None
