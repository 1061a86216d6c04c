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
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, WithJsonSchema

LOCAL = "local"
BLACKHOLE = "blackhole"
#: The route table of the subnets that no other table is associated with.
MAIN = "main"
#: An address that a file leaves out: the lowest free one of the subnet takes its place when the file is loaded.
UNASSIGNED = IPv4Address("0.0.0.0")

#: Names become interface names (``bw-`` + name, at most 15 bytes on Linux) and prompts.
Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,11}$")]
#: With an interface's name behind it, it becomes a name such as ``fw1-untrust``.
FirewallName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9]{0,3}$")]
#: With a tunnel's number and end behind it, it becomes a name such as ``vpn1-2-cgw``.
VpnName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9]{0,5}$")]
Port = Annotated[int, Field(ge=1, le=65535)]
Zone = Annotated[str, StringConstraints(pattern=r"^[a-f]$")]
Account = Annotated[str, StringConstraints(pattern=r"^[0-9]{12}$")]
#: An account number, the ARN of an account's root, or everybody.
Principal = Annotated[str, StringConstraints(pattern=r"^([0-9]{12}|arn:aws:iam::[0-9]{12}:root|\*)$")]


def resource_id(kind: str, *path: str) -> str:
    """Return an id in AWS's long form: *kind*, a dash and 17 hex digits.

    The first digit is 0, as in real ids, so that an endpoint's id fits the 64 bits of GENEVE option type 1.
    """
    return f"{kind}-0{hashlib.blake2b('/'.join((kind, *path)).encode(), digest_size=8).hexdigest()}"


def interface_name(firewall: str, part: str) -> str:
    """Return the name of an interface of a routed firewall; *part* is ``untrust`` or ``trust``."""
    return f"{firewall}-{part}"


class Resource(BaseModel):
    """What all resources share: unknown keys are refused, and objects do not change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


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
    """Destination to target: an internet gateway, NAT gateway, Transit Gateway, VPC endpoint, instance, or an interface
    of a routed firewall (``fw1-trust``)."""


class Instance(Resource):
    """A host in a subnet, with one interface."""

    subnet: str
    address: IPv4Address = UNASSIGNED
    """The lowest free address of the subnet, if none is given."""
    public_address: IPv4Address | None = None
    """Mapped 1:1 to the address at the VPC's internet gateway (an Elastic IP address)."""
    source_dest_check: bool = True
    """Drop what is neither from nor to the instance. Off for an instance that forwards."""

    @property
    def addresses(self) -> dict[IPv4Address, IPv4Address | None]:
        """Each private address with its public one."""
        return {self.address: self.public_address}


class NetworkInterface(Instance):
    """An interface of a routed firewall. It forwards, so its source/destination check is off."""

    source_dest_check: bool = False
    secondary_addresses: dict[IPv4Address, IPv4Address | None] = {}
    """Secondary private addresses, each with its public one or none: what moves at a failover."""

    @property
    def addresses(self) -> dict[IPv4Address, IPv4Address | None]:
        """Each private address with its public one."""
        return {self.address: self.public_address, **self.secondary_addresses}


class DestinationNat(Resource):
    """Where what comes for a port of the untrust interface is sent; its source becomes the trust interface."""

    target: str
    """A load balancer or instance of the same VPC."""
    port: Port


class RoutedFirewall(Resource):
    """A firewall that is a router, with two interfaces: ``NAME-untrust`` and ``NAME-trust`` as targets of routes."""

    untrust: NetworkInterface
    trust: NetworkInterface
    destination_nat: dict[Port, DestinationNat] = {}
    """By port of the untrust interface: one for each application of an inbound sandwich."""
    routes: dict[IPv4Network, Literal["untrust", "trust"]] = {
        IPv4Network("0.0.0.0/0"): "untrust",
        IPv4Network("10.0.0.0/8"): "trust",
    }
    """Its own routes: destination to the interface, whose subnet's router is the next hop."""
    source_nat: bool = True
    """What leaves by ``untrust`` has the address of that interface: a secondary one, if there is one."""
    bypass: bool = True
    """Let the kernel carry sessions that need no more inspection."""
    fail_open: bool = False
    """Let traffic pass when the firewall is not there, or has no room for it."""

    @property
    def interfaces(self) -> dict[str, NetworkInterface]:
        """Both interfaces by their own names."""
        return {"untrust": self.untrust, "trust": self.trust}


