"""The load balancer's program, by what it does to packets: AWS's rules for flows, targets and endpoints."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controllers.compiler import compile_element, compile_topology
from controllers.flows import Ct, Flow, Learn, Program, SetField
from controllers.gateway_load_balancer import RESETTER
from controllers.state import BalancerState, State, TargetHealth, TargetState
from tests.unit.controllers.bridge import Bridge, Packet, Sent, datagram, returned, segment
from topologies.fabric import Element, PortKind, build_fabric, endpoint_index
from topologies.model import Topology

Edit = Callable[[dict[str, Any]], None]
Variant = Callable[[Edit], Topology]
CLIENT, SERVER = "203.0.113.10:4000", "10.200.0.20:80"


def balancer(**attributes: Any) -> Edit:
    """Return the edit that sets attributes of the load balancer: a path with ``__`` for dots."""

    def edit(document: dict[str, Any]) -> None:
        for path, value in attributes.items():
            *parents, last = path.split("__")
            place = document["gateway_load_balancers"]["gwlb"]
            for parent in parents:
                place = place[parent]
            place[last] = value

    return edit


REBALANCE = balancer(target_group__target_failover={"on_unhealthy": "rebalance", "on_deregistration": "rebalance"})
RESET = balancer(
    target_group__send_tcp_reset={"on_unhealthy": {"enabled": True}, "on_deregistration": {"enabled": True}}
)
RESET_IDLE = balancer(send_tcp_reset__on_idle_timeout__enabled=True)
CROSS_ZONE = balancer(load_balancing__cross_zone__enabled=True)
THREE = balancer(target_group__stickiness={"enabled": True, "type": "source_ip_dest_ip_proto"})
TWO = balancer(target_group__stickiness={"enabled": True, "type": "source_ip_dest_ip"})


def health(**targets: str) -> State:
    """Return the state in which each appliance is in a state in its own zone, ``fw1="healthy"``."""
    zones = {"fw1": "a", "fw2": "a", "fw3": "b", "fw4": "b"}
    found = {name: {zones[name]: TargetHealth(state=TargetState(state))} for name, state in targets.items()}
    return State({"gwlb": BalancerState(targets=found)})


ALL = {"fw1": "healthy", "fw2": "healthy", "fw3": "healthy", "fw4": "healthy"}


class Balancer:
    """A load balancer that runs: ``change`` gives its bridge another program and leaves it what it has learned."""

    def __init__(self, topology: Topology, state: State | None = None) -> None:
        self.bridge = Bridge(Program())
        self.change(topology, state)

    def change(self, topology: Topology, state: State | None = None) -> None:
        fabric = build_fabric(topology)
        self.element: Element = fabric.elements["gwlb"]
        self.bridge.program = compile_element(topology, fabric, self.element, state or State.initial(topology))
        self.indices = {link.index: link.appliance for link in fabric.appliance_links}
        self.endpoints = endpoint_index(topology)

    def port(self, endpoint: str) -> int:
        return self.element.port(PortKind.ENDPOINT, endpoint).number

    @property
    def geneve(self) -> int:
        return self.element.port(PortKind.GENEVE, "gwlb").number

    def send(self, packet: Packet) -> Sent:
        return self.bridge.send(packet)

    def target(self, packet: Packet) -> str | None:
        """Return the target that a packet goes to, ``reset``, or None where it is dropped."""
        outputs = self.send(packet).outputs
        assert len(outputs) <= 1
        if not outputs:
            return None
        port, frame = outputs[0]
        assert port == self.geneve
        assert frame["eth_dst"].startswith("02:47:00:00:")
        index = int(frame["eth_dst"][12:].replace(":", ""), 16)
        return "reset" if index == RESETTER else self.indices[index]

    def there(self, flags: str = "+syn", endpoint: str = "gwlbe1-a", client: str = CLIENT, **fields: Any) -> str | None:
        return self.target(segment(self.port(endpoint), client, SERVER, flags, **fields))

    def back(self, flags: str = "+ack", endpoint: str = "gwlbe1-a", client: str = CLIENT) -> str | None:
        return self.target(segment(self.port(endpoint), SERVER, client, flags))

    def from_target(self, index: int, endpoint: str = "gwlbe1-a") -> Sent:
        return self.send(returned(self.geneve, index, self.endpoints[endpoint]))


def of(program: Program, decision: str) -> list[Flow]:
    found = [flow for flow in program.flows if flow.decision == decision]
    assert found, decision
    return found


def slots(program: Program) -> dict[int, Counter[object]]:
    """Return how many slots each target's index has, by group."""
    return {
        group.id: Counter(a.value for bucket in group.buckets for a in bucket if isinstance(a, SetField))
        for group in program.groups
    }


