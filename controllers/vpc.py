"""A VPC: the implicit router, its route tables, ARP, the source/destination check, delivery to instances.

A packet enters by a port, and the port says which route table it meets: the one of the instance's subnet, of the
attachment's or the endpoint's subnet, or the one associated with the internet gateway. The first table also checks the
source; the last ones deliver. The register ``AZ`` carries the zone that the packet is in, because a route to a Transit
Gateway leaves by the attachment of that zone.

Facts: AWS VPC guide, route tables (a table applies to what leaves a subnet; hosts of one subnet reach each other
directly; a subnet's route to a Transit Gateway works only in a zone where the attachment has a subnet) and
source/destination checks; the router has the first address of each subnet.
"""

from __future__ import annotations

from ipaddress import IPv4Network

from controllers import arp, internet_gateway, nat_gateway
from controllers.flows import ARP, IP, Action, GotoTable, Output, Pipeline, Program, SetField, match
from controllers.layout import (
    ADDRESS_RESOLUTION,
    AZ,
    DELIVERY,
    FIRST_ROUTE_TABLE,
    FROM_INTERNET,
    INTERFACES,
    TO_INTERNET,
    az_number,
)
from topologies.decision import decision
from topologies.endpoint_service import EndpointState, endpoint_state
from topologies.fabric import ROUTER_MAC, Element, PortKind, mac_address
from topologies.model import Subnet, Topology, Vpc
from topologies.routing import Route, TargetKind, subnet_table, vpc_attachment, vpc_routes

#: What neither AWS's router nor ours forwards: multicast, reserved and broadcast addresses.
MULTICAST = IPv4Network("224.0.0.0/3")
#: What no router forwards: RFC 3927, 2.7. The lab's management network has such addresses.
LINK_LOCAL = IPv4Network("169.254.0.0/16")
#: Any tag (OpenFlow 1.5.1, 7.2.3.8). To OpenFlow the type of a tagged frame is that of the packet in it.
VLAN_TAG = (0x1000, 0x1000)


def compile_vpc(topology: Topology, element: Element) -> Program:
    """Return the program of a VPC's bridge."""
    return VpcCompiler(topology, element).compile()


