"""Scaling policies decide as the EC2 Auto Scaling guide says, with its own examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from controllers.management.metrics import Series
from controllers.management.scaling_policy import Capacity, Decision, decide, period_of, periods_of
from topologies.model import ScalingPolicy, Step, StepScaling, TargetTracking

CAPACITY = Capacity(desired=10, minimum=1, maximum=100, current=10, may_scale_in=True)


def series(values: Sequence[float], instances: int, policy: ScalingPolicy) -> Series:
    length = period_of(policy)
    made = Series(policy.statistic, length, periods_of(policy))
    for period, value in enumerate([*values, 0]):
        made.add(period * length, {"fw1": value}, instances)
    return made


def tracking(target: float = 50, **attributes: object) -> TargetTracking:
    return TargetTracking(type="target-tracking", metric="panSessionActive", target_value=target, **attributes)


def step(comparison: str, steps: Sequence[tuple[float | None, float | None, int]], **attributes: object) -> StepScaling:
    rows = tuple(Step(lower=lower, upper=upper, adjustment=adjustment) for lower, upper, adjustment in steps)
    values = {"threshold": 50, "adjustment_type": "PercentChangeInCapacity", **attributes}
    return StepScaling(type="step", metric="panSessionActive", comparison=comparison, steps=rows, **values)


#: The guide's example, "Step adjustments".
SCALE_OUT = step("GreaterThanOrEqualToThreshold", [(0, 10, 0), (10, 20, 10), (20, None, 30)])
SCALE_IN = step("LessThanOrEqualToThreshold", [(-10, 0, 0), (-20, -10, -10), (None, -20, -30)])


def desired(policy: ScalingPolicy, values: Sequence[float], instances: int, capacity: Capacity) -> int:
    decision = decide("gwlb-asg", {"policy": policy}, {"policy": series(values, instances, policy)}, capacity)
    return capacity.desired if decision is None else decision.desired


@pytest.mark.parametrize(
    ("policy", "value", "instances", "expected"),
    [
        (SCALE_OUT, 49.9, 10, 10),
        (SCALE_OUT, 59.9, 10, 10),
        (SCALE_OUT, 60, 10, 11),
        (SCALE_OUT, 70, 11, 14),
        (SCALE_IN, 50.1, 14, 14),
        (SCALE_IN, 40.1, 14, 14),
        (SCALE_IN, 40, 14, 13),
        (SCALE_IN, 30, 13, 10),
    ],
)
def test_the_guides_example_of_step_adjustments(
    policy: StepScaling, value: float, instances: int, expected: int
) -> None:
    capacity = replace(CAPACITY, desired=instances, current=instances)
    assert desired(policy, [value], instances, capacity) == expected


@pytest.mark.parametrize(("value", "expected"), [(62, 11), (70, 13)])
def test_the_guides_example_of_a_step_while_an_instance_warms_up(value: float, expected: int) -> None:
    assert desired(SCALE_OUT, [value], 10, replace(CAPACITY, desired=11, current=11)) == expected


def test_instances_that_terminate_are_counted_when_scaling_in() -> None:
    one_less = step("LessThanOrEqualToThreshold", [(None, 0, -1)], adjustment_type="ChangeInCapacity")
    assert desired(one_less, [10], 10, CAPACITY) == 9
    assert desired(one_less, [10], 9, replace(CAPACITY, desired=9, current=10)) == 9
    assert desired(one_less, [10], 9, replace(CAPACITY, desired=9, current=9)) == 8


@pytest.mark.parametrize(
    ("instances", "percent", "expected"), [(10, 127, 22), (2, 33, 3), (2, -29, 1), (20, -33, 14), (3, -50, 2)]
)
def test_a_percentage_is_rounded_towards_zero_but_not_to_zero(instances: int, percent: int, expected: int) -> None:
    comparison = "GreaterThanOrEqualToThreshold"
    policy = step(comparison, [(0, None, percent)])
    assert desired(policy, [50], instances, replace(CAPACITY, desired=instances, current=instances)) == expected


@pytest.mark.parametrize(("exact", "expected"), [(4, 4), (14, 14), (200, 100), (0, 1)])
def test_an_exact_capacity_stays_within_the_groups_sizes(exact: int, expected: int) -> None:
    policy = step("GreaterThanOrEqualToThreshold", [(0, None, exact)], adjustment_type="ExactCapacity")
    assert desired(policy, [50], 10, CAPACITY) == expected


def test_a_step_policy_waits_for_its_evaluation_periods() -> None:
    policy = step("GreaterThanOrEqualToThreshold", [(0, None, 1)], adjustment_type="ChangeInCapacity", threshold=80)
    policy = policy.model_copy(update={"evaluation_periods": 3, "period": 120})
    assert desired(policy, [90, 90], 10, CAPACITY) == 10
    assert desired(policy, [90, 79, 90], 10, CAPACITY) == 10
    assert desired(policy, [90, 80, 90], 10, CAPACITY) == 11


@pytest.mark.parametrize(
    ("values", "instances", "expected"),
    [
        ([50, 50, 50], 10, 10),
        ([60, 60, 50], 10, 10),
        ([60, 60], 10, 10),
        ([51, 51, 50.1], 10, 11),
        ([60, 60, 57.5], 10, 12),  # 1.5 instances more would do: two
        ([90, 90, 100], 10, 20),
        ([34] * 14, 10, 10),
        ([34] * 14 + [36], 10, 10),
        ([34] * 15, 10, 7),
        ([30] * 7 + [34] + [20] * 7, 10, 7),  # the busiest period decides
        ([25.5] * 15, 3, 2),  # 1.47 less would do: one
        ([0] * 15, 10, 1),
    ],
)
def test_target_tracking(values: list[float], instances: int, expected: int) -> None:
    capacity = replace(CAPACITY, desired=instances, current=instances)
    assert desired(tracking(), values, instances, capacity) == expected


def test_instances_that_warm_up_are_part_of_the_desired_capacity_but_not_of_the_metric() -> None:
    assert desired(tracking(), [100, 100, 100], 2, replace(CAPACITY, desired=4, current=4)) == 4
    assert desired(tracking(), [100, 100, 125], 2, replace(CAPACITY, desired=4, current=4)) == 5


def test_scale_in_can_be_disabled_and_held_back_scale_out_cannot() -> None:
    assert desired(tracking(disable_scale_in=True), [10] * 15, 10, CAPACITY) == 10
    assert desired(tracking(), [10] * 15, 10, replace(CAPACITY, may_scale_in=False)) == 10
    assert desired(tracking(), [100] * 3, 10, replace(CAPACITY, may_scale_in=False)) == 20


def test_the_alarm_and_the_policy_are_named() -> None:
    policy = tracking()
    for values, alarm, size in (([100] * 3, "AlarmHigh", 20), ([10] * 15, "AlarmLow", 2)):
        decision = decide("gwlb-asg", {"cpu": policy}, {"cpu": series(values, 10, policy)}, CAPACITY)
        assert decision == Decision(size, "cpu", f"TargetTracking-gwlb-asg-{alarm}-cpu")
    decision = decide("gwlb-asg", {"burst": SCALE_OUT}, {"burst": series([70], 10, SCALE_OUT)}, CAPACITY)
    assert decision == Decision(13, "burst", "burst")


def together(first: tuple[ScalingPolicy, list[float]], second: tuple[ScalingPolicy, list[float]]) -> int:
    policies = {"first": first[0], "second": second[0]}
    data = {"first": series(first[1], 10, first[0]), "second": series(second[1], 10, second[0])}
    decision = decide("gwlb-asg", policies, data, CAPACITY)
    return CAPACITY.desired if decision is None else decision.desired


def test_of_several_policies_the_largest_capacity_wins() -> None:
    assert together((tracking(), [55] * 3), (tracking(), [75] * 3)) == 15
    assert together((tracking(), [55] * 3), (tracking(), [10] * 15)) == 11
    assert together((SCALE_IN, [30]), (SCALE_IN, [40])) == 9


def test_tracking_policies_scale_in_only_if_all_are_ready() -> None:
    assert together((tracking(), [10] * 15), (tracking(), [20] * 15)) == 4
    assert together((tracking(), [10] * 15), (tracking(), [40] * 15)) == 10
    assert together((tracking(), [10] * 15), (tracking(disable_scale_in=True), [40] * 15)) == 2
    assert together((tracking(), [40] * 15), (SCALE_IN, [30])) == 7


@given(
    st.integers(1, 50),
    st.integers(1, 50),
    st.integers(0, 50),
    st.lists(st.floats(0, 1000), min_size=15, max_size=15),
    st.floats(0.5, 500),
)
def test_a_decision_is_within_the_sizes_and_a_change(
    minimum: int, extra: int, above: int, values: list[float], target: float
) -> None:
    assume(above <= extra)
    capacity = Capacity(minimum + above, minimum, minimum + extra, minimum + above, True)
    policy = tracking(target)
    decision = decide("g", {"p": policy}, {"p": series(values, capacity.desired, policy)}, capacity)
    assert decision is None or (minimum <= decision.desired <= minimum + extra and decision.desired != capacity.desired)
