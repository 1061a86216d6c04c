"""Who may connect to a load balancer's endpoint service, and the state of each connection.

Facts: AWS PrivateLink guide, share your services (allowed principals: an account's number, its root's ARN, or ``*``;
acceptance; pending and rejected endpoints carry no traffic), EC2 API, ``VpcEndpoint.State``.
"""

from __future__ import annotations

from enum import Enum

from topologies.model import Topology, Vpc, VpcEndpoint


class EndpointState(str, Enum):
    """The state of a VPC endpoint, in AWS's words."""

    AVAILABLE = "available"
    PENDING_ACCEPTANCE = "pendingAcceptance"
    REJECTED = "rejected"


def endpoint_state(topology: Topology, endpoint: str) -> EndpointState:
    """Return the state of an endpoint's connection. Raises KeyError for an endpoint or a service that does not exist.

    The owner of a service can reject a connection whether acceptance is required or not.
    """
    _, item = home(topology, endpoint)
    service = topology.gateway_load_balancers[item.service].endpoint_service
    if endpoint in service.rejected:
        return EndpointState.REJECTED
    if service.acceptance_required and endpoint not in service.accepted:
        return EndpointState.PENDING_ACCEPTANCE
    return EndpointState.AVAILABLE


def principal_allowed(topology: Topology, service: str, account: str) -> bool:
    """Return whether an account may make endpoints to a service: the owner of the load balancer's VPC always may.

    Raises KeyError for a load balancer, or a VPC of one, that does not exist.
    """
    gwlb = topology.gateway_load_balancers[service]
    welcome = {"*", account, f"arn:aws:iam::{account}:root"}
    return account == topology.vpcs[gwlb.vpc].owner or not welcome.isdisjoint(gwlb.endpoint_service.allowed_principals)


def connections(topology: Topology, service: str) -> list[str]:
    """Return the endpoints that name a service, in the order of the topology."""
    return [
        name
        for vpc in topology.vpcs.values()
        for name, endpoint in vpc.endpoints.items()
        if endpoint.service == service
    ]


def home(topology: Topology, endpoint: str) -> tuple[Vpc, VpcEndpoint]:
    """Return an endpoint and the VPC that it is in. Raises KeyError."""
    for vpc in topology.vpcs.values():
        if endpoint in vpc.endpoints:
            return vpc, vpc.endpoints[endpoint]
    raise KeyError(endpoint)