# -- new flows ------------------------------------------------------------------------------------------------------


def test_a_node_uses_the_targets_of_its_own_zone(topology: Topology) -> None:
    assert slots(compile_topology(topology)["gwlb"]) == {1: {1: 128, 2: 128}, 2: {3: 128, 4: 128}}


def test_cross_zone_uses_all_targets_everywhere(variant: Variant) -> None:
    even = {1: 64, 2: 64, 3: 64, 4: 64}
    assert slots(compile_topology(variant(CROSS_ZONE))["gwlb"]) == {1: even, 2: even}


def test_a_zone_without_a_target_drops_new_flows_by_name(topology: Topology) -> None:
    program = compile_topology(topology, health(fw1="healthy"))["gwlb"]
    assert slots(program) == {1: {1: 256}}
    assert [flow.actions for flow in of(program, "gwlb/connections no target in b")] == [(), ()]


@pytest.mark.parametrize("state", ["initial", "unhealthy", "draining", "unused"])
def test_new_flows_go_to_healthy_targets_only(topology: Topology, state: str) -> None:
    assert slots(compile_topology(topology, health(**{**ALL, "fw1": state}))["gwlb"])[1] == {2: 256}


def test_when_nobody_is_healthy_new_flows_go_to_all_registered(topology: Topology) -> None:
    program = compile_topology(topology, health(fw1="unhealthy", fw2="unhealthy", fw3="draining", fw4="unhealthy"))
    assert slots(program["gwlb"]) == {1: {1: 128, 2: 128}, 2: {4: 256}}


def test_slots_that_were_dealt_stay(topology: Topology) -> None:
    mine = ("fw2",) * 100 + ("fw1",) * 128 + ("fw2",) * 28
    dealt = State({"gwlb": health(**ALL).balancer("gwlb").model_copy(update={"slots": {"a": mine}})})
    group = compile_topology(topology, dealt)["gwlb"].groups[0]
    assert [bucket[0] for bucket in group.buckets] == [SetField("reg3", int(name[2:])) for name in mine]


@pytest.mark.parametrize("flags", ["+ack", "+syn+ack", "+fin+ack", "+rst"])
def test_a_segment_of_no_flow_that_is_no_syn_is_dropped(topology: Topology, flags: str) -> None:
    found = Balancer(topology)
    assert found.there(flags) is None
    assert found.send(segment(found.port("gwlbe1-a"), CLIENT, SERVER, flags)).decisions[-1] == (
        "gwlb/connections not a SYN"
    )


def test_what_conntrack_finds_invalid_is_dropped_unless_its_flow_is_known(topology: Topology) -> None:
    found = Balancer(topology)
    assert found.there(invalid=True) is None
    target = found.there()
    assert target is not None
    assert found.there(invalid=True) == target


def test_fragments_are_dropped(topology: Topology) -> None:
    assert Balancer(topology).there(ip_frag=1) is None


# -- known flows ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("edit", "another"), [(balancer(), "fw2"), (THREE, "fw1"), (TWO, "fw1")])
@pytest.mark.parametrize("state", TargetState)
def test_flows_stay_with_their_target_whatever_its_state(
    variant: Variant, edit: Edit, another: str, state: TargetState
) -> None:
    topology = variant(edit)
    found = Balancer(topology, health(**ALL))
    assert found.there() == "fw1"
    found.change(topology, health(**{**ALL, "fw1": state.value}))
    found.bridge.slot = 1
    assert (found.there("+ack"), found.back()) == ("fw1", "fw1")
    assert found.there(client="203.0.113.10:4001") == another, "a connection more, of the same hosts"


def test_a_flow_is_of_one_endpoint(topology: Topology) -> None:
    found = Balancer(topology)
    assert found.there() == "fw1"
    assert found.there("+ack", endpoint="gwlbe3-a") is None