class Listener(Resource):
    """A port of a load balancer, and its target group."""

    targets: tuple[str, ...]
    """Instances, routed firewalls (their untrust interface) or load balancers of the same VPC."""
    target_port: Port


class LoadBalancer(Instance):
    """A Network or an Application Load Balancer: one node, in one subnet.

    It ends its clients' connections and makes new ones to its targets: an Application Load Balancer from its own
    address, a Network Load Balancer from the client's. The targets' answers to the client must come back to it, so
    their subnets need a route to it. (In AWS the network itself sees to that.)
    """

    type: Literal["network", "application"]
    preserve_client_ip: bool = True
    """Of a Network Load Balancer: ``preserve_client_ip.enabled``."""
    source_dest_check: bool = False
    listeners: dict[Port, Listener]
    """By port."""


class HighAvailability(Resource):
    """Two routed firewalls of an AZ, one active at a time (PAN-OS: active/passive)."""

    firewalls: tuple[str, str]
    """The first is active from the start: the lower device priority."""
    preemptive: bool = False
    """Give the role back to the first firewall when it is there again."""
    move: Literal["secondary-ip", "interface"] = "secondary-ip"
    """What a failover moves: the secondary addresses, or the interfaces themselves (older, slower)."""
    timers: Literal["recommended", "aggressive"] = "recommended"
    """PAN-OS's profile of HA timers: a peer is found gone after 6 s or 3 s, and replaced 2 s or 0.5 s later."""
    api_delay_seconds: float | None = Field(default=None, ge=0)
    """How long the cloud takes to move it; by default 10 s for addresses, 40 s for interfaces. Palo Alto Networks
    documents 20 s to over a minute for interfaces and "faster" for addresses: the numbers are this lab's choice."""


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
    owner: Account = "111111111111"
    """The account that the VPC, and all in it, belongs to."""
    internet_gateway: Name | None = None
    """The name of the attached internet gateway."""
    subnets: dict[Name, Subnet] = {}
    route_tables: dict[Name, RouteTable] = {}
    instances: dict[Name, Instance] = {}
    load_balancers: dict[Name, LoadBalancer] = {}
    firewalls: dict[FirewallName, RoutedFirewall] = {}
    high_availability: dict[Name, HighAvailability] = {}
    nat_gateways: dict[Name, NatGateway] = {}
    endpoints: dict[Name, VpcEndpoint] = {}

    @property
    def hosts(self) -> dict[str, Instance]:
        """What traffic can come from and go to: instances and load balancers."""
        return {**self.instances, **self.load_balancers}

    @property
    def interfaces(self) -> dict[str, Instance]:
        """What has addresses in the VPC and can send: instances, load balancers, the routed firewalls' interfaces."""
        found = dict(self.hosts)
        for name, firewall in self.firewalls.items():
            found |= {interface_name(name, part): item for part, item in firewall.interfaces.items()}
        return found


class TransitGatewayVpcAttachment(Resource):
    """A VPC's attachment: one interface in each listed subnet, at most one subnet an AZ."""

    vpc: str
    subnets: tuple[str, ...]
    appliance_mode: bool = False
    """Choose the AZ by a hash of the flow, the same in both directions, instead of keeping the AZ of origin."""


class TransitGatewayVpnAttachment(Resource):
    """A Site-to-Site VPN connection to a routed firewall, its customer gateway: two IPsec tunnels, and BGP over them.

    What the firewall advertises becomes routes to all attachments that advertise it: equal-cost multi-path (ECMP).
    """

    firewall: str
    advertises: tuple[IPv4Network, ...] = (IPv4Network("0.0.0.0/0"),)


class TransitGatewayRouteTable(Resource):
    """The routes for what comes in through the associated attachments."""

    associations: tuple[str, ...] = ()
    propagations: tuple[str, ...] = ()
    """Attachments whose VPC's CIDR, or what a VPN's firewall advertises, becomes a route to them. A static route for
    the same CIDR wins."""
    routes: dict[IPv4Network, str] = {}
    """Static routes: destination to an attachment, or to ``blackhole``."""


class TransitGateway(Resource):
    """Without ``route_tables``, all attachments are associated with and propagate to one default table."""

    attachments: dict[Name, TransitGatewayVpcAttachment] = {}
    vpn_attachments: dict[VpnName, TransitGatewayVpnAttachment] = {}
    route_tables: dict[Name, TransitGatewayRouteTable] = {}


