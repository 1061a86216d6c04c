"""The owner of what the cloud shall be: every change of the model or of a target's state goes through here.

A change is applied to the model and to the target groups in memory; :meth:`Service.publish` then writes what became of
it and tells the OpenFlow controller. Both files are replaced whole: ``topology.yaml`` (the model; JSON is YAML) only
when the model changed, ``state.json`` (:mod:`controllers.state`) only when a target's state or a slot did. What else
the next process needs to go on, when draining ends and how far scaling is, is in
:attr:`~controllers.management.configuration.Configuration.memory`.

Facts: AWS GWLB guide and API reference (RegisterTargets, DeregisterTargets, ModifyTargetGroupAttributes,
DescribeTargetHealth; AcceptVpcEndpointConnections, RejectVpcEndpointConnections).
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from controllers.management.configuration import Configuration
from controllers.management.events import Events
from controllers.management.network_interfaces import NetworkInterfaces
from controllers.management.target_health import TargetGroup
from controllers.process import send_signal
from controllers.state import BalancerState, State, TargetHealth
from topologies.attributes import RefusedError, UnknownResourceError, attributes, set_attributes
from topologies.endpoint_service import endpoint_state
from topologies.loader import load_topology
from topologies.model import GatewayLoadBalancer, Topology
from topologies.validation import validate


class RequestRefusedError(Exception):
    """A request that cannot be granted: one line, in AWS's words where it has any."""


class UnknownNameError(Exception):
    """A request for something that does not exist: one line with what there is."""


