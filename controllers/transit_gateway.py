"""A Transit Gateway: the route table of the attachment that a packet came by names the attachment that it leaves by.

The zone is kept (AZ affinity) where the attachment has a subnet in it; with appliance mode a hash that is the same in
both directions chooses it. The TTL is decremented here, so that a routing loop ends.

Facts: AWS Transit Gateway guide, route tables; AZ affinity and appliance mode.
"""

from __future__ import annotations

from controllers.flows import IP, Action, DecTtl, GotoTable, Multipath, Output, Pipeline, Program, SetField, match
from controllers.layout import AZ, az_number
from topologies.decision import decision
from topologies.fabric import Element, Port, PortKind, mac_address, vpn_router
from topologies.model import Topology
from topologies.routing import Route, TargetKind, attachment_table, exit_zones, gateway_zones, tgw_routes, vpn_table

ATTACHMENTS, FIRST_ROUTE_TABLE, AFFINITY, APPLIANCE_MODE = 0, 10, 240, 241

#: The attachment that the packet leaves by, and its zone among the attachment's zones in order, from 0.
ATTACHMENT, ZONE = "reg2", "reg3"


def compile_transit_gateway(topology: Topology, element: Element) -> Program:
    """Return the program of a Transit Gateway's bridge."""
    name = element.name
    gateway = topology.transit_gateways[name]
    pipeline = Pipeline()
    tables = {table: FIRST_ROUTE_TABLE + number for number, table in enumerate(gateway.route_tables)}
    attachments = {attachment: number for number, attachment in enumerate(gateway.attachments, start=1)}

    pipeline.table(ATTACHMENTS, "attachments", decision(name, "attachments", "not associated"))
    drop_expired(pipeline, name)
    zones = gateway_zones(topology, name)
    for port in element.ports.values():
        table = vpn_table(gateway) if port.kind is PortKind.VPN else attachment_table(gateway, port.resource)
        if table is not None:
            # What comes by a tunnel is in no zone; it is treated as if in the first.
            az = port.az or zones[0]
            came = f"{port.resource}-{az}" if port.az else port.resource
            pipeline.flow(
                decision(name, "attachments", came),
                ATTACHMENTS,
                10,
                match(IP, in_port=port.number),
                DecTtl(),
                SetField(AZ, az_number(az)),
                GotoTable(tables[table]),
            )

    for table, number in tables.items():
        pipeline.table(number, table, decision(name, table, "no route"))
        for route in tgw_routes(topology, name, table):
            pipeline.flow(
                decision(name, table, route.destination),
                number,
                route.destination.prefixlen + 1,
                match(IP, ipv4_dst=route.destination),
                *to_attachment(element, attachments, route),
            )

    pipeline.table(AFFINITY, "AZ affinity", decision(name, "affinity", "no attachment"))
    pipeline.table(APPLIANCE_MODE, "appliance mode", decision(name, "appliance-mode", "no attachment"))
    for attachment, number in attachments.items():
        ports = attachment_ports(element, attachment)
        out = {zone: f"{attachment}-{zone}" for zone in ports}
        if gateway.attachments[attachment].appliance_mode:
            pipeline.flow(
                decision(name, "appliance-mode", attachment),
                AFFINITY,
                10,
                match({ATTACHMENT: number}),
                Multipath(len(ports), ZONE),
                GotoTable(APPLIANCE_MODE),
            )
            for place, zone in enumerate(ports):
                chosen = match({ATTACHMENT: number, ZONE: place})
                pipeline.flow(
                    decision(name, "appliance-mode", out[zone]),
                    APPLIANCE_MODE,
                    10,
                    chosen,
                    Output(ports[zone].number),
                )
        else:
            for origin in zones:
                (zone,) = exit_zones(topology, name, attachment, origin)
                kept = match({ATTACHMENT: number, AZ: az_number(origin)})
                pipeline.flow(decision(name, "affinity", out[zone]), AFFINITY, 10, kept, Output(ports[zone].number))
    return pipeline.program()


def to_attachment(element: Element, attachments: dict[str, int], route: Route) -> tuple[Action, ...]:
    """Return the actions of a route: none, so a drop, for a blackhole. The router behind the port knows the tunnels."""
    if route.kind is TargetKind.VPN:
        router = element.port(PortKind.VPN, vpn_router(element.name))
        return SetField("eth_dst", mac_address(router.resource)), Output(router.number)
    if route.kind is not TargetKind.ATTACHMENT:
        return ()
    return SetField(ATTACHMENT, attachments[route.target]), GotoTable(AFFINITY)


def attachment_ports(element: Element, attachment: str) -> dict[str, Port]:
    """Return an attachment's ports by zone, in the zones' order."""
    ports = [p for p in element.ports.values() if p.kind is PortKind.ATTACHMENT and p.resource == attachment]
    return {str(port.az): port for port in sorted(ports, key=lambda port: str(port.az))}


def drop_expired(pipeline: Pipeline, name: str, table: int = 0) -> None:
    """Drop what ``dec_ttl`` would otherwise report to the controller."""
    for ttl in (0, 1):
        pipeline.flow(decision(name, "ttl", "expired"), table, 40, match(IP, nw_ttl=ttl))
