"""An auto scaling group: which appliances run, when one joins and leaves, and why.

No input or output: :meth:`AutoScalingGroup.tick` is told what was observed of the instances and answers with what is to
be done. ``now`` is Unix time in seconds; ``time_scale`` divides every interval of the settings.

Out: launch → its process answers → launch hook → in service → register with the target group. In: deregister → the
deregistration delay is over or it has no session left → terminate hook → terminate.

Facts, EC2 Auto Scaling guide: *instance lifecycle* (the states; registered when it goes in service, deregistered before
the terminate hook); *lifecycle hooks* (heartbeat time-out, default result; ABANDON of a launch terminates the instance,
a termination goes on with either); *termination policies* (the zone with most instances first, then the oldest);
*rebalancing* (launches before it terminates); *health checks* (an instance that has ended is replaced at once, one that
the load balancer finds unhealthy after the grace period, and nothing waits for a cool-down to replace it);
*default instance warmup* (no data from an instance that warms up; scale-in waits for it); *cooldown* (from when the
last instance has launched or has drained). A cool-down holds back scale-in by a policy only: in AWS target tracking and
step scaling launch without waiting for it. Causes are worded as ``describe-scaling-activities`` words them, except for
attaching and rebalancing, whose wording is ours.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from enum import Enum
from typing import Any, Literal

from controllers.management.metrics import MISSING_PERIODS, Series
from controllers.management.scaling_policy import Capacity, decide, period_of, periods_of
from controllers.state import TargetState
from topologies.model import AutoScalingGroup as Settings
from topologies.model import LifecycleHook

Transition = Literal["launch", "terminate"]
Result = Literal["CONTINUE", "ABANDON"]

#: How long a launched instance may take until its process answers, in seconds of real time: a process starts no faster
#: in a lesson whose intervals are scaled.
BOOT_LIMIT = 60.0
#: How long no instance is launched after a launch that failed, in seconds.
LAUNCH_PAUSE = 30.0
#: How many activities are remembered, besides those that have not ended.
HISTORY = 200


class ScalingError(ValueError):
    """A request that is refused: one line in AWS's words."""


class LifecycleState(str, Enum):
    """AWS's lifecycle states."""

    PENDING = "Pending"
    PENDING_WAIT = "Pending:Wait"
    PENDING_PROCEED = "Pending:Proceed"
    IN_SERVICE = "InService"
    TERMINATING = "Terminating"
    TERMINATING_WAIT = "Terminating:Wait"
    TERMINATING_PROCEED = "Terminating:Proceed"
    TERMINATED = "Terminated"


#: What counts against the desired capacity.
ACTIVE = (
    LifecycleState.PENDING,
    LifecycleState.PENDING_WAIT,
    LifecycleState.PENDING_PROCEED,
    LifecycleState.IN_SERVICE,
)


@dataclass(frozen=True)
class Action:
    """What is to be done: ``Action("register", "fw3")``. Each is said once, but terminate again after a restart."""

    verb: Literal["launch", "register", "deregister", "terminate"]
    instance: str


@dataclass(frozen=True)
class Observation:
    """What is known of an instance that was launched."""

    running: bool | None = None
    """Whether its process exists; False if it has ended or could not be started, None if that is not known yet."""
    answering: bool = False
    """Whether its process has answered: it has booted."""
    target_state: TargetState | None = None
    """In the target group, over all zones; None if it is not in it."""
    sessions: int | None = None
    """Its sessions, if it tells."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """VM-Series metrics by CloudWatch's name."""


@dataclass
class Instance:
    """An instance as ``describe-auto-scaling-groups`` shows it. Times are Unix time."""

    name: str
    az: str
    lifecycle_state: LifecycleState
    launched: float
    activity: int
    """The number of its latest activity."""
    health: Literal["Healthy", "Unhealthy"] = "Healthy"
    in_service: float | None = None
    deadline: float | None = None
    """When the heartbeat of the hook that it waits for times out."""
    rebalancing: bool = False
    """Launched to balance the zones, before another is terminated for it."""


