"""How a topology's parts are wired: forwarding elements, their numbered ports, and the links between them.

Each VPC, Transit Gateway and Gateway Load Balancer, and the internet, is one :class:`Element`. Both the compiler
(which needs port numbers) and the lab (which makes the interfaces) read this plan, so neither has to ask the other.
An interface of AWS's is a port here: one for each instance, for each AZ of an attachment, for each VPC endpoint.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from enum import Enum
from ipaddress import IPv4Address, IPv4Network

from topologies.model import GatewayLoadBalancer, Topology, Vpc, interface_name

INTERNET = "internet"
#: Where tunnels' ends are: networks that are nobody's on the internet (RFC 2544, benchmarks).
AMAZON_OUTSIDE, CUSTOMER_OUTSIDE = IPv4Network("198.18.0.0/24"), IPv4Network("198.19.0.0/24")
#: Inside addresses of tunnels, of which AWS reserves the lower ones (Site-to-Site VPN guide, tunnel options).
TUNNELS_INSIDE = IPv4Network("169.254.16.0/22")
#: The implicit router answers for every gateway address with this MAC address.
ROUTER_MAC = "02:00:00:00:00:01"


class ElementKind(Enum):
    VPC = "vpc"
    TRANSIT_GATEWAY = "transit-gateway"
    GATEWAY_LOAD_BALANCER = "gateway-load-balancer"
    INTERNET = "internet"


class PortKind(Enum):
    HOST = "host"  # an interface of an instance, a routed firewall or an internet host, over a veth pair
    ATTACHMENT = "attachment"  # one AZ of a Transit Gateway VPC attachment
    ENDPOINT = "endpoint"  # a GWLB endpoint
    INTERNET_GATEWAY = "internet-gateway"
    VPN = "vpn"  # the router behind a Transit Gateway's VPN attachments, over a veth pair
    GENEVE = "geneve"  # the GWLB's own namespace, over a veth pair


@dataclass(frozen=True)
class Port:
    """A port of an element. ``resource`` is the name of what the port belongs to, ``az`` its zone where it has one.

    ``peer`` is the (element, port number) that a patch port leads to; None for a port that leads to a namespace. That
    is ``node``'s, where the other end of the veth pair is the interface ``inner``.
    """

    number: int
    name: str
    kind: PortKind
    resource: str
    az: str | None = None
    peer: tuple[str, int] | None = None
    node: str = ""
    inner: str = ""


@dataclass
class Element:
    """One forwarding element: a bridge with datapath id ``dpid``."""

    name: str
    kind: ElementKind
    dpid: int
    ports: dict[int, Port] = field(default_factory=dict)

    def port(self, kind: PortKind, resource: str, az: str | None = None) -> Port:
        """Return the port of *resource*; in *az*, where one is named. Raises KeyError where there is none."""
        for port in self.ports.values():
            if port.kind is kind and port.resource == resource and (az is None or port.az == az):
                return port
        raise KeyError((self.name, kind, resource, az))


@dataclass(frozen=True)
class ApplianceLink:
    """The link between a load balancer's namespace and one of its appliances. ``index`` counts from 1."""

    gwlb: str
    appliance: str
    index: int


@dataclass(frozen=True)
class TunnelPlan:
    """A tunnel of a VPN attachment: the nodes that its two ends are, and their addresses on the internet."""

    tgw: str
    attachment: str
    name: str
    ends: tuple[str, str]
    addresses: tuple[IPv4Address, IPv4Address]
    inside: IPv4Network


def tunnels(topology: Topology) -> list[TunnelPlan]:
    """Number all tunnels: two for each VPN attachment, the Transit Gateway's end first."""
    found: list[TunnelPlan] = []
    for tgw, gateway in topology.transit_gateways.items():
        for attachment in gateway.vpn_attachments:
            for number in (1, 2):
                name, place = f"{attachment}-{number}", len(found)
                found.append(
                    TunnelPlan(
                        tgw,
                        attachment,
                        name,
                        (f"{name}-tgw", f"{name}-cgw"),
                        (AMAZON_OUTSIDE[10 + place], CUSTOMER_OUTSIDE[10 + place]),
                        IPv4Network((int(TUNNELS_INSIDE[0]) + 4 * place, 30)),
                    )
                )
    return found


def tunnels_of(topology: Topology, firewall: str) -> list[str]:
    """Return the names of the tunnels that a routed firewall ends: its interfaces for them have the same."""
    plans = tunnels(topology)
    ends = {
        name: item.firewall
        for gateway in topology.transit_gateways.values()
        for name, item in gateway.vpn_attachments.items()
    }
    return [plan.name for plan in plans if ends[plan.attachment] == firewall]


def vpn_router(tgw: str) -> str:
    """Return the name of the node that a Transit Gateway's VPN attachments end at."""
    return f"{tgw}-vpn"


def internet_addresses(topology: Topology) -> dict[str, IPv4Address]:
    """Return the address of each node on the internet: its hosts, and the ends of tunnels."""
    ends = {end: address for plan in tunnels(topology) for end, address in zip(plan.ends, plan.addresses, strict=True)}
    return {name: host.address for name, host in topology.internet.items()} | ends


@dataclass
class Fabric:
    """The whole plan: ``elements`` by name, and the appliances' links."""

    elements: dict[str, Element]
    appliance_links: list[ApplianceLink]
    routed_firewalls: dict[str, str]
    """The VPC of each routed firewall, by the firewall's name."""

    @property
    def managed(self) -> list[str]:
        """The firewalls that the management network reaches, in a fixed order."""
        return [*(link.appliance for link in self.appliance_links), *self.routed_firewalls]


