"""AWS's rules over Gateway Load Balancers, their endpoint services and auto scaling groups: passes of the validation.

Where AWS's own words for a breach are known from its documentation or its API's answers, they are used.

Facts: AWS GWLB guide (target groups, listeners), Elastic Load Balancing API, AWS PrivateLink guide, Amazon EC2 Auto
Scaling API (``StepAdjustment``: the rules of bounds) and guide, VM-Series plugin (its CloudWatch metrics).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from math import inf

from topologies.defaults import scaling_instances
from topologies.endpoint_service import connections, principal_allowed
from topologies.model import AutoScalingGroup, GatewayLoadBalancer, StepScaling, Topology, Vpc
from topologies.problem import Place, Problem, did_you_mean, one_subnet_a_zone
from topologies.routing import gwlb_appliances, gwlb_targets

#: What VM-Series publishes to CloudWatch, and what a scaling policy can follow.
METRICS = (
    "DataPlaneCPUUtilizationPct",
    "DataPlanePacketBufferUtilization",
    "panGPGatewayUtilizationPct",
    "panGPGWUtilizationActiveTunnels",
    "panSessionActive",
    "panSessionConnectionsPerSecond",
    "panSessionSslProxyUtilization",
    "panSessionThroughputKbps",
    "panSessionThroughputPps",
    "panSessionUtilization",
)
#: A load balancer node deals its new flows over this many slots, at least one for each target.
MOST_TARGETS = 256
MOST_STEPS = 20
IDLE_TIMEOUT = 350


def balancers(topology: Topology) -> Iterator[tuple[Place, str, GatewayLoadBalancer, Vpc]]:
    """Yield each load balancer whose VPC exists: its place, its name, itself, the VPC."""
    for name, gwlb in topology.gateway_load_balancers.items():
        if gwlb.vpc in topology.vpcs:
            yield ("gateway_load_balancers", name), name, gwlb, topology.vpcs[gwlb.vpc]


def node_zones(gwlb: GatewayLoadBalancer, vpc: Vpc) -> set[str]:
    """Return the AZs in which a load balancer has a node."""
    return {vpc.subnets[subnet].az for subnet in gwlb.subnets if subnet in vpc.subnets}


# -- load balancers and target groups ----------------------------------------------------------------------------


def balancers_have_nodes_and_targets(topology: Topology) -> Iterator[Problem]:
    """A load balancer has one node an AZ, and its targets are appliances of its own VPC in AZs with a node."""
    for name, gwlb in topology.gateway_load_balancers.items():
        if gwlb.vpc not in topology.vpcs:
            what = f"no VPC {gwlb.vpc!r}"
            yield Problem(("gateway_load_balancers", name), what, did_you_mean(gwlb.vpc, topology.vpcs), "vpc")
    for place, name, gwlb, vpc in balancers(topology):
        known = [subnet for subnet in gwlb.subnets if subnet in vpc.subnets]
        if known or not gwlb.subnets:
            yield from one_subnet_a_zone(place, gwlb.vpc, vpc, known)
        yield from registered(place, gwlb)
        zones, scaled = node_zones(gwlb, vpc), scaling_instances(gwlb)
        for appliance_name, appliance in gwlb.appliances.items():
            subnet = vpc.subnets.get(appliance.subnet)
            if subnet and zones and subnet.az not in zones and appliance_name not in scaled:
                what = f"in AZ {subnet.az}, where {name} has no node: it would get no traffic"
                remedy = f"add a subnet of AZ {subnet.az} to {name}"
                yield Problem((*place, "appliances", appliance_name), what, remedy, "subnet")
        for az in sorted(zones):
            count = len(gwlb_targets(topology, name, az))
            if count > MOST_TARGETS:
                what = f"{count} targets for the node in AZ {az}"
                remedy = f"the lab's node has {MOST_TARGETS} slots: register at most as many (AWS's quota is 300)"
                yield Problem((*place, "target_group"), what, remedy, "targets")


def registered(place: Place, gwlb: GatewayLoadBalancer) -> Iterator[Problem]:
    """Yield the problems of the list of registered targets. It may be empty: all can be deregistered."""
    targets = gwlb.target_group.targets
    place = (*place, "target_group")
    if not (gwlb.appliances or gwlb.auto_scaling_group):
        yield Problem(place, "no targets", "add appliances to the load balancer")
    for target, count in Counter(targets).items():
        if target not in gwlb.appliances:
            yield Problem(place, f"no appliance {target!r}", did_you_mean(target, gwlb.appliances), "targets")
        elif count > 1:
            yield Problem(place, f"{target} is registered {count} times", "keep one", "targets")


def attributes_agree(topology: Topology) -> Iterator[Problem]:
    """Attributes that depend on each other: health check, failover, stickiness, idle timeout, TCP reset."""
    for place, name, gwlb, _ in balancers(topology):
        group, place = gwlb.target_group, (*place, "target_group")
        check, failover = group.health_check, group.target_failover
        if check.timeout_seconds > check.interval_seconds:
            what = "Health check interval must be greater than or equal to the timeout"
            remedy = f"the interval is {check.interval_seconds} seconds: set timeout_seconds to no more"
            yield Problem((*place, "health_check"), what, remedy, "timeout_seconds")
        if failover.on_unhealthy != failover.on_deregistration:
            what = "target_failover.on_unhealthy and target_failover.on_deregistration must have the same value"
            remedy = f"they are {failover.on_unhealthy} and {failover.on_deregistration}: set both at once"
            yield Problem((*place, "target_failover"), what, remedy)
        if group.stickiness.enabled:
            yield from sticky(place, name, topology)
        for event in ("on_unhealthy", "on_deregistration"):
            if getattr(group.send_tcp_reset, event).enabled and (
                group.stickiness.enabled or "rebalance" in (failover.on_unhealthy, failover.on_deregistration)
            ):
                what = f"send_tcp_reset.{event}.enabled needs 5-tuple stickiness and no_rebalance"
                remedy = "set stickiness.enabled to false and both target_failover attributes to no_rebalance"
                yield Problem((*place, "send_tcp_reset"), what, remedy, event)


def sticky(place: Place, name: str, topology: Topology) -> Iterator[Problem]:
    """Yield what 3- and 2-tuple stickiness cannot be combined with: appliance mode, and another idle timeout."""
    gwlb = topology.gateway_load_balancers[name]
    kind = {"source_ip_dest_ip_proto": "3-tuple", "source_ip_dest_ip": "2-tuple"}[gwlb.target_group.stickiness.type]
    # Appliance mode matters where a packet comes from the Transit Gateway to an endpoint of this load balancer.
    homes = {gwlb.vpc} | {vpc_name for vpc_name, vpc in topology.vpcs.items() if serves(vpc, name)}
    for gateway in topology.transit_gateways.values():
        for attachment_name, attachment in gateway.attachments.items():
            if attachment.appliance_mode and attachment.vpc in homes:
                what = f"{kind} stickiness is not supported with Transit Gateway appliance mode ({attachment_name})"
                remedy = "set stickiness.enabled to false, which is 5-tuple, or turn off appliance mode"
                yield Problem((*place, "stickiness"), what, remedy, "enabled")
    if gwlb.tcp.idle_timeout.seconds != IDLE_TIMEOUT:
        what = f"tcp.idle_timeout.seconds can be changed with 5-tuple stickiness only, and this is {kind}"
        yield Problem(
            (*place, "stickiness"), what, f"set it to {IDLE_TIMEOUT}, or stickiness.enabled to false", "enabled"
        )


def serves(vpc: Vpc, gwlb: str) -> bool:
    return any(endpoint.service == gwlb for endpoint in vpc.endpoints.values())


# -- endpoint services -------------------------------------------------------------------------------------------


def services_serve(topology: Topology) -> Iterator[Problem]:
    """An endpoint's service exists and allows its account, and has a node and an appliance for its AZ."""
    for vpc_name, vpc in topology.vpcs.items():
        for name, endpoint in vpc.endpoints.items():
            place: Place = ("vpcs", vpc_name, "endpoints", name)
            gwlb = topology.gateway_load_balancers.get(endpoint.service)
            if gwlb is None:
                remedy = did_you_mean(endpoint.service, topology.gateway_load_balancers)
                yield Problem(place, f"no Gateway Load Balancer {endpoint.service!r}", remedy, "service")
                continue
            home, subnet = topology.vpcs.get(gwlb.vpc), vpc.subnets.get(endpoint.subnet)
            if home is None:
                continue
            if not principal_allowed(topology, endpoint.service, vpc.owner):
                what = f"The Vpc Endpoint Service '{endpoint.service}' does not exist for account {vpc.owner}"
                service = f"gateway_load_balancers.{endpoint.service}.endpoint_service"
                yield Problem(place, what, f"add the account to {service}.allowed_principals", "service")
            if subnet is None:
                continue
            if subnet.az not in node_zones(gwlb, home):
                remedy = f"add a subnet of AZ {subnet.az} to {endpoint.service}, or move the endpoint"
                yield Problem(place, f"in AZ {subnet.az}, where {endpoint.service} has no node", remedy, "subnet")
            elif not gwlb_appliances(topology, endpoint.service, subnet.az):
                what = f"{endpoint.service} has no target in AZ {subnet.az}, and cross-zone is off: all would be lost"
                remedy = f"add an appliance in AZ {subnet.az}, or set load_balancing.cross_zone.enabled to true"
                yield Problem(place, what, remedy, "subnet")


