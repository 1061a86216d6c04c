"""The health of a target group's targets, as each load balancer node sees it: a state machine without I/O.

A node is the load balancer's interface in one Availability Zone; it checks the targets that it uses and decides for
itself. Times are seconds of any clock that never goes back; ``time_scale`` divides every interval.

::

    register ─▶ initial ─a success─▶ healthy
    initial, healthy ─unhealthy_threshold_count failures in a row─▶ unhealthy
    unhealthy ─healthy_threshold_count successes in a row─▶ healthy
    any of them ─deregister─▶ draining ─deregistration_delay is over─▶ unused ─register─▶ initial

Facts: AWS GWLB guide, "Health checks for your target groups" (states, reason codes and their descriptions, thresholds)
and "Register targets" (draining). AWS does not say how soon a new target is checked: here at once, and often while it
does not answer, for one interval; these early failures count for nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from controllers.state import REGISTERED, TargetHealth, TargetState
from topologies.fabric import node_addresses, zone_of
from topologies.model import GatewayLoadBalancer, HealthCheck, Topology
from topologies.routing import gwlb_appliances

#: Between the first checks of a target that has just been registered, in seconds.
QUICK = 0.2

HEALTHY = TargetHealth(state=TargetState.HEALTHY)
REGISTERING = TargetHealth(
    state=TargetState.INITIAL, reason="Elb.RegistrationInProgress", description="Target registration is in progress"
)
CHECKING = TargetHealth(
    state=TargetState.INITIAL, reason="Elb.InitialHealthChecking", description="Initial health checks in progress"
)
FAILED = TargetHealth(
    state=TargetState.UNHEALTHY, reason="Target.FailedHealthChecks", description="Health checks failed"
)
DRAINING = TargetHealth(
    state=TargetState.DRAINING,
    reason="Target.DeregistrationInProgress",
    description="Target deregistration is in progress",
)
NOT_REGISTERED = TargetHealth(
    state=TargetState.UNUSED,
    reason="Target.NotRegistered",
    description="Target is not registered to the target group",
)
NOT_IN_USE = TargetHealth(
    state=TargetState.UNUSED,
    reason="Target.NotInUse",
    description="Target is in an Availability Zone that is not enabled for the load balancer",
)


@dataclass
class Watch:
    """A registered target as one node sees it. ``due`` is when to check it next; ``failure`` is what failed last."""

    since: float
    due: float
    health: TargetHealth = REGISTERING
    failure: str = ""
    run: int = 0
    """How many results in a row speak for a change."""

    def checked(self, failure: str | None, started: float, check: HealthCheck, time_scale: float) -> None:
        """Take the result of the check that began at *started*: None if it passed, or what failed."""
        interval = check.interval_seconds / time_scale
        passed = failure is None
        self.due = started + interval
        self.failure = failure or self.failure
        if self.health == REGISTERING and not passed:
            self.due = started + min(QUICK, interval)
            if self.due >= self.since + interval:
                self.health = CHECKING
        elif self.health.state is TargetState.INITIAL and passed:
            self._become(HEALTHY)
        elif passed == (self.health.state is TargetState.UNHEALTHY):
            self.run += 1
            if self.run >= (check.healthy_threshold_count if passed else check.unhealthy_threshold_count):
                self._become(HEALTHY if passed else FAILED)
        else:
            self.run = 0

    def _become(self, health: TargetHealth) -> None:
        self.health = health
        self.run = 0


@dataclass
class Target:
    """A target: registered, with a watch for each zone whose node uses it; or deregistered."""

    watches: dict[str, Watch] = field(default_factory=dict)
    registered: bool = True
    drained_at: float | None = None
    """When its draining ends; None when it does not drain."""


class TargetGroup:
    """The target group of load balancer *name*: who is registered, and in which health.

    *health* and *draining* (when it ends, by target) are those of an earlier process: what it knew goes on. The model
    decides who is registered.
    """

    def __init__(
        self,
        name: str,
        topology: Topology,
        time_scale: float,
        now: float,
        health: Mapping[str, Mapping[str, TargetHealth]] | None = None,
        draining: Mapping[str, float] | None = None,
    ) -> None:
        self.name = name
        self.time_scale = time_scale
        self.targets: dict[str, Target] = {}
        self._topology = topology
        for target, zones in (health or {}).items():
            if target not in self._balancer.appliances:
                continue
            reasons = {zone.reason for zone in zones.values()}
            if NOT_REGISTERED.reason in reasons:
                self.targets[target] = Target(registered=False)
            elif DRAINING.reason in reasons:
                end = (draining or {}).get(target, now + self._delay)
                self.targets[target] = Target(registered=False, drained_at=end)
            else:
                known = {az: Watch(now, now, zone) for az, zone in zones.items() if zone.state in REGISTERED}
                self.targets[target] = Target(known)
        registered = self._balancer.target_group.targets
        for target in registered:
            self.register(target, now)
        for target in self.registered:
            if target not in registered:
                self.deregister(target, now)
        self.configure(topology, now)

    # -- what shall be -----------------------------------------------------------------------------------------------

    @property
    def registered(self) -> list[str]:
        """The registered targets, in the order of registration."""
        return [name for name, target in self.targets.items() if target.registered]

    def register(self, name: str, now: float) -> None:
        """Register a target; one that is registered stays as it is, one that drains begins anew."""
        if name not in self.targets or not self.targets[name].registered:
            self.targets.pop(name, None)  # the order is that of registration
            self.targets[name] = Target()
            self._watch(name, now)

    def deregister(self, name: str, now: float) -> None:
        """Let a registered target drain; for any other name nothing happens, as in AWS."""
        if name in self.registered:
            self.targets[name] = Target(registered=False, drained_at=now + self._delay)
            self.tick(now)

    def configure(self, topology: Topology, now: float) -> None:
        """Take a changed model: who uses whom, how to check. Who is registered does not change."""
        self._topology = topology
        interval = self.check.interval_seconds / self.time_scale
        for name in self.registered:
            self._watch(name, now)
            for watch in self.targets[name].watches.values():
                watch.due = min(watch.due, now + interval)

    def _watch(self, name: str, now: float) -> None:
        target = self.targets[name]
        target.watches = {az: target.watches.get(az) or Watch(now, now) for az in self._users(name)}

    # -- what is found out -------------------------------------------------------------------------------------------

    def checked(self, az: str, name: str, failure: str | None, started: float) -> bool:
        """Take a check's result, None if it passed; return whether the health that others see is another now.

        The result of a check that began before the target was registered says nothing.
        """
        target = self.targets.get(name)
        watch = target.watches.get(az) if target else None
        if watch is None or started < watch.since:
            return False
        before = watch.health
        watch.checked(failure, started, self.check, self.time_scale)
        return watch.health != before

    def tick(self, now: float) -> bool:
        """Let the draining end whose time is over; return whether any did."""
        over = [
            target for target in self.targets.values() if target.drained_at is not None and target.drained_at <= now
        ]
        for target in over:
            target.drained_at = None
        return bool(over)

    # -- what is so --------------------------------------------------------------------------------------------------

    @property
    def check(self) -> HealthCheck:
        return self._balancer.target_group.health_check

    def watches(self) -> Iterator[tuple[str, str, Watch]]:
        """Yield zone, target and watch of every check that is to be made again and again."""
        for name, target in self.targets.items():
            for az, watch in target.watches.items():
                yield az, name, watch

    def draining(self) -> dict[str, float]:
        """Return when each draining target's delay ends."""
        return {name: target.drained_at for name, target in self.targets.items() if target.drained_at is not None}

    def health(self) -> dict[str, dict[str, TargetHealth]]:
        """Return the health of each target, in the order of registration, in each zone whose node uses it.

        One that no node uses has its own zone's entry.
        """
        return {name: self._health(name, target) for name, target in self.targets.items()}

    def _health(self, name: str, target: Target) -> dict[str, TargetHealth]:
        if target.watches:
            return {az: watch.health for az, watch in target.watches.items()}
        if target.registered:
            return {self._home(name): NOT_IN_USE}
        health = NOT_REGISTERED if target.drained_at is None else DRAINING
        return dict.fromkeys(self._users(name) or [self._home(name)], health)

    @property
    def _delay(self) -> float:
        return self._balancer.target_group.deregistration_delay.timeout_seconds / self.time_scale

    @property
    def _balancer(self) -> GatewayLoadBalancer:
        return self._topology.gateway_load_balancers[self.name]

    def _users(self, name: str) -> list[str]:
        zones = node_addresses(self._topology, self._balancer)
        return [az for az in zones if name in gwlb_appliances(self._topology, self.name, az)]

    def _home(self, name: str) -> str:
        return zone_of(self._topology.vpcs[self._balancer.vpc], self._balancer.appliances[name].subnet)