def mac_address(name: str) -> str:
    """Return the locally administered MAC address of the interface of *name*."""
    return "02:" + hashlib.blake2b(name.encode(), digest_size=5).digest().hex(":")


def interface(name: str) -> str:
    """Return the name, in the root namespace, of the end of the veth pair that leads to *name*."""
    return f"bw-{name}"


def geneve_interface(name: str) -> str:
    """Return the same for a load balancer's own namespace: ``bw-`` + its name is its bridge's own interface."""
    return f"gv-{name}"


def zone_of(vpc: Vpc, subnet: str) -> str:
    return vpc.subnets[subnet].az


def node_addresses(topology: Topology, gwlb: GatewayLoadBalancer) -> dict[str, IPv4Address]:
    """Return the load balancer nodes' addresses by AZ."""
    return {zone_of(topology.vpcs[gwlb.vpc], subnet): address for subnet, address in gwlb.subnets.items()}


def balancer_of(topology: Topology, appliance: str) -> GatewayLoadBalancer:
    """Return the load balancer that *appliance* is for. Raises StopIteration where there is none."""
    return next(gwlb for gwlb in topology.gateway_load_balancers.values() if appliance in gwlb.appliances)


def endpoint_index(topology: Topology) -> dict[str, int]:
    """Number all VPC endpoints from 1, in the file's order: their conntrack zone and their mark on plain frames."""
    names = [name for vpc in topology.vpcs.values() for name in vpc.endpoints]
    return {name: number for number, name in enumerate(names, start=1)}


def build_fabric(topology: Topology) -> Fabric:
    """Plan the wiring of a valid topology. The same topology always gives the same plan."""
    elements: dict[str, Element] = {}

    def element(name: str, kind: ElementKind) -> Element:
        elements[name] = Element(name, kind, dpid=len(elements) + 1)
        return elements[name]

    def host(at: Element, name: str, az: str | None = None, node: str | None = None, inner: str = "eth0") -> None:
        number = len(at.ports) + 1
        at.ports[number] = Port(number, interface(name), PortKind.HOST, name, az, None, node or name, inner)

    def patch(one: Element, other: Element, kind: PortKind, resource: str, az: str | None = None) -> None:
        # An attachment has a port in each of its zones; the others' names say enough.
        name = f"{resource}-{az}" if kind is PortKind.ATTACHMENT else resource
        here, there = len(one.ports) + 1, len(other.ports) + 1
        one.ports[here] = Port(here, f"{one.name}.{name}", kind, resource, az, (other.name, there))
        other.ports[there] = Port(there, f"{other.name}.{name}", kind, resource, az, (one.name, here))

    vpcs = {name: element(name, ElementKind.VPC) for name in topology.vpcs}
    gateways = {name: element(name, ElementKind.TRANSIT_GATEWAY) for name in topology.transit_gateways}
    balancers = {name: element(name, ElementKind.GATEWAY_LOAD_BALANCER) for name in topology.gateway_load_balancers}
    internet = element(INTERNET, ElementKind.INTERNET)

    for name, vpc in topology.vpcs.items():
        for instance_name, instance in vpc.hosts.items():
            host(vpcs[name], instance_name, zone_of(vpc, instance.subnet))
        for firewall_name, firewall in vpc.firewalls.items():
            for part, item in firewall.interfaces.items():
                resource = interface_name(firewall_name, part)
                host(vpcs[name], resource, zone_of(vpc, item.subnet), firewall_name, part)
        for endpoint_name, endpoint in vpc.endpoints.items():
            zone = zone_of(vpc, endpoint.subnet)
            patch(vpcs[name], balancers[endpoint.service], PortKind.ENDPOINT, endpoint_name, zone)
        if vpc.internet_gateway:
            patch(vpcs[name], internet, PortKind.INTERNET_GATEWAY, vpc.internet_gateway)
    for gateway_name, gateway in topology.transit_gateways.items():
        for attachment_name, attachment in gateway.attachments.items():
            vpc = topology.vpcs[attachment.vpc]
            for subnet in attachment.subnets:
                patch(
                    vpcs[attachment.vpc],
                    gateways[gateway_name],
                    PortKind.ATTACHMENT,
                    attachment_name,
                    zone_of(vpc, subnet),
                )
    links = []
    for balancer_name, balancer in topology.gateway_load_balancers.items():
        at = balancers[balancer_name]
        number, port_name = len(at.ports) + 1, geneve_interface(balancer_name)
        at.ports[number] = Port(number, port_name, PortKind.GENEVE, balancer_name, None, None, balancer_name, "plain")
        for index, appliance in enumerate(balancer.appliances, start=1):
            links.append(ApplianceLink(balancer_name, appliance, index))
    for name in internet_addresses(topology):
        host(internet, name, inner="eth0" if name in topology.internet else "outside")
    for name, gateway in topology.transit_gateways.items():
        if gateway.vpn_attachments:
            at, number = gateways[name], len(gateways[name].ports) + 1
            router = vpn_router(name)
            at.ports[number] = Port(number, interface(router), PortKind.VPN, router, None, None, router, "tgw")
    routed = {name: vpc_name for vpc_name, vpc in topology.vpcs.items() for name in vpc.firewalls}
    return Fabric(elements, links, routed)