def connections_are_known(topology: Topology) -> Iterator[Problem]:
    """What a service has accepted or rejected are endpoints that connect to it; none is both."""
    for name, gwlb in topology.gateway_load_balancers.items():
        service, known = gwlb.endpoint_service, connections(topology, name)
        place = ("gateway_load_balancers", name, "endpoint_service")
        for key, endpoints in (("accepted", service.accepted), ("rejected", service.rejected)):
            for endpoint in endpoints:
                if endpoint not in known:
                    what = f"no endpoint {endpoint!r} connects to {name}"
                    yield Problem(place, what, did_you_mean(endpoint, known), key)
        for endpoint in service.accepted:
            if endpoint in service.rejected:
                yield Problem(place, f"{endpoint} is both accepted and rejected", "keep one", "rejected")


# -- auto scaling groups -----------------------------------------------------------------------------------------


def groups_can_scale(topology: Topology) -> Iterator[Problem]:
    """A group's sizes are in order, and its instances have places, in subnets of the load balancer's VPC."""
    for place, name, gwlb, vpc in balancers(topology):
        group, place = gwlb.auto_scaling_group, (*place, "auto_scaling_group")
        if group is None:
            continue
        least, most, desired = group.min_size, group.max_size, group.desired_capacity
        if least > most:
            what = f"Max bound, {most}, must be greater than or equal to min bound, {least}"
            yield Problem(place, what, "set max_size to no less than min_size", "max_size")
        elif not least <= desired <= most:
            what = f"Desired capacity:{desired} must be between the specified min size:{least} and max size:{most}"
            yield Problem(place, what, "choose one in between", "desired_capacity")
        for subnet in group.subnets:
            if subnet not in vpc.subnets:
                what = f"VPC {gwlb.vpc} has no subnet {subnet!r}"
                yield Problem(place, what, did_you_mean(subnet, vpc.subnets), "subnets")
            elif vpc.subnets[subnet].az not in node_zones(gwlb, vpc):
                what = (
                    f"{subnet} is in AZ {vpc.subnets[subnet].az}, where {name} has no node: no traffic would get there"
                )
                remedy = f"add a subnet of AZ {vpc.subnets[subnet].az} to {name}"
                yield Problem(place, what, remedy, "subnets")
        if not group.subnets:
            yield Problem(place, "no subnets", f"list at least one, such as those of {name}", "subnets")
        yield from places_exist(place, gwlb, group)
        yield from policies_are_sound(place, group)


