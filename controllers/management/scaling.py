"""The auto scaling groups of a lab at work: what they are told, and what is done for them.

:mod:`controllers.management.auto_scaling` decides. Here a group learns whether its instances run, answer and are
healthy, and what they measure; its actions become processes and registrations.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any

from controllers.management.auto_scaling import Action, AutoScalingGroup, Observation, Result, Transition
from controllers.management.configuration import Configuration
from controllers.management.instances import InstanceError, Instances
from controllers.management.service import Service, pick
from controllers.management.telemetry import SESSIONS, Sample, Telemetry
from controllers.management.timeout import until
from controllers.state import TargetHealth, TargetState
from topologies.defaults import initial_instances, scaling_group_name, scaling_instances
from topologies.fabric import zone_of
from topologies.model import AutoScalingGroup as Settings
from topologies.model import Topology

#: Between two looks at the instances, in seconds. The end of a process is seen at once.
PERIOD = 0.5


class Scaling:
    """All groups of a service, by name. *clock* gives Unix time. To be made in a running event loop.

    A group that starts takes its initial instances into service, which the model has registered; one that an earlier
    process had goes on where it was, with the processes that it finds.
    """

    def __init__(
        self,
        service: Service,
        configuration: Configuration,
        telemetry: Telemetry,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._service = service
        self._appliances = configuration.appliances
        self._telemetry = telemetry
        self._clock = clock
        self._look = asyncio.Event()
        self._instances = Instances(on_end=lambda *_: self._look.set())
        self._balancers: dict[str, str] = {}
        self._groups: dict[str, AutoScalingGroup] = {}
        self._deregistered: dict[str, float] = {}
        self._started = clock()
        memory = service.memory.get("scaling", {})
        self._instances.adopt(memory.get("processes", {}))
        for gwlb, settings in groups_of(service.topology):
            group = self._make(gwlb, settings, memory.get("groups", {}).get(scaling_group_name(gwlb)))
            self._groups[group.name], self._balancers[group.name] = group, gwlb
        self._remember()
        service.listeners.append(self.configure)

    def __bool__(self) -> bool:
        return bool(self._groups)

    def _make(self, gwlb: str, settings: Settings, state: Mapping[str, Any] | None) -> AutoScalingGroup:
        balancer = self._service.topology.gateway_load_balancers[gwlb]
        vpc = self._service.topology.vpcs[balancer.vpc]
        zones = {name: zone_of(vpc, balancer.appliances[name].subnet) for name in scaling_instances(balancer)}
        now = self._clock()
        group = AutoScalingGroup(scaling_group_name(gwlb), settings, zones, now, self._service.time_scale, state)
        if state is None:
            for name in initial_instances(balancer):
                self._launch(name)
                group.attach(name, now)
        return group

    # -- what the API asks for ---------------------------------------------------------------------------------------

    def describe(self, name: str) -> dict[str, Any]:
        """Return a group's sizes, instances and activities. Raises UnknownNameError, as all of these."""
        return self._group(name).describe()

    def set_desired_capacity(self, name: str, capacity: int) -> None:
        """Change a group's size. Raises ScalingError where it is outside of its bounds."""
        self._group(name).set_desired_capacity(capacity, self._clock())
        self._follow()

    def complete(self, name: str, instance: str, hook: Transition, result: Result) -> None:
        """End an instance's wait for a lifecycle hook. Raises ScalingError where it does not wait."""
        self._group(name).complete(instance, hook, result, self._clock())
        self._follow()

    def configure(self) -> None:
        """Take the groups' settings from the service's model."""
        for gwlb, settings in groups_of(self._service.topology):
            group = self._groups[scaling_group_name(gwlb)]
            if settings != group.settings:
                group.configure(settings, self._clock())
                self._look.set()

    def _group(self, name: str) -> AutoScalingGroup:
        group: AutoScalingGroup = pick(self._groups, name, "auto scaling group")
        return group

    def _follow(self) -> None:
        """Let what a request changed be seen in the model and in the events, and be acted on soon."""
        self._publish()
        self._look.set()

    # -- the clock ---------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Look at the instances and do what the groups want, for ever. Without a group there is nothing to do."""
        while True:
            self._look.clear()
            running = [name for group in self._groups.values() for name in group.zones if self._instances.running(name)]
            samples = await self._telemetry.read(running)
            for group in self._groups.values():
                self._tick(group, samples)
            self._publish()
            await until(self._look, PERIOD if self._groups else None)

    async def close(self) -> None:
        """End the instances' processes."""
        await self._instances.close()

    def _tick(self, group: AutoScalingGroup, samples: Mapping[str, Sample]) -> None:
        health = self._service.groups[self._balancers[group.name]].health()
        observations = {
            name: self._observation(name, health.get(name, {}), samples.get(name)) for name in group.instances
        }
        actions = group.tick(self._clock(), observations)
        self._record(group)  # first what was decided, then what comes of it
        for action in actions:
            self._do(self._balancers[group.name], action)

    def _observation(self, name: str, health: Mapping[str, TargetHealth], sample: Sample | None) -> Observation:
        sessions = sample.values.get(SESSIONS) if sample else None
        if sample and sample.time <= self._deregistered.get(name, self._started):
            sessions = None  # from before its draining began
        return Observation(
            running=self._instances.running(name),
            answering=sample is not None,
            target_state=overall(health),
            sessions=None if sessions is None else int(sessions),
            metrics=sample.values if sample else {},
        )

    def _do(self, gwlb: str, action: Action) -> None:
        name = action.instance
        if action.verb == "launch":
            self._launch(name)
        elif action.verb == "register":
            self._service.register(gwlb, [name])
        elif action.verb == "deregister":
            self._deregistered[name] = self._clock()
            self._service.deregister(gwlb, [name])
        else:
            self._instances.end(name)
        self._look.set()  # what it brings about is seen at the next look

    def _launch(self, name: str) -> None:
        """Start an instance's process; that it does not run is all that its group needs to know of a failure."""
        try:
            if name not in self._appliances:
                raise InstanceError(f"{name}: there is no command for it in the configuration")
            self._instances.start(name, self._appliances[name].command, self._appliances[name].log)
        except InstanceError as error:
            self._service.events.record("scaling", name, str(error))

    def _publish(self) -> None:
        """Record what happened, keep the groups' state, and write their sizes into the model."""
        for name, group in self._groups.items():
            self._record(group)
            self._service.set_desired_capacity(self._balancers[name], group.desired)
        self._remember()

    def _record(self, group: AutoScalingGroup) -> None:
        for event in group.events:
            self._service.events.record("scaling", event.resource, event.text)
        group.events.clear()

    def _remember(self) -> None:
        if self._groups:
            groups = {name: group.state() for name, group in self._groups.items()}
            self._service.remember("scaling", {"groups": groups, "processes": self._instances.records()})


def groups_of(topology: Topology) -> list[tuple[str, Settings]]:
    """Return each load balancer with an auto scaling group, and the group's settings."""
    balancers = topology.gateway_load_balancers.items()
    return [(name, balancer.auto_scaling_group) for name, balancer in balancers if balancer.auto_scaling_group]


def overall(health: Mapping[str, TargetHealth]) -> TargetState | None:
    """Return a target's state over all zones: healthy where any zone finds it so; None if there is none."""
    states = {zone.state for zone in health.values()}
    return next((state for state in PREFERRED if state in states), None)


PREFERRED = (
    TargetState.HEALTHY,
    TargetState.INITIAL,
    TargetState.UNHEALTHY,
    TargetState.DRAINING,
    TargetState.UNUSED,
)
