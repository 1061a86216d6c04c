"""Attributes by AWS's names: all are there, a change is a new valid topology, a refusal is one line in AWS's manner."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from topologies.attributes import RefusedError, UnknownResourceError, attributes, set_attribute, set_attributes
from topologies.defaults import fill, scaling_instances
from topologies.endpoint_service import EndpointState, endpoint_state
from topologies.loader import load_topology
from topologies.model import Topology
from topologies.validation import validate


def edited(edit: Callable[[dict[str, Any]], None]) -> Topology:
    document = load_topology("gwlb").model_dump(exclude_unset=True)
    edit(document)
    return fill(Topology.model_validate(document))


def with_group(document: dict[str, Any]) -> None:
    gwlb = document["gateway_load_balancers"]["gwlb"]
    gwlb["auto_scaling_group"] = {"subnets": ["data-a", "data-b"], "name_prefix": "asg", "min_size": 1, "max_size": 4}


@pytest.fixture(scope="module")
def topology() -> Topology:
    return edited(with_group)


def without_appliance_mode(topology: Topology) -> Topology:
    return set_attribute(topology, "att-sec", "ApplianceModeSupport", "disable")


def test_all_attributes_have_the_defaults_of_aws(topology: Topology) -> None:
    plain = edited(lambda document: document["gateway_load_balancers"]["gwlb"].pop("target_group", None))
    assert attributes(plain, "gwlb") == {
        "load_balancing.cross_zone.enabled": "false",
        "tcp.idle_timeout.seconds": "350",
        "send_tcp_reset.on_idle_timeout.enabled": "false",
        "stickiness.enabled": "false",
        "stickiness.type": "source_ip_dest_ip_proto",
        "target_failover.on_unhealthy": "no_rebalance",
        "target_failover.on_deregistration": "no_rebalance",
        "deregistration_delay.timeout_seconds": "300",
        "send_tcp_reset.on_unhealthy.enabled": "false",
        "send_tcp_reset.on_deregistration.enabled": "false",
        "HealthCheckProtocol": "TCP",
        "HealthCheckPort": "80",
        "HealthCheckPath": "/",
        "HealthCheckIntervalSeconds": "10",
        "HealthCheckTimeoutSeconds": "5",
        "HealthyThresholdCount": "5",
        "UnhealthyThresholdCount": "2",
        "Matcher": "200-399",
        "AcceptanceRequired": "false",
    }
    assert attributes(topology, "att-sec") == {"ApplianceModeSupport": "enable"}
    assert attributes(topology, "att-spoke1") == {"ApplianceModeSupport": "disable"}
    assert attributes(topology, "gwlb-asg") == {
        "MinSize": "1",
        "MaxSize": "4",
        "DesiredCapacity": "1",
        "DefaultCooldown": "300",
        "DefaultInstanceWarmup": "300",
        "HealthCheckType": "EC2",
        "HealthCheckGracePeriod": "300",
    }


@pytest.mark.parametrize(
    ("resource", "attribute", "value"),
    [
        ("gwlb", "load_balancing.cross_zone.enabled", "true"),
        ("gwlb", "tcp.idle_timeout.seconds", "60"),
        ("gwlb", "tcp.idle_timeout.seconds", "6000"),
        ("gwlb", "send_tcp_reset.on_idle_timeout.enabled", "true"),
        ("gwlb", "stickiness.type", "source_ip_dest_ip"),
        ("gwlb", "deregistration_delay.timeout_seconds", "0"),
        ("gwlb", "deregistration_delay.timeout_seconds", "3600"),
        ("gwlb", "send_tcp_reset.on_unhealthy.enabled", "true"),
        ("gwlb", "send_tcp_reset.on_deregistration.enabled", "true"),
        ("gwlb", "HealthCheckProtocol", "HTTPS"),
        ("gwlb", "HealthCheckPort", "8443"),
        ("gwlb", "HealthCheckPath", "/health?deep=1"),
        ("gwlb", "HealthCheckIntervalSeconds", "300"),
        ("gwlb", "HealthCheckTimeoutSeconds", "2"),
        ("gwlb", "HealthyThresholdCount", "10"),
        ("gwlb", "UnhealthyThresholdCount", "4"),
        ("gwlb", "Matcher", "200,202,300-399"),
        ("gwlb", "AcceptanceRequired", "true"),
        ("att-sec", "ApplianceModeSupport", "disable"),
        ("gwlb-asg", "MinSize", "0"),
        ("gwlb-asg", "MaxSize", "3"),
        ("gwlb-asg", "DesiredCapacity", "4"),
        ("gwlb-asg", "DefaultCooldown", "0"),
        ("gwlb-asg", "DefaultInstanceWarmup", "60"),
        ("gwlb-asg", "HealthCheckType", "ELB"),
        ("gwlb-asg", "HealthCheckGracePeriod", "0"),
    ],
)
def test_an_attribute_is_changed_and_nothing_else(
    topology: Topology, resource: str, attribute: str, value: str
) -> None:
    before = attributes(topology, resource)
    changed = set_attribute(topology, resource, attribute, value)
    assert attributes(changed, resource) == before | {attribute: value}
    assert before == attributes(topology, resource) != attributes(changed, resource)
    assert validate(changed) == []


REFUSED: list[tuple[str, dict[str, str]]] = [
    ("gwlb", {"tcp.idle_timeout.seconds": "5"}),
    ("gwlb", {"deregistration_delay.timeout_seconds": "3601"}),
    ("gwlb", {"tcp.idle_timeout.seconds": "1e3"}),
    ("gwlb", {"stickiness.enabled": "yes\nno"}),
    ("gwlb", {"stickiness.type": "source_ip"}),
    ("gwlb", {"HealthCheckIntervalSeconds": "600"}),
    ("gwlb", {"HealthCheckTimeoutSeconds": "1"}),
    ("gwlb", {"HealthCheckProtocol": "UDP"}),
    ("gwlb", {"HealthCheckPath": "/\r\nHost: x"}),
    ("gwlb", {"HealthCheckPath": "/" * 1025}),
    ("att-sec", {"ApplianceModeSupport": "true"}),
    ("gwlb-asg", {"MinSize": "-1"}),
    ("gwlb-asg", {"DefaultCooldown": "soon"}),
    ("gwlb", {"stickiness.enable": "true"}),
    ("att-sec", {"tcp.idle_timeout.seconds": "60"}),
    ("gwlb", {"target_failover.on_unhealthy": "rebalance"}),
    ("gwlb", {"stickiness.enabled": "true"}),
    ("gwlb", {"HealthCheckIntervalSeconds": "5", "HealthCheckTimeoutSeconds": "6"}),
    ("gwlb-asg", {"DesiredCapacity": "5"}),
    ("gwlb-asg", {"MinSize": "5"}),
    ("gwlb-asg", {"MaxSize": "5"}),
]


def test_the_text_of_a_refusal(topology: Topology) -> None:
    """Golden, as the texts of a file's errors: ``BUMPWIRE_GOLDEN=write`` writes them anew."""
    lines = []
    for resource, changes in REFUSED:
        with pytest.raises(RefusedError) as caught:
            set_attributes(topology, resource, changes)
        lines.append(f"{resource} {', '.join(changes)}: {caught.value}")
    text = "\n".join(lines) + "\n"
    assert len(text.splitlines()) == len(REFUSED), "a refusal is one line"
    expected = Path(__file__).parent / "golden/refused-attributes.txt"
    if os.environ.get("BUMPWIRE_GOLDEN") == "write":
        expected.write_text(text)
    assert text == expected.read_text()