def places_exist(place: Place, gwlb: GatewayLoadBalancer, group: AutoScalingGroup) -> Iterator[Problem]:
    """Yield the problems of a group's instances: numbered from 1, enough of them, in the group's subnets."""
    places = scaling_instances(gwlb)
    if places and len(places) < group.max_size:
        what = f"{group.max_size} instances, and places for {len(places)}: {places[0]} to {places[-1]}"
        yield Problem(place, what, "a lab's places are made when it is built: set max_size in the file", "max_size")
    numbered = [f"{group.name_prefix}{number}" for number in range(1, len(places) + 1)]
    for name in places:
        if name not in numbered:
            what = f"the name is an instance's of the auto scaling group, whose instances are 1 to {group.max_size}"
            yield Problem((*place[:-1], "appliances", name), what, "choose another")
        elif group.subnets and gwlb.appliances[name].subnet not in group.subnets:
            what = f"an instance of the auto scaling group in {gwlb.appliances[name].subnet}, which is not the group's"
            remedy = f"choose one of its subnets: {', '.join(group.subnets)}"
            yield Problem((*place[:-1], "appliances", name), what, remedy, "subnet")


def policies_are_sound(place: Place, group: AutoScalingGroup) -> Iterator[Problem]:
    """Yield the problems of a group's scaling policies: their metrics, and the steps."""
    for name, policy in group.scaling_policies.items():
        where = (*place, "scaling_policies", name)
        if policy.metric not in METRICS:
            what = f"VM-Series has no metric {policy.metric!r}"
            yield Problem(where, what, did_you_mean(policy.metric, METRICS), "metric")
        if isinstance(policy, StepScaling):
            yield from (Problem(where, what, remedy, "steps") for what, remedy in step_problems(policy))


