"""The cloud's API as a firewall calls it at a failover, and the thread that does so.

``POST URL/ec2/ACTION`` with AWS's parameters in JSON, over the management network. An answer is a JSON object; a
refusal is ``{"error": one line}``. Network interfaces, route tables and instances are called by their names.

A failover moves secondary private addresses (``AssignPrivateIpAddresses`` with ``AllowReassignment``) or the
interfaces themselves (``DetachNetworkInterface``, ``AttachNetworkInterface``), and points routes at the new place
(``ReplaceRoute``); facts: Palo Alto Networks, "High Availability for VM-Series Firewall on AWS".
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections import deque
from collections.abc import Sequence
from functools import partial
from http.client import HTTPException
from ipaddress import IPv4Address, IPv4Network
from typing import Any
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

from firewall_vnf.config import FailoverPlan
from firewall_vnf.high_availability import Note

#: An interface's instance and secondary addresses.
Interface = tuple[str, frozenset[IPv4Address]]
NOTHING: Interface = ("", frozenset())


class CloudError(Exception):
    """The cloud refuses or does not answer: one line."""


class CloudApi:
    """The API at *url* (``http://ADDRESS:PORT``). Every call waits *timeout* seconds at most; raises CloudError."""

    def __init__(self, url: str, timeout: float = 2.0) -> None:
        self._url, self._timeout = url.rstrip("/"), timeout
        self._open = build_opener(ProxyHandler({})).open  # the management network is behind no proxy

    def assign_private_ip_addresses(self, interface: str, addresses: Sequence[IPv4Address]) -> None:
        """Move secondary addresses to *interface*, from wherever they are."""
        texts = [str(address) for address in addresses]
        self._call(
            "AssignPrivateIpAddresses",
            {"NetworkInterfaceId": interface, "PrivateIpAddresses": texts, "AllowReassignment": True},
        )

    def detach_network_interface(self, interface: str) -> None:
        self._call("DetachNetworkInterface", {"NetworkInterfaceId": interface})

    def attach_network_interface(self, interface: str, instance: str) -> None:
        self._call("AttachNetworkInterface", {"NetworkInterfaceId": interface, "InstanceId": instance})

    def replace_route(self, table: str, destination: IPv4Network, interface: str) -> None:
        """Point the route of *table* for *destination* at *interface*."""
        self._call(
            "ReplaceRoute",
            {"RouteTableId": table, "DestinationCidrBlock": str(destination), "NetworkInterfaceId": interface},
        )

    def describe_network_interfaces(self) -> dict[str, Interface]:
        """Return each interface's instance (empty while it has none) and secondary addresses."""
        answer = self._call("DescribeNetworkInterfaces", {})
        try:
            return {
                str(item["NetworkInterfaceId"]): (
                    str(item.get("Attachment", {}).get("InstanceId", "")),
                    frozenset(IPv4Address(one["PrivateIpAddress"]) for one in item["PrivateIpAddresses"][1:]),
                )
                for item in answer["NetworkInterfaces"]
            }
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CloudError(f"{self._url}: DescribeNetworkInterfaces: no description in the answer") from error

    def describe_route_tables(self) -> dict[tuple[str, IPv4Network], str]:
        """Return the interface that each route leads to, by table and destination; other routes are left out."""
        answer = self._call("DescribeRouteTables", {})
        try:
            return {
                (str(table["RouteTableId"]), IPv4Network(route["DestinationCidrBlock"])): str(
                    route["NetworkInterfaceId"]
                )
                for table in answer["RouteTables"]
                for route in table["Routes"]
                if "NetworkInterfaceId" in route
            }
        except (KeyError, TypeError, ValueError) as error:
            raise CloudError(f"{self._url}: DescribeRouteTables: no description in the answer") from error

    def _call(self, action: str, parameters: dict[str, Any]) -> dict[str, Any]:
        where = f"{self._url}: {action}"
        data = json.dumps(parameters).encode()
        request = Request(f"{self._url}/ec2/{action}", data, {"Content-Type": "application/json"})
        try:
            with self._open(request, timeout=self._timeout) as answer:
                content = json.loads(answer.read())
        except HTTPError as error:
            raise CloudError(f"{where}: {_refusal(error)}") from None
        except (OSError, HTTPException) as error:
            raise CloudError(f"{where}: no answer: {getattr(error, 'reason', None) or error}") from None
        except ValueError:
            raise CloudError(f"{where}: the answer is not JSON") from None
        if not isinstance(content, dict):
            raise CloudError(f"{where}: the answer is no JSON object")
        return content


def _refusal(error: HTTPError) -> str:
    with error, contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        return " ".join(str(json.loads(error.read())["error"]).split())
    return f"{error.code} {error.reason}"


class Failover:
    """Has the cloud do *plan* in a thread of its own, again until it works, and watches that it stays so.

    The :class:`firewall_vnf.ha_link.Cloud` of a pair. The API gives everything to whoever called last. If both call at
    once, each may get a part: who has the plan's first has won, and calls again for the rest. Who had it and has it no
    more, or did not get it in ``patience`` seconds, has lost.
    """

    def __init__(self, api: CloudApi, plan: FailoverPlan) -> None:
        self._api, self._plan = api, plan
        self._condition = threading.Condition()
        self._claims = 0  # counts up with each word of the pair: what was begun for an older one is given up
        self._wanted = self._due = self._closing = self._lost = False
        self._confirmed = 0  # the claim of which all was seen to be here
        self._notes: deque[Note] = deque()
        self._thread = threading.Thread(target=self._run, name="failover", daemon=True)
        self._thread.start()

    def claim(self) -> None:
        self._say(True)

    def release(self) -> None:
        self._say(False)

    def lost(self) -> bool:
        with self._condition:
            lost, self._lost = self._lost, False
        return lost

    def notes(self) -> list[Note]:
        return [self._notes.popleft() for _ in range(len(self._notes))]

    def close(self) -> None:
        """End the thread; a call under way is waited for."""
        with self._condition:
            self._closing = True
            self._condition.notify()
        self._thread.join()

    def _say(self, wanted: bool) -> None:
        with self._condition:
            self._claims += 1
            self._wanted = self._due = wanted
            self._lost = False
            self._condition.notify()

    def _run(self) -> None:
        failure = ""
        while (claim := self._next()) is not None:
            try:
                if self._move(claim):
                    self._watch(claim)
                failure = ""
            except CloudError as error:
                if str(error) != failure:
                    failure = str(error)
                    self._notes.append(Note("ha-cloud-error", "high", failure))
                self._pause(claim, self._plan.retry)

    def _next(self) -> int | None:
        """Wait for a claim; return its number, None at the end."""
        with self._condition:
            self._condition.wait_for(lambda: self._closing or self._wanted)
            return None if self._closing else self._claims

    def _pause(self, claim: int, seconds: float) -> bool:
        """Wait; return whether *claim* still counts."""
        with self._condition:
            return not self._condition.wait_for(lambda: self._closing or self._claims != claim, seconds)

    def _move(self, claim: int) -> bool:
        """Make the calls of a failover, unless that is done; return whether *claim* still counts."""
        plan, api = self._plan, self._api
        if not self._due:
            return True
        calls = [
            partial(api.assign_private_ip_addresses, interface, addresses)
            for interface, addresses in plan.addresses.items()
        ]
        attached = api.describe_network_interfaces() if plan.interfaces else {}
        for interface in plan.interfaces:
            instance, _ = attached.get(interface, NOTHING)
            if instance != plan.instance:
                if instance:
                    calls.append(partial(api.detach_network_interface, interface))
                calls.append(partial(api.attach_network_interface, interface, plan.instance))
        calls += [partial(api.replace_route, route.table, route.destination, route.interface) for route in plan.routes]
        for call in calls:
            if not self._pause(claim, 0):
                return False
            call()
        with self._condition:
            self._due = self._due and self._claims != claim
        self._notes.append(Note("ha-cloud-claim", "informational", "the cloud moves addresses and routes here"))
        return True

    def _watch(self, claim: int) -> None:
        """Look who has what, until it is lost, is to be claimed again, or *claim* counts no more. Raises CloudError."""
        plan = self._plan
        limit = time.monotonic() + plan.patience
        while True:
            confirmed = self._confirmed == claim
            here = self._here()
            if all(here):
                if not confirmed:
                    self._notes.append(Note("ha-cloud-done", "informational", "addresses and routes are here"))
                self._confirmed = claim
            elif confirmed or time.monotonic() > limit:
                self._confirmed = 0
                with self._condition:
                    if self._claims == claim:
                        self._lost, self._wanted, self._due = not here[0], here[0], here[0]
                return
            if not self._pause(claim, plan.watch if confirmed else min(plan.retry, plan.watch)):
                return

    def _here(self) -> list[bool]:
        """Return for each part of the plan, in the order of its calls, whether the cloud has it here."""
        plan = self._plan
        found = self._api.describe_network_interfaces()
        routes = self._api.describe_route_tables() if plan.routes else {}
        return [
            *(found.get(name, NOTHING)[1].issuperset(addresses) for name, addresses in plan.addresses.items()),
            *(found.get(name, NOTHING)[0] == plan.instance for name in plan.interfaces),
            *(routes.get((route.table, route.destination)) == route.interface for route in plan.routes),
        ]