def test_an_unknown_resource_is_named_with_what_there_is(topology: Topology) -> None:
    for call in (lambda: attributes(topology, "gwbl"), lambda: set_attribute(topology, "gwbl", "MinSize", "1")):
        with pytest.raises(UnknownResourceError) as caught:
            call()
        assert str(caught.value) == "no resource 'gwbl' with attributes; did you mean gwlb?"
    with pytest.raises(UnknownResourceError) as caught:
        attributes(topology, "web1")
    expected = "no resource 'web1' with attributes; there are: gwlb, gwlb-asg, att-spoke1, att-spoke2, att-sec"
    assert str(caught.value) == expected


def test_what_depends_on_each_other_is_changed_at_once(topology: Topology) -> None:
    failover = dict.fromkeys(("target_failover.on_unhealthy", "target_failover.on_deregistration"), "rebalance")
    changed = set_attributes(topology, "gwlb", failover)
    assert attributes(changed, "gwlb") == attributes(topology, "gwlb") | failover
    sticky = set_attributes(without_appliance_mode(topology), "gwlb", {"stickiness.enabled": "true"})
    with pytest.raises(RefusedError, match="appliance mode"):
        set_attribute(sticky, "att-sec", "ApplianceModeSupport", "enable")
    with pytest.raises(RefusedError, match="with 5-tuple stickiness only"):
        set_attribute(sticky, "gwlb", "tcp.idle_timeout.seconds", "400")
    set_attributes(sticky, "gwlb", {"tcp.idle_timeout.seconds": "400", "stickiness.enabled": "false"})


