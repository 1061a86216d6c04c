"""The managed service's HTTP API: what AWS's calls do, on loopback, in JSON; described at ``/openapi.json``.

Every operation is done, and its files are written, when it is answered. An error is ``{"error": one line}``: 400 for a
request that is refused, in AWS's words where it has any, 404 for a name that nothing has, with what there is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, FastAPI, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from pydantic import BaseModel, ConfigDict, Field, StrictInt
from starlette.exceptions import HTTPException

from controllers.management.auto_scaling import LifecycleState, ScalingError
from controllers.management.metrics import exposition, gateway_elb, vm_series
from controllers.management.network_interfaces import CallRefusedError
from controllers.management.scaling import Scaling
from controllers.management.service import RequestRefusedError, Service, UnknownNameError
from controllers.management.telemetry import Telemetry
from controllers.state import TargetState
from controllers.statistics import Statistics, statistics_file
from topologies.endpoint_service import EndpointState
from topologies.model import Topology


class Content(BaseModel):
    """What the bodies share: nothing unknown in them."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class Error(Content):
    """Why a request was refused."""

    error: str
    """One line: what, where, what to do."""


class TargetDescription(Content):
    """The health of a target as the load balancer node of one Availability Zone sees it (DescribeTargetHealth)."""

    target: str
    az: str
    state: TargetState
    reason: str | None
    """AWS's code, such as `Target.FailedHealthChecks`; null when healthy."""
    description: str | None


class Targets(Content):
    """Appliances of a load balancer, by name."""

    targets: list[str] = Field(min_length=1)


class Connection(Content):
    """An endpoint's connection to its endpoint service (DescribeVpcEndpointConnections)."""

    endpoint: str
    service: str
    """The load balancer whose endpoint service it is."""
    vpc: str
    owner: str
    """The account that owns the endpoint."""
    state: EndpointState


class InstanceDescription(Content):
    """An instance of an auto scaling group. Times are Unix time."""

    name: str
    az: str
    lifecycle_state: LifecycleState
    health: Literal["Healthy", "Unhealthy"]
    launched: float
    in_service: float | None


class ActivityDescription(Content):
    """A scaling activity (DescribeScalingActivities). Times are Unix time."""

    number: int
    instance: str
    description: str
    cause: str
    start_time: float
    status_code: str
    status_message: str | None
    end_time: float | None


class GroupDescription(Content):
    """An auto scaling group (DescribeAutoScalingGroups); activities, latest first."""

    name: str
    min_size: int
    max_size: int
    desired_capacity: int
    instances: list[InstanceDescription]
    activities: list[ActivityDescription]


class DesiredCapacity(Content):
    """How many instances a group shall have."""

    desired_capacity: StrictInt


class LifecycleResult(Content):
    """How a lifecycle action ended."""

    result: Literal["CONTINUE", "ABANDON"]


class EventDescription(Content):
    """Something that happened."""

    number: int
    time: float
    """Unix time."""
    kind: Literal["registration", "health", "attribute", "endpoint", "scaling", "failover", "service"]
    resource: str
    text: str


class EventList(Content):
    """Events in order."""

    events: list[EventDescription]


Attributes = dict[str, str]
RESOURCE = "A load balancer, an attachment, or an auto scaling group (its load balancer's name and `-asg`)"
ResourceName = Annotated[str, Path(description=RESOURCE)]
BalancerName = Annotated[str, Path(description="A load balancer, whose target group is meant")]
EndpointName = Annotated[str, Path(description="A VPC endpoint")]
GroupName = Annotated[str, Path(description="An auto scaling group: its load balancer's name and `-asg`")]

NOT_FOUND: dict[int | str, dict[str, Any]] = {404: {"model": Error, "description": "Nothing has that name"}}
REFUSED: dict[int | str, dict[str, Any]] = {400: {"model": Error, "description": "The request is refused"}, **NOT_FOUND}
TEXT: dict[int | str, dict[str, Any]] = {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}}