@dataclass
class Activity:
    """A scaling activity as ``describe-scaling-activities`` shows it. Times are Unix time."""

    number: int
    instance: str
    description: str
    cause: str
    start_time: float
    status_code: str = "InProgress"
    status_message: str | None = None
    end_time: float | None = None


@dataclass(frozen=True)
class Event:
    """Something that happened, for people: ``fw3`` and ``Pending:Wait``, or the group and a change of its size."""

    time: float
    resource: str
    text: str


def _at(now: float) -> str:
    return datetime.fromtimestamp(now, timezone.utc).strftime("At %Y-%m-%dT%H:%M:%SZ")


class AutoScalingGroup:
    """One group. ``events`` collects what happened; whoever reads it clears it."""

    def __init__(
        self,
        name: str,
        settings: Settings,
        zones: Mapping[str, str],
        now: float,
        time_scale: float = 1.0,
        state: Mapping[str, Any] | None = None,
    ) -> None:
        """``zones`` is the zone of every name that an instance can have, in the order in which names are preferred.

        With ``state``, which :meth:`state` gave, the group goes on where it was.
        """
        self.name = name
        self.settings = settings
        self.zones = dict(zones)
        self.time_scale = time_scale
        self.events: list[Event] = []
        self.instances: dict[str, Instance] = {}
        self.activities: list[Activity] = []
        self._told: set[str] = set()  # who was told to end; not in the state, so that a restart says it again
        if state is None:
            self.desired = settings.desired_capacity
            self._number = 0
            self._quiet_since = now  # the last launch or draining that ended: where a cool-down begins
            self._pause_until = now
            self._replacements = 0
            self._reason = ""
            self._changed(0, "a user request created an AutoScalingGroup", now)
        else:
            for row in state["instances"]:
                row = {**row, "lifecycle_state": LifecycleState(row["lifecycle_state"])}
                self.instances[row["name"]] = Instance(**row)
            self.activities = [Activity(**activity) for activity in state["activities"]]
            self.desired = state["desired_capacity"]
            self._number = state["number"]
            self._quiet_since = state["quiet_since"]
            self._pause_until = state["pause_until"]
            self._replacements = state["replacements"]
            self._reason = state["reason"]
        self._series = self._new_series({} if state is None else state["series"])

    # What others ask

    def state(self) -> dict[str, Any]:
        """Return all that the group remembers, as plain JSON."""
        return {
            "desired_capacity": self.desired,
            "instances": [
                {**asdict(instance), "lifecycle_state": instance.lifecycle_state.value}
                for instance in self.instances.values()
            ],
            "activities": [asdict(activity) for activity in self.activities],
            "series": {name: series.state() for name, series in self._series.items()},
            "number": self._number,
            "quiet_since": self._quiet_since,
            "pause_until": self._pause_until,
            "replacements": self._replacements,
            "reason": self._reason,
        }

    def describe(self) -> dict[str, Any]:
        """Return what the API shows: sizes, instances, and activities, latest first."""
        return {
            "name": self.name,
            "min_size": self.settings.min_size,
            "max_size": self.settings.max_size,
            "desired_capacity": self.desired,
            "instances": [
                {
                    "name": instance.name,
                    "az": instance.az,
                    "lifecycle_state": instance.lifecycle_state.value,
                    "health": instance.health,
                    "launched": instance.launched,
                    "in_service": instance.in_service,
                }
                for instance in self.instances.values()
            ],
            "activities": [asdict(activity) for activity in reversed(self.activities)],
        }

    def attach(self, name: str, now: float) -> None:
        """Take an instance that runs and is registered into service. Raises ScalingError."""
        if name not in self.zones:
            raise ScalingError(f"Invalid Instance ID {name}: the group {self.name} has {', '.join(self.zones)}")
        if name in self.instances:
            raise ScalingError(f"Instance {name} is already part of AutoScalingGroup {self.name}")
        if len(self._active()) >= self.settings.max_size:
            raise ScalingError(f"AutoScalingGroup {self.name} has max size {self.settings.max_size}: detach one first")
        cause = f"{_at(now)} an instance was attached in response to a user request."
        self._begin(name, f"Attaching an existing EC2 instance: {name}", cause, now)
        self._into_service(self.instances[name], now)

    def set_desired_capacity(self, desired: int, now: float) -> None:
        """Change the size, as ``set-desired-capacity`` does. Raises ScalingError."""
        if desired > self.settings.max_size:
            raise ScalingError(
                f"New SetDesiredCapacity value {desired} is above max value {self.settings.max_size}"
                " for the AutoScalingGroup."
            )
        if desired < self.settings.min_size:
            raise ScalingError(
                f"New SetDesiredCapacity value {desired} is below min value {self.settings.min_size}"
                " for the AutoScalingGroup."
            )
        self._want(desired, "a user request explicitly set group desired capacity", now)

    def configure(self, settings: Settings, now: float) -> None:
        """Take changed settings; the desired capacity follows if it was changed, or lies outside the new sizes."""
        desired = settings.desired_capacity
        if desired == self.settings.desired_capacity:
            desired = self.desired
        self.settings = settings
        self._series = self._new_series({name: series.state() for name, series in self._series.items()})
        desired = min(max(desired, settings.min_size), settings.max_size)
        constraints = f"min: {settings.min_size}, max: {settings.max_size}, desired: {desired}"
        self._want(desired, f"a user request update of AutoScalingGroup constraints to {constraints}", now)

    def complete(self, name: str, transition: Transition, result: Result, now: float) -> None:
        """End an instance's wait for a hook, as ``complete-lifecycle-action`` does. Raises ScalingError."""
        waiting = LifecycleState.PENDING_WAIT if transition == "launch" else LifecycleState.TERMINATING_WAIT
        instance = self.instances.get(name)
        if instance is None or instance.lifecycle_state is not waiting:
            raise ScalingError(f"No active Lifecycle Action found with instance ID {name}")
        self._complete(instance, result, f"Lifecycle Action Completed with {result} Result", now)

    # The clock

    def tick(self, now: float, observations: Mapping[str, Observation]) -> list[Action]:
        """Return what is to be done now. An instance without an observation stays as it is, hooks aside."""
        self.instances = {
            name: instance
            for name, instance in self.instances.items()
            if instance.lifecycle_state is not LifecycleState.TERMINATED
        }
        actions: list[Action] = []
        for instance in tuple(self.instances.values()):
            actions += self._advance(instance, observations.get(instance.name), now)
        self._measure(observations, now)
        return actions + list(self._reconcile(now))

    def _advance(self, instance: Instance, seen: Observation | None, now: float) -> Iterator[Action]:
        """Take an instance as many steps as it can go; what an action brings about is seen at the next tick."""
        before = None
        while before is not instance.lifecycle_state:
            before = instance.lifecycle_state
            if before in (LifecycleState.PENDING_WAIT, LifecycleState.TERMINATING_WAIT):
                self._heartbeat(instance, now)
                if instance.lifecycle_state is not before:
                    continue
            if before is LifecycleState.PENDING_PROCEED:
                self._into_service(instance, now)
                yield Action("register", instance.name)
                return
            if before is LifecycleState.TERMINATING_PROCEED:
                yield from self._terminate(instance)
            if seen is None:
                continue
            if before is LifecycleState.PENDING:
                self._boot(instance, seen, now)
            elif before is LifecycleState.PENDING_WAIT and seen.running is False:
                self._fail(instance, "its process has ended", now)
            elif before is LifecycleState.IN_SERVICE:
                yield from self._check(instance, seen, now)
                return
            elif before is LifecycleState.TERMINATING and self._drained(instance, seen):
                self._quiet_since = now
                self._wait(instance, "terminate", now)
            elif before is LifecycleState.TERMINATING_PROCEED and seen.running is False:
                self._enter(instance, LifecycleState.TERMINATED, now)
                self._told.discard(instance.name)
                self._finish(instance, "Successful", now)

    def _boot(self, instance: Instance, seen: Observation, now: float) -> None:
        if seen.running is False:
            self._fail(instance, "its process has ended", now)
        elif seen.answering:
            self._wait(instance, "launch", now)
        elif now >= instance.launched + BOOT_LIMIT:
            self._fail(instance, f"it did not answer within {BOOT_LIMIT:g} seconds", now)

    def _wait(self, instance: Instance, transition: Transition, now: float) -> None:
        """Begin to wait for a hook, or go on where there is none."""
        launching = transition == "launch"
        hook = self._hook(transition)
        if hook is None:
            proceed = LifecycleState.PENDING_PROCEED if launching else LifecycleState.TERMINATING_PROCEED
            # Not announced: it is no state that somebody waits for.
            instance.lifecycle_state = proceed
            return
        instance.deadline = now + self._scaled(hook.heartbeat_timeout)
        self._enter(instance, LifecycleState.PENDING_WAIT if launching else LifecycleState.TERMINATING_WAIT, now)
        self._activity(instance).status_code = "MidLifecycleAction" if launching else "MidTerminatingLifecycleAction"

    def _hook(self, transition: Transition) -> LifecycleHook | None:
        hooks = self.settings.lifecycle_hooks
        return hooks.launch if transition == "launch" else hooks.terminate

    def _heartbeat(self, instance: Instance, now: float) -> None:
        launching = instance.lifecycle_state is LifecycleState.PENDING_WAIT
        hook = self._hook("launch" if launching else "terminate")
        if hook is None or instance.deadline is None or now >= instance.deadline:
            result: Result = "CONTINUE" if hook is None else hook.default_result
            self._complete(instance, result, "Heartbeat Timeout", now)

    def _complete(self, instance: Instance, result: Result, why: str, now: float) -> None:
        instance.deadline = None
        if instance.lifecycle_state is LifecycleState.TERMINATING_WAIT:
            self._enter(instance, LifecycleState.TERMINATING_PROCEED, now)
        elif result == "CONTINUE":
            self._enter(instance, LifecycleState.PENDING_PROCEED, now)
        else:
            message = f"Instance failed to complete user's Lifecycle Action: {why}"
            self._finish(instance, "Cancelled", now, message)
            self._take_out(instance, f"{_at(now)} an instance was taken out of service: {why}.", now)
            self._pause_until = now + self._scaled(LAUNCH_PAUSE)

    def _into_service(self, instance: Instance, now: float) -> None:
        instance.in_service = self._quiet_since = now
        instance.rebalancing = False
        self._enter(instance, LifecycleState.IN_SERVICE, now)
        self._finish(instance, "Successful", now)

    def _fail(self, instance: Instance, why: str, now: float) -> None:
        """Give a launch up. What is left of its process is ended, and another is launched after a pause."""
        self._finish(instance, "Failed", now, f"Instance failed to launch: {why}")
        self._take_out(instance, f"{_at(now)} an instance was taken out of service after a failed launch.", now)
        self._pause_until = now + self._scaled(LAUNCH_PAUSE)

    def _check(self, instance: Instance, seen: Observation, now: float) -> Iterator[Action]:
        assert instance.in_service is not None
        graced = now < instance.in_service + self._scaled(self.settings.health_check_grace_period)
        if seen.running is False:
            why = "an EC2 health check indicating it has been terminated or stopped"
        elif self.settings.health_check_type == "ELB" and seen.target_state is TargetState.UNHEALTHY and not graced:
            why = "an ELB system health check failure"
        else:
            return
        instance.health = "Unhealthy"
        self._replacements += 1
        yield from self._retire(instance, f"{_at(now)} an instance was taken out of service in response to {why}.", now)

    def _retire(self, instance: Instance, cause: str, now: float) -> Iterator[Action]:
        """Begin to terminate an instance: deregister it first, if it was registered."""
        if instance.in_service is None:
            self._finish(instance, "Cancelled", now, "It was selected for termination before it was in service")
        self._take_out(instance, cause, now)
        if instance.in_service is not None:
            self._activity(instance).status_code = "WaitingForELBConnectionDraining"
            yield Action("deregister", instance.name)

    def _take_out(self, instance: Instance, cause: str, now: float) -> None:
        instance.deadline = None
        instance.rebalancing = False
        instance.activity = self._record(instance.name, f"Terminating EC2 instance: {instance.name}", cause, now)
        self._enter(instance, LifecycleState.TERMINATING, now)
        for series in self._series.values():
            series.forget(instance.name)

    @staticmethod
    def _drained(instance: Instance, seen: Observation) -> bool:
        if instance.in_service is None or seen.running is False:
            return True
        if seen.target_state is TargetState.DRAINING:
            return seen.sessions == 0
        return seen.target_state in (None, TargetState.UNUSED)

    def _terminate(self, instance: Instance) -> Iterator[Action]:
        if instance.name not in self._told:
            self._told.add(instance.name)
            self._activity(instance).status_code = "InProgress"
            yield Action("terminate", instance.name)

    # Its size

    def _measure(self, observations: Mapping[str, Observation], now: float) -> None:
        """Add what the instances say to the policies' series, and let the policies decide whose periods have ended."""
        policies = {}
        for name, policy in self.settings.scaling_policies.items():
            series = self._series[name]
            # An instance counts from the first whole period after its warm-up, or a period's value and its number of
            # instances would not belong together.
            warm = [instance.name for instance in self._active() if self._warm(instance, series.begin(now))]
            values = {
                instance: observations[instance].metrics[policy.metric]
                for instance in warm
                if instance in observations and policy.metric in observations[instance].metrics
            }
            if series.add(now, values, len(warm)):
                policies[name] = policy
        if not policies:
            return
        decision = decide(self.name, policies, self._series, self._capacity(now))
        if decision is not None:
            why = f"a monitor alarm {decision.alarm} in state ALARM triggered policy {decision.policy}"
            self._want(decision.desired, why, now)

    def _warm(self, instance: Instance, when: float) -> bool:
        warmup = self._scaled(self.settings.default_instance_warmup)
        return instance.in_service is not None and instance.in_service + warmup <= when

    def _capacity(self, now: float) -> Capacity:
        active = self._active()
        cooled = now >= self._quiet_since + self._scaled(self.settings.default_cooldown)
        return Capacity(
            desired=self.desired,
            minimum=self.settings.min_size,
            maximum=self.settings.max_size,
            current=sum(instance.in_service is not None for instance in self.instances.values()),
            may_scale_in=cooled
            and len(active) >= self.desired
            and all(self._warm(instance, now) for instance in active),
        )

    def _want(self, desired: int, why: str, now: float) -> None:
        if desired != self.desired:
            before, self.desired = self.desired, desired
            self._changed(before, why, now)

    def _changed(self, before: int, why: str, now: float) -> None:
        self._reason = f"{_at(now)} {why} changing the desired capacity from {before} to {self.desired}."
        self.events.append(Event(now, self.name, self._reason))

    def _reconcile(self, now: float) -> Iterator[Action]:
        """Launch and terminate until the group has its size, then balance its zones."""
        while len(self._active()) < self.desired:
            name = self._free_name()
            if name is None or now < self._pause_until:
                return
            yield self._launch(name, now)
        active = self._active()
        for _ in range(len(active) - self.desired - sum(instance.rebalancing for instance in active)):
            yield from self._scale_in(now)
        if len(self._active()) == self.desired:
            self._reason = ""
            self._replacements = 0
            yield from self._rebalance(now)

    def _caused(self, sentence: str) -> str:
        """Put before a sentence why the desired capacity was changed, if that is why."""
        return f"{self._reason}  {sentence}" if self._reason else sentence

    def _launch(self, name: str, now: float) -> Action:
        if self._replacements:
            self._replacements -= 1
            cause = f"{_at(now)} an instance was launched in response to an unhealthy instance needing to be replaced."
        else:
            cause = self._caused(
                f"{_at(now)} an instance was started in response to a difference between desired and actual capacity,"
                f" increasing the capacity from {len(self._active())} to {self.desired}."
            )
        self._begin(name, f"Launching a new EC2 instance: {name}", cause, now)
        return Action("launch", name)

    def _scale_in(self, now: float) -> Iterator[Action]:
        active = self._active()
        sizes = Counter(instance.az for instance in active)
        victim = min(
            (instance for instance in active if not instance.rebalancing),
            key=lambda instance: (-sizes[instance.az], instance.launched, self._rank(instance.name)),
        )
        cause = self._caused(
            f"{_at(now)} an instance was taken out of service in response to a difference between desired and actual"
            f" capacity, shrinking the capacity from {len(active)} to {self.desired}."
            f"  {_at(now)} instance {victim.name} was selected for termination."
        )
        yield from self._retire(victim, cause, now)

    def _rebalance(self, now: float) -> Iterator[Action]:
        active = self._active()
        sizes = self._sizes()
        settled = all(instance.lifecycle_state is LifecycleState.IN_SERVICE for instance in active)
        if not settled or now < self._pause_until or max(sizes.values()) - min(sizes.values()) < 2:
            return
        name = self._free_name()
        # Zones that differ by two leave names free in the smaller one, and room below the maximum.
        if name is None or len(active) >= self.settings.max_size:
            return
        counts = ", ".join(f"{az} had {size}" for az, size in sizes.items())
        cause = f"{_at(now)} availability zones {counts} instances. An instance was launched to balance the zones."
        self._begin(name, f"Launching a new EC2 instance: {name}", cause, now, rebalancing=True)
        yield Action("launch", name)

    def _free_name(self) -> str | None:
        """Return the lowest free name of a zone with the fewest instances; None where such a zone has none.

        A name whose instance is terminating is not free: better to wait for it than to leave the balance.
        """
        sizes = self._sizes()
        fewest = min(sizes.values())
        taken = {n for n, i in self.instances.items() if i.lifecycle_state is not LifecycleState.TERMINATED}
        return next((name for name, az in self.zones.items() if sizes[az] == fewest and name not in taken), None)

    # Small words

    def _active(self) -> list[Instance]:
        return [instance for instance in self.instances.values() if instance.lifecycle_state in ACTIVE]

    def _sizes(self) -> dict[str, int]:
        sizes = dict.fromkeys(self.zones.values(), 0)
        for instance in self._active():
            sizes[instance.az] += 1
        return sizes

    def _rank(self, name: str) -> int:
        return list(self.zones).index(name)

    def _scaled(self, seconds: float) -> float:
        return seconds / self.time_scale

    def _new_series(self, state: Mapping[str, Any]) -> dict[str, Series]:
        return {
            name: Series(
                policy.statistic,
                self._scaled(period_of(policy)),
                periods_of(policy) + MISSING_PERIODS,
                state.get(name),
            )
            for name, policy in self.settings.scaling_policies.items()
        }

    def _begin(self, name: str, description: str, cause: str, now: float, rebalancing: bool = False) -> None:
        number = self._record(name, description, cause, now)
        instance = Instance(name, self.zones[name], LifecycleState.PENDING, now, number, rebalancing=rebalancing)
        self.instances[name] = instance
        self._enter(instance, LifecycleState.PENDING, now)

    def _enter(self, instance: Instance, state: LifecycleState, now: float) -> None:
        instance.lifecycle_state = state
        text = state.value
        if state in (LifecycleState.PENDING, LifecycleState.TERMINATING):
            text = f"{text}: {self._activity(instance).cause}"
        self.events.append(Event(now, instance.name, text))

    def _record(self, name: str, description: str, cause: str, now: float) -> int:
        self._number += 1
        self.activities.append(Activity(self._number, name, description, cause, now))
        oldest = self._number - HISTORY
        self.activities = [a for a in self.activities if a.number > oldest or a.end_time is None]
        return self._number

    def _activity(self, instance: Instance) -> Activity:
        return next(activity for activity in reversed(self.activities) if activity.number == instance.activity)

    def _finish(self, instance: Instance, status: str, now: float, message: str | None = None) -> None:
        activity = self._activity(instance)
        activity.status_code, activity.status_message, activity.end_time = status, message, now
