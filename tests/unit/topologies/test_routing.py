"""Which route wins."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from topologies.loader import load_topology
from topologies.model import Topology
from topologies.routing import (
    Origin,
    Route,
    TargetKind,
    exit_zones,
    gwlb_targets,
    longest_first,
    lookup,
    subnet_table,
    tgw_routes,
    vpc_routes,
)


@pytest.fixture(scope="module")
def gwlb() -> Topology:
    return load_topology("gwlb")


def winners(routes: list[Route]) -> list[tuple[str, str]]:
    return [(str(route.destination), route.target) for route in routes]


def test_every_table_has_the_local_route(gwlb: Topology) -> None:
    assert winners(vpc_routes(gwlb, "spoke1", "app")) == [("10.200.0.0/16", "local"), ("0.0.0.0/0", "tgw")]
    assert winners(vpc_routes(gwlb, "spoke1", "main")) == [("10.200.0.0/16", "local")]


def test_an_edge_table_puts_whole_subnets_before_local(gwlb: Topology) -> None:
    routes = vpc_routes(gwlb, "spoke1", "igw-edge")
    assert winners(routes) == [
        ("10.200.0.16/28", "gwlbe1-a"),
        ("10.200.1.16/28", "gwlbe1-b"),
        ("10.200.0.0/16", "local"),
    ]
    assert [route.kind for route in routes] == [TargetKind.ENDPOINT, TargetKind.ENDPOINT, TargetKind.LOCAL]


def test_a_route_for_the_whole_cidr_replaces_local(gwlb: Topology) -> None:
    document = gwlb.model_dump()
    document["vpcs"]["spoke1"]["route_tables"]["app"]["routes"] = {"10.200.0.0/16": "gwlbe1-a"}
    routes = vpc_routes(Topology.model_validate(document), "spoke1", "app")
    assert routes == [Route(IPv4Network("10.200.0.0/16"), "gwlbe1-a", TargetKind.ENDPOINT, Origin.STATIC)]


def test_static_wins_over_propagated_and_a_blackhole_is_a_route(gwlb: Topology) -> None:
    document = gwlb.model_dump()
    table = document["transit_gateways"]["tgw"]["route_tables"]["security"]
    table["routes"] = {"10.200.0.0/16": "blackhole", "10.250.0.0/16": "att-spoke1"}
    routes = tgw_routes(Topology.model_validate(document), "tgw", "security")
    assert routes == [
        Route(IPv4Network("10.200.0.0/16"), "blackhole", TargetKind.BLACKHOLE, Origin.STATIC),
        Route(IPv4Network("10.250.0.0/16"), "att-spoke1", TargetKind.ATTACHMENT, Origin.STATIC),
    ]
    untouched = tgw_routes(gwlb, "tgw", "security")
    assert {route.origin for route in untouched} == {Origin.PROPAGATED}


def test_an_unknown_target_or_table_raises(gwlb: Topology) -> None:
    document = gwlb.model_dump()
    document["vpcs"]["spoke1"]["route_tables"]["app"]["routes"] = {"0.0.0.0/0": "nowhere"}
    with pytest.raises(KeyError):
        vpc_routes(Topology.model_validate(document), "spoke1", "app")
    with pytest.raises(KeyError):
        vpc_routes(gwlb, "spoke1", "no-such-table")


def test_a_subnet_that_no_table_names_has_the_main_one(gwlb: Topology) -> None:
    assert subnet_table(gwlb.vpcs["spoke1"], "app-a") == "app"
    assert subnet_table(gwlb.vpcs["spoke1"], "tgw-a") == "main"


def test_zones_are_kept_except_in_appliance_mode(gwlb: Topology) -> None:
    assert exit_zones(gwlb, "tgw", "att-spoke1", "b") == ("b",)
    assert exit_zones(gwlb, "tgw", "att-spoke1", "c") == ("a",)
    assert exit_zones(gwlb, "tgw", "att-sec", "b") == ("a", "b")


def test_a_node_sends_to_its_own_zone_unless_cross_zone_is_on(gwlb: Topology) -> None:
    assert gwlb_targets(gwlb, "gwlb", "b") == ["fw3", "fw4"]
    document = gwlb.model_dump()
    document["gateway_load_balancers"]["gwlb"]["load_balancing"]["cross_zone"]["enabled"] = True
    assert gwlb_targets(Topology.model_validate(document), "gwlb", "b") == ["fw1", "fw2", "fw3", "fw4"]


networks = st.builds(
    lambda address, length: IPv4Network((address, length), strict=False), st.integers(0, 2**32 - 1), st.integers(0, 32)
)


@given(st.lists(networks), st.integers(0, 2**32 - 1))
def test_the_longest_prefix_wins(destinations: list[IPv4Network], number: int) -> None:
    address = IPv4Address(number)
    routes = longest_first(Route(network, "x", TargetKind.ENDPOINT, Origin.STATIC) for network in destinations)
    found = lookup(routes, address)
    covering = [network.prefixlen for network in destinations if address in network]
    assert (found.destination.prefixlen if found else None) == max(covering, default=None)
    assert found is None or address in found.destination
