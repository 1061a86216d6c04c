"""A client of the management process's HTTP API: one method an operation, answers as JSON's plain types.

The operations and their answers are described in :mod:`controllers.management.api`, and at ``/openapi.json``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from http.client import HTTPException
from typing import Any, Literal
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import ProxyHandler, Request, build_opener


class ManagementError(Exception):
    """The service refuses, or it does not answer: one line."""


class NoAnswerError(ManagementError):
    """It does not answer: it has ended, or hangs."""


class Management:
    """The managed service whose API listens on *port* of loopback. Every method raises ManagementError.

    *timeout* is how long an answer may take, in seconds. ``url`` is the API's, without a slash at the end.
    """

    def __init__(self, port: int, timeout: float = 10.0) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._timeout = timeout
        self._open = build_opener(ProxyHandler({})).open  # loopback is never behind a proxy

    def topology(self) -> dict[str, Any]:
        """Return the model as it is now, in the form of a topology file."""
        return self._object("GET", "/topology")

    def attributes(self, resource: str) -> dict[str, str]:
        """Return a resource's attributes by AWS's names."""
        return self._object("GET", f"/resources/{part(resource)}/attributes")

    def set_attributes(self, resource: str, values: Mapping[str, str]) -> dict[str, str]:
        """Change attributes of a resource, all or none; return all that it has then."""
        return self._object("PATCH", f"/resources/{part(resource)}/attributes", dict(values))

    def health(self, gwlb: str) -> list[dict[str, Any]]:
        """Return ``{"target", "az", "state", "reason", "description"}`` of each target of a load balancer."""
        return self._list("GET", f"/target-groups/{part(gwlb)}/health")

    def register(self, gwlb: str, targets: Iterable[str]) -> list[dict[str, Any]]:
        """Register targets; return the health of all."""
        return self._list("POST", f"/target-groups/{part(gwlb)}/targets", {"targets": list(targets)})

    def deregister(self, gwlb: str, targets: Iterable[str]) -> list[dict[str, Any]]:
        """Deregister targets; return the health of all."""
        return self._list("DELETE", f"/target-groups/{part(gwlb)}/targets", {"targets": list(targets)})

    def connections(self) -> list[dict[str, Any]]:
        """Return ``{"endpoint", "service", "vpc", "owner", "state"}`` of each VPC endpoint."""
        return self._list("GET", "/vpc-endpoint-connections")

    def accept(self, endpoint: str) -> list[dict[str, Any]]:
        """Accept an endpoint's connection; return all connections."""
        return self._list("POST", f"/vpc-endpoint-connections/{part(endpoint)}/accept")

    def reject(self, endpoint: str) -> list[dict[str, Any]]:
        """Reject an endpoint's connection; return all connections."""
        return self._list("POST", f"/vpc-endpoint-connections/{part(endpoint)}/reject")

    def auto_scaling_group(self, name: str) -> dict[str, Any]:
        """Return an auto scaling group: its sizes, instances and activities."""
        return self._object("GET", f"/auto-scaling-groups/{part(name)}")

    def set_desired_capacity(self, name: str, capacity: int) -> dict[str, Any]:
        """Set how many instances a group shall have; return the group."""
        return self._object(
            "POST", f"/auto-scaling-groups/{part(name)}/desired-capacity", {"desired_capacity": capacity}
        )

    def complete_lifecycle(
        self, name: str, instance: str, hook: Literal["launch", "terminate"], result: Literal["CONTINUE", "ABANDON"]
    ) -> dict[str, Any]:
        """Complete the lifecycle action that an instance waits for; return the group."""
        place = f"/auto-scaling-groups/{part(name)}/instances/{part(instance)}/lifecycle/{part(hook)}/complete"
        return self._object("POST", place, {"result": result})

    def events(self, since: int = 0) -> list[dict[str, Any]]:
        """Return ``{"number", "time", "kind", "resource", "text"}`` of each event after number *since*."""
        events: list[dict[str, Any]] = self._object("GET", f"/events?since={since}")["events"]
        return events

    def metrics_text(self) -> str:
        """Return the load balancers' and the firewalls' metrics as Prometheus text."""
        return self._request("GET", "/metrics").decode()

    def _object(self, method: str, place: str, body: object = None) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(self._request(method, place, body))
        return content

    def _list(self, method: str, place: str, body: object = None) -> list[dict[str, Any]]:
        content: list[dict[str, Any]] = json.loads(self._request(method, place, body))
        return content

    def _request(self, method: str, place: str, body: object = None) -> bytes:
        data = None if body is None else json.dumps(body).encode()
        request = Request(self.url + place, data, {"Content-Type": "application/json"}, method=method)
        try:
            with self._open(request, timeout=self._timeout) as answer:
                content: bytes = answer.read()
        except HTTPError as error:
            raise ManagementError(reason(error)) from None
        except (OSError, HTTPException) as error:
            cause = getattr(error, "reason", error)
            why = getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
            raise NoAnswerError(f"the management process at {self.url} does not answer: {why}") from None
        return content


def part(name: str) -> str:
    """Return a name as one part of an address."""
    return quote(name, safe="")


def reason(error: HTTPError) -> str:
    """Return what the service says against a request."""
    with error:
        try:
            return str(json.loads(error.read())["error"])
        except (OSError, ValueError, KeyError, TypeError):
            return f"the management process answers {error.code} {error.reason}"