def application(service: Service, scaling: Scaling, telemetry: Telemetry) -> FastAPI:
    """Return the ASGI application that serves *service*. Requests are handled in the event loop, one after another."""
    api = FastAPI(
        title="Bumpwire's managed services",
        description="Elastic load balancing, auto scaling and endpoint services of a running lab.",
        version="1",
        docs_url=None,
        redoc_url=None,
        generate_unique_id_function=lambda route: route.name,
    )
    api.include_router(load_balancing(service))
    api.include_router(auto_scaling(scaling))
    api.include_router(observation(service, telemetry))
    api.include_router(network_interfaces(service))
    return refusing(api)


def cloud_application(service: Service) -> FastAPI:
    """Return the part of the API that firewalls reach: the calls that a failover makes, and nothing else."""
    api = FastAPI(title="Bumpwire's cloud", version="1", docs_url=None, redoc_url=None)
    api.include_router(network_interfaces(service))
    return refusing(api)


def refusing(api: FastAPI) -> FastAPI:
    """Return *api*, which answers errors as this module says."""
    handlers: list[tuple[type[Exception], Callable[[Request, Any], JSONResponse]]] = [
        (UnknownNameError, lambda _, error: failure(404, str(error))),
        (CallRefusedError, lambda _, error: failure(400, str(error))),
        (RequestRefusedError, lambda _, error: failure(400, str(error))),
        (ScalingError, lambda _, error: failure(400, str(error))),
        (RequestValidationError, lambda _, error: failure(400, one_line(error))),
        (
            HTTPException,
            lambda request, error: failure(error.status_code, f"{request.url.path}: {error.detail}; see /openapi.json"),
        ),
    ]
    for kind, handler in handlers:
        api.add_exception_handler(kind, handler)
    describe = api.openapi
    api.openapi = lambda: without_422(describe())  # type: ignore[method-assign]
    return api


def load_balancing(service: Service) -> APIRouter:
    """Attributes, targets, and the connections of endpoints."""
    router = APIRouter(tags=["Load balancing"])

    @router.get("/topology", response_model=Topology)
    async def topology() -> Response:
        """Return the model as it is now, in the form of a topology file."""
        return Response(service.topology.model_dump_json(), media_type="application/json")

    @router.get("/resources/{resource}/attributes", responses=NOT_FOUND)
    async def attributes(resource: ResourceName) -> Attributes:
        """Return a resource's attributes by AWS's names."""
        return service.attributes(resource)

    @router.patch("/resources/{resource}/attributes", responses=REFUSED)
    async def set_attributes(resource: ResourceName, values: Annotated[Attributes, Body()]) -> Attributes:
        """Change attributes, all that are given or none; return all that the resource has then."""
        service.set_attributes(resource, values)
        return service.attributes(resource)

    @router.get("/target-groups/{gwlb}/health", responses=NOT_FOUND)
    async def target_health(gwlb: BalancerName) -> list[TargetDescription]:
        """Return the health of each target in each zone whose load balancer node uses it."""
        return [TargetDescription.model_validate(one) for one in service.health(gwlb)]

    @router.post("/target-groups/{gwlb}/targets", responses=REFUSED)
    async def register_targets(gwlb: BalancerName, body: Targets) -> list[TargetDescription]:
        """Register targets: they are checked at once, and get new flows when they are healthy."""
        service.register(gwlb, body.targets)
        return await target_health(gwlb)

    @router.delete("/target-groups/{gwlb}/targets", responses=REFUSED)
    async def deregister_targets(gwlb: BalancerName, body: Targets) -> list[TargetDescription]:
        """Deregister targets: they get no new flow, and keep theirs while they drain."""
        service.deregister(gwlb, body.targets)
        return await target_health(gwlb)

    @router.get("/vpc-endpoint-connections")
    async def vpc_endpoint_connections() -> list[Connection]:
        """Return the connection of each VPC endpoint to its endpoint service."""
        return [Connection.model_validate(one) for one in service.connections()]

    @router.post("/vpc-endpoint-connections/{endpoint}/accept", responses=REFUSED)
    async def accept_vpc_endpoint_connection(endpoint: EndpointName) -> list[Connection]:
        """Accept a connection, as the owner of the endpoint service."""
        service.accept(endpoint)
        return await vpc_endpoint_connections()

    @router.post("/vpc-endpoint-connections/{endpoint}/reject", responses=REFUSED)
    async def reject_vpc_endpoint_connection(endpoint: EndpointName) -> list[Connection]:
        """Reject a connection, also one that was accepted: from now on it carries nothing."""
        service.reject(endpoint)
        return await vpc_endpoint_connections()

    return router