def step_problems(policy: StepScaling) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with a policy's steps, and what to do: bounds are relative to the threshold."""
    steps = policy.steps
    if not steps:
        yield "At least one StepAdjustment must be specified", "add one, such as {lower: 0, adjustment: 1}"
    if len(steps) > MOST_STEPS:
        yield f"{len(steps)} step adjustments", f"AWS's quota is {MOST_STEPS}"
    if any(step.lower is None and step.upper is None for step in steps):
        yield "Both lower and upper bounds of a step adjustment cannot be left unspecified", "add `lower: 0`"
        return
    if policy.adjustment_type == "ExactCapacity" and any(step.adjustment < 0 for step in steps):
        yield "ExactCapacity with a negative adjustment", "give the number of instances"
    bounds = sorted(
        (-inf if step.lower is None else step.lower, inf if step.upper is None else step.upper) for step in steps
    )
    for lower, upper in bounds:
        if lower >= upper:
            yield f"the lower bound {lower:g} is not below the upper bound {upper:g}", "exchange them"
            return
    for (_, end), (start, _) in pairwise(bounds):
        if start < end:
            yield (
                f"Step adjustment intervals cannot overlap, and two do from {start:g}",
                "let one end where the next begins",
            )
        elif start > end:
            what = f"Step adjustment intervals cannot have gaps between them, and there is one at {end:g}"
            yield what, "let one end where the next begins"
    unspecified = (
        "There must be a StepAdjustment with an unspecified {0} bound when one StepAdjustment has a {1} {0} bound"
    )
    if bounds and -inf < bounds[0][0] < 0:
        yield unspecified.format("lower", "negative"), f"leave out `lower: {bounds[0][0]:g}`"
    if bounds and 0 < bounds[-1][1] < inf:
        yield unspecified.format("upper", "positive"), f"leave out `upper: {bounds[-1][1]:g}`"


PASSES = (
    balancers_have_nodes_and_targets,
    attributes_agree,
    services_serve,
    connections_are_known,
    groups_can_scale,
)
