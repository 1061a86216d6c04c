"""A topology to the program of each switch. Pure: the same topology always gives the same programs."""

from __future__ import annotations

from controllers.flows import Program
from controllers.gateway_load_balancer import compile_gateway_load_balancer
from controllers.internet import compile_internet
from controllers.transit_gateway import compile_transit_gateway
from controllers.vpc import compile_vpc
from topologies.fabric import Element, ElementKind, Fabric, build_fabric
from topologies.model import Topology


def compile_topology(topology: Topology) -> dict[str, Program]:
    """Return the program of each forwarding element of a valid topology, by the element's name."""
    fabric = build_fabric(topology)
    return {name: compile_element(topology, fabric, element) for name, element in fabric.elements.items()}


def compile_element(topology: Topology, fabric: Fabric, element: Element) -> Program:
    if element.kind is ElementKind.VPC:
        return compile_vpc(topology, element)
    if element.kind is ElementKind.TRANSIT_GATEWAY:
        return compile_transit_gateway(topology, element)
    if element.kind is ElementKind.GATEWAY_LOAD_BALANCER:
        return compile_gateway_load_balancer(topology, element, fabric.appliance_links)
    return compile_internet(topology, element)
