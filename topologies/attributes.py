"""An attribute of a resource by AWS's name: read, and set as AWS's ``modify-…-attributes`` do.

A resource goes by its name: a load balancer (its own attributes, its listener's, its target group's, and its endpoint
service's), an attachment of a Transit Gateway, an auto scaling group (its load balancer's name with ``-asg``). A value
is text, as in AWS's API. A change makes a new topology, and is refused if any rule of :mod:`topologies.validation` is
broken by it.

Words: a refused parameter of an API call is answered with the constraint that it breaks, as AWS does (``Value '600' at
'healthCheckIntervalSeconds' failed to satisfy constraint: …``). AWS's wording for a refused value of a dotted attribute
is not documented; the one here is ours, in AWS's manner.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from topologies.defaults import scaling_group_name
from topologies.endpoint_service import EndpointState, connections, endpoint_state
from topologies.model import (
    AutoScalingGroup,
    GatewayLoadBalancer,
    Resource,
    Topology,
    TransitGatewayVpcAttachment,
)
from topologies.problem import Place, did_you_mean
from topologies.validation import validate

#: Attributes by the model that holds them: AWS's name, and the way of keys to the value.
DOTTED = (
    (
        (),
        "load_balancing.cross_zone.enabled",
        "tcp.idle_timeout.seconds",
        "send_tcp_reset.on_idle_timeout.enabled",
    ),
    (
        ("target_group",),
        "stickiness.enabled",
        "stickiness.type",
        "target_failover.on_unhealthy",
        "target_failover.on_deregistration",
        "deregistration_delay.timeout_seconds",
        "send_tcp_reset.on_unhealthy.enabled",
        "send_tcp_reset.on_deregistration.enabled",
    ),
)
HEALTH_CHECK = ("target_group", "health_check")
ATTRIBUTES: dict[type[Resource], dict[str, Place]] = {
    GatewayLoadBalancer: {name: (*at, *name.split(".")) for at, *names in DOTTED for name in names}
    | {
        "HealthCheckProtocol": (*HEALTH_CHECK, "protocol"),
        "HealthCheckPort": (*HEALTH_CHECK, "port"),
        "HealthCheckPath": (*HEALTH_CHECK, "path"),
        "HealthCheckIntervalSeconds": (*HEALTH_CHECK, "interval_seconds"),
        "HealthCheckTimeoutSeconds": (*HEALTH_CHECK, "timeout_seconds"),
        "HealthyThresholdCount": (*HEALTH_CHECK, "healthy_threshold_count"),
        "UnhealthyThresholdCount": (*HEALTH_CHECK, "unhealthy_threshold_count"),
        "Matcher": (*HEALTH_CHECK, "matcher"),
        "AcceptanceRequired": ("endpoint_service", "acceptance_required"),
    },
    TransitGatewayVpcAttachment: {"ApplianceModeSupport": ("appliance_mode",)},
    AutoScalingGroup: {
        "MinSize": ("min_size",),
        "MaxSize": ("max_size",),
        "DesiredCapacity": ("desired_capacity",),
        "DefaultCooldown": ("default_cooldown",),
        "DefaultInstanceWarmup": ("default_instance_warmup",),
        "HealthCheckType": ("health_check_type",),
        "HealthCheckGracePeriod": ("health_check_grace_period",),
    },
}
#: How AWS writes a truth value; everywhere else ``true`` and ``false``.
TRUTH = {"ApplianceModeSupport": ("enable", "disable")}


class RefusedError(Exception):
    """A change that AWS would refuse: one line."""


class UnknownResourceError(RefusedError):
    """A resource that has no attributes, or does not exist."""


def attributes(topology: Topology, resource: str) -> dict[str, str]:
    """Return all attributes of a resource: value by AWS's name. Raises UnknownResourceError."""
    place, model = find(topology, resource)
    document = topology.model_dump()
    return {name: as_text(name, value_at(document, (*place, *way))) for name, way in ATTRIBUTES[model].items()}


def set_attribute(topology: Topology, resource: str, attribute: str, value: str) -> Topology:
    """Return the topology with one attribute changed. Raises as :func:`set_attributes`."""
    return set_attributes(topology, resource, {attribute: value})


def set_attributes(topology: Topology, resource: str, values: Mapping[str, str]) -> Topology:
    """Return the topology with several attributes of a resource changed at once: some depend on each other.

    Raises UnknownResourceError, or RefusedError for an attribute that the resource has not, a value out of range and
    a change that breaks a rule.
    """
    place, model = find(topology, resource)
    document = topology.model_dump()
    for name, text in values.items():
        if name not in ATTRIBUTES[model]:
            raise RefusedError(
                f"Attribute key '{shown(name)}' is not recognized; {did_you_mean(name, ATTRIBUTES[model])}"
            )
        *way, key = (*place, *ATTRIBUTES[model][name])
        value_at(document, tuple(way))[key] = parsed(name, text, field_at(model, ATTRIBUTES[model][name]))
    if model is GatewayLoadBalancer:
        document["gateway_load_balancers"][resource]["endpoint_service"]["accepted"] = accepted(
            topology, resource, document
        )
    changed = Topology.model_validate(document)
    problems = validate(changed)
    if problems:
        raise RefusedError(str(problems[0]))
    return changed


