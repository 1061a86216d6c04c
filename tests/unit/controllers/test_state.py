"""The load balancers' state: its file, what it starts with, and who is available for new flows."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controllers.state import BalancerState, State, StateError, TargetHealth, TargetState, available
from topologies.model import Topology

Variant = Callable[[Callable[[dict[str, Any]], None]], Topology]


def state(**targets: str) -> State:
    """Return the state in which each appliance is in a state in its own zone; fw1 and fw2 are in a, others in b."""
    zones = {"fw1": "a", "fw2": "a", "fw3": "b", "fw4": "b"}
    health = {name: {zones[name]: TargetHealth(state=TargetState(found))} for name, found in targets.items()}
    return State({"gwlb": BalancerState(targets=health)})


def cross_zone(document: dict[str, Any]) -> None:
    document["gateway_load_balancers"]["gwlb"]["load_balancing"]["cross_zone"]["enabled"] = True


def test_initially_every_registered_target_is_healthy_in_its_zone(topology: Topology) -> None:
    initial = State.initial(topology)
    assert {name: list(zones) for name, zones in initial.targets("gwlb").items()} == {
        "fw1": ["a"],
        "fw2": ["a"],
        "fw3": ["b"],
        "fw4": ["b"],
    }
    assert {item.state for zones in initial.targets("gwlb").values() for item in zones.values()} == {
        TargetState.HEALTHY
    }
    assert Counter(initial.slots("gwlb", "a")) == {"fw1": 128, "fw2": 128}
    assert Counter(initial.slots("gwlb", "b")) == {"fw3": 128, "fw4": 128}


def test_with_cross_zone_every_zone_has_every_target(variant: Variant) -> None:
    initial = State.initial(variant(cross_zone))
    assert Counter(initial.slots("gwlb", "a")) == dict.fromkeys(("fw1", "fw2", "fw3", "fw4"), 64)
    assert set(initial.targets("gwlb")["fw1"]) == {"a", "b"}


def test_only_registered_appliances_are_targets(variant: Variant) -> None:
    def edit(document: dict[str, Any]) -> None:
        document["gateway_load_balancers"]["gwlb"]["target_group"]["targets"] = ["fw2"]

    initial = State.initial(variant(edit))
    assert set(initial.targets("gwlb")) == {"fw2"}
    assert initial.slots("gwlb", "b") == ()


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        ({"fw1": "healthy", "fw2": "healthy"}, ["fw1", "fw2"]),
        ({"fw2": "healthy", "fw1": "healthy"}, ["fw2", "fw1"]),
        ({"fw1": "healthy", "fw2": "unhealthy"}, ["fw1"]),
        ({"fw1": "healthy", "fw2": "initial"}, ["fw1"]),
        ({"fw1": "healthy", "fw2": "draining"}, ["fw1"]),
        ({"fw1": "unhealthy", "fw2": "unhealthy", "fw3": "healthy"}, ["fw1", "fw2"]),
        ({"fw1": "unhealthy", "fw2": "initial"}, ["fw1", "fw2"]),
        ({"fw1": "unhealthy", "fw2": "draining"}, ["fw1"]),
        ({"fw1": "draining", "fw2": "unused"}, []),
        ({"fw3": "healthy"}, []),
        ({}, []),
    ],
)
def test_new_flows_go_to_the_healthy_or_fail_open(
    topology: Topology, targets: dict[str, str], expected: list[str]
) -> None:
    assert available(topology, state(**targets), "gwlb", "a") == expected


def test_zones_decide_independently_with_cross_zone_too(variant: Variant) -> None:
    health = {
        "fw1": {
            "a": TargetHealth(state=TargetState.UNHEALTHY),
            "b": TargetHealth(state=TargetState.HEALTHY),
        },
        "fw3": {
            "a": TargetHealth(state=TargetState.HEALTHY),
            "b": TargetHealth(state=TargetState.HEALTHY),
        },
    }
    found, everywhere = State({"gwlb": BalancerState(targets=health)}), variant(cross_zone)
    assert available(everywhere, found, "gwlb", "a") == ["fw3"]
    assert available(everywhere, found, "gwlb", "b") == ["fw1", "fw3"]


def test_what_the_topology_does_not_know_is_not_available(topology: Topology) -> None:
    stranger = {"fw9": {"a": TargetHealth(state=TargetState.HEALTHY)}}
    assert available(topology, State({"gwlb": BalancerState(targets=stranger)}), "gwlb", "a") == []
    assert available(topology, State(), "gwlb", "a") == []
    assert State({"other": BalancerState(targets=stranger)}).dealt(topology) == State()


@given(st.dictionaries(st.sampled_from(["fw1", "fw2", "fw3", "fw4"]), st.sampled_from(TargetState)))
def test_dealing_is_a_fixed_point_and_a_file_keeps_everything(
    tmp_path_factory: pytest.TempPathFactory, topology: Topology, targets: dict[str, TargetState]
) -> None:
    found = state(**{name: item.value for name, item in targets.items()})
    before = State({"gwlb": found.balancer("gwlb").model_copy(update={"slots": {"a": ("fw1",) * 256}})})
    dealt = before.dealt(topology)
    assert dealt.dealt(topology) == dealt
    assert set(dealt.slots("gwlb", "a")) == set(available(topology, dealt, "gwlb", "a"))
    file = tmp_path_factory.mktemp("state") / "state.json"
    dealt.save(file)
    assert State.load(file) == dealt
    assert list(State.load(file).targets("gwlb")) == list(targets), "the order of registration"


def test_the_file_has_awss_words(tmp_path: Path) -> None:
    health = TargetHealth(
        state=TargetState.UNHEALTHY, reason="Target.FailedHealthChecks", description="Health checks failed"
    )
    State({"gwlb": BalancerState(targets={"fw1": {"a": health}}, slots={"a": ("fw1", "fw2")})}).save(
        tmp_path / "state.json"
    )
    assert json.loads((tmp_path / "state.json").read_text()) == {
        "gwlb": {
            "targets": {
                "fw1": {
                    "a": {
                        "state": "unhealthy",
                        "reason": "Target.FailedHealthChecks",
                        "description": "Health checks failed",
                    }
                }
            },
            "slots": {"a": ["fw1", "fw2"]},
        }
    }
    assert [file.name for file in tmp_path.iterdir()] == ["state.json"], "no temporary file is left"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("{", "state.json: Invalid JSON: EOF while parsing an object at line 1 column 1"),
        (
            '{"gwlb": {"targets": {"fw1": {"a": {"state": "sick"}}}}}',
            "state.json: gwlb.targets.fw1.a.state: "
            "Input should be 'initial', 'healthy', 'unhealthy', 'draining' or 'unused'",
        ),
        ('{"gwlb": {"slot": {}}}', "state.json: gwlb.slot: Extra inputs are not permitted"),
    ],
)
def test_a_wrong_file_is_a_line(tmp_path: Path, text: str, error: str) -> None:
    file = tmp_path / "state.json"
    file.write_text(text)
    with pytest.raises(StateError) as raised:
        State.load(file)
    assert str(raised.value) == error
