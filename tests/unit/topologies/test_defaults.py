"""What a load balancer's file leaves out: the auto scaling group's instances, and the registered targets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from topologies.defaults import fill, initial_instances, scaling_instances
from topologies.loader import parse
from topologies.model import GatewayLoadBalancer, Topology

DOCUMENT = """
name: scaled
vpcs:
  one:
    cidr: 10.0.0.0/24
    subnets: {left: {cidr: 10.0.0.0/28, az: a}, right: {cidr: 10.0.0.16/28, az: b}}
gateway_load_balancers:
  gwlb:
    vpc: one
    subnets: [left, right]
    appliances: {static: {subnet: right}}
    auto_scaling_group: {subnets: [left, right], min_size: 1, max_size: 5, desired_capacity: 3}
"""


def balancer(**changes: Any) -> GatewayLoadBalancer:
    document = yaml.safe_load(DOCUMENT)
    document["gateway_load_balancers"]["gwlb"] |= changes
    return parse(yaml.safe_dump(document), Path("scaled.yaml")).gateway_load_balancers["gwlb"]


def test_a_group_makes_its_appliances_over_its_subnets_by_turns() -> None:
    gwlb = balancer()
    placed = {name: item.subnet for name, item in gwlb.appliances.items()}
    assert placed == {"static": "right", "fw1": "left", "fw2": "right", "fw3": "left", "fw4": "right", "fw5": "left"}
    assert scaling_instances(gwlb) == ("fw1", "fw2", "fw3", "fw4", "fw5")
    assert initial_instances(gwlb) == ("fw1", "fw2", "fw3")
    assert len({item.address for item in gwlb.appliances.values()}) == 6


def test_targets_that_are_left_out_are_what_runs_from_the_start() -> None:
    assert balancer().target_group.targets == ("static", "fw1", "fw2", "fw3")
    assert balancer(target_group={"health_check": {"port": 8080}}).target_group.targets[:1] == ("static",)


@pytest.mark.parametrize("targets", [[], ["fw4"]])
def test_targets_that_are_named_stay_as_they_are(targets: list[str]) -> None:
    """All may be deregistered while a lab runs, and the file that says so is loaded again."""
    assert balancer(target_group={"targets": targets}).target_group.targets == tuple(targets)


def test_an_instance_that_is_listed_keeps_its_place() -> None:
    gwlb = balancer(appliances={"fw2": {"subnet": "left", "address": "10.0.0.12"}})
    assert gwlb.appliances["fw2"].subnet == "left"
    assert str(gwlb.appliances["fw2"].address) == "10.0.0.12"
    assert scaling_instances(gwlb) == ("fw1", "fw2", "fw3", "fw4", "fw5")


def test_instances_are_in_the_order_of_their_numbers_and_others_are_none() -> None:
    group = {"subnets": ["left", "right"], "max_size": 11, "name_prefix": "fw"}
    gwlb = balancer(appliances={"fw": {"subnet": "left"}, "fw10": {"subnet": "left"}}, auto_scaling_group=group)
    assert scaling_instances(gwlb) == tuple(f"fw{number}" for number in range(1, 12))
    assert gwlb.target_group.targets == ("fw", "fw1")


def test_without_a_group_there_are_no_instances() -> None:
    gwlb = balancer(auto_scaling_group=None)
    assert (scaling_instances(gwlb), initial_instances(gwlb)) == ((), ())
    assert gwlb.target_group.targets == ("static",)


def test_a_group_without_a_subnet_makes_nothing() -> None:
    document = yaml.safe_load(DOCUMENT)
    for subnets in ([], ["nowhere"]):
        document["gateway_load_balancers"]["gwlb"]["auto_scaling_group"]["subnets"] = subnets
        filled = fill(Topology.model_validate(document))
        assert list(filled.gateway_load_balancers["gwlb"].appliances) == ["static"]


@given(st.integers(0, 9), st.integers(1, 9), st.lists(st.sampled_from(["left", "right", "nowhere"]), max_size=3))
def test_filling_in_twice_changes_nothing(desired: int, most: int, subnets: list[str]) -> None:
    document = yaml.safe_load(DOCUMENT)
    group = {"subnets": subnets, "max_size": most, "desired_capacity": desired}
    document["gateway_load_balancers"]["gwlb"]["auto_scaling_group"] = group
    once = fill(Topology.model_validate(document))
    assert fill(once) == once
    assert fill(Topology.model_validate_json(once.model_dump_json())) == once
    gwlb = once.gateway_load_balancers["gwlb"]
    assert set(gwlb.target_group.targets) <= set(gwlb.appliances)
    assert len(initial_instances(gwlb)) == min(desired, len(scaling_instances(gwlb)))