@pytest.mark.parametrize("edit", [balancer(), THREE, TWO])
@pytest.mark.parametrize("state", ["unhealthy", "unused"])
def test_with_rebalance_flows_move_and_both_directions_follow(variant: Variant, edit: Edit, state: str) -> None:
    def both(document: dict[str, Any]) -> None:
        edit(document)
        REBALANCE(document)

    topology = variant(both)
    found = Balancer(topology, health(**ALL))
    found.bridge.slot = 1
    assert found.there() == "fw2"
    found.bridge.slot = 0
    found.change(topology, health(**{**ALL, "fw2": state}))
    assert found.back() == "fw1"
    found.change(topology, health(**ALL))
    assert (found.there("+ack"), found.back()) == ("fw1", "fw1")


def test_with_rebalance_a_draining_target_keeps_its_flows(variant: Variant) -> None:
    found = Balancer(variant(REBALANCE), health(**ALL))
    assert found.there() == "fw1"
    found.change(variant(REBALANCE), health(**{**ALL, "fw1": "draining"}))
    assert found.there("+ack") == "fw1"


def test_with_rebalance_flows_of_a_terminated_target_move(variant: Variant) -> None:
    found = Balancer(variant(REBALANCE), health(**ALL))
    assert found.there() == "fw1"
    found.change(variant(REBALANCE), health(fw2="healthy"))
    assert found.there("+ack") == "fw2"


def test_without_it_they_are_lost_by_name(topology: Topology) -> None:
    found = Balancer(topology, health(**ALL))
    assert found.there() == "fw1"
    found.change(topology, health(fw2="healthy"))
    lost = found.send(segment(found.port("gwlbe1-a"), CLIENT, SERVER, "+ack"))
    assert lost.decisions[-1] == "gwlb/targets not registered"


def test_when_nobody_is_healthy_nothing_moves(variant: Variant) -> None:
    found = Balancer(variant(REBALANCE), health(**ALL))
    assert found.there() == "fw1"
    found.change(variant(REBALANCE), health(**{**ALL, "fw1": "unhealthy", "fw2": "unhealthy"}))
    found.bridge.slot = 1
    assert found.there("+ack") == "fw1"


def test_zones_decide_independently(variant: Variant) -> None:
    def both(document: dict[str, Any]) -> None:
        CROSS_ZONE(document)
        REBALANCE(document)

    topology = variant(both)
    found = Balancer(topology)
    assert (found.there(), found.there(endpoint="gwlbe1-b")) == ("fw1", "fw1")
    healthy, unhealthy = TargetHealth(state=TargetState.HEALTHY), TargetHealth(state=TargetState.UNHEALTHY)
    targets = {name: {"a": healthy, "b": healthy} for name in ALL} | {"fw1": {"a": unhealthy, "b": healthy}}
    found.change(topology, State({"gwlb": BalancerState(targets=targets)}))
    assert found.there("+ack") != "fw1"
    assert found.there("+ack", endpoint="gwlbe1-b") == "fw1"


def test_flows_across_zones_stay_when_cross_zone_is_switched_off(variant: Variant, topology: Topology) -> None:
    found = Balancer(variant(CROSS_ZONE))
    found.bridge.slot = 2
    assert found.there() == "fw3"
    found.change(topology)
    assert found.there("+ack") == "fw3"


# -- resets ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["unhealthy", "unused"])
def test_a_flow_is_reset_once_then_forgotten(variant: Variant, state: str) -> None:
    topology = variant(RESET)
    found = Balancer(topology, health(**ALL))
    assert found.there() == "fw1"
    found.change(topology, health(**{**ALL, "fw1": state}))
    assert found.back() == "reset"
    assert (found.back(), found.there("+ack")) == (None, None)
    assert found.there() == "fw2"
    assert found.back() == "fw2"


def test_a_syn_that_does_not_fit_the_connection_that_was_reset_is_a_new_flow(variant: Variant) -> None:
    topology = variant(RESET)
    found = Balancer(topology, health(**ALL))
    assert found.there() == "fw1"
    found.change(topology, health(**{**ALL, "fw1": "unhealthy"}))
    assert found.there("+ack") == "reset"
    assert found.there("+ack", invalid=True) is None
    assert found.there(invalid=True) == "fw2"