def find(topology: Topology, resource: str) -> tuple[Place, type[Resource]]:
    """Return where a resource with attributes is, and its model. Raises UnknownResourceError."""
    known: dict[str, tuple[Place, type[Resource]]] = {}
    for name, gwlb in topology.gateway_load_balancers.items():
        place = ("gateway_load_balancers", name)
        known[name] = place, GatewayLoadBalancer
        if gwlb.auto_scaling_group:
            known[scaling_group_name(name)] = (*place, "auto_scaling_group"), AutoScalingGroup
    for gateway_name, gateway in topology.transit_gateways.items():
        for name in gateway.attachments:
            at = ("transit_gateways", gateway_name, "attachments", name)
            known[name] = at, TransitGatewayVpcAttachment
    if resource not in known:
        raise UnknownResourceError(f"no resource '{shown(resource)}' with attributes; {did_you_mean(resource, known)}")
    return known[resource]


def accepted(topology: Topology, gwlb: str, document: dict[str, Any]) -> tuple[str, ...]:
    """Return the accepted endpoints: one that is available stays so when acceptance is required from now on.

    AWS PrivateLink guide: it is a request to connect that is accepted or rejected.
    """
    before = topology.gateway_load_balancers[gwlb].endpoint_service
    if (
        before.acceptance_required
        or not document["gateway_load_balancers"][gwlb]["endpoint_service"]["acceptance_required"]
    ):
        return before.accepted
    available = [
        name for name in connections(topology, gwlb) if endpoint_state(topology, name) is EndpointState.AVAILABLE
    ]
    return tuple(dict.fromkeys((*before.accepted, *available)))


# -- values ------------------------------------------------------------------------------------------------------


def value_at(document: Any, place: Place) -> Any:
    for key in place:
        document = document[key]
    return document


def field_at(model: type[BaseModel], way: Place) -> FieldInfo:
    """Return the model's field at the end of a way of keys."""
    *above, last = way
    for key in above:
        inner = model.model_fields[key].annotation
        assert isinstance(inner, type)
        assert issubclass(inner, BaseModel)
        model = inner
    return model.model_fields[last]


def as_text(name: str, value: object) -> str:
    if isinstance(value, bool):
        yes, no = TRUTH.get(name, ("true", "false"))
        return yes if value else no
    return str(value)


def parsed(name: str, text: str, field: FieldInfo) -> bool | int | str:
    """Return the value that a text means to a field, and nothing that the field would not take. Raises RefusedError."""

    def refused(words: str, constraint: str) -> RefusedError:
        if "." in name:
            return RefusedError(f"Attribute value '{shown(text)}' for '{name}' must be {words}")
        parameter = name[0].lower() + name[1:]
        return RefusedError(
            f"Value '{shown(text)}' at '{parameter}' failed to satisfy constraint: Member must {constraint}"
        )

    def limit(key: str) -> Any:
        return next((found for mark in field.metadata if (found := getattr(mark, key, None)) is not None), None)

    truth = TRUTH.get(name, ("true", "false"))
    literal = get_origin(field.annotation) is Literal
    values = truth if field.annotation is bool else get_args(field.annotation) if literal else ()
    if values and text not in values:
        raise refused(f"one of {', '.join(values)}", f"satisfy enum value set: [{', '.join(values)}]")
    if field.annotation is bool:
        return text == truth[0]
    if field.annotation is int:
        if not re.fullmatch("-?[0-9]{1,18}", text):
            raise refused("a number", "be a number")
        least, most = limit("ge"), limit("le")
        if least is not None and int(text) < least:
            raise refused(f"between {least} and {most}", f"have value greater than or equal to {least}")
        if most is not None and int(text) > most:
            raise refused(f"between {least} and {most}", f"have value less than or equal to {most}")
        return int(text)
    pattern, longest = limit("pattern"), limit("max_length")
    if longest is not None and len(text) > longest:
        raise refused(f"no longer than {longest}", f"have length less than or equal to {longest}")
    if pattern is not None and not re.fullmatch(pattern, text):
        raise refused(f"of the form {pattern}", f"satisfy regular expression pattern: {pattern}")
    return text


def shown(text: str) -> str:
    """Return a text as it may stand in a line: short, and printable."""
    short = text if len(text) <= 80 else f"{text[:80]}…"
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in short)