class Service:
    """The managed service of one lab. *clock* is the machine's monotonic clock, which outlives the process.

    Continues from the configuration's files. Raises TopologyError, StateError or OSError.
    """

    def __init__(self, configuration: Configuration, clock: Callable[[], float] = time.monotonic) -> None:
        self.configuration = configuration
        self.time_scale = configuration.time_scale
        self.clock = clock
        self.topology = load_topology(configuration.topology)
        self.state = State.load(configuration.state) if configuration.state.exists() else State({})
        self.memory: dict[str, Any] = read_json(configuration.memory)
        self.events = Events(configuration.events)
        #: Called when targets come, go or are checked in another way.
        self.listeners: list[Callable[[], None]] = []
        self._published: Topology | None = None
        draining = self.memory.get("draining", {})
        self.groups = {
            name: TargetGroup(
                name, self.topology, self.time_scale, clock(), self.state.targets(name), draining.get(name)
            )
            for name in self.topology.gateway_load_balancers
        }
        self.interfaces = NetworkInterfaces(
            lambda: self.topology,
            self._moved,
            self.time_scale,
            self.memory.get("attachments"),
            self.memory.get("calls", ()),
        )
        self.events.record("service", self.topology.name, f"started, time_scale {self.time_scale:g}")
        self.tick()
        self.publish()

    # -- questions ---------------------------------------------------------------------------------------------------

    def health(self, gwlb: str) -> list[dict[str, str | None]]:
        """Return the health of each target in each zone, as ``describe-target-health`` names it."""
        group = pick(self.groups, gwlb, "target group")
        return [
            {"target": target, "az": az, **health.model_dump(mode="json")}
            for target, zones in group.health().items()
            for az, health in zones.items()
        ]

    def attributes(self, resource: str) -> dict[str, str]:
        """Return the attributes of a resource by AWS's names."""
        try:
            return attributes(self.topology, resource)
        except UnknownResourceError as error:
            raise UnknownNameError(str(error)) from None

    def connections(self) -> list[dict[str, str]]:
        """Return each endpoint's connection to its service."""
        return [
            {
                "endpoint": name,
                "service": endpoint.service,
                "vpc": vpc_name,
                "owner": vpc.owner,
                "state": endpoint_state(self.topology, name).value,
            }
            for vpc_name, vpc in self.topology.vpcs.items()
            for name, endpoint in vpc.endpoints.items()
        ]

    # -- changes -----------------------------------------------------------------------------------------------------

    def register(self, gwlb: str, targets: Iterable[str]) -> None:
        """Register targets; those that are registered stay as they are."""
        self._registration(gwlb, targets, "registered", TargetGroup.register)

    def deregister(self, gwlb: str, targets: Iterable[str]) -> None:
        """Deregister targets, which then drain; those that are not registered stay as they are."""
        self._registration(gwlb, targets, "deregistered", TargetGroup.deregister)

    def set_attributes(self, resource: str, values: Mapping[str, str]) -> None:
        """Change attributes of a resource by AWS's names, all of them or none."""
        before = self.attributes(resource)
        try:
            topology = set_attributes(self.topology, resource, values)
        except RefusedError as error:
            raise RequestRefusedError(str(error)) from None
        self._configure(topology)
        for name, value in attributes(topology, resource).items():
            if value != before.get(name):
                self.events.record("attribute", resource, f"{name}: {before.get(name)} → {value}")

    def set_desired_capacity(self, gwlb: str, capacity: int) -> None:
        """Write down how many instances a load balancer's auto scaling group wants."""
        balancer = self.topology.gateway_load_balancers[gwlb]
        group = balancer.auto_scaling_group
        if group and group.desired_capacity != capacity:
            group = group.model_copy(update={"desired_capacity": capacity})
            changed = balancer.model_copy(update={"auto_scaling_group": group})
            self._configure(with_balancer(self.topology, gwlb, changed))

    def call(self, action: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Do a call of :mod:`~controllers.management.network_interfaces`. Raises its CallRefusedError."""
        answer = self.interfaces.call(action, parameters, self.clock())
        self._remember_calls()
        for listener in self.listeners:
            listener()
        return answer

    def accept(self, endpoint: str) -> None:
        """Accept an endpoint's connection to its service."""
        self._decide(endpoint, "accepted")

    def reject(self, endpoint: str) -> None:
        """Reject an endpoint's connection to its service, also one that was accepted."""
        self._decide(endpoint, "rejected")

    # -- what is found out -------------------------------------------------------------------------------------------

    def checked(self, gwlb: str, az: str, target: str, failure: str | None, started: float) -> bool:
        """Take a health check's result, None if it passed; return whether there is something to publish."""
        return self.groups[gwlb].checked(az, target, failure, started)

    def tick(self) -> float | None:
        """Let draining end and interfaces move where it is time; return when something is due next, if anything is."""
        now = self.clock()
        self.interfaces.tick(now)
        self._remember_calls()
        over = [group.tick(now) for group in self.groups.values()]
        if any(over):
            self.publish()
        ends = [end for group in self.groups.values() for end in group.draining().values()]
        due = self.interfaces.due
        return min(ends if due is None else [*ends, due], default=None)

    def publish(self) -> None:
        """Write the files that changed, tell the controller, and record which targets changed their state."""
        before = self.state
        state = State(
            {
                name: BalancerState(targets=group.health(), slots=before.balancer(name).slots)
                for name, group in self.groups.items()
            }
        )
        self.state = state = state.dealt(self.topology)
        changed = False
        self.remember("draining", {name: group.draining() for name, group in self.groups.items()})
        if self.topology is not self._published:
            self._published = self.topology
            text = self.topology.model_dump_json(indent=1)
            if text != self.configuration.topology.read_text():
                replace(self.configuration.topology, text)
                changed = True
        if state != before:
            state.save(self.configuration.state)
            changed = True
        if changed:
            self.notify()
        for name in self.groups:
            self._record_health(name, before.targets(name), state.targets(name))

    def notify(self) -> None:
        """Send SIGHUP to the OpenFlow controller that its status file names, if there is one."""
        status = read_json(self.configuration.controller_status)
        pid, start = status.get("pid"), status.get("started")
        # If it is gone, the next one reads the files when it starts.
        if isinstance(pid, int) and pid > 1 and isinstance(start, int):
            send_signal(pid, start, signal.SIGHUP)

    def remember(self, key: str, value: Any) -> None:
        """Keep what another part needs to go on after a restart, JSON's plain types, under a key of its own."""
        if self.memory.get(key) != value:
            self.memory = {**self.memory, key: value}
            replace(self.configuration.memory, json.dumps(self.memory, indent=1) + "\n")

    def close(self) -> None:
        self.events.close()

    # -- how ---------------------------------------------------------------------------------------------------------

    def _registration(
        self, gwlb: str, targets: Iterable[str], what: str, change: Callable[[TargetGroup, str, float], None]
    ) -> None:
        group, balancer = pick(self.groups, gwlb, "target group"), self.topology.gateway_load_balancers.get(gwlb)
        assert balancer is not None
        targets = list(targets)
        for target in targets:
            if target not in balancer.appliances:
                there = ", ".join(balancer.appliances)
                raise RequestRefusedError(f"InvalidTarget: {target!r} is no appliance of {gwlb}; there are {there}")
        before = group.registered
        for target in targets:
            change(group, target, self.clock())
        if group.registered != before:
            for target in dict.fromkeys(targets):
                if (target in before) != (target in group.registered):
                    self.events.record("registration", target, f"{gwlb}: {what}")
            self._configure(with_targets(self.topology, gwlb, group.registered))

    def _decide(self, endpoint: str, decision: str) -> None:
        services = {name: one.service for vpc in self.topology.vpcs.values() for name, one in vpc.endpoints.items()}
        gwlb = pick(services, endpoint, "VPC endpoint")
        balancer = self.topology.gateway_load_balancers[gwlb]
        lists = {
            "accepted": [name for name in balancer.endpoint_service.accepted if name != endpoint],
            "rejected": [name for name in balancer.endpoint_service.rejected if name != endpoint],
        }
        lists[decision].append(endpoint)
        service = balancer.endpoint_service.model_copy(update={name: tuple(one) for name, one in lists.items()})
        topology = with_balancer(self.topology, gwlb, balancer.model_copy(update={"endpoint_service": service}))
        problems = validate(topology)
        if problems:
            raise RequestRefusedError(str(problems[0]))
        self._configure(topology)
        self.events.record("endpoint", endpoint, f"{gwlb}: {decision}")

    def _moved(self, topology: Topology, text: str) -> None:
        """Take a model in which an address, an interface or a route has moved."""
        self.remember("attachments", {name: list(place) for name, place in self.interfaces.attachments.items()})
        self.events.record("failover", topology.name, text)
        self._configure(topology)

    def _remember_calls(self) -> None:
        self.remember("calls", [list(call) for call in self.interfaces.calls])

    def _configure(self, topology: Topology) -> None:
        """Take another model, publish it, and let those know who act on it."""
        self.topology = topology
        for group in self.groups.values():
            group.configure(topology, self.clock())
        self.publish()
        for listener in self.listeners:
            listener()

    def _record_health(
        self,
        gwlb: str,
        before: Mapping[str, Mapping[str, TargetHealth]],
        after: Mapping[str, Mapping[str, TargetHealth]],
    ) -> None:
        for target, zones in after.items():
            for az, health in zones.items():
                earlier = before.get(target, {}).get(az)
                if health != earlier:
                    was = f"{earlier.state.value} → " if earlier and earlier.state is not health.state else ""
                    text = f"{gwlb} in {az}: {was}{health.state.value}"
                    watch = self.groups[gwlb].targets[target].watches.get(az)
                    why = [health.reason, watch.failure if watch and health.state.value == "unhealthy" else ""]
                    reasons = ", ".join(reason for reason in why if reason)
                    self.events.record("health", target, text + (f" ({reasons})" if reasons else ""))


def pick(there: Mapping[str, Any], name: str, kind: str) -> Any:
    """Return what *there* has by that name. Raises UnknownNameError with what there is."""
    if name not in there:
        raise UnknownNameError(f"no {kind} {name!r}; there {'are ' + ', '.join(there) if there else 'is none'}")
    return there[name]


def with_balancer(topology: Topology, name: str, balancer: GatewayLoadBalancer) -> Topology:
    """Return the topology with another load balancer in place of *name*."""
    balancers = {**topology.gateway_load_balancers, name: balancer}
    return topology.model_copy(update={"gateway_load_balancers": balancers})


def with_targets(topology: Topology, name: str, targets: Iterable[str]) -> Topology:
    """Return the topology with these targets registered."""
    balancer = topology.gateway_load_balancers[name]
    group = balancer.target_group.model_copy(update={"targets": tuple(targets)})
    return with_balancer(topology, name, balancer.model_copy(update={"target_group": group}))


def read_json(file: Path) -> dict[str, Any]:
    """Return a file's JSON object; an empty one where there is no file, or none yet that is whole."""
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def replace(file: Path, text: str) -> None:
    """Write a file; who reads it meanwhile finds the old one or the new one, whole."""
    temporary = file.with_name(f"{file.name}.{os.getpid()}")
    temporary.write_text(text)
    temporary.replace(file)
