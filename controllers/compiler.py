"""A topology and its state to the program of each switch. Pure: the same always gives the same programs."""

from __future__ import annotations

from controllers.flows import Program
from controllers.gateway_load_balancer import compile_gateway_load_balancer
from controllers.internet import compile_internet
from controllers.state import State
from controllers.transit_gateway import compile_transit_gateway
from controllers.vpc import compile_vpc
from topologies.fabric import Element, ElementKind, Fabric, build_fabric
from topologies.model import Topology


def compile_topology(topology: Topology, state: State | None = None, time_scale: float = 1.0) -> dict[str, Program]:
    """Return the program of each forwarding element of a valid topology, by the element's name.

    *state* is the load balancers'; without one every registered target counts as healthy. Idle timeouts that the
    switches keep are divided by *time_scale*; those of conntrack are not theirs (:mod:`controllers.conntrack`).
    """
    fabric, known = build_fabric(topology), state or State.initial(topology)
    elements = fabric.elements.items()
    return {name: compile_element(topology, fabric, element, known, time_scale) for name, element in elements}


def compile_element(
    topology: Topology, fabric: Fabric, element: Element, state: State, time_scale: float = 1.0
) -> Program:
    """Return the program of one element. On *state* depend those of the load balancers alone."""
    if element.kind is ElementKind.VPC:
        return compile_vpc(topology, element)
    if element.kind is ElementKind.TRANSIT_GATEWAY:
        return compile_transit_gateway(topology, element)
    if element.kind is ElementKind.GATEWAY_LOAD_BALANCER:
        return compile_gateway_load_balancer(topology, element, fabric.appliance_links, state, time_scale)
    return compile_internet(topology, element)