def test_a_reset_is_not_answered_and_what_is_no_tcp_stays(variant: Variant) -> None:
    topology = variant(RESET)
    found = Balancer(topology, health(**ALL))
    ping = datagram(found.port("gwlbe1-a"), "203.0.113.10:53", "10.200.0.20:53")
    assert (found.there(), found.target(ping)) == ("fw1", "fw1")
    found.change(topology, health(**{**ALL, "fw1": "unhealthy"}))
    found.bridge.slot = 1
    assert (found.there("+rst"), found.target(ping)) == ("fw1", "fw1")


def test_with_reset_a_draining_target_keeps_its_flows(variant: Variant) -> None:
    found = Balancer(variant(RESET), health(**ALL))
    assert found.there() == "fw1"
    found.change(variant(RESET), health(**{**ALL, "fw1": "draining"}))
    assert found.there("+ack") == "fw1"


@pytest.mark.parametrize(
    ("flags", "expected"), [("+ack", "reset"), ("+syn+ack", "reset"), ("+rst", None), ("+syn", "fw1")]
)
def test_a_segment_of_a_forgotten_flow_can_be_reset(variant: Variant, flags: str, expected: str | None) -> None:
    found = Balancer(variant(RESET_IDLE))
    assert found.there(flags) == expected


@pytest.mark.parametrize("edit", [RESET, RESET_IDLE])
def test_what_the_resetter_answers_comes_back(variant: Variant, topology: Topology, edit: Edit) -> None:
    found = Balancer(variant(edit))
    assert [port for port, _ in found.from_target(RESETTER).outputs] == [found.port("gwlbe1-a")]
    assert Balancer(topology).from_target(RESETTER).outputs == []


# -- what comes back ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", TargetState)
def test_a_target_with_flows_may_answer_in_every_state(topology: Topology, state: TargetState) -> None:
    found = Balancer(topology, health(**{**ALL, "fw1": state.value}))
    answered = found.from_target(1, "gwlbe2-b")
    assert [port for port, _ in answered.outputs] == [found.port("gwlbe2-b")]
    assert answered.decisions == ["gwlb/endpoints from GENEVE", "gwlb/sources fw1", "gwlb/returned gwlbe2-b"]


def test_who_is_not_registered_may_not(topology: Topology) -> None:
    found = Balancer(topology, health(fw2="healthy"))
    for index in (1, 9, 0):
        sent = found.from_target(index)
        assert (sent.outputs, sent.decisions[-1]) == ([], "gwlb/sources not registered")


# -- endpoints ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("service", "state"),
    [
        ({"acceptance_required": True, "accepted": ["gwlbe2-a"]}, "pendingAcceptance"),
        ({"rejected": ["gwlbe1-a"]}, "rejected"),
    ],
)
def test_an_endpoint_that_is_not_available_carries_nothing(
    variant: Variant, service: dict[str, Any], state: str
) -> None:
    def edit(document: dict[str, Any]) -> None:
        document["gateway_load_balancers"]["gwlb"]["endpoint_service"].update(service)

    topology = variant(edit)
    found = Balancer(topology)
    sent = found.send(segment(found.port("gwlbe1-a"), CLIENT, SERVER))
    assert (sent.outputs, sent.decisions) == ([], [f"gwlb/endpoints gwlbe1-a {state}"])
    sent = found.from_target(1)
    assert (sent.outputs, sent.decisions[-1]) == ([], "gwlb/returned no such endpoint")
    program = compile_topology(topology)["spoke1"]
    for route in ("spoke1/public-a 0.0.0.0/0", "spoke1/igw-edge 10.200.0.16/28"):
        assert [flow.actions for flow in of(program, route)] == [()]
    assert found.there(endpoint="gwlbe2-a") == "fw1"


# -- stickiness -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("edit", "other_protocol"), [(THREE, "fw2"), (TWO, "fw1")])
def test_a_stickier_flow_is_of_all_ports_and_both_directions(variant: Variant, edit: Edit, other_protocol: str) -> None:
    found = Balancer(variant(edit))
    assert found.there() == "fw1"
    found.bridge.slot = 1
    assert found.there(client="203.0.113.10:4001") == "fw1"
    assert found.back("+syn") == "fw1"
    assert found.target(datagram(found.port("gwlbe1-a"), SERVER, CLIENT)) == other_protocol
    assert found.there(client="203.0.113.11:4000") == "fw2"
    assert found.there(endpoint="gwlbe3-a") == "fw2"


