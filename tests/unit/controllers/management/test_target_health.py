"""The state machine of targets, with the clock in hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controllers.management.target_health import QUICK, TargetGroup
from controllers.state import TargetState
from topologies.loader import load_topology
from topologies.model import Topology

REGISTERING = ("initial", "Elb.RegistrationInProgress", "Target registration is in progress")
CHECKING = ("initial", "Elb.InitialHealthChecking", "Initial health checks in progress")
HEALTHY = ("healthy", None, None)
FAILED = ("unhealthy", "Target.FailedHealthChecks", "Health checks failed")
DRAINING = ("draining", "Target.DeregistrationInProgress", "Target deregistration is in progress")
DRAINED = ("unused", "Target.NotRegistered", "Target is not registered to the target group")
NOT_IN_USE = (
    "unused",
    "Target.NotInUse",
    "Target is in an Availability Zone that is not enabled for the load balancer",
)
INTERVAL, HEALTHY_COUNT, UNHEALTHY_COUNT, DELAY = 10, 3, 2, 300


def edited(edit: Callable[[dict[str, Any]], None], topology: Topology | None = None) -> Topology:
    document = (topology or load_topology("gwlb")).model_dump(mode="json")
    edit(document["gateway_load_balancers"]["gwlb"])
    return Topology.model_validate(document)


def known_numbers(gwlb: dict[str, Any]) -> None:
    gwlb["target_group"] |= {
        "targets": ["fw1", "fw2", "fw3", "fw4"],
        "health_check": {
            "interval_seconds": INTERVAL,
            "healthy_threshold_count": HEALTHY_COUNT,
            "unhealthy_threshold_count": UNHEALTHY_COUNT,
        },
        "deregistration_delay": {"timeout_seconds": DELAY},
    }


def cross_zone(gwlb: dict[str, Any]) -> None:
    gwlb["load_balancing"] = {"cross_zone": {"enabled": True}}


TOPOLOGY = edited(known_numbers)
CROSS_ZONE = edited(cross_zone, TOPOLOGY)


def group(topology: Topology = TOPOLOGY, now: float = 0.0, time_scale: float = 1.0, **memory: Any) -> TargetGroup:
    return TargetGroup("gwlb", topology, time_scale, now, **memory)


def seen(group: TargetGroup, target: str = "fw1", az: str = "a") -> tuple[str, str | None, str | None]:
    health = group.health()[target][az]
    return health.state.value, health.reason, health.description


def due(group: TargetGroup, target: str = "fw1", az: str = "a") -> float:
    return group.targets[target].watches[az].due


def check(group: TargetGroup, *failures: str | None, target: str = "fw1", az: str = "a") -> None:
    """Make checks when they are due, with these results."""
    for failure in failures:
        group.checked(az, target, failure, due(group, target, az))


def test_a_registered_target_is_checked_at_once_and_healthy_with_the_first_success() -> None:
    targets = group(now=7.0)
    assert seen(targets) == REGISTERING
    assert due(targets) == 7.0
    check(targets, None)
    assert seen(targets) == HEALTHY
    assert due(targets) == 7.0 + INTERVAL


def test_a_target_that_does_not_answer_is_checked_often_for_one_interval() -> None:
    targets = group()
    times = []
    while seen(targets) == REGISTERING:
        times.append(due(targets))
        check(targets, "refused")
    assert times == pytest.approx([QUICK * number for number in range(len(times))])
    assert seen(targets) == CHECKING
    first = due(targets)
    assert INTERVAL <= first <= INTERVAL + QUICK
    check(targets, "refused")
    assert seen(targets) == CHECKING
    assert due(targets) == pytest.approx(first + INTERVAL)
    check(targets, "refused")
    assert seen(targets) == FAILED


def test_thresholds_count_results_in_a_row() -> None:
    targets = group()
    check(targets, None, "refused", None, "refused")
    assert seen(targets) == HEALTHY
    check(targets, "timed out")
    assert seen(targets) == FAILED
    assert targets.targets["fw1"].watches["a"].failure == "timed out"
    check(targets, None, None, "refused", None, None)
    assert seen(targets) == FAILED
    check(targets, None)
    assert seen(targets) == HEALTHY


def test_a_deregistered_target_drains_and_is_unused_then() -> None:
    targets = group()
    targets.deregister("fw1", 50.0)
    assert seen(targets) == DRAINING
    assert targets.draining() == {"fw1": 50.0 + DELAY}
    assert "fw1" not in targets.registered
    assert not targets.tick(50.0 + DELAY - 0.1)
    assert seen(targets) == DRAINING
    assert targets.tick(50.0 + DELAY)
    assert seen(targets) == DRAINED
    assert targets.draining() == {}


def test_without_a_delay_a_deregistered_target_is_unused_at_once() -> None:
    at_once = edited(lambda gwlb: gwlb["target_group"]["deregistration_delay"].update(timeout_seconds=0), TOPOLOGY)
    targets = group(at_once)
    targets.deregister("fw1", 1.0)
    assert seen(targets) == DRAINED


def test_to_register_again_begins_anew_and_to_register_twice_changes_nothing() -> None:
    targets = group()
    check(targets, None)
    targets.register("fw1", 3.0)
    assert seen(targets) == HEALTHY
    targets.deregister("fw1", 4.0)
    targets.register("fw1", 5.0)
    assert (seen(targets), due(targets)) == (REGISTERING, 5.0)
    assert targets.registered == ["fw2", "fw3", "fw4", "fw1"]
    assert not targets.tick(5.0 + DELAY)
    assert seen(targets) == REGISTERING


def test_deregistering_what_is_not_registered_changes_nothing() -> None:
    targets = group()
    targets.deregister("fw1", 1.0)
    targets.deregister("fw1", 100.0)
    assert targets.draining() == {"fw1": 1.0 + DELAY}
    targets.deregister("fw9", 1.0)
    assert list(targets.health()) == ["fw1", "fw2", "fw3", "fw4"]


def test_a_result_from_before_the_registration_says_nothing() -> None:
    targets = group()
    targets.deregister("fw1", 1.0)
    assert not targets.checked("a", "fw1", None, 0.5)
    targets.register("fw1", 2.0)
    assert not targets.checked("a", "fw1", None, 0.5)
    assert seen(targets) == REGISTERING
    assert targets.checked("a", "fw1", None, 2.0)


def test_each_zone_decides_for_itself_and_uses_its_own_targets_or_with_cross_zone_all() -> None:
    assert {name: list(zones) for name, zones in group().health().items()} == {
        "fw1": ["a"], "fw2": ["a"], "fw3": ["b"], "fw4": ["b"]
    }  # fmt: skip
    targets = group(CROSS_ZONE)
    assert all(list(zones) == ["a", "b"] for zones in targets.health().values())
    check(targets, None, az="a")
    assert (seen(targets, az="a"), seen(targets, az="b")) == (HEALTHY, REGISTERING)


def test_cross_zone_is_switched_on_and_off_while_it_runs() -> None:
    targets = group()
    check(targets, None)
    targets.configure(CROSS_ZONE, 4.0)
    assert (seen(targets, az="a"), seen(targets, az="b")) == (HEALTHY, REGISTERING)
    assert due(targets, az="b") == 4.0
    targets.configure(TOPOLOGY, 5.0)
    assert list(targets.health()["fw1"]) == ["a"]
    assert seen(targets) == HEALTHY


def test_a_target_in_a_zone_without_a_node_is_not_in_use() -> None:
    def without_b(gwlb: dict[str, Any]) -> None:
        del gwlb["subnets"]["data-b"]

    targets = group(edited(without_b, TOPOLOGY))
    assert seen(targets, "fw3", "b") == NOT_IN_USE
    assert [target for _, target, _ in targets.watches()] == ["fw1", "fw2"]
    targets.configure(edited(without_b, CROSS_ZONE), 1.0)
    assert seen(targets, "fw3", "a") == REGISTERING


def test_a_shorter_interval_holds_from_now_on() -> None:
    targets = group()
    check(targets, None)
    targets.configure(
        edited(lambda gwlb: gwlb["target_group"]["health_check"].update(interval_seconds=5), TOPOLOGY), 2.0
    )
    assert due(targets) == 7.0


def test_the_time_scale_divides_intervals_and_delays() -> None:
    targets = group(time_scale=10.0)
    check(targets, None)
    assert due(targets) == INTERVAL / 10
    targets.deregister("fw2", 0.0)
    assert targets.draining() == {"fw2": DELAY / 10}
    fast = group(time_scale=1000.0)
    check(fast, "refused", "refused", "refused")
    assert seen(fast) == FAILED


def test_a_later_process_goes_on_where_an_earlier_one_was() -> None:
    before = group(CROSS_ZONE)
    check(before, None)
    check(before, "refused", az="b")
    for target in ("fw2", "fw3"):
        before.deregister(target, 10.0)
    before.targets["fw3"].drained_at = 20.0
    before.tick(30.0)
    model = edited(lambda gwlb: gwlb["target_group"].update(targets=["fw1", "fw4"]), CROSS_ZONE)
    after = group(model, now=40.0, health=before.health(), draining=before.draining())
    assert after.health() == before.health()
    assert after.draining() == {"fw2": 10.0 + DELAY}
    assert due(after) == 40.0
    assert group(model, now=40.0, health=before.health()).draining() == {"fw2": 40.0 + DELAY}


def test_the_model_decides_who_is_registered_when_a_process_starts() -> None:
    before = group()
    before.deregister("fw2", 0.0)
    del before.targets["fw4"]
    model = edited(lambda gwlb: gwlb["target_group"].update(targets=["fw2", "fw3", "fw4"]), TOPOLOGY)
    after = group(model, now=9.0, health=before.health(), draining=before.draining())
    assert sorted(after.registered) == ["fw2", "fw3", "fw4"]
    assert after.draining() == {"fw1": 9.0 + DELAY}
    unknown = {"fw77": before.health()["fw1"]}
    assert "fw77" not in group(model, health=unknown).health()


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["pass", "fail", "register", "deregister", "cross-zone", "zonal", "tick"]),
        st.sampled_from(["fw1", "fw2", "fw3", "fw4"]),
        st.sampled_from(["a", "b"]),
        st.floats(0, 200),
    ),
    max_size=60,
)


@given(STEPS, st.sampled_from([1.0, 3.0, 60.0]))
def test_whatever_happens_the_states_are_consistent(steps: list[tuple[str, str, str, float]], scale: float) -> None:
    """Of registration, draining and time, against a simple account of who is registered and since when not."""
    targets = group(time_scale=scale)
    topology, now = TOPOLOGY, 0.0
    registered, ends = {"fw1", "fw2", "fw3", "fw4"}, dict[str, float]()
    for what, name, az, later in steps:
        now += later
        targets.tick(now)
        if what in ("pass", "fail"):
            was = targets.health().get(name, {}).get(az)
            changed = targets.checked(az, name, None if what == "pass" else "refused", now)
            assert changed == (targets.health().get(name, {}).get(az) != was)
            if what == "pass" and was and was.state is TargetState.INITIAL:
                assert seen(targets, name, az) == HEALTHY
        elif what == "register":
            targets.register(name, now)
            registered.add(name)
            ends.pop(name, None)
        elif what == "deregister":
            if name in registered:
                ends[name] = now + DELAY / scale
            targets.deregister(name, now)
            registered.discard(name)
        elif what != "tick":
            topology = CROSS_ZONE if what == "cross-zone" else TOPOLOGY
            targets.configure(topology, now)

        assert set(targets.registered) == registered
        assert targets.draining() == {target: end for target, end in ends.items() if end > now}
        health = targets.health()
        assert set(health) == registered | set(ends)
        for target, zones in health.items():
            own = "a" if target in ("fw1", "fw2") else "b"
            assert list(zones) == (["a", "b"] if topology is CROSS_ZONE else [own])
            for one in zones.values():
                assert (one.reason is None) == (one.state is TargetState.HEALTHY)
                if target in registered:
                    assert one.state in (TargetState.INITIAL, TargetState.HEALTHY, TargetState.UNHEALTHY)
                else:
                    assert one.state is (TargetState.DRAINING if ends[target] > now else TargetState.UNUSED)
        model = edited(lambda gwlb: gwlb["target_group"].update(targets=targets.registered), topology)
        again = group(model, now=now, time_scale=scale, health=health, draining=targets.draining())
        assert again.health() == health
        assert again.draining() == targets.draining()
