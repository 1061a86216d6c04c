"""An auto scaling group in a simulated cloud: processes that boot, targets that drain, a load that is shared."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controllers.management.auto_scaling import (
    ACTIVE,
    Action,
    AutoScalingGroup,
    LifecycleState,
    Observation,
    ScalingError,
)
from controllers.state import TargetState
from topologies.model import AutoScalingGroup as Settings

#: A whole hour, so that periods begin alike in scaled time.
START = 1_700_002_800.0
METRIC = "panSessionActive"
ZONES = {f"fw{number}": "ab"[(number - 1) % 2] for number in range(1, 9)}
TRACKING = {"load": {"type": "target-tracking", "metric": METRIC, "target_value": 50}}
HOOKS = {
    "launch": {"heartbeat_timeout": 120, "default_result": "ABANDON"},
    "terminate": {"heartbeat_timeout": 60, "default_result": "CONTINUE"},
}


def make(**values: Any) -> Settings:
    return Settings.model_validate({"subnets": ["data-a", "data-b"], "min_size": 1, "max_size": 8, **values})


class Cloud:
    """What the group acts on. Every action is checked for being possible and in order."""

    def __init__(
        self,
        settings: Settings,
        zones: dict[str, str] = ZONES,
        time_scale: float = 1.0,
        boot: float = 20,
        drain: float = 300,
    ) -> None:
        self.now = START
        self.zones = zones
        self.time_scale = time_scale
        self.group = AutoScalingGroup("gwlb-asg", settings, zones, START, time_scale)
        self.boot = boot
        self.drain = drain
        self.load = 0.0
        self.processes: dict[str, float] = {}
        self.targets: dict[str, TargetState] = {}
        self.drained: dict[str, float] = {}
        self.sessions: Counter[str] = Counter()
        self.actions: list[tuple[float, Action]] = []

    @property
    def clients(self) -> list[str]:
        """Who shares the load."""
        return [name for name, state in self.targets.items() if state is TargetState.HEALTHY and name in self.processes]

    def observe(self) -> dict[str, Observation]:
        return {
            name: Observation(
                running=name in self.processes,
                answering=name in self.processes and self.now >= self.processes[name] + self.boot,
                target_state=self.targets.get(name),
                sessions=self.sessions[name] if name in self.processes else None,
                metrics={METRIC: self.load / len(self.clients) if name in self.clients else 0.0},
            )
            for name in self.group.instances
        }

    def tick(self, seconds: float = 10) -> list[Action]:
        self.now += seconds
        for name, end in tuple(self.drained.items()):
            if self.now >= end:
                self.targets[name] = TargetState.UNUSED
                del self.drained[name]
        actions = self.group.tick(self.now, self.observe())
        for action in actions:
            getattr(self, action.verb)(action.instance)
            self.actions.append((self.now, action))
        return actions

    def launch(self, name: str) -> None:
        assert name not in self.processes
        assert name not in self.targets
        self.processes[name] = self.now

    def register(self, name: str) -> None:
        assert name in self.processes
        assert self.now >= self.processes[name] + self.boot
        self.targets[name] = TargetState.HEALTHY

    def deregister(self, name: str) -> None:
        assert self.targets[name] in (TargetState.HEALTHY, TargetState.UNHEALTHY)
        self.targets[name] = TargetState.DRAINING
        self.drained[name] = self.now + self.drain / self.time_scale
        self.sessions[name] = self.sessions[name] or 1

    def terminate(self, name: str) -> None:
        if name in self.processes and self.targets.get(name) is not None:
            assert self.targets[name] is TargetState.UNUSED or self.sessions[name] == 0, "flows were lost"
        self.processes.pop(name, None)
        self.targets.pop(name, None)
        self.drained.pop(name, None)

    def until(self, condition: Callable[[], bool], seconds: float = 10, limit: int = 2000) -> None:
        for _ in range(limit):
            if condition():
                return
            self.tick(seconds)
        raise AssertionError(f"not reached: {self.group.describe()}")

    def run(self, seconds: float, step: float = 10) -> None:
        for _ in range(round(seconds / step)):
            self.tick(step)

    def names(self, *states: LifecycleState) -> list[str]:
        return [name for name, instance in self.group.instances.items() if instance.lifecycle_state in states]

    @property
    def in_service(self) -> list[str]:
        return self.names(LifecycleState.IN_SERVICE)

    def sizes(self) -> list[int]:
        active = Counter(self.group.instances[name].az for name in self.names(*ACTIVE))
        return [active[az] for az in sorted(set(self.zones.values()))]

    def at_rest(self) -> bool:
        return len(self.in_service) == len(self.group.instances) == self.group.desired and max(self.sizes()) < 2 + min(
            self.sizes()
        )

    def story(self, name: str) -> list[str]:
        return [event.text.partition(": ")[0] for event in self.group.events if event.resource == name]

    def causes(self) -> list[str]:
        return [activity["cause"] for activity in reversed(self.group.describe()["activities"])]

    def restart(self) -> None:
        """Forget all but what is written to a file."""
        state = json.loads(json.dumps(self.group.state()))
        self.group = AutoScalingGroup(
            "gwlb-asg", self.group.settings, self.zones, self.now, self.time_scale, state=state
        )


def settled(**values: Any) -> Cloud:
    cloud = Cloud(make(**values))
    cloud.until(cloud.at_rest)
    return cloud


# Launch


def test_an_instance_boots_goes_in_service_and_is_registered() -> None:
    cloud = Cloud(make(desired_capacity=2))
    assert cloud.tick() == [Action("launch", "fw1"), Action("launch", "fw2")]
    assert cloud.tick() == []
    assert cloud.names(LifecycleState.PENDING) == ["fw1", "fw2"]
    assert cloud.tick() == [Action("register", "fw1"), Action("register", "fw2")]
    assert cloud.in_service == ["fw1", "fw2"]
    assert cloud.story("fw1") == ["Pending", "InService"]
    assert cloud.causes()[0] == (
        "At 2023-11-14T23:00:00Z a user request created an AutoScalingGroup changing the desired capacity from 0 to 2."
        "  At 2023-11-14T23:00:10Z an instance was started in response to a difference between desired and actual"
        " capacity, increasing the capacity from 0 to 2."
    )


def test_a_launch_hook_holds_it_until_it_is_completed() -> None:
    cloud = Cloud(make(lifecycle_hooks=HOOKS))
    cloud.until(lambda: bool(cloud.names(LifecycleState.PENDING_WAIT)))
    assert cloud.group.describe()["activities"][0]["status_code"] == "MidLifecycleAction"
    cloud.run(100)
    assert cloud.targets == {}
    cloud.group.complete("fw1", "launch", "CONTINUE", cloud.now)
    assert cloud.tick() == [Action("register", "fw1")]
    assert cloud.story("fw1") == ["Pending", "Pending:Wait", "Pending:Proceed", "InService"]
    assert cloud.group.describe()["activities"][0]["status_code"] == "Successful"


@pytest.mark.parametrize("answered", [True, False])
def test_an_abandoned_launch_is_terminated_and_another_is_launched_after_a_pause(answered: bool) -> None:
    cloud = Cloud(make(lifecycle_hooks={"launch": HOOKS["launch"]}))
    cloud.until(lambda: bool(cloud.names(LifecycleState.PENDING_WAIT)))
    if answered:
        cloud.group.complete("fw1", "launch", "ABANDON", cloud.now)
        why = "Lifecycle Action Completed with ABANDON Result"
    else:
        cloud.run(120)
        why = "Heartbeat Timeout"
    cloud.until(lambda: len(cloud.actions) >= 3)
    assert [action.verb for _, action in cloud.actions] == ["launch", "terminate", "launch"]
    assert {action.instance for _, action in cloud.actions} == {"fw1"}
    first = cloud.group.describe()["activities"][-1]
    assert first["status_code"] == "Cancelled"
    assert first["status_message"] == f"Instance failed to complete user's Lifecycle Action: {why}"
    assert cloud.actions[2][0] >= first["end_time"] + 30


def test_a_default_result_of_continue_puts_it_in_service_after_the_heartbeat() -> None:
    cloud = Cloud(make(lifecycle_hooks={"launch": {"heartbeat_timeout": 120, "default_result": "CONTINUE"}}))
    cloud.until(lambda: cloud.in_service == ["fw1"])
    registered = next(moment for moment, action in cloud.actions if action.verb == "register")
    assert registered == cloud.actions[0][0] + cloud.boot + 120


def test_a_launch_whose_process_ends_failed_and_is_tried_again_after_a_pause() -> None:
    cloud = Cloud(make())
    cloud.tick()
    del cloud.processes["fw1"]
    cloud.until(lambda: cloud.at_rest())
    launches = [moment for moment, action in cloud.actions if action.verb == "launch"]
    assert len(launches) == 2
    assert launches[1] >= launches[0] + 30
    first = cloud.group.describe()["activities"][-1]
    assert (first["status_code"], first["status_message"]) == (
        "Failed",
        "Instance failed to launch: its process has ended",
    )


def test_a_launch_that_never_answers_is_given_up_after_a_minute_even_in_scaled_time() -> None:
    cloud = Cloud(make(), time_scale=60, boot=10**6)
    cloud.tick()
    cloud.until(lambda: Action("terminate", "fw1") in [action for _, action in cloud.actions], seconds=1)
    assert cloud.actions[1][0] == cloud.actions[0][0] + 60
    failed = cloud.group.describe()["activities"][-1]
    assert failed["status_message"] == "Instance failed to launch: it did not answer within 60 seconds"


def test_what_is_not_observed_stays_as_it_is() -> None:
    cloud = Cloud(make(desired_capacity=2))
    cloud.tick()
    assert cloud.group.tick(cloud.now + 1000, {}) == []
    assert cloud.names(LifecycleState.PENDING) == ["fw1", "fw2"]


def test_instances_that_run_already_are_attached() -> None:
    cloud = Cloud(make(desired_capacity=2))
    for name in ("fw1", "fw2"):
        cloud.launch(name)
        cloud.now += cloud.boot
        cloud.register(name)
        cloud.group.attach(name, cloud.now)
    cloud.run(600)
    assert cloud.in_service == ["fw1", "fw2"]
    assert cloud.actions == []


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("fw9", "Invalid Instance ID fw9: the group gwlb-asg has fw1, fw2, fw3, fw4, fw5, fw6, fw7, fw8"),
        ("fw1", "Instance fw1 is already part of AutoScalingGroup gwlb-asg"),
        ("fw3", "AutoScalingGroup gwlb-asg has max size 2: detach one first"),
    ],
)
def test_what_cannot_be_attached(name: str, text: str) -> None:
    cloud = settled(desired_capacity=2, max_size=2)
    with pytest.raises(ScalingError) as error:
        cloud.group.attach(name, cloud.now)
    assert str(error.value) == text


# Terminate


def test_an_instance_is_deregistered_drained_and_then_terminated() -> None:
    cloud = settled(desired_capacity=2)
    cloud.group.set_desired_capacity(1, cloud.now)
    assert cloud.tick() == [Action("deregister", "fw1")]
    assert cloud.group.describe()["activities"][0]["status_code"] == "WaitingForELBConnectionDraining"
    begun = cloud.now
    cloud.until(lambda: cloud.at_rest())
    assert cloud.actions[-1] == (begun + 300, Action("terminate", "fw1"))
    assert cloud.story("fw1")[2:] == ["Terminating", "Terminated"]
    assert [sentence.partition("Z ")[2] for sentence in cloud.causes()[-1].split("  ")] == [
        "a user request explicitly set group desired capacity changing the desired capacity from 2 to 1.",
        "an instance was taken out of service in response to a difference between desired and actual capacity,"
        " shrinking the capacity from 2 to 1.",
        "instance fw1 was selected for termination.",
    ]


def test_draining_ends_early_when_the_last_session_has_ended() -> None:
    cloud = settled(desired_capacity=2)
    cloud.group.set_desired_capacity(1, cloud.now)
    cloud.sessions["fw1"] = 3
    cloud.tick()
    cloud.run(100)
    assert cloud.names(LifecycleState.TERMINATING) == ["fw1"]
    cloud.sessions["fw1"] = 0
    assert cloud.tick() == [Action("terminate", "fw1")]


def test_sessions_that_are_not_known_are_waited_for() -> None:
    cloud = settled(desired_capacity=2)
    cloud.group.set_desired_capacity(1, cloud.now)
    cloud.tick()
    seen = Observation(running=True, target_state=TargetState.DRAINING, sessions=None)
    assert cloud.group.tick(cloud.now + 1, {"fw1": seen}) == []
    assert cloud.group.tick(cloud.now + 1, {"fw1": Observation(True, target_state=TargetState.UNUSED)}) == [
        Action("terminate", "fw1")
    ]


def test_a_terminate_hook_comes_after_draining() -> None:
    cloud = settled(desired_capacity=2, lifecycle_hooks={"terminate": HOOKS["terminate"]})
    cloud.group.set_desired_capacity(1, cloud.now)
    cloud.tick()
    cloud.sessions["fw1"] = 0
    cloud.tick()
    assert cloud.names(LifecycleState.TERMINATING_WAIT) == ["fw1"]
    assert cloud.group.describe()["activities"][0]["status_code"] == "MidTerminatingLifecycleAction"
    begun = cloud.now
    cloud.until(lambda: cloud.at_rest())
    assert cloud.actions[-1] == (begun + 60, Action("terminate", "fw1"))
    assert cloud.story("fw1")[2:] == ["Terminating", "Terminating:Wait", "Terminating:Proceed", "Terminated"]


def test_completing_a_terminate_hook_ends_the_wait_with_either_result() -> None:
    for result in ("CONTINUE", "ABANDON"):
        cloud = settled(desired_capacity=2, lifecycle_hooks={"terminate": HOOKS["terminate"]})
        cloud.group.set_desired_capacity(1, cloud.now)
        cloud.tick()
        cloud.sessions["fw1"] = 0
        cloud.tick()
        cloud.group.complete("fw1", "terminate", result, cloud.now)
        assert cloud.tick() == [Action("terminate", "fw1")]


@pytest.mark.parametrize(("name", "transition"), [("fw1", "launch"), ("fw1", "terminate"), ("fw7", "launch")])
def test_a_hook_that_nobody_waits_for_cannot_be_completed(name: str, transition: str) -> None:
    cloud = settled(desired_capacity=2)
    with pytest.raises(ScalingError) as error:
        cloud.group.complete(name, transition, "CONTINUE", cloud.now)  # type: ignore[arg-type]
    assert str(error.value) == f"No active Lifecycle Action found with instance ID {name}"


# Balance


def test_the_zone_with_most_instances_loses_its_oldest() -> None:
    cloud = settled(desired_capacity=2)
    cloud.group.set_desired_capacity(5, cloud.now)
    cloud.until(lambda: cloud.at_rest())
    assert cloud.in_service == ["fw1", "fw2", "fw3", "fw4", "fw5"]
    for size, gone in ((4, "fw1"), (3, "fw2"), (2, "fw3")):
        cloud.group.set_desired_capacity(size, cloud.now)
        assert cloud.tick() == [Action("deregister", gone)]
    cloud.until(lambda: cloud.at_rest())
    assert cloud.in_service == ["fw4", "fw5"]
    cloud.group.set_desired_capacity(4, cloud.now)
    assert cloud.tick() == [Action("launch", "fw1"), Action("launch", "fw2")]


def test_a_name_that_terminates_is_waited_for_rather_than_the_balance_lost() -> None:
    cloud = settled(desired_capacity=8)
    cloud.group.set_desired_capacity(5, cloud.now)
    assert [action.instance for action in cloud.tick()] == ["fw1", "fw2", "fw3"]
    cloud.sessions["fw2"] = 0
    cloud.tick()
    cloud.tick()
    cloud.group.set_desired_capacity(8, cloud.now)
    assert cloud.tick() == [], "fw2 is free, but its zone is the larger one"
    assert cloud.sizes() == [2, 3]
    cloud.sessions["fw3"] = 0
    cloud.until(lambda: cloud.sizes() == [3, 4])
    assert [action for _, action in cloud.actions[-2:]] == [Action("launch", "fw3"), Action("launch", "fw2")]
    cloud.until(cloud.at_rest)
    assert len(cloud.in_service) == 8


def test_zones_that_differ_by_two_are_balanced_by_launching_before_terminating() -> None:
    cloud = settled(desired_capacity=3)
    assert cloud.sizes() == [2, 1]
    del cloud.processes["fw2"]
    cloud.group.set_desired_capacity(2, cloud.now)
    assert cloud.tick() == [Action("deregister", "fw2"), Action("launch", "fw4")]
    before = len(cloud.actions)
    cloud.until(lambda: cloud.at_rest())
    assert cloud.in_service == ["fw3", "fw4"]
    assert [action for _, action in cloud.actions[before:]] == [
        Action("terminate", "fw2"),
        Action("register", "fw4"),
        Action("deregister", "fw1"),
        Action("terminate", "fw1"),
    ]
    assert "availability zones a had 2, b had 0 instances. An instance was launched to balance the zones." in " ".join(
        cloud.causes()
    )


# Health


def test_a_process_that_has_ended_is_replaced_at_once() -> None:
    cloud = settled(desired_capacity=2)
    del cloud.processes["fw1"]
    assert cloud.tick() == [Action("deregister", "fw1"), Action("launch", "fw3")]
    assert [cause.partition(" an ")[2] for cause in cloud.causes()[-2:]] == [
        "instance was taken out of service in response to an EC2 health check indicating it has been terminated"
        " or stopped.",
        "instance was launched in response to an unhealthy instance needing to be replaced.",
    ]
    assert cloud.tick() == [Action("terminate", "fw1")]
    cloud.until(lambda: cloud.at_rest())


def test_an_unhealthy_target_is_replaced_after_the_grace_period() -> None:
    cloud = Cloud(make(health_check_type="ELB", health_check_grace_period=200))
    cloud.until(lambda: cloud.in_service == ["fw1"])
    cloud.targets["fw1"] = TargetState.UNHEALTHY
    begun = cloud.now
    cloud.until(lambda: bool(cloud.names(LifecycleState.TERMINATING)))
    assert cloud.now == begun + 200
    assert cloud.group.describe()["instances"][0]["health"] == "Unhealthy"
    assert cloud.causes()[-2].endswith("taken out of service in response to an ELB system health check failure.")
    cloud.until(lambda: cloud.at_rest())
    assert cloud.in_service == ["fw2"]


def test_an_unhealthy_target_is_no_matter_where_health_checks_are_those_of_ec2() -> None:
    cloud = settled(desired_capacity=2)
    cloud.targets["fw1"] = TargetState.UNHEALTHY
    cloud.run(3600)
    assert cloud.in_service == ["fw1", "fw2"]


# Requests


@pytest.mark.parametrize(
    ("desired", "text"),
    [
        (9, "New SetDesiredCapacity value 9 is above max value 8 for the AutoScalingGroup."),
        (0, "New SetDesiredCapacity value 0 is below min value 1 for the AutoScalingGroup."),
    ],
)
def test_a_desired_capacity_outside_the_sizes_is_refused(desired: int, text: str) -> None:
    cloud = settled(desired_capacity=2)
    with pytest.raises(ScalingError) as error:
        cloud.group.set_desired_capacity(desired, cloud.now)
    assert str(error.value) == text
    assert cloud.group.desired == 2


def test_changed_sizes_bound_the_desired_capacity_and_do_not_bring_an_old_one_back() -> None:
    cloud = settled(desired_capacity=2)
    cloud.group.set_desired_capacity(6, cloud.now)
    cloud.group.configure(make(desired_capacity=2, default_cooldown=10), cloud.now)
    assert cloud.group.desired == 6
    cloud.group.configure(make(desired_capacity=2, max_size=5), cloud.now)
    assert cloud.group.desired == 5
    assert cloud.group.events[-1].text.endswith(
        "a user request update of AutoScalingGroup constraints to min: 1, max: 5, desired: 5"
        " changing the desired capacity from 6 to 5."
    )
    cloud.group.configure(make(desired_capacity=3, max_size=5), cloud.now)
    assert cloud.group.desired == 3


# Policies


def test_the_group_follows_a_load_that_rises_and_falls() -> None:
    cloud = settled(min_size=2, desired_capacity=2, scaling_policies=TRACKING, lifecycle_hooks={})
    for load, size in ((80, 2), (160, 4), (390, 8), (800, 8), (330, 8), (160, 4), (20, 2)):
        cloud.load = load
        cloud.run(4 * 3600)
        assert (cloud.group.desired, cloud.at_rest()) == (size, True), load
    assert any(
        "a monitor alarm TargetTracking-gwlb-asg-AlarmHigh-load in state ALARM triggered policy load changing the"
        " desired capacity from 4 to 8." in cause
        for cause in cloud.causes()
    )


def test_scale_out_comes_after_three_periods_and_all_at_once() -> None:
    cloud = settled(min_size=2, desired_capacity=2, scaling_policies=TRACKING)
    cloud.run(3600)
    cloud.load = 300
    begun = cloud.now
    cloud.until(lambda: cloud.group.desired > 2)
    assert cloud.group.desired == 6
    assert 180 <= cloud.now - begun <= 240


def test_scale_in_waits_for_fifteen_periods_the_warm_up_and_the_cool_down() -> None:
    def first_scale_in(**values: Any) -> float:
        cloud = settled(
            desired_capacity=4,
            scaling_policies=TRACKING,
            **{"default_instance_warmup": 0, "default_cooldown": 0, **values},
        )
        begun = cloud.now
        cloud.until(lambda: cloud.group.desired < 4)
        return cloud.now - begun

    assert 900 <= first_scale_in() <= 980
    assert first_scale_in(default_cooldown=3000) >= 3000
    assert first_scale_in(default_instance_warmup=2000) >= 2900


def test_time_scale_divides_every_interval() -> None:
    def moments(time_scale: float) -> list[tuple[float, Action]]:
        cloud = Cloud(
            make(desired_capacity=2, scaling_policies=TRACKING, lifecycle_hooks=HOOKS | {"launch": None}),
            time_scale=time_scale,
            boot=20 / time_scale,
        )
        for hour in range(6):
            cloud.load = (20, 180, 390, 60, 0, 0)[hour]
            cloud.run(3600 / time_scale, 10 / time_scale)
        return [(round((moment - START) * time_scale), action) for moment, action in cloud.actions]

    plain = moments(1)
    assert len(plain) > 20
    assert moments(32) == plain


def test_what_an_instance_said_before_it_was_taken_out_is_forgotten() -> None:
    steps = [{"lower": 0, "adjustment": 2}]
    policy = {"type": "step", "metric": METRIC, "statistic": "Maximum", "threshold": 900, "steps": steps}
    policies = {"panic": {**policy, "comparison": "GreaterThanOrEqualToThreshold"}}

    def desired(dies: bool) -> int:
        cloud = settled(desired_capacity=2, scaling_policies=policies, default_instance_warmup=0)
        cloud.until(lambda: cloud.now % 60 == 0)
        calm = Observation(running=True, metrics={METRIC: 10})
        cloud.group.tick(cloud.now, {"fw1": Observation(running=True, metrics={METRIC: 10_000}), "fw2": calm})
        cloud.group.tick(cloud.now + 10, {"fw1": Observation(running=not dies, metrics={METRIC: 10_000}), "fw2": calm})
        cloud.group.tick(cloud.now + 60, {"fw2": calm})
        return cloud.group.desired

    assert (desired(dies=False), desired(dies=True)) == (4, 2)


def test_a_group_of_which_only_some_publish_does_not_scale_in_to_these() -> None:
    cloud = settled(desired_capacity=4, scaling_policies=TRACKING, default_instance_warmup=0, default_cooldown=0)
    for _ in range(200):
        cloud.now += 10
        seen = {name: Observation(running=True, answering=True) for name in cloud.in_service}
        seen["fw1"] = Observation(running=True, answering=True, metrics={METRIC: 34})
        cloud.group.tick(cloud.now, seen)
    assert cloud.group.desired == 3


def test_without_data_nothing_changes() -> None:
    cloud = settled(desired_capacity=4, scaling_policies=TRACKING)
    for _ in range(1000):
        cloud.now += 10
        cloud.group.tick(cloud.now, {name: Observation(running=True) for name in cloud.in_service})
    assert cloud.group.desired == 4


# Whatever happens

WORLDS = st.fixed_dictionaries(
    {
        "sizes": st.lists(st.integers(1, 8), min_size=3, max_size=3).map(sorted),
        "zones": st.integers(1, 3),
        "cooldown": st.sampled_from([0, 300]),
        "warmup": st.sampled_from([0, 60, 300]),
        "hooks": st.sampled_from([{}, HOOKS, {"terminate": HOOKS["terminate"]}]),
        "check": st.sampled_from(["EC2", "ELB"]),
        "policies": st.sampled_from(
            [
                TRACKING,
                {
                    "out": {
                        "type": "step",
                        "metric": METRIC,
                        "comparison": "GreaterThanOrEqualToThreshold",
                        "threshold": 60,
                        "steps": [{"lower": 0, "upper": 20, "adjustment": 1}, {"lower": 20, "adjustment": 3}],
                    },
                    "in": {
                        "type": "step",
                        "metric": METRIC,
                        "comparison": "LessThanOrEqualToThreshold",
                        "threshold": 20,
                        "evaluation_periods": 3,
                        "steps": [{"upper": 0, "adjustment": -1}],
                    },
                },
            ]
        ),
    }
)
EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("load"), st.floats(0, 1000)),
        st.tuples(st.just("kill"), st.integers(0, 7)),
        st.tuples(st.just("sicken"), st.integers(0, 7)),
        st.tuples(st.just("finish"), st.integers(0, 7)),
        st.tuples(st.just("complete"), st.integers(0, 7)),
        st.tuples(st.just("desire"), st.integers(0, 9)),
        st.tuples(st.just("restart"), st.just(0)),
        st.tuples(st.just("pass"), st.integers(1, 120)),
    ),
    max_size=30,
)


def happen(cloud: Cloud, what: str, value: float) -> None:
    running = sorted(cloud.processes)
    name = running[int(value) % len(running)] if running else "fw1"
    if what == "load":
        cloud.load = value
    elif what == "kill":
        cloud.processes.pop(name, None)
    elif what == "sicken" and cloud.targets.get(name) is TargetState.HEALTHY:
        cloud.targets[name] = TargetState.UNHEALTHY
    elif what == "finish":
        cloud.sessions[name] = 0
    elif what == "complete":
        for waiting in cloud.names(LifecycleState.PENDING_WAIT):
            cloud.group.complete(waiting, "launch", "CONTINUE", cloud.now)
    elif what == "desire" and cloud.group.settings.min_size <= value <= cloud.group.settings.max_size:
        cloud.group.set_desired_capacity(int(value), cloud.now)
    elif what == "restart":
        cloud.restart()


def holds(cloud: Cloud) -> None:
    sizes = cloud.group.settings
    assert sizes.min_size <= cloud.group.desired <= sizes.max_size
    assert len(cloud.names(*ACTIVE)) <= sizes.max_size
    assert set(cloud.processes) <= set(cloud.group.instances) <= set(cloud.zones)
    assert set(cloud.in_service) == {
        name for name, state in cloud.targets.items() if state in (TargetState.HEALTHY, TargetState.UNHEALTHY)
    }


@settings(max_examples=100, deadline=None)
@given(WORLDS, EVENTS)
def test_whatever_happens_the_size_holds_and_a_group_left_alone_comes_to_rest(
    world: dict[str, Any], events: list[tuple[str, float]]
) -> None:
    low, desired, high = world["sizes"]
    values = make(
        min_size=low,
        desired_capacity=desired,
        max_size=high,
        default_cooldown=world["cooldown"],
        default_instance_warmup=world["warmup"],
        lifecycle_hooks=world["hooks"],
        health_check_type=world["check"],
        scaling_policies=world["policies"],
    )
    cloud = Cloud(values, {f"fw{n + 1}": "abc"[n % world["zones"]] for n in range(high)})
    for what, value in events:
        happen(cloud, what, value)
        for _ in range(int(value) if what == "pass" else 1):
            cloud.tick()
            holds(cloud)
    # Left alone: nobody answers the launch hook, which abandons; so it is taken away, and what is sick is cured.
    cloud.group.configure(
        values.model_copy(update={"scaling_policies": {}, "lifecycle_hooks": make().lifecycle_hooks}), cloud.now
    )
    for _ in range(200):
        cloud.tick()
        holds(cloud)
    assert cloud.at_rest()
    before = len(cloud.actions)
    cloud.run(3600)
    assert cloud.actions[before:] == []


@settings(max_examples=25, deadline=None)
@given(
    st.floats(0, 600),
    st.integers(1, 8),
    st.sampled_from([0, 60, 300]),
    st.sampled_from([0, 300]),
    st.sampled_from(["Average", "Maximum"]),
)
def test_a_constant_load_leads_to_one_size_without_flapping(
    load: float, desired: int, warmup: int, cooldown: int, statistic: str
) -> None:
    policies = {"load": {**TRACKING["load"], "statistic": statistic}}
    cloud = Cloud(
        make(
            desired_capacity=desired,
            scaling_policies=policies,
            default_instance_warmup=warmup,
            default_cooldown=cooldown,
        )
    )
    cloud.load = load
    sizes = [cloud.group.desired]
    for _ in range(3 * 360):
        cloud.tick()
        if cloud.group.desired != sizes[-1]:
            sizes.append(cloud.group.desired)
    assert sizes in (sorted(sizes), sorted(sizes, reverse=True)), "one direction only"
    final = len(sizes)
    cloud.run(2 * 3600)
    assert cloud.group.desired == sizes[-1]
    assert len(sizes) == final
    assert cloud.group.desired == 8 or load / cloud.group.desired <= 50
    assert cloud.group.desired == 1 or load / cloud.group.desired >= 35 or load / (cloud.group.desired - 1) > 50


@settings(max_examples=60, deadline=None)
@given(EVENTS)
def test_a_restart_at_any_moment_only_says_terminate_again(events: list[tuple[str, float]]) -> None:
    def run(restarts: bool) -> list[tuple[float, Action]]:
        cloud = Cloud(make(desired_capacity=3, scaling_policies=TRACKING, lifecycle_hooks=HOOKS))
        for what, value in events:
            happen(cloud, "pass" if what == "restart" else what, value)
            for _ in range(int(value) if what == "pass" else 1):
                cloud.tick()
                if restarts:
                    cloud.restart()
        # What was told to end may not have heard it: that is said again, until it has ended.
        return [
            (moment, action)
            for number, (moment, action) in enumerate(cloud.actions)
            if action.verb != "terminate" or latest(cloud.actions[:number], action.instance) != action
        ]

    def latest(said: list[tuple[float, Action]], name: str) -> Action | None:
        return next((action for _, action in reversed(said) if action.instance == name), None)

    assert run(restarts=True) == run(restarts=False)
