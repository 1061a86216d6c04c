"""A Gateway Load Balancer: sends a flow of a VPC endpoint to one target, both directions, for the flow's life.

With the 5-tuple the flow table is conntrack, one zone for each endpoint; ``ct_mark`` is the flow's target. A packet of
a known flow follows the mark whatever conntrack's state says: AWS's load balancer follows no sequence numbers either,
so a SYN on a known connection goes where the connection goes, and a SYN on a closed one is a new flow. With the 3- or
2-tuple the flow table is an OpenFlow table that the switch fills itself, both directions at once.

A new flow takes a slot of the select group of the endpoint's zone. A TCP packet of an unknown flow is dropped unless it
is a SYN. A packet that conntrack finds invalid and that has no mark (a wrong checksum, an ICMP answer to no request) is
dropped. What becomes of the flows of a target that is unhealthy or no longer registered is decided for each zone: they
stay, or move to another target, or are reset.

An endpoint whose connection is not accepted carries nothing, either way.

Facts: AWS GWLB guide, introduction (5-tuple stickiness, both directions to one target; 3-tuple where there are no
ports), target groups (stickiness types; cross-zone off: a node uses the targets of its own zone; IP fragmentation is
not supported; a deregistered target keeps its flows; target failover; TCP reset), listeners (idle timeouts; a non-SYN
packet of an expired flow is dropped).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from controllers.conntrack import NON_TCP, scaled
from controllers.flows import (
    IP,
    TCP,
    Action,
    Ct,
    GotoTable,
    Group,
    Learn,
    Move,
    Output,
    Pipeline,
    Program,
    Resubmit,
    SelectGroup,
    SetField,
    Value,
    ct_state,
    mac,
    match,
    tcp_flags,
)
from controllers.layout import AZ, az_number
from controllers.slots import deal
from controllers.state import State, TargetState, available
from topologies.decision import cookie, decision
from topologies.endpoint_service import EndpointState, endpoint_state
from topologies.fabric import ApplianceLink, Element, PortKind, endpoint_index
from topologies.model import GatewayLoadBalancer, Topology

ENDPOINTS, MARKS, CONNECTIONS, COMMIT, TARGETS, SOURCES, RETURNED, STICKY = range(8)

#: The endpoint's index, which is its conntrack zone, and the target's.
ENDPOINT, TARGET = "reg2", "reg3"

#: Frames between the bridge and the GENEVE endpoint: see docs/architecture.md, "Plain frames".
ENDPOINT_MAC, TARGET_MAC = 0x02_45_00_00_00_00, 0x02_47_00_00_00_00

#: The index of no target: the GENEVE endpoint answers such a frame with a TCP reset.
RESETTER = 0xFFFF

#: What a flow is by its stickiness: fields of the one direction, and those of the other.
STICKY_FIELDS = {
    "source_ip_dest_ip": ("ipv4_src", "ipv4_dst"),
    "source_ip_dest_ip_proto": ("ipv4_src", "ipv4_dst", "ip_proto"),
}
OPPOSITE = {"ipv4_src": "ipv4_dst", "ipv4_dst": "ipv4_src"}

SEGMENT: Mapping[str, Value] = {**IP, "ip_proto": TCP}
SYN: Mapping[str, Value] = {**SEGMENT, "tcp_flags": tcp_flags("+syn-ack")}
#: A reset is not answered: RFC 9293, 3.10.7.
NO_RESET: Mapping[str, Value] = {**SEGMENT, "tcp_flags": tcp_flags("-rst")}


def compile_gateway_load_balancer(
    topology: Topology, element: Element, links: list[ApplianceLink], state: State, time_scale: float = 1.0
) -> Program:
    """Return the program of a load balancer's bridge. *links* number its appliances."""
    return LoadBalancerCompiler(topology, element, links, state, time_scale).compile()


