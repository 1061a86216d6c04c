"""Conntrack zones: one for each VPC endpoint (its flow table), then one for each NAT gateway, and their idle timeouts.

Facts: AWS GWLB guide, introduction and listeners: TCP flows are forgotten after the listener's idle timeout (default
350 s), others after 120 s; an instance must answer a new request within 30 s. AWS VPC guide, NAT gateways: a
connection idle for 350 s times out.
"""

from __future__ import annotations

from topologies.fabric import endpoint_index
from topologies.model import Topology

RETURN_PATH = 30
NON_TCP = 120
NAT_GATEWAY = 350


def nat_zones(topology: Topology) -> dict[str, int]:
    """Return the conntrack zone of each NAT gateway by name: the numbers after the endpoints'."""
    first = len(endpoint_index(topology)) + 1
    names = [name for vpc in topology.vpcs.values() for name in vpc.nat_gateways]
    return {name: number for number, name in enumerate(names, start=first)}


def endpoint_zones(topology: Topology) -> dict[str, dict[str, int]]:
    """Return the conntrack zone of each endpoint by name, for each load balancer."""
    zones: dict[str, dict[str, int]] = {name: {} for name in topology.gateway_load_balancers}
    index = endpoint_index(topology)
    for vpc in topology.vpcs.values():
        for name, endpoint in vpc.endpoints.items():
            zones[endpoint.service][name] = index[name]
    return zones


def zone_timeouts(topology: Topology, time_scale: float = 1.0) -> dict[int, dict[str, int]]:
    """Return, for each zone, the timeouts by the names of ``ovs-vsctl add-zone-tp``, divided by *time_scale*.

    In seconds, at least 1: Open vSwitch knows no fractions.
    """
    balancers = topology.gateway_load_balancers
    timeouts = {
        zone: timeout_policy(balancers[gwlb].tcp.idle_timeout.seconds, NON_TCP, time_scale)
        for gwlb, zones in endpoint_zones(topology).items()
        for zone in zones.values()
    }
    gateway = timeout_policy(NAT_GATEWAY, NAT_GATEWAY, time_scale)
    return timeouts | {zone: dict(gateway) for zone in nat_zones(topology).values()}


def timeout_policy(tcp: int, other: int, time_scale: float) -> dict[str, int]:
    # A half-closed connection still carries data one way, so it idles like an open one.
    policy = {"tcp_syn_sent": RETURN_PATH, "tcp_syn_recv": RETURN_PATH}
    policy |= {f"tcp_{state}": tcp for state in ("established", "fin_wait", "close_wait")}
    policy |= {f"udp_{state}": other for state in ("first", "single", "multiple")}
    policy |= {f"icmp_{state}": other for state in ("first", "reply")}
    return {name: scaled(seconds, time_scale) for name, seconds in policy.items()}


def scaled(seconds: int, time_scale: float) -> int:
    """Return a timeout in a lesson's time: whole seconds, at least 1."""
    return max(1, round(seconds / time_scale))
