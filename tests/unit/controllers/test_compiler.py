"""What the compiler makes of topologies: golden files of the packaged one, and AWS's rules one by one.

``UPDATE_GOLDEN=1`` writes the golden files anew; read the difference before committing it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from controllers.compiler import compile_element, compile_topology
from controllers.conntrack import nat_zones, zone_timeouts
from controllers.flows import Action, Ct, Flow, Foreign, GotoTable, Multipath, Output, Program, Resubmit, SetField
from controllers.state import State
from controllers.tables import packaged_page
from topologies.decision import cookie
from topologies.fabric import ElementKind, build_fabric, endpoint_index
from topologies.loader import load_topology
from topologies.model import Topology
from topologies.walk import hosts, walks

Variant = Callable[[Callable[[dict[str, Any]], None]], Topology]
ROOT = Path(__file__).parents[3]
UPDATE = bool(os.environ.get("UPDATE_GOLDEN"))


def text(program: Program) -> str:
    """Return flows and groups as ``ovs-ofctl`` takes them, each flow below its decision."""
    lines = []
    for flow in program.flows:
        lines += [f"# {flow.decision}", str(flow)]
    return "\n".join([*lines, *map(str, program.groups)]) + "\n"


def actions(program: Program) -> Iterator[Action]:
    for flow in program.flows:
        yield from flow.actions
    for group in program.groups:
        for bucket in group.buckets:
            yield from bucket


def of(program: Program, decision: str) -> list[Flow]:
    found = [flow for flow in program.flows if flow.decision == decision]
    assert found, decision
    return found


@pytest.mark.parametrize("element", ["spoke1", "spoke2", "security", "tgw", "gwlb", "internet"])
def test_the_packaged_topology_compiles_to_the_golden_program(topology: Topology, golden: Path, element: str) -> None:
    compiled = text(compile_topology(topology)[element])
    file = golden / f"{element}.txt"
    if UPDATE:
        file.write_text(compiled)
    assert compiled == file.read_text()


def test_the_page_of_tables_is_true() -> None:
    file = ROOT / "docs/openflow-tables.md"
    if UPDATE:
        file.write_text(packaged_page())
    assert packaged_page() == file.read_text(), "run: python -m controllers.tables > docs/openflow-tables.md"


def test_no_program_can_send_a_packet_to_the_controller(topology: Topology) -> None:
    """Outputs go to ports of the fabric or back; a decremented TTL is never the last; every table has a miss flow."""
    fabric = build_fabric(topology)
    back = 0xFFFFFFF8
    for name, program in compile_topology(topology).items():
        ports = {*fabric.elements[name].ports, back}
        assert {action.port for action in actions(program) if isinstance(action, Output)} <= ports
        assert not [action for action in actions(program) if isinstance(action, Foreign)]
        for flow in program.flows:
            if "dec_ttl" in map(str, flow.actions):
                guards = [f for f in program.flows if f.table == flow.table and "nw_ttl" in str(f.match)]
                assert {str(f.match) for f in guards if not f.actions} == {"ip,nw_ttl=0", "ip,nw_ttl=1"}
                assert min(f.priority for f in guards) > flow.priority
        reached = {action.table for action in actions(program) if isinstance(action, GotoTable | Resubmit | Ct)}
        missed = {flow.table for flow in program.flows if flow.priority == 0 and not flow.match.fields}
        assert (reached - {None} - program.learned) | {0} <= missed == set(program.tables)


def test_tables_are_passed_in_order(topology: Topology) -> None:
    """``goto_table`` leads to later tables only, or a switch refuses the flow."""
    for program in compile_topology(topology).values():
        for flow in program.flows:
            assert all(a.table > flow.table for a in flow.actions if isinstance(a, GotoTable))
            assert not [a for a in flow.actions[:-1] if isinstance(a, GotoTable)]


def test_every_flow_carries_the_cookie_of_its_decision_and_no_two_decisions_share_one(topology: Topology) -> None:
    decisions = {
        flow.decision: flow.cookie for program in compile_topology(topology).values() for flow in program.flows
    }
    assert decisions == {decision: cookie(decision) for decision in decisions}
    assert len(set(decisions.values())) == len(decisions)


@pytest.mark.parametrize("name", ["gwlb", "autoscale"])
def test_every_hop_of_every_walk_is_a_flow(name: str) -> None:
    topology = load_topology(name)
    flows = {flow.decision for program in compile_topology(topology).values() for flow in program.flows}
    names = list(hosts(topology))
    hops = {
        decision
        for one in names
        for other in names
        if one != other
        for reply in (False, True)
        for walk in walks(topology, one, other, reply)
        for hop in walk
        for decision in (hop.alternatives or (hop.decision,))
    }
    assert len(hops) > 20
    assert hops <= flows


def test_the_same_topology_gives_the_same_programs(topology: Topology) -> None:
    one, other = compile_topology(topology), compile_topology(topology)
    assert one == other


# -- VPC ------------------------------------------------------------------------------------------------------------


def test_a_route_to_the_tgw_leaves_by_the_zone_of_the_packet(topology: Topology) -> None:
    here = of(compile_topology(topology)["spoke1"], "spoke1/app 0.0.0.0/0")
    assert sorted(f"{flow.match} {flow.actions[-1]}" for flow in here) == [
        "ip,reg1=0x1 output:6",
        "ip,reg1=0x2 output:7",
    ]


def test_a_route_to_the_tgw_works_only_where_the_attachment_has_a_subnet(variant: Variant) -> None:
    def edit(document: dict[str, Any]) -> None:
        document["transit_gateways"]["tgw"]["attachments"]["att-spoke1"]["subnets"] = ["tgw-b"]

    flows = of(compile_topology(variant(edit))["spoke1"], "spoke1/app 0.0.0.0/0")
    assert sorted((str(flow.match), bool(flow.actions)) for flow in flows) == [
        ("ip,reg1=0x1", False),
        ("ip,reg1=0x2", True),
    ]


@pytest.mark.parametrize("check", [True, False])
def test_an_interface_takes_routed_packets_only_without_its_check(variant: Variant, check: bool) -> None:
    def edit(document: dict[str, Any]) -> None:
        spoke = document["vpcs"]["spoke1"]
        spoke["instances"]["app1"]["source_dest_check"] = check
        spoke["route_tables"]["app"]["routes"]["10.9.0.0/16"] = "app1"

    program = compile_topology(variant(edit))["spoke1"]
    (routed,) = of(program, "spoke1/app 10.9.0.0/16")
    assert bool(routed.actions) is not check
    (sends,) = of(program, "spoke1/interfaces app1")
    assert ("nw_src" in str(sends.match)) is check
    assert "dl_src" in str(sends.match)


def test_the_edge_table_is_asked_after_the_address_translation(topology: Topology) -> None:
    program = compile_topology(topology)["spoke1"]
    (flow,) = of(program, "spoke1/igw1 192.0.2.11 to 10.200.0.20")
    translation, then = flow.actions
    assert translation == SetField("ipv4_dst", "10.200.0.20")
    assert isinstance(then, GotoTable)
    assert program.tables[then.table] == "igw-edge"


def test_without_an_edge_table_the_internet_gateway_delivers(variant: Variant) -> None:
    def edit(document: dict[str, Any]) -> None:
        del document["vpcs"]["spoke1"]["route_tables"]["igw-edge"]

    program = compile_topology(variant(edit))["spoke1"]
    (flow,) = of(program, "spoke1/igw1 192.0.2.11 to 10.200.0.20")
    assert isinstance(flow.actions[-1], GotoTable)
    assert program.tables[flow.actions[-1].table] == "delivery"


# -- Transit Gateway ------------------------------------------------------------------------------------------------


def test_static_routes_win_over_propagated_ones(variant: Variant) -> None:
    def edit(document: dict[str, Any]) -> None:
        table = document["transit_gateways"]["tgw"]["route_tables"]["security"]
        table["routes"]["10.200.0.0/16"] = "att-spoke2"

    (flow,) = of(compile_topology(variant(edit))["tgw"], "tgw/security 10.200.0.0/16")
    assert flow.actions[0] == SetField("reg2", 2)


def test_a_blackhole_drops_for_its_own_decision(variant: Variant) -> None:
    def edit(document: dict[str, Any]) -> None:
        document["transit_gateways"]["tgw"]["route_tables"]["spokes"]["routes"]["10.250.0.0/16"] = "blackhole"

    (flow,) = of(compile_topology(variant(edit))["tgw"], "tgw/spokes 10.250.0.0/16")
    assert (flow.actions, flow.priority) == ((), 17)


def test_appliance_mode_hashes_and_other_attachments_keep_the_zone(variant: Variant) -> None:
    def edit(document: dict[str, Any]) -> None:
        attachments = document["transit_gateways"]["tgw"]["attachments"]
        attachments["att-sec"]["appliance_mode"] = False
        attachments["att-spoke1"]["appliance_mode"] = True

    program = compile_topology(variant(edit))["tgw"]
    (hashed,) = of(program, "tgw/appliance-mode att-spoke1")
    assert Multipath(2, "reg3") in hashed.actions
    assert len(of(program, "tgw/affinity att-sec-a") + of(program, "tgw/affinity att-sec-b")) == 2


def test_an_attachment_without_the_packets_zone_is_left_by_its_first(variant: Variant) -> None:
    def edit(document: dict[str, Any]) -> None:
        document["transit_gateways"]["tgw"]["attachments"]["att-spoke2"]["subnets"] = ["tgw-b"]

    flows = of(compile_topology(variant(edit))["tgw"], "tgw/affinity att-spoke2-b")
    assert sorted(str(flow.match) for flow in flows) == ["reg1=0x1,reg2=0x2", "reg1=0x2,reg2=0x2"]
    assert len({flow.actions for flow in flows}) == 1


def test_an_attachment_without_a_table_sends_nowhere(variant: Variant) -> None:
    def edit(document: dict[str, Any]) -> None:
        document["transit_gateways"]["tgw"]["route_tables"]["spokes"]["associations"] = ["att-spoke1"]

    decisions = {flow.decision for flow in compile_topology(variant(edit))["tgw"].flows}
    assert "tgw/attachments att-spoke1-a" in decisions
    assert "tgw/attachments att-spoke2-a" not in decisions


# -- Gateway Load Balancer ------------------------------------------------------------------------------------------


def test_a_commit_is_never_in_a_bucket(topology: Topology) -> None:
    """Open vSwitch drops it there without a word."""
    for program in compile_topology(topology).values():
        assert not [a for group in program.groups for bucket in group.buckets for a in bucket if isinstance(a, Ct)]


def test_frames_carry_the_indices_of_the_architecture_page(topology: Topology) -> None:
    program = compile_topology(topology)["gwlb"]
    (to,) = of(program, "gwlb/endpoints gwlbe2-b")
    assert SetField("eth_src", "02:45:00:02:00:04") in to.actions
    (target,) = of(program, "gwlb/targets fw3")
    assert SetField("eth_dst", "02:47:00:00:00:03") in target.actions
    (back,) = of(program, "gwlb/returned gwlbe2-b")
    assert str(back.match) == "dl_dst=02:45:00:00:00:04"


def test_only_the_load_balancers_depend_on_the_state(topology: Topology) -> None:
    before, after = compile_topology(topology), compile_topology(topology, State())
    assert {name for name in before if before[name] != after[name]} == {"gwlb"}


def test_one_element_compiles_to_the_same_alone(topology: Topology) -> None:
    fabric, state = build_fabric(topology), State.initial(topology)
    for name, program in compile_topology(topology, state).items():
        assert compile_element(topology, fabric, fabric.elements[name], state) == program


# -- conntrack ------------------------------------------------------------------------------------------------------


def test_every_endpoint_and_nat_gateway_has_a_zone_of_its_own(topology: Topology) -> None:
    endpoints, gateways = endpoint_index(topology), nat_zones(topology)
    zones = [*endpoints.values(), *gateways.values()]
    assert sorted(zones) == list(range(1, len(zones) + 1))
    used = {
        action.zone
        for program in compile_topology(topology).values()
        for action in actions(program)
        if isinstance(action, Ct) and isinstance(action.zone, int)
    }
    assert used == set(zones) == set(zone_timeouts(topology))


def test_idle_timeouts_are_awss(variant: Variant) -> None:
    def edit(document: dict[str, Any]) -> None:
        document["gateway_load_balancers"]["gwlb"]["tcp"]["idle_timeout"]["seconds"] = 600

    changed = variant(edit)
    timeouts = zone_timeouts(changed)
    endpoint, nat = timeouts[endpoint_index(changed)["gwlbe1-a"]], timeouts[nat_zones(changed)["nat-a"]]
    assert (endpoint["tcp_established"], endpoint["udp_multiple"], endpoint["icmp_reply"]) == (600, 120, 120)
    assert endpoint["tcp_syn_sent"] == 30
    assert {nat[name] for name in ("tcp_established", "udp_single", "icmp_first")} == {350}


@pytest.mark.parametrize(
    ("time_scale", "established", "syn_sent", "udp"),
    [(1.0, 350, 30, 120), (20, 18, 2, 6), (7.5, 47, 4, 16), (1e3, 1, 1, 1)],
)
def test_timeouts_are_whole_seconds_of_a_lessons_time(
    topology: Topology, time_scale: float, established: int, syn_sent: int, udp: int
) -> None:
    for zone in zone_timeouts(topology, time_scale).values():
        assert (zone["tcp_established"], zone["udp_single"] in (udp, established)) == (established, True)
    endpoint = zone_timeouts(topology, time_scale)[endpoint_index(topology)["gwlbe1-a"]]
    assert (endpoint["tcp_syn_sent"], endpoint["udp_single"], endpoint["icmp_reply"]) == (syn_sent, udp, udp)


def test_the_elements_are_the_fabrics(topology: Topology) -> None:
    fabric = build_fabric(topology)
    assert set(compile_topology(topology)) == set(fabric.elements)
    assert {element.kind for element in fabric.elements.values()} == set(ElementKind)
