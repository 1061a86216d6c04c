"""Who may connect to a service, and the state of each connection."""

from __future__ import annotations

from typing import Any

import pytest

from topologies.defaults import fill
from topologies.endpoint_service import EndpointState, connections, endpoint_state, principal_allowed
from topologies.loader import load_topology
from topologies.model import Topology
from topologies.validation import validate


def service(**attributes: Any) -> Topology:
    """Return the packaged topology with another endpoint service."""
    document = load_topology("gwlb").model_dump()
    document["gateway_load_balancers"]["gwlb"]["endpoint_service"] = attributes
    for vpc in document["vpcs"].values():
        vpc["owner"] = "111111111111"
    return Topology.model_validate(document)


@pytest.mark.parametrize(
    ("attributes", "state"),
    [
        ({}, EndpointState.AVAILABLE),
        ({"acceptance_required": True}, EndpointState.PENDING_ACCEPTANCE),
        ({"acceptance_required": True, "accepted": ["gwlbe1-b"]}, EndpointState.PENDING_ACCEPTANCE),
        ({"acceptance_required": True, "accepted": ["gwlbe1-a"]}, EndpointState.AVAILABLE),
        ({"acceptance_required": True, "rejected": ["gwlbe1-a"]}, EndpointState.REJECTED),
        ({"rejected": ["gwlbe1-a"]}, EndpointState.REJECTED),
    ],
)
def test_the_state_of_an_endpoint(attributes: dict[str, Any], state: EndpointState) -> None:
    topology = service(**attributes)
    assert endpoint_state(topology, "gwlbe1-a") is state
    assert validate(fill(topology)) == [], "an endpoint that is not available is valid"


def test_states_have_the_words_of_aws() -> None:
    assert {state.value for state in EndpointState} == {"available", "pendingAcceptance", "rejected"}


@pytest.mark.parametrize(
    ("principals", "allowed"),
    [
        ([], {"111111111111"}),
        (["222222222222"], {"111111111111", "222222222222"}),
        (["arn:aws:iam::333333333333:root"], {"111111111111", "333333333333"}),
        (["*"], {"111111111111", "222222222222", "333333333333"}),
    ],
)
def test_who_is_an_allowed_principal(principals: list[str], allowed: set[str]) -> None:
    topology = service(allowed_principals=principals)
    accounts = ("111111111111", "222222222222", "333333333333")
    assert {account for account in accounts if principal_allowed(topology, "gwlb", account)} == allowed


def test_connections_are_those_of_the_service() -> None:
    topology = service()
    assert connections(topology, "gwlb") == ["gwlbe1-a", "gwlbe1-b", "gwlbe2-a", "gwlbe2-b", "gwlbe3-a", "gwlbe3-b"]
    assert connections(topology, "other") == []


def test_what_does_not_exist_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        endpoint_state(service(), "gwlbe9")
    with pytest.raises(KeyError):
        principal_allowed(service(), "glwb", "111111111111")