def auto_scaling(scaling: Scaling) -> APIRouter:
    """Groups of instances."""
    router = APIRouter(tags=["Auto scaling"])

    @router.get("/auto-scaling-groups/{name}", responses=NOT_FOUND)
    async def auto_scaling_group(name: GroupName) -> GroupDescription:
        """Return a group's sizes, instances and activities."""
        return GroupDescription.model_validate(scaling.describe(name))

    @router.post("/auto-scaling-groups/{name}/desired-capacity", responses=REFUSED)
    async def set_desired_capacity(name: GroupName, body: DesiredCapacity) -> GroupDescription:
        """Set how many instances the group shall have, within its sizes."""
        scaling.set_desired_capacity(name, body.desired_capacity)
        return await auto_scaling_group(name)

    @router.post("/auto-scaling-groups/{name}/instances/{instance}/lifecycle/{hook}/complete", responses=REFUSED)
    async def complete_lifecycle_action(
        name: GroupName,
        instance: Annotated[str, Path(description="An instance of the group")],
        hook: Annotated[Literal["launch", "terminate"], Path(description="The hook that it waits for")],
        body: LifecycleResult,
    ) -> GroupDescription:
        """Let an instance go on that waits for a lifecycle hook, or with ABANDON give its launch up."""
        scaling.complete(name, instance, hook, body.result)
        return await auto_scaling_group(name)

    return router


def observation(service: Service, telemetry: Telemetry) -> APIRouter:
    """Events and metrics."""
    router = APIRouter(tags=["Observation"])

    @router.get("/events")
    async def events(
        since: Annotated[int, Query(ge=0, description="The number of the last event that is known already")] = 0,
    ) -> EventList:
        """Return what happened after an event."""
        found = [EventDescription.model_validate(asdict(event)) for event in service.events.since(since)]
        return EventList(events=found)

    @router.get("/metrics", response_class=PlainTextResponse, responses=TEXT)
    async def metrics() -> str:
        """Return the load balancers' and the firewalls' metrics as Prometheus text."""
        samples = await telemetry.read(service.configuration.appliances)
        firewalls = vm_series({name: sample.values for name, sample in samples.items()})
        statistics = Statistics.load(statistics_file(service.configuration.controller_status))
        states = {
            gwlb: [(str(one["az"]), str(one["state"])) for one in service.health(gwlb)] for gwlb in service.groups
        }
        return exposition([*gateway_elb(service.topology, states, statistics), *firewalls])

    return router


def network_interfaces(service: Service) -> APIRouter:
    """Calls of AWS's EC2 API, by which a pair of firewalls moves addresses, interfaces and routes."""
    router = APIRouter(tags=["Network interfaces"])

    @router.post("/ec2/{action}", responses=REFUSED)
    async def ec2(
        action: Annotated[str, Path(description="AWS's name, such as `AssignPrivateIpAddresses`")],
        parameters: Annotated[dict[str, Any], Body()],
    ) -> dict[str, Any]:
        """Do a call; it takes effect when the cloud's delay is over."""
        return service.call(action, parameters)

    return router


def failure(status: int, text: str) -> JSONResponse:
    return JSONResponse({"error": " ".join(text.split())}, status)


def one_line(error: RequestValidationError) -> str:
    """Return what is wrong with a request, and where."""
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    return f"{place}: {first['msg']}"


def without_422(document: dict[str, Any]) -> dict[str, Any]:
    """Return the description without the answer that FastAPI gives to a wrong body: here that is a 400."""
    for operations in document["paths"].values():
        for operation in operations.values():
            operation["responses"].pop("422", None)
    for name in ("HTTPValidationError", "ValidationError"):
        document["components"]["schemas"].pop(name, None)
    return document