class LoadBalancerCompiler:
    """Compiles one load balancer, table by table."""

    def __init__(
        self, topology: Topology, element: Element, links: list[ApplianceLink], state: State, time_scale: float
    ) -> None:
        self.topology = topology
        self.element = element
        self.name = element.name
        self.balancer: GatewayLoadBalancer = topology.gateway_load_balancers[element.name]
        self.state = state
        self.time_scale = time_scale
        self.geneve = element.port(PortKind.GENEVE, self.name).number
        self.endpoint_ports = [port for port in element.ports.values() if port.kind is PortKind.ENDPOINT]
        self.endpoint_indices = endpoint_index(topology)
        self.target_indices = {link.appliance: link.index for link in links if link.gwlb == self.name}
        self.zones = sorted({str(port.az) for port in self.endpoint_ports})
        # A deal that is right already comes out as it is: no new flow goes to who is not available, whatever was dealt.
        self.slots = {
            az: deal(available(topology, state, self.name, az), state.slots(self.name, az)) for az in self.zones
        }
        stickiness = self.balancer.target_group.stickiness
        self.sticky = STICKY_FIELDS[stickiness.type] if stickiness.enabled else ()
        self.pipeline = Pipeline()

    def compile(self) -> Program:
        self.endpoints()
        if not self.sticky:
            self.marks()
        self.connections()
        self.commit()
        self.targets()
        self.sources()
        self.returned()
        # Also with the 5-tuple: what was learned before the attribute changed goes by itself.
        self.pipeline.learned.add(STICKY)
        return self.pipeline.program()

    def decision(self, table: str, destination: str) -> str:
        return decision(self.name, table, destination)

    def flow(self, named: tuple[str, str], table: int, priority: int, fields: Mapping[str, Value], *do: Action) -> None:
        self.pipeline.flow(self.decision(*named), table, priority, match(fields), *do)

    # -- from an endpoint to a target --------------------------------------------------------------------------------

    def endpoints(self) -> None:
        named = "endpoints"
        self.pipeline.table(ENDPOINTS, named, self.decision(named, "not IPv4"))
        self.flow((named, "fragment"), ENDPOINTS, 40, {**IP, "ip_frag": (1, 1)})
        self.flow((named, "from GENEVE"), ENDPOINTS, 10, {**IP, "in_port": self.geneve}, GotoTable(SOURCES))
        for port in self.endpoint_ports:
            index, az = self.endpoint_indices[port.resource], az_number(str(port.az))
            state, came = endpoint_state(self.topology, port.resource), {**IP, "in_port": port.number}
            if state is not EndpointState.AVAILABLE:
                self.flow((named, f"{port.resource} {state.value}"), ENDPOINTS, 10, came)
                continue
            self.flow(
                (named, port.resource),
                ENDPOINTS,
                10,
                came,
                SetField("eth_src", mac(ENDPOINT_MAC | az << 16 | index)),
                SetField(AZ, az),
                SetField(ENDPOINT, index),
                *((Resubmit(STICKY), GotoTable(CONNECTIONS)) if self.sticky else (Ct(index, table=MARKS),)),
            )

    def marks(self) -> None:
        """A known flow's target is its mark; "new" would say less: conntrack calls a flow new until its answer."""
        named = "connections"
        self.pipeline.table(MARKS, "marks", self.decision(named, "untracked"))
        read = Move("ct_mark", TARGET), GotoTable(CONNECTIONS)
        self.flow((named, "tracked"), MARKS, 10, {"ct_state": ct_state("+trk")}, *read)
        invalid: Mapping[str, Value] = {"ct_state": ct_state("+trk+inv"), "ct_mark": 0}
        self.flow((named, "invalid"), MARKS, 20, {**IP, **invalid})
        if any(self.resets().values()):
            # To conntrack the connection that was reset goes on, and a SYN does not fit it.
            self.flow((named, "SYN after reset"), MARKS, 30, {**SYN, **invalid}, *read)

    def connections(self) -> None:
        """A known flow goes to its target, unless the target gives it up; a new one takes a slot."""
        named = "connections"
        self.pipeline.table(CONNECTIONS, named, self.decision(named, "not IPv4"))
        for target, index in self.target_indices.items():
            for az in self.zones:
                self.given_up(target, {TARGET: index, AZ: az_number(az)}, az)
        for priority, protocol, remember in self.lifetimes():
            again = remember if self.sticky else ()
            self.flow((named, "known"), CONNECTIONS, priority, protocol, *again, GotoTable(TARGETS))
        unknown: Mapping[str, Value] = {TARGET: 0}
        self.flow((named, "not a SYN"), CONNECTIONS, 30, {**SEGMENT, **unknown})
        if self.balancer.send_tcp_reset.on_idle_timeout.enabled:
            self.flow((named, "reset unknown"), CONNECTIONS, 35, {**NO_RESET, **unknown}, *reset())
        for az in self.zones:
            here = {**unknown, AZ: az_number(az)}
            what = f"new in {az}" if self.slots[az] else f"no target in {az}"
            self.flow((named, what), CONNECTIONS, 40, {**SYN, **here}, *self.choose(az))
            self.flow((named, what), CONNECTIONS, 20, {**IP, **here}, *self.choose(az))
            if self.slots[az]:
                indices = (self.target_indices[target] for target in self.slots[az])
                buckets = tuple((SetField(TARGET, index), Resubmit(COMMIT)) for index in indices)
                # The hash of what a flow is: connections of one flow that start at once take the same slot.
                hashed = tuple(field for field in self.sticky if field in OPPOSITE)
                self.pipeline.group(Group(az_number(az), buckets, hashed))

    def choose(self, az: str) -> tuple[Action, ...]:
        return (SelectGroup(az_number(az)),) if self.slots[az] else ()

    def given_up(self, target: str, fields: Mapping[str, Value], az: str) -> None:
        """Move or reset a target's flows in a zone, where its state there and the attributes want it."""
        health, group = self.health(target, az), self.balancer.target_group
        failover = {
            TargetState.UNHEALTHY: group.target_failover.on_unhealthy,
            TargetState.UNUSED: group.target_failover.on_deregistration,
        }
        # Who has slots although it is unhealthy has them because nobody is healthy.
        if failover.get(health) == "rebalance" and self.slots[az] and target not in self.slots[az]:
            named = "connections", f"rebalance {target} in {az}"
            self.flow(named, CONNECTIONS, 50, {**IP, **fields}, *self.choose(az))
        elif self.resets().get(health):
            forget = SetField(TARGET, 0), Ct(ENDPOINT, commit=True, mark=TARGET)
            named = "connections", f"reset {target} in {az}"
            self.flow(named, CONNECTIONS, 50, {**NO_RESET, **fields}, *forget, *reset())

    def health(self, target: str, az: str) -> TargetState:
        """Return how a zone sees a target; one that no zone uses, or that was terminated, is unused."""
        zones = self.state.targets(self.name).get(target, {})
        if az in zones:
            return zones[az].state
        used = any(health.state is not TargetState.UNUSED for health in zones.values())
        return TargetState.HEALTHY if used else TargetState.UNUSED

    def resets(self) -> Mapping[TargetState, bool]:
        wanted = self.balancer.target_group.send_tcp_reset
        return {
            TargetState.UNHEALTHY: wanted.on_unhealthy.enabled,
            TargetState.UNUSED: wanted.on_deregistration.enabled,
        }

    def lifetimes(self) -> Iterator[tuple[int, Mapping[str, Value], tuple[Action, ...]]]:
        """Yield how a packet's flow is remembered: a priority, what packet, and the actions.

        Conntrack has the timeouts of its zones. A 2-tuple flow can be of several protocols: it stays as long as TCP's.
        """
        if not self.sticky:
            yield 10, IP, (Ct(ENDPOINT, commit=True, mark=TARGET),)
            return
        tcp = self.balancer.tcp.idle_timeout.seconds
        if "ip_proto" in self.sticky:
            yield 11, SEGMENT, self.learn(tcp)
        yield 10, IP, self.learn(NON_TCP if "ip_proto" in self.sticky else tcp)

    def learn(self, seconds: int) -> tuple[Action, ...]:
        """Return what remembers both directions. Each packet of either does it again, so that neither expires alone."""
        there = [(ENDPOINT, ENDPOINT), *((field, field) for field in self.sticky)]
        back = [(ENDPOINT, ENDPOINT), *((field, OPPOSITE.get(field, field)) for field in self.sticky)]
        # A flow of more fields, left from before the attribute changed, wins over one of fewer.
        number, timeout = cookie(self.decision("sticky", "learned")), scaled(seconds, self.time_scale)
        return tuple(
            Learn(STICKY, len(self.sticky), timeout, number, tuple(fields), TARGET) for fields in (there, back)
        )

    def commit(self) -> None:
        """Open vSwitch drops a commit inside a bucket without a word, so a bucket resubmits to this."""
        named = "commit"
        self.pipeline.table(COMMIT, named, self.decision(named, "not IPv4"))
        for priority, protocol, remember in self.lifetimes():
            self.flow((named, "new connection"), COMMIT, priority, protocol, *remember, GotoTable(TARGETS))

    def targets(self) -> None:
        named = "targets"
        self.pipeline.table(TARGETS, named, self.decision(named, "not registered"))
        for target, index in self.attached().items():
            to_target = SetField("eth_dst", mac(TARGET_MAC | index)), Output(self.geneve)
            self.flow((named, target), TARGETS, 10, {TARGET: index}, *to_target)

    # -- from a target to an endpoint --------------------------------------------------------------------------------

    def sources(self) -> None:
        """Take back only from who may have flows; the GENEVE endpoint knows every appliance's interface."""
        named = "sources"
        self.pipeline.table(SOURCES, named, self.decision(named, "not registered"))
        for target, index in self.attached().items():
            self.flow((named, target), SOURCES, 10, {"eth_src": mac(TARGET_MAC | index)}, GotoTable(RETURNED))

    def returned(self) -> None:
        named = "returned"
        self.pipeline.table(RETURNED, named, self.decision(named, "no such endpoint"))
        for port in self.endpoint_ports:
            if endpoint_state(self.topology, port.resource) is not EndpointState.AVAILABLE:
                continue
            back = mac(ENDPOINT_MAC | self.endpoint_indices[port.resource])
            self.flow((named, port.resource), RETURNED, 10, {"eth_dst": back}, Output(port.number))

    def attached(self) -> Mapping[str, int]:
        """Return the indices of all who may have flows: registered, draining or drained; and the resetter's."""
        known = self.state.targets(self.name)
        targets = {target: index for target, index in self.target_indices.items() if target in known}
        resets = *self.resets().values(), self.balancer.send_tcp_reset.on_idle_timeout.enabled
        return targets | ({"reset": RESETTER} if any(resets) else {})


def reset() -> tuple[Action, ...]:
    return SetField(TARGET, RESETTER), GotoTable(TARGETS)