class Appliance(Resource):
    """A firewall: a target of the Gateway Load Balancer, in its VPC."""

    subnet: str
    address: IPv4Address = UNASSIGNED
    """The lowest free address of the subnet, if none is given."""


class Enabled(Resource):
    """An attribute of AWS's whose name ends in ``.enabled``."""

    enabled: bool = False


class HealthCheck(Resource):
    """How a load balancer node finds out whether a target works: outside GENEVE, from the node's own address."""

    protocol: Literal["TCP", "HTTP", "HTTPS"] = "TCP"
    port: int = Field(default=80, ge=1, le=65535)
    path: str = Field(default="/", pattern="^/[!-~]*$", max_length=1024)
    interval_seconds: int = Field(default=10, ge=5, le=300)
    timeout_seconds: int = Field(default=5, ge=2, le=120)
    healthy_threshold_count: int = Field(default=5, ge=2, le=10)
    unhealthy_threshold_count: int = Field(default=2, ge=2, le=10)
    matcher: str = Field(
        default="200-399", pattern=r"^[2-4][0-9]{2}(-[2-4][0-9]{2})?(,[2-4][0-9]{2}(-[2-4][0-9]{2})?)*$"
    )
    """HTTP status codes that mean healthy: ``200``, ``200,202``, ``200-399``."""


class Stickiness(Resource):
    """Which packets are one flow: the 5-tuple, or if ``enabled`` what ``type`` says."""

    enabled: bool = False
    type: Literal["source_ip_dest_ip_proto", "source_ip_dest_ip"] = "source_ip_dest_ip_proto"


Failover = Literal["no_rebalance", "rebalance"]


class TargetFailover(Resource):
    """What becomes of a target's flows when it is unhealthy, or deregistered and drained. AWS wants both equal."""

    on_unhealthy: Failover = "no_rebalance"
    on_deregistration: Failover = "no_rebalance"


class DeregistrationDelay(Resource):
    timeout_seconds: int = Field(default=300, ge=0, le=3600)


class TargetGroupReset(Resource):
    """Answer a TCP packet of a flow whose target is gone with RST."""

    on_unhealthy: Enabled = Enabled()
    on_deregistration: Enabled = Enabled()


class TargetGroup(Resource):
    """GENEVE target group on port 6081. Keys and defaults are those of AWS's attributes."""

    targets: tuple[str, ...] = ()
    """The registered appliances; if this is left out, all that run from the start."""
    health_check: HealthCheck = HealthCheck()
    stickiness: Stickiness = Stickiness()
    target_failover: TargetFailover = TargetFailover()
    deregistration_delay: DeregistrationDelay = DeregistrationDelay()
    send_tcp_reset: TargetGroupReset = TargetGroupReset()


class VpcEndpointService(Resource):
    """What the load balancer offers to endpoints in other VPCs. Endpoints name it by the load balancer's name."""

    acceptance_required: bool = False
    allowed_principals: tuple[Principal, ...] = ()
    """Accounts that may make endpoints, besides the load balancer's owner; ``*`` is every account."""
    accepted: tuple[str, ...] = ()
    """The endpoints whose connections the owner has accepted, where acceptance is required."""
    rejected: tuple[str, ...] = ()
    """The endpoints whose connections the owner has rejected."""


class LifecycleHook(Resource):
    """What an instance waits for before it goes on: at most ``heartbeat_timeout`` seconds, then the default result."""

    heartbeat_timeout: int = Field(default=300, ge=30, le=7200)
    default_result: Literal["CONTINUE", "ABANDON"] = "ABANDON"


class LifecycleHooks(Resource):
    launch: LifecycleHook | None = None
    """``autoscaling:EC2_INSTANCE_LAUNCHING``"""
    terminate: LifecycleHook | None = None
    """``autoscaling:EC2_INSTANCE_TERMINATING``"""


class TargetTracking(Resource):
    """Keep a metric of the group's instances at a value."""

    type: Literal["target-tracking"]
    metric: str
    statistic: Literal["Average", "Maximum", "Minimum", "Sum"] = "Average"
    target_value: float = Field(gt=0)
    disable_scale_in: bool = False


