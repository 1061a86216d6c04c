"""What a load balancer has found out and decided while it runs: the health of its targets, and who serves which slot.

The management process writes it beside the topology, ``state.json``; the compiler and the lab read it. Without a file
every registered target counts as healthy (:meth:`State.initial`).

Facts: AWS GWLB guide, target groups: target states and reason codes; new flows go to healthy targets, to any registered
one if none is healthy (fail open), never to one that drains; zones decide independently.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from enum import Enum
from pathlib import Path

from pydantic import BaseModel, ConfigDict, RootModel, ValidationError

from controllers.slots import deal
from topologies.fabric import node_addresses
from topologies.model import Topology
from topologies.routing import gwlb_appliances


class StateError(Exception):
    """A state file that is none: one line with the file, the place in it and what is wrong."""


class TargetState(str, Enum):
    """The states of ``describe-target-health``."""

    INITIAL = "initial"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"
    DRAINING = "draining"
    UNUSED = "unused"
    """Drained, but it may have flows still; or registered where no node uses it."""


#: Registered and in use: who gets new flows when nobody is healthy.
REGISTERED = (TargetState.INITIAL, TargetState.HEALTHY, TargetState.UNHEALTHY)


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TargetHealth(Strict):
    """One target as the node of one zone sees it. ``reason`` is AWS's code, ``Target.FailedHealthChecks``."""

    state: TargetState
    reason: str | None = None
    description: str | None = None


class BalancerState(Strict):
    """One load balancer's. A target that was never registered is absent.

    ``targets`` is health by target, in the order of registration, and zone; ``slots`` are the targets of a zone's
    slots (:func:`controllers.slots.deal`).
    """

    targets: dict[str, dict[str, TargetHealth]] = {}
    slots: dict[str, tuple[str, ...]] = {}


class State(RootModel[dict[str, BalancerState]]):
    """All load balancers' by name; one that is missing has no targets."""

    root: dict[str, BalancerState] = {}

    @classmethod
    def initial(cls, topology: Topology) -> State:
        """Return the state in which every registered target is healthy in every zone whose node uses it."""
        balancers = {}
        for name, gwlb in topology.gateway_load_balancers.items():
            zones = {az: gwlb_appliances(topology, name, az) for az in node_addresses(topology, gwlb)}
            targets = {
                target: {az: TargetHealth(state=TargetState.HEALTHY) for az in zones if target in zones[az]}
                for target in gwlb.target_group.targets
            }
            balancers[name] = BalancerState(targets=targets)
        return cls(balancers).dealt(topology)

    @classmethod
    def load(cls, path: Path) -> State:
        """Read a file. Raises OSError, or StateError when it is no state."""
        try:
            return cls.model_validate_json(path.read_bytes())
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"])
            raise StateError(f"{path.name}: {place + ': ' if place else ''}{first['msg']}") from None

    def save(self, path: Path) -> None:
        """Write a file; who reads it meanwhile finds the old one or the new one, whole."""
        temporary = path.with_name(f"{path.name}.{os.getpid()}")
        temporary.write_text(self.model_dump_json(indent=1) + "\n")
        temporary.replace(path)

    def dealt(self, topology: Topology) -> State:
        """Return the same with each zone's slots dealt anew over who is available there: a fixed point."""
        balancers = {}
        for name, balancer in self.root.items():
            if name in topology.gateway_load_balancers:
                zones = node_addresses(topology, topology.gateway_load_balancers[name])
                slots = {az: tuple(deal(available(topology, self, name, az), self.slots(name, az))) for az in zones}
                balancers[name] = balancer.model_copy(update={"slots": slots})
        return State(balancers)

    def slots(self, gwlb: str, az: str) -> tuple[str, ...]:
        return self.balancer(gwlb).slots.get(az, ())

    def targets(self, gwlb: str) -> Mapping[str, Mapping[str, TargetHealth]]:
        """Return health by target and zone."""
        return self.balancer(gwlb).targets

    def balancer(self, gwlb: str) -> BalancerState:
        return self.root.get(gwlb) or BalancerState()


def available(topology: Topology, state: State, gwlb: str, az: str) -> list[str]:
    """Return the targets that new flows of a zone go to, in the order of registration.

    These are the healthy ones that the zone's node uses; if there is none, all registered ones; never one that drains.
    """
    used = gwlb_appliances(topology, gwlb, az)
    states = {name: zones[az].state for name, zones in state.targets(gwlb).items() if name in used and az in zones}
    healthy = [name for name, found in states.items() if found is TargetState.HEALTHY]
    return healthy or [name for name, found in states.items() if found in REGISTERED]
