"""The reference topology's walks are the packet walks of its description, and a walk says why a packet is dropped."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controllers.compiler import compile_topology
from controllers.layout import AZ, az_number
from topologies.bypass import without_inspection
from topologies.loader import load_topology
from topologies.model import Topology
from topologies.validation import validate
from topologies.walk import Hop, hosts, inspections, walk, walks


@pytest.fixture(scope="module")
def gwlb() -> Topology:
    return load_topology("gwlb")


def changed(topology: Topology, **tables: dict[str, str]) -> Topology:
    """Return *topology* with the routes of some of spoke1's or (``tgw_NAME``) the Transit Gateway's tables replaced."""
    document = topology.model_dump()
    for name, routes in tables.items():
        if name.startswith("tgw_"):
            document["transit_gateways"]["tgw"]["route_tables"][name.removeprefix("tgw_")]["routes"] = routes
        else:
            document["vpcs"]["spoke1"]["route_tables"][name.replace("_", "-")]["routes"] = routes
    return Topology.model_validate(document)


def decisions(hops: list[Hop]) -> list[str]:
    return [hop.decision for hop in hops]


def test_inbound(gwlb: Topology) -> None:
    assert decisions(walk(gwlb, "client", "web1")) == [
        "internet/routes 192.0.2.11/32",
        "spoke1/igw1 192.0.2.11 to 10.200.0.20",
        "spoke1/igw-edge 10.200.0.16/28",
        "gwlb/endpoints gwlbe1-a",
        "gwlb/targets fw1",
        "gwlb/returned gwlbe1-a",
        "spoke1/gwlbe 10.200.0.0/16",
        "spoke1/delivery web1",
    ]
    assert decisions(walk(gwlb, "client", "web1", reply=True)) == [
        "spoke1/public-a 0.0.0.0/0",
        "gwlb/endpoints gwlbe1-a",
        "gwlb/targets fw1",
        "gwlb/returned gwlbe1-a",
        "spoke1/gwlbe 0.0.0.0/0",
        "spoke1/igw1 10.200.0.20 to 192.0.2.11",
        "internet/routes 203.0.113.10/32",
    ]


def test_outbound_is_translated_after_inspection_and_the_reply_comes_back_the_same_way(gwlb: Topology) -> None:
    there = walk(gwlb, "app1", "server", az="b")
    assert decisions(there) == [
        "spoke1/app 0.0.0.0/0",
        "tgw/spokes 0.0.0.0/0",
        "tgw/appliance-mode att-sec-b",
        "security/tgw-attach-b 0.0.0.0/0",
        "gwlb/endpoints gwlbe3-b",
        "gwlb/targets fw3",
        "gwlb/returned gwlbe3-b",
        "security/gwlbe-b 0.0.0.0/0",
        "security/nat-b snat",
        "security/natgw-b 0.0.0.0/0",
        "security/igw3 10.100.1.52 to 192.0.2.32",
        "internet/routes 198.51.100.10/32",
    ]
    inspected = next(hop for hop in there if hop.table == "targets")
    assert str(inspected.packet.source) == "10.200.1.52"
    assert str(there[-1].packet.source) == "192.0.2.32"
    assert decisions(walk(gwlb, "app1", "server", az="b", reply=True)) == [
        "internet/routes 192.0.2.32/32",
        "security/igw3 192.0.2.32 to 10.100.1.52",
        "security/delivery nat-b",
        "security/nat-b reply",
        "security/natgw-b 10.0.0.0/8",
        "gwlb/endpoints gwlbe3-b",
        "gwlb/targets fw3",
        "gwlb/returned gwlbe3-b",
        "security/gwlbe-b 10.0.0.0/8",
        "tgw/security 10.200.0.0/16",
        "tgw/affinity att-spoke1-b",
        "spoke1/main 10.200.0.0/16",
        "spoke1/delivery app1",
    ]


def test_east_west(gwlb: Topology) -> None:
    assert decisions(walk(gwlb, "web1", "app2")) == [
        "spoke1/public-a 10.0.0.0/8",
        "tgw/spokes 0.0.0.0/0",
        "tgw/appliance-mode att-sec-a",
        "security/tgw-attach-a 10.0.0.0/8",
        "gwlb/endpoints gwlbe3-a",
        "gwlb/targets fw1",
        "gwlb/returned gwlbe3-a",
        "security/gwlbe-a 10.0.0.0/8",
        "tgw/security 10.250.0.0/16",
        "tgw/affinity att-spoke2-a",
        "spoke2/main 10.250.0.0/16",
        "spoke2/delivery app2",
    ]


def test_a_hop_where_a_hash_chooses_lists_what_it_can_choose(gwlb: Topology) -> None:
    alternatives = {hop.decision: hop.alternatives for hop in walk(gwlb, "web1", "app2", az="b") if hop.alternatives}
    assert alternatives == {
        "tgw/appliance-mode att-sec-b": ("tgw/appliance-mode att-sec-a", "tgw/appliance-mode att-sec-b"),
        "gwlb/targets fw3": ("gwlb/targets fw3", "gwlb/targets fw4"),
    }
    assert [inspections(hops) for hops in walks(gwlb, "web1", "app2")] == [["gwlbe3-a"], ["gwlbe3-b"]]
    assert len(walks(gwlb, "client", "web1")) == 1


def test_without_appliance_mode_the_directions_use_different_firewalls(gwlb: Topology) -> None:
    document = gwlb.model_dump()
    document["transit_gateways"]["tgw"]["attachments"]["att-sec"]["appliance_mode"] = False
    topology = Topology.model_validate(document)
    assert inspections(walk(topology, "web1", "web2")) == ["gwlbe3-a"]
    assert inspections(walk(topology, "web1", "web2", reply=True)) == ["gwlbe3-b"]


def test_every_decision_of_a_walk_is_compiled(gwlb: Topology) -> None:
    compiled = {flow.decision for program in compile_topology(gwlb).values() for flow in program.flows}
    for source in hosts(gwlb):
        for destination in (*hosts(gwlb), "192.0.2.31", "192.0.2.99"):
            for reply in (False, True):
                for hops in walks(gwlb, source, destination, reply):
                    for hop in hops:
                        assert {hop.decision, *hop.alternatives} <= compiled, f"{source} to {destination}"


def dropped(topology: Topology, source: str, destination: str) -> tuple[str, str]:
    last = walk(topology, source, destination)[-1]
    assert last.dropped
    assert walk(topology, source, destination, reply=True) == []
    return last.decision, last.why


def test_why_a_packet_is_dropped(gwlb: Topology) -> None:
    assert dropped(gwlb, "client", "app1") == ("internet/routes no route", "10.200.1.52 is nobody's public address")
    assert dropped(gwlb, "client", "192.0.2.31") == ("security/nat unsolicited", "a NAT gateway lets in replies only")
    assert dropped(gwlb, "web1", "10.200.0.21") == ("spoke1/delivery no such host", "nobody has 10.200.0.21")
    assert dropped(gwlb, "web1", "10.9.9.9") == ("tgw/security no route", "no route covers 10.9.9.9")
    direct = changed(gwlb, app={"0.0.0.0/0": "igw1"}, public_a={})
    assert dropped(direct, "app1", "server") == ("spoke1/igw1 no public address", "10.200.1.52 has no public address")
    assert dropped(direct, "web1", "server") == ("spoke1/public-a no route", "no route covers 198.51.100.10")
    hole = changed(gwlb, tgw_security={"10.250.0.0/16": "blackhole"})
    assert dropped(hole, "web1", "app2") == ("tgw/security 10.250.0.0/16", "a blackhole route")
    loop = changed(gwlb, tgw_security={"10.250.0.0/16": "att-sec"})
    decision, why = dropped(loop, "web1", "app2")
    assert (decision, why) == ("security/tgw-attach-a 10.0.0.0/8", "a routing loop: this was decided before")


def test_out_of_a_tunnel_the_transit_gateway_decides_as_for_a_vpc() -> None:
    vpn = load_topology("vpn-ecmp")
    hole = changed(vpn, tgw_firewalls={"10.250.0.0/16": "blackhole"})
    assert dropped(hole, "web1", "app2") == ("tgw/firewalls 10.250.0.0/16", "a blackhole route")
    document = vpn.model_dump()
    document["transit_gateways"]["tgw"]["route_tables"]["firewalls"]["propagations"] = ["att-spoke1"]
    nowhere = Topology.model_validate(document)
    assert dropped(nowhere, "web1", "app2") == ("tgw/firewalls no route", "no route covers 10.250.0.52")
    document["transit_gateways"]["tgw"]["route_tables"]["firewalls"]["associations"] = []
    apart = Topology.model_validate(document)
    assert dropped(apart, "web1", "app2")[0] == "tgw/attachments not associated"
    for topology in (hole, nowhere, apart):
        names = {flow.decision for flow in compile_topology(topology)["tgw"].flows}
        assert walk(topology, "web1", "app2")[-1].decision in names


def test_out_of_a_tunnel_the_zone_is_the_first_of_the_transit_gateways() -> None:
    document = load_topology("vpn-ecmp").model_dump()
    for attachment in document["transit_gateways"]["tgw"]["attachments"].values():
        attachment["subnets"] = ("tgw-b",)
    topology = Topology.model_validate(document)
    affinity = walk(topology, "app1", "web2")[-3]
    assert (affinity.decision, affinity.az, affinity.why) == ("tgw/affinity att-spoke2-b", "b", "the zone is kept")
    (flow,) = (flow for flow in compile_topology(topology)["tgw"].flows if flow.decision == affinity.decision)
    assert dict(flow.match.fields)[AZ] == az_number("b")


def test_a_load_balancer_without_a_target_in_the_zone_drops(gwlb: Topology) -> None:
    document = gwlb.model_dump()
    document["gateway_load_balancers"]["gwlb"]["target_group"]["targets"] = ["fw3"]
    assert dropped(Topology.model_validate(document), "client", "web1")[0] == "gwlb/connections no target in a"


def test_a_load_balancer_without_a_target_at_all_drops(gwlb: Topology) -> None:
    document = gwlb.model_dump()
    document["gateway_load_balancers"]["gwlb"]["target_group"]["targets"] = []
    document["gateway_load_balancers"]["gwlb"]["load_balancing"]["cross_zone"]["enabled"] = True
    topology = Topology.model_validate(document)
    assert validate(topology) == [], "all can be deregistered"
    assert dropped(topology, "client", "web1") == ("gwlb/connections no target in a", "no firewall is registered")


@pytest.mark.parametrize(
    ("service", "state"),
    [
        ({"acceptance_required": True, "accepted": ["gwlbe3-a", "gwlbe3-b"]}, "pendingAcceptance"),
        ({"rejected": ["gwlbe1-a"]}, "rejected"),
    ],
)
def test_a_route_to_an_endpoint_that_is_not_available_is_a_dead_end(
    gwlb: Topology, service: dict[str, Any], state: str
) -> None:
    document = gwlb.model_dump()
    document["gateway_load_balancers"]["gwlb"]["endpoint_service"] |= service
    topology = Topology.model_validate(document)
    assert validate(topology) == []
    why = f"endpoint gwlbe1-a is {state}"
    assert dropped(topology, "client", "web1") == ("spoke1/igw-edge 10.200.0.16/28", why)
    assert dropped(topology, "web1", "server") == ("spoke1/public-a 0.0.0.0/0", why)
    assert inspections(walk(topology, "web1", "app2")) == ["gwlbe3-a"], "the others work"


def test_an_auto_scaling_group_is_walked_through_where_it_runs_from_the_start() -> None:
    hops = walk(load_topology("autoscale"), "web1", "app2", az="b")
    assert inspections(hops) == ["gwlbe3-b"]
    (chosen,) = (hop.alternatives for hop in hops if hop.table == "targets")
    assert chosen == ("gwlb/targets fw1", "gwlb/targets fw2")


def test_neighbours_in_a_subnet_are_not_routed(gwlb: Topology) -> None:
    document = gwlb.model_dump()
    document["vpcs"]["spoke1"]["instances"]["web3"] = {"subnet": "public-a", "address": "10.200.0.21"}
    hops = walk(Topology.model_validate(document), "web1", "web3")
    assert decisions(hops) == ["spoke1/public-a same subnet", "spoke1/delivery web3"]


def test_an_instance_that_forwards_is_walked_through(gwlb: Topology) -> None:
    document = gwlb.model_dump()
    spoke = document["vpcs"]["spoke1"]
    spoke["instances"]["app1"]["source_dest_check"] = False
    spoke["route_tables"]["public-a"]["routes"] = {"10.0.0.0/8": "app1"}
    topology = Topology.model_validate(document)
    assert validate(topology) == []
    assert decisions(walk(topology, "web1", "app2"))[:3] == [
        "spoke1/public-a 10.0.0.0/8",
        "spoke1/app 0.0.0.0/0",
        "tgw/spokes 0.0.0.0/0",
    ]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("web9", "app2"), "no host 'web9'; did you mean web2?"),
        (("web1", "printer"), "no host 'printer'; there are: web1, app1, web2, app2, client, server"),
        (("web1", "app2", "z"), "no AZ 'z'; there are: a, b"),
    ],
)
def test_what_is_not_there_is_an_error(gwlb: Topology, arguments: tuple[str, ...], text: str) -> None:
    with pytest.raises(ValueError, match="no ") as caught:
        walk(gwlb, *arguments)
    assert str(caught.value) == text


@settings(max_examples=60)
@given(st.data())
def test_a_walk_ends_in_any_valid_topology(data: Any) -> None:
    """Routes are drawn at random; whatever validation accepts, the walk ends and the compiler has its decisions."""
    document = load_topology("gwlb").model_dump()
    prefixes = st.sampled_from(["0.0.0.0/0", "10.0.0.0/8", "10.200.0.0/16", "10.250.0.0/16", "10.250.0.48/28"])
    for name, vpc in document["vpcs"].items():
        targets = ["tgw", "local", vpc["internet_gateway"], *vpc["endpoints"], *vpc["nat_gateways"], *vpc["instances"]]
        for table in vpc["route_tables"].values():
            if table["gateway"] is None:
                table["routes"] = data.draw(st.dictionaries(prefixes, st.sampled_from(targets), max_size=3), label=name)
    for table in document["transit_gateways"]["tgw"]["route_tables"].values():
        targets = ["att-spoke1", "att-spoke2", "att-sec", "blackhole"]
        table["routes"] = data.draw(st.dictionaries(prefixes, st.sampled_from(targets), max_size=3))
    topology = Topology.model_validate(document)
    problems = [problem for problem in validate(topology) if not str(problem).startswith("vpcs.")]
    assert problems == [], "no Transit Gateway route drawn is wrong"
    if validate(topology):
        # Keep the tables of which validation has nothing to say.
        for problem in validate(topology):
            _, vpc_name, _, table_name, *_ = problem.place
            document["vpcs"][vpc_name]["route_tables"][table_name]["routes"] = {}
        topology = Topology.model_validate(document)
    assert validate(topology) == []
    for source, destination in (("web1", "app2"), ("app1", "server"), ("client", "web2")):
        for hops in (*walks(topology, source, destination), *walks(topology, source, destination, reply=True)):
            assert len(hops) < 200
            if hops:
                states = [(hop.decision, hop.az, hop.packet) for hop in hops[:-1]]
                assert hops[-1].dropped or hops[-1].target in hosts(topology)
                assert len(set(states)) == len(states), "nothing is decided twice"


def test_the_way_without_inspection(gwlb: Topology) -> None:
    direct = without_inspection(gwlb)
    assert validate(direct) == []
    assert decisions(walk(direct, "web1", "app2")) == [
        "spoke1/public-a 10.0.0.0/8",
        "tgw/spokes 10.250.0.0/16",
        "tgw/affinity att-spoke2-a",
        "spoke2/main 10.250.0.0/16",
        "spoke2/delivery app2",
    ]
    for source in hosts(gwlb):
        for destination in hosts(gwlb):
            for reply in (False, True):
                inspected = walk(gwlb, source, destination, reply=reply)
                straight = walk(direct, source, destination, reply=reply)
                assert inspections(straight) == []
                assert [hop.target for hop in straight[-1:]] == [hop.target for hop in inspected[-1:]]
                if straight:
                    assert straight[-1].packet == inspected[-1].packet, "NAT is as before"
