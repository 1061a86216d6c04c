"""What a scaling policy asks for when its alarm is in ALARM: pure functions from data points to a desired capacity.

Facts, EC2 Auto Scaling guide:

* *Target tracking*: scales out in proportion as fast as it can, rounds up, and scales in more gradually; out if any of
  the policies is ready for it, in only if all (with scale in enabled) are; never in on insufficient data. Its alarms
  are, as activities name them: AlarmHigh, above the target for 3 periods of 60 s; AlarmLow, below 70 % of the target
  for 15.
* *Step scaling*: steps are relative to the threshold; above it the lower bound is included, below it the upper one.
* *Warm-up*: instances that warm up are not part of the capacity that a scale-out is counted from, but of the desired
  one, so that breaches in the range of one step launch once. Instances that terminate are part of the capacity that a
  scale-in is counted from.
* *Multiple policies*: the one that gives the largest capacity wins, for out and for in.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from controllers.management.metrics import DataPoint, Series
from topologies.model import ScalingPolicy, StepScaling, TargetTracking

#: The period of a target-tracking policy's alarms, in seconds.
TRACKING_PERIOD = 60
HIGH_PERIODS = 3
LOW_PERIODS = 15
LOW_SHARE = 0.7


@dataclass(frozen=True)
class Capacity:
    """A group's numbers of instances."""

    desired: int
    minimum: int
    maximum: int
    current: int
    """In service and terminating: what a scale-in is counted from."""
    may_scale_in: bool


@dataclass(frozen=True)
class Decision:
    """A new desired capacity, and who wants it."""

    desired: int
    policy: str
    alarm: str


def period_of(policy: ScalingPolicy) -> int:
    """Return the period of a policy's data points, in seconds."""
    return TRACKING_PERIOD if isinstance(policy, TargetTracking) else policy.period


def periods_of(policy: ScalingPolicy) -> int:
    """Return how many data points a policy looks at."""
    return LOW_PERIODS if isinstance(policy, TargetTracking) else policy.evaluation_periods


def decide(
    group: str, policies: Mapping[str, ScalingPolicy], series: Mapping[str, Series], capacity: Capacity
) -> Decision | None:
    """Return what the policies, whose periods have just ended, make of a group's size; None if it stays."""
    proposals = {name: propose(group, name, policy, series[name], capacity) for name, policy in policies.items()}
    out = [proposal for proposal in proposals.values() if proposal is not None and proposal.desired > capacity.desired]
    if out:
        return _within(max(out, key=lambda proposal: proposal.desired), capacity)
    if not capacity.may_scale_in:
        return None
    smaller = {name for name, proposal in proposals.items() if proposal and proposal.desired < capacity.desired}
    tracking = {
        name for name, policy in policies.items() if isinstance(policy, TargetTracking) and not policy.disable_scale_in
    }
    if not tracking <= smaller:
        smaller -= tracking
    ready = [proposal for name, proposal in proposals.items() if proposal is not None and name in smaller]
    return _within(max(ready, key=lambda proposal: proposal.desired), capacity) if ready else None


def _within(decision: Decision, capacity: Capacity) -> Decision | None:
    desired = min(max(decision.desired, capacity.minimum), capacity.maximum)
    return None if desired == capacity.desired else Decision(desired, decision.policy, decision.alarm)


def propose(group: str, name: str, policy: ScalingPolicy, series: Series, capacity: Capacity) -> Decision | None:
    """Return the capacity that one policy asks for, not bounded by the group's sizes; None if no alarm is in ALARM."""
    if isinstance(policy, StepScaling):
        points = series.latest(policy.evaluation_periods)
        desired = _step(policy, points, capacity) if points and all(_breaches(policy, p) for p in points) else None
        return None if desired is None else Decision(desired, name, name)
    points = series.latest(HIGH_PERIODS)
    if points and all(point.value > policy.target_value for point in points):
        desired = max(_needed(policy, points[-1]), capacity.desired)
        return Decision(desired, name, f"TargetTracking-{group}-AlarmHigh-{name}")
    points = series.latest(LOW_PERIODS)
    if (
        not policy.disable_scale_in
        and points
        and all(point.value < LOW_SHARE * policy.target_value for point in points)
    ):
        # The busiest of the periods, so that a load that comes and goes does not take capacity away.
        desired = min(max(_needed(policy, point) for point in points), capacity.desired)
        return Decision(desired, name, f"TargetTracking-{group}-AlarmLow-{name}")
    return None


def _needed(policy: TargetTracking, point: DataPoint) -> int:
    """Return how many instances would have the target value, rounded up; the margin is for binary fractions."""
    return math.ceil(point.instances * point.value / policy.target_value - 1e-9)


def _breaches(policy: StepScaling, point: DataPoint) -> bool:
    if policy.comparison == "GreaterThanOrEqualToThreshold":
        return point.value >= policy.threshold
    return point.value <= policy.threshold


def _step(policy: StepScaling, points: tuple[DataPoint, ...], capacity: Capacity) -> int | None:
    breach = points[-1].value - policy.threshold
    above = policy.comparison == "GreaterThanOrEqualToThreshold"
    for step in policy.steps:
        lower = -math.inf if step.lower is None else step.lower
        upper = math.inf if step.upper is None else step.upper
        if (lower <= breach < upper) if above else (lower < breach <= upper):
            break
    else:
        return None
    if policy.adjustment_type == "ExactCapacity":
        return step.adjustment
    base = points[-1].instances if step.adjustment > 0 else capacity.current
    change = step.adjustment
    if policy.adjustment_type == "PercentChangeInCapacity":
        change = _whole(base * step.adjustment / 100)
    if step.adjustment > 0:
        return max(base + change, capacity.desired)
    return min(base + change, capacity.desired)


def _whole(change: float) -> int:
    """Round as AWS rounds a percentage: towards zero, but not to zero."""
    if 0 < abs(change) < 1:
        return 1 if change > 0 else -1
    return math.trunc(change)