class Step(Resource):
    """An adjustment for a breach between ``lower`` and ``upper``, both relative to the threshold.

    The bound that is nearer to the threshold is included.
    """

    lower: float | None = None
    upper: float | None = None
    adjustment: int


class StepScaling(Resource):
    """Change the size in steps when a metric has breached a threshold for some periods."""

    type: Literal["step"]
    metric: str
    statistic: Literal["Average", "Maximum", "Minimum", "Sum"] = "Average"
    comparison: Literal["GreaterThanOrEqualToThreshold", "LessThanOrEqualToThreshold"]
    threshold: float
    period: int = Field(default=60, ge=10)
    """Seconds."""
    evaluation_periods: int = Field(default=1, ge=1)
    adjustment_type: Literal["ChangeInCapacity", "ExactCapacity", "PercentChangeInCapacity"] = "ChangeInCapacity"
    steps: tuple[Step, ...]


ScalingPolicy = Annotated[TargetTracking | StepScaling, Field(discriminator="type")]


class AutoScalingGroup(Resource):
    """Launches and terminates the load balancer's appliances, ``name_prefix`` and a number, over ``subnets``.

    The appliances of that name, 1 to ``max_size``, are there without being listed. Keys and defaults are those of AWS's
    API; times are in seconds. The group's own name is the load balancer's with ``-asg``.
    """

    min_size: int = Field(default=1, ge=0)
    max_size: int = Field(default=4, ge=1, le=64)
    desired_capacity: int = Field(default=1, ge=0)
    subnets: tuple[str, ...]
    name_prefix: str = Field(default="fw", pattern=r"^[a-z][a-z-]{0,8}$")
    default_cooldown: int = Field(default=300, ge=0)
    default_instance_warmup: int = Field(default=300, ge=0)
    health_check_type: Literal["EC2", "ELB"] = "EC2"
    health_check_grace_period: int = Field(default=300, ge=0)
    lifecycle_hooks: LifecycleHooks = LifecycleHooks()
    scaling_policies: dict[Name, ScalingPolicy] = {}


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


class LoadBalancing(Resource):
    cross_zone: Enabled = Enabled()
    """Send to targets in all AZs, not only to those in the AZ of the endpoint."""


class IdleTimeout(Resource):
    seconds: int = Field(default=350, ge=60, le=6000)


class Tcp(Resource):
    """The listener's ``tcp.idle_timeout.seconds``."""

    idle_timeout: IdleTimeout = IdleTimeout()


class ListenerReset(Resource):
    """Answer a TCP packet of a flow that is forgotten with RST."""

    on_idle_timeout: Enabled = Enabled()


class GatewayLoadBalancer(Resource):
    """One load balancer node (an elastic network interface) in each subnet of ``subnets``."""

    vpc: str
    subnets: NodeAddresses
    """A list of subnets, at most one an AZ; or subnet to the node's address in it."""
    appliances: dict[Name, Appliance] = {}
    target_group: TargetGroup = TargetGroup()
    endpoint_service: VpcEndpointService = VpcEndpointService()
    load_balancing: LoadBalancing = LoadBalancing()
    tcp: Tcp = Tcp()
    send_tcp_reset: ListenerReset = ListenerReset()
    auto_scaling_group: AutoScalingGroup | None = None


class InternetHost(Resource):
    """A host on the internet, outside every VPC."""

    address: IPv4Address


class Firewalls(Resource):
    """What the firewalls run."""

    policy: str
    """The policy's file, relative to the topology's. Absolute once loaded."""
    zones: dict[str, str] = {}
    """Endpoint to security zone, as VM-Series associates endpoints with sub-interfaces."""
    session_sharing: bool = False
    """Keep sessions in a store that all firewalls share (Redis), so that one can go on where another failed."""


class Topology(Resource):
    """A cloud for the lab: VPCs, Transit Gateways, Gateway Load Balancers, and hosts on the internet."""

    name: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,23}$")]
    description: str = ""
    mtu: int = Field(default=8500, ge=576, le=8500)
    """Bytes; AWS's limit through a Gateway Load Balancer and a Transit Gateway is 8,500."""
    vpcs: dict[Name, Vpc]
    transit_gateways: dict[Name, TransitGateway] = {}
    gateway_load_balancers: dict[Name, GatewayLoadBalancer] = {}
    internet: dict[Name, InternetHost] = {}
    firewalls: Firewalls | None = None
