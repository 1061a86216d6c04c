"""The internet: routers between hosts and internet gateways; every public address is a route, nothing else is."""

from __future__ import annotations

from controllers import arp
from controllers.flows import ARP, IP, DecTtl, GotoTable, Output, Pipeline, Program, SetField, match
from controllers.transit_gateway import drop_expired
from topologies.decision import decision
from topologies.fabric import ROUTER_MAC, Element, PortKind, internet_addresses, mac_address
from topologies.model import Topology

PORTS, ROUTES = 0, 10


def compile_internet(topology: Topology, element: Element) -> Program:
    """Return the program of the internet's bridge. Hosts get ROUTER_MAC for every address that they ask for."""
    name = element.name
    pipeline = Pipeline()
    flow = pipeline.flow
    pipeline.table(PORTS, "ports", decision(name, "ports", "not IPv4"))
    drop_expired(pipeline, name)
    flow(decision(name, "ports", "in"), PORTS, 10, match(IP), DecTtl(), GotoTable(ROUTES))
    pipeline.table(ROUTES, "routes", decision(name, "routes", "no route"))
    for host, address in internet_addresses(topology).items():
        port = element.port(PortKind.HOST, host).number
        asks = match(ARP, in_port=port, arp_spa=address, arp_op=arp.REQUEST)
        flow(decision(name, "arp", host), PORTS, 10, asks, *arp.answer(ROUTER_MAC))
        announces = match(ARP, in_port=port, arp_spa=address, arp_tpa=address)
        flow(decision(name, "arp", "announcement"), PORTS, 20, announces)
        deliver = SetField("eth_src", ROUTER_MAC), SetField("eth_dst", mac_address(host)), Output(port)
        flow(decision(name, "routes", f"{address}/32"), ROUTES, 33, match(IP, ipv4_dst=address), *deliver)
    for vpc in topology.vpcs.values():
        if vpc.internet_gateway:
            out = Output(element.port(PortKind.INTERNET_GATEWAY, vpc.internet_gateway).number)
            public = [address for item in vpc.interfaces.values() for address in item.addresses.values() if address]
            for address in [*public, *(gateway.public_address for gateway in vpc.nat_gateways.values())]:
                flow(decision(name, "routes", f"{address}/32"), ROUTES, 33, match(IP, ipv4_dst=address), out)
    return pipeline.program()
