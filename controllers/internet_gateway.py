"""A VPC's internet gateway: 1:1 NAT between public and private addresses, without state.

Inbound, the public address becomes the private one *before* the edge route table is asked; outbound, only what has a
public address leaves. Fact: AWS VPC guide, internet gateways and gateway route tables.
"""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import TYPE_CHECKING

from controllers.flows import IP, GotoTable, Output, SetField, match
from controllers.layout import DELIVERY, FROM_INTERNET, TO_INTERNET
from topologies.fabric import PortKind
from topologies.routing import gateway_table

if TYPE_CHECKING:
    from controllers.vpc import VpcCompiler


def public_addresses(vpc: VpcCompiler) -> dict[IPv4Address, IPv4Address]:
    """Return the public address of each private one: of interfaces and of NAT gateways."""
    pairs = {
        private: public for item in vpc.vpc.interfaces.values() for private, public in item.addresses.items() if public
    }
    return pairs | {gateway.address: gateway.public_address for gateway in vpc.vpc.nat_gateways.values()}


def add(vpc: VpcCompiler) -> None:
    """Add the gateway's tables to a VPC that has one."""
    name = vpc.vpc.internet_gateway
    if name is None:
        return
    table = gateway_table(vpc.vpc)
    inside = GotoTable(DELIVERY if table is None else vpc.table_numbers[table])
    outside = Output(vpc.element.port(PortKind.INTERNET_GATEWAY, name).number)
    vpc.pipeline.table(FROM_INTERNET, f"{name} inbound", vpc.decision(name, "unknown public address"))
    vpc.pipeline.table(TO_INTERNET, f"{name} outbound", vpc.decision(name, "no public address"))
    for private, public in public_addresses(vpc).items():
        vpc.pipeline.flow(
            vpc.decision(name, f"{public} to {private}"),
            FROM_INTERNET,
            10,
            match(IP, ipv4_dst=public),
            SetField("ipv4_dst", str(private)),
            inside,
        )
        vpc.pipeline.flow(
            vpc.decision(name, f"{private} to {public}"),
            TO_INTERNET,
            10,
            match(IP, ipv4_src=private),
            SetField("ipv4_src", str(public)),
            outside,
        )