def test_a_change_is_refused_as_a_whole(topology: Topology) -> None:
    with pytest.raises(RefusedError):
        set_attributes(topology, "gwlb", {"HealthCheckPort": "8080", "Matcher": "all"})
    assert attributes(topology, "gwlb")["HealthCheckPort"] == "80"


def test_what_is_connected_stays_so_when_acceptance_is_required(topology: Topology) -> None:
    endpoints = [name for vpc in topology.vpcs.values() for name in vpc.endpoints]
    changed = set_attribute(topology, "gwlb", "AcceptanceRequired", "true")
    assert {endpoint_state(changed, name) for name in endpoints} == {EndpointState.AVAILABLE}
    pending = edited(
        lambda document: document["gateway_load_balancers"]["gwlb"].update(
            endpoint_service={"acceptance_required": True, "allowed_principals": ["*"]}
        )
    )
    again = set_attribute(pending, "gwlb", "AcceptanceRequired", "true")
    assert {endpoint_state(again, name) for name in endpoints} == {EndpointState.PENDING_ACCEPTANCE}


def test_a_group_that_was_made_smaller_can_be_made_as_large_again(topology: Topology) -> None:
    smaller = set_attribute(topology, "gwlb-asg", "MaxSize", "2")
    assert scaling_instances(smaller.gateway_load_balancers["gwlb"]) == ("asg1", "asg2", "asg3", "asg4")
    assert set_attribute(smaller, "gwlb-asg", "MaxSize", "4") == topology


RESOURCES = ("gwlb", "gwlb-asg", "att-sec", "att-spoke1")
TOPOLOGY = edited(with_group)
NAMES = sorted({name for resource in RESOURCES for name in attributes(TOPOLOGY, resource)})
WORDS = ("true", "false", "enable", "disable", "rebalance", "source_ip_dest_ip", "TCP", "HTTP", "ELB", "/x", "200-299")
values = st.one_of(st.text(), st.sampled_from(WORDS), st.integers(-10, 7000).map(str), st.integers().map(str))


@settings(max_examples=200)
@given(
    st.sampled_from(RESOURCES) | st.text(max_size=5),
    st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=5), values, max_size=3),
)
def test_any_change_is_refused_in_one_line_or_valid(resource: str, changes: dict[str, str]) -> None:
    refusal, changed = "", None
    try:
        changed = set_attributes(TOPOLOGY, resource, changes)
    except RefusedError as error:
        refusal = str(error)
    if changed is None:
        assert refusal.isprintable()
        assert 0 < len(refusal) < 1000
    else:
        assert validate(changed) == []
        assert attributes(changed, resource).items() >= {
            (name, str(int(value)) if value.lstrip("-").isdigit() else value) for name, value in changes.items()
        }
        assert Topology.model_validate_json(changed.model_dump_json()) == changed