class VpcCompiler:
    """Compiles one VPC; ``pipeline`` is what the gateways' modules add to."""

    def __init__(self, topology: Topology, element: Element) -> None:
        self.topology = topology
        self.element = element
        self.name = element.name
        self.vpc: Vpc = topology.vpcs[element.name]
        self.pipeline = Pipeline()
        tables = dict.fromkeys([*self.vpc.route_tables, *(subnet_table(self.vpc, name) for name in self.vpc.subnets)])
        self.table_numbers = {name: FIRST_ROUTE_TABLE + n for n, name in enumerate(tables)}

    def compile(self) -> Program:
        self.interfaces()
        self.address_resolution()
        for name in self.table_numbers:
            self.route_table(name)
        self.delivery()
        internet_gateway.add(self)
        nat_gateway.add(self)
        return self.pipeline.program()

    def decision(self, table: str, destination: IPv4Network | str) -> str:
        return decision(self.name, table, destination)

    def enter(self, subnet: str) -> tuple[Action, ...]:
        """Return the actions by which a packet leaves a subnet for the router: its zone is kept, its table decides."""
        return (
            SetField(AZ, az_number(self.vpc.subnets[subnet].az)),
            GotoTable(self.table_numbers[subnet_table(self.vpc, subnet)]),
        )

    def interfaces(self) -> None:
        """Classify by the port: who sent it, may it, and which route table it meets."""
        pipeline, named = self.pipeline, "interfaces"
        pipeline.table(INTERFACES, named, self.decision(named, "not IPv4"))
        for protocol in (IP, ARP):
            pipeline.flow(self.decision(named, "source check"), INTERFACES, 1, match(protocol))
        pipeline.flow(self.decision(named, "multicast"), INTERFACES, 40, match(IP, ipv4_dst=MULTICAST))
        pipeline.flow(self.decision(named, "link-local"), INTERFACES, 40, match(IP, ipv4_dst=LINK_LOCAL))
        pipeline.flow(self.decision(named, "VLAN tag"), INTERFACES, 50, match(vlan_vid=VLAN_TAG))
        for port in self.element.ports.values():
            if port.kind is PortKind.HOST:
                self.instance(port.number, port.resource)
            elif port.kind is PortKind.INTERNET_GATEWAY:
                pipeline.flow(
                    self.decision(named, port.resource),
                    INTERFACES,
                    20,
                    match(IP, in_port=port.number),
                    GotoTable(FROM_INTERNET),
                )
            else:
                subnet = self.port_subnet(port.kind, port.resource, port.az)
                name = port.resource if port.kind is PortKind.ENDPOINT else f"{port.resource}-{port.az}"
                pipeline.flow(
                    self.decision(named, name), INTERFACES, 20, match(IP, in_port=port.number), *self.enter(subnet)
                )

    def port_subnet(self, kind: PortKind, resource: str, az: str | None) -> str:
        """Return the subnet of an endpoint, or of an attachment in a zone."""
        if kind is PortKind.ENDPOINT:
            return self.vpc.endpoints[resource].subnet
        attachment = next(
            gateway.attachments[resource]
            for gateway in self.topology.transit_gateways.values()
            if resource in gateway.attachments
        )
        return next(subnet for subnet in attachment.subnets if self.vpc.subnets[subnet].az == az)

    def instance(self, port: int, name: str) -> None:
        """Let through what an instance may send: from its own addresses, and with the check off from any."""
        instance = self.vpc.interfaces[name]
        own = instance.address if instance.source_dest_check else None
        mac = mac_address(name)
        sent = match(IP, in_port=port, eth_src=mac, ipv4_src=own)
        subnet = self.vpc.subnets[instance.subnet]
        neighbours = match(dict(sent.fields), ipv4_dst=subnet.cidr)
        flow = self.pipeline.flow
        flow(self.decision(instance.subnet, "same subnet"), INTERFACES, 30, neighbours, GotoTable(DELIVERY))
        flow(self.decision("interfaces", name), INTERFACES, 20, sent, *self.enter(instance.subnet))
        for address in instance.addresses:
            asks = match(ARP, in_port=port, eth_src=mac, arp_sha=mac, arp_spa=address, arp_op=arp.REQUEST)
            flow(self.decision("interfaces", f"{name} asks"), INTERFACES, 20, asks, GotoTable(ADDRESS_RESOLUTION))

    def address_resolution(self) -> None:
        """Answer for each subnet's router, and for each instance to the others of its subnet."""
        pipeline, named = self.pipeline, "arp"
        pipeline.table(ADDRESS_RESOLUTION, named, self.decision(named, "unanswered"))
        for name, subnet in self.vpc.subnets.items():
            asked = match(ARP, arp_spa=subnet.cidr, arp_tpa=router_address(subnet))
            pipeline.flow(
                self.decision(named, f"router of {name}"), ADDRESS_RESOLUTION, 10, asked, *arp.answer(ROUTER_MAC)
            )
        for name, instance in self.vpc.interfaces.items():
            subnet = self.vpc.subnets[instance.subnet]
            for address in instance.addresses:
                asked = match(ARP, arp_spa=subnet.cidr, arp_tpa=address)
                pipeline.flow(self.decision(named, name), ADDRESS_RESOLUTION, 10, asked, *arp.answer(mac_address(name)))
                # A host that announces or probes its own address must not hear that somebody has it.
                announced = match(ARP, arp_spa=address, arp_tpa=address)
                pipeline.flow(self.decision(named, "announcement"), ADDRESS_RESOLUTION, 20, announced)

    def route_table(self, name: str) -> None:
        """Longest prefix by priority: the prefix length plus one."""
        number = self.table_numbers[name]
        self.pipeline.table(number, name, self.decision(name, "no route"))
        for route in vpc_routes(self.topology, self.name, name):
            decided = self.decision(name, route.destination)
            priority = route.destination.prefixlen + 1
            if route.kind is TargetKind.TRANSIT_GATEWAY:
                for az in self.table_zones(name):
                    here = match(IP, {AZ: az_number(az)}, ipv4_dst=route.destination)
                    self.pipeline.flow(decided, number, priority, here, *self.to_transit_gateway(route.target, az))
            else:
                there = match(IP, ipv4_dst=route.destination)
                self.pipeline.flow(decided, number, priority, there, *self.target(route))

    def table_zones(self, table: str) -> list[str]:
        """Return the zones whose subnets use a table."""
        subnets = self.vpc.subnets.items()
        return sorted({subnet.az for name, subnet in subnets if subnet_table(self.vpc, name) == table})

    def to_transit_gateway(self, gateway: str, az: str) -> tuple[Action, ...]:
        attachment = vpc_attachment(self.topology, gateway, self.name)
        if attachment is None:
            return ()
        try:
            return (Output(self.element.port(PortKind.ATTACHMENT, attachment, az).number),)
        except KeyError:
            return ()

    def target(self, route: Route) -> tuple[Action, ...]:
        """Return the actions of a route's target; none, so a drop, for one that takes nothing."""
        if route.kind is TargetKind.LOCAL:
            return (GotoTable(DELIVERY),)
        if route.kind is TargetKind.ENDPOINT:
            if endpoint_state(self.topology, route.target) is not EndpointState.AVAILABLE:
                return ()
            return (Output(self.element.port(PortKind.ENDPOINT, route.target).number),)
        if route.kind is TargetKind.INTERNET_GATEWAY:
            return (GotoTable(TO_INTERNET),)
        if route.kind is TargetKind.NAT_GATEWAY:
            return nat_gateway.enter(self, route.target)
        # An interface takes what is not addressed to it only with its source/destination check off.
        if route.kind is TargetKind.INSTANCE and not self.vpc.interfaces[route.target].source_dest_check:
            return self.to_instance(route.target)
        return ()

    def to_instance(self, name: str) -> tuple[Action, ...]:
        port = self.element.port(PortKind.HOST, name)
        return SetField("eth_src", ROUTER_MAC), SetField("eth_dst", mac_address(name)), Output(port.number)

    def delivery(self) -> None:
        named = "delivery"
        self.pipeline.table(DELIVERY, named, self.decision(named, "no such host"))
        for name, instance in self.vpc.interfaces.items():
            for address in instance.addresses:
                here = match(IP, ipv4_dst=address)
                self.pipeline.flow(self.decision(named, name), DELIVERY, 10, here, *self.to_instance(name))


def router_address(subnet: Subnet) -> str:
    """Return the address of the implicit router in a subnet: the first host's."""
    return str(subnet.cidr[1])