@pytest.mark.parametrize("edit", [THREE, TWO])
def test_a_stickier_flow_begins_with_a_syn_too(variant: Variant, edit: Edit) -> None:
    assert Balancer(variant(edit)).there("+ack") is None


@pytest.mark.parametrize("edit", [THREE, TWO])
def test_each_packet_of_a_stickier_flow_keeps_both_directions(variant: Variant, edit: Edit) -> None:
    found = Balancer(variant(edit))
    assert found.there() == "fw1"
    there, back = found.bridge.learned
    for gone, answer in ((back, found.there), (there, found.back)):
        del found.bridge.learned[gone]
        assert answer("+ack") == "fw1"
        assert found.bridge.learned.keys() == {there, back}


def test_stickier_flows_hash_what_they_are(variant: Variant) -> None:
    """Connections of one flow that start at once must not be sent to different targets."""
    for edit in (THREE, TWO):
        assert {group.fields for group in compile_topology(variant(edit))["gwlb"].groups} == {("ipv4_src", "ipv4_dst")}
    assert {group.fields for group in compile_topology(variant(balancer()))["gwlb"].groups} == {()}


@pytest.mark.parametrize(
    ("edit", "time_scale", "expected"),
    [(THREE, 1, {350, 120}), (THREE, 10, {35, 12}), (THREE, 1000, {1}), (TWO, 1, {350}), (balancer(), 1, set())],
)
def test_learned_flows_have_awss_idle_timeouts(
    variant: Variant, edit: Edit, time_scale: float, expected: set[int]
) -> None:
    program = compile_topology(variant(edit), time_scale=time_scale)["gwlb"]
    learned = [action for flow in program.flows for action in flow.actions if isinstance(action, Learn)]
    assert {action.timeout for action in learned} == expected
    assert program.learned == {7}
    assert {action.table for action in learned} <= program.learned


def test_tcp_flows_have_tcps_timeout(variant: Variant) -> None:
    for flow in of(compile_topology(variant(THREE))["gwlb"], "gwlb/commit new connection"):
        seconds = {action.timeout for action in flow.actions if isinstance(action, Learn)}
        assert seconds == ({350} if "tcp" in str(flow.match) else {120})


# -- all of it ------------------------------------------------------------------------------------------------------

states = st.dictionaries(st.sampled_from(list(ALL)), st.sampled_from([state.value for state in TargetState]))
edits = st.lists(st.sampled_from([REBALANCE, CROSS_ZONE, RESET_IDLE, THREE, TWO]), max_size=3)
sends = st.lists(
    st.tuples(st.booleans(), st.sampled_from(["+syn", "+ack"]), st.integers(0, 255), states | st.none()), max_size=12
)


@given(edits, sends)
def test_both_directions_of_a_flow_are_always_at_one_target(
    topology: Topology, chosen: list[Edit], sent: list[tuple[bool, str, int, dict[str, str] | None]]
) -> None:
    document = topology.model_dump(mode="json")
    for edit in chosen:
        edit(document)
    edited = Topology.model_validate(document)
    found = Balancer(edited)
    for backward, flags, slot, changed in sent:
        if changed is not None:
            found.change(edited, health(**changed))
        found.bridge.slot = slot
        target = found.back(flags) if backward else found.there(flags)
        if target not in (None, "reset"):
            found.bridge.slot = slot + 1
            assert (found.there("+ack"), found.back("+ack")) == (target, target)


@given(edits, states)
def test_every_program_compiles_and_its_tables_are_passed_in_order(
    topology: Topology, chosen: list[Edit], changed: dict[str, str]
) -> None:
    document = topology.model_dump(mode="json")
    for edit in chosen:
        edit(document)
    program = compile_topology(Topology.model_validate(document), health(**changed))["gwlb"]
    assert not [a for group in program.groups for bucket in group.buckets for a in bucket if isinstance(a, Ct)]
    assert {flow.table for flow in program.flows}.isdisjoint(program.learned)
