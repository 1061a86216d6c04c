"""The client of the cloud's API and the failover's thread, against a server on loopback."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import pytest

from firewall_vnf.cloud_api import CloudApi, CloudError, Failover
from firewall_vnf.config import FailoverPlan, RouteTarget

MOVING = IPv4Address("10.100.0.24")
ROUTE = RouteTarget(table="security/tgw-a", destination=IPv4Network("0.0.0.0/0"), interface="fw2-trust")
PLAN = FailoverPlan(addresses={"fw2-untrust": (MOVING,)}, routes=(ROUTE,), retry=0.02, watch=0.02, patience=60)


class Cloud:
    """Has the secondary address at ``owner`` and the interface ``fw1-trust`` at ``instance``; ``calls`` are all."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.owner, self.instance, self.target = "fw1-untrust", "fw1", "fw1-trust"
        self.moves = True
        self.answer: tuple[int, bytes] | None = None
        cloud = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                parameters = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status, body = cloud.answer or (200, json.dumps(cloud.act(self.path, parameters)).encode())
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *arguments: object) -> None:
                """Nobody reads it."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()
        self.api = CloudApi(f"http://127.0.0.1:{self.server.server_port}/")

    def act(self, path: str, parameters: dict[str, Any]) -> dict[str, Any]:
        action = path.removeprefix("/ec2/")
        self.calls.append((action, parameters))
        if self.moves and action == "AssignPrivateIpAddresses":
            self.owner = parameters["NetworkInterfaceId"]
        if self.moves and action == "DetachNetworkInterface":
            self.instance = ""
        if self.moves and action == "AttachNetworkInterface":
            self.instance = parameters["InstanceId"]
        if self.moves and action == "ReplaceRoute":
            self.target = parameters["NetworkInterfaceId"]
        if action == "DescribeRouteTables":
            routes = [
                {"DestinationCidrBlock": "0.0.0.0/0", "NetworkInterfaceId": self.target},
                {"DestinationCidrBlock": "10.0.0.0/8", "GatewayId": "local"},
            ]
            return {"RouteTables": [{"RouteTableId": "security/tgw-a", "Routes": routes}]}
        if action != "DescribeNetworkInterfaces":
            return {"Return": True}
        return {
            "NetworkInterfaces": [
                {
                    "NetworkInterfaceId": name,
                    "PrivateIpAddresses": [{"PrivateIpAddress": "10.100.0.20"}]
                    + ([{"PrivateIpAddress": str(MOVING)}] if name == self.owner else []),
                    **({"Attachment": {"InstanceId": self.instance}} if self.instance else {}),
                }
                for name in ("fw1-untrust", "fw2-untrust", "fw1-trust")
            ]
        }

    def changes(self) -> list[str]:
        return [action for action, _ in self.calls if not action.startswith("Describe")]


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    cloud = Cloud()
    yield cloud
    cloud.server.shutdown()
    cloud.thread.join()
    cloud.server.server_close()


def wait_for(condition: Callable[[], object], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


class Running:
    """A failover at work; ``events`` are those of all its notes, ``texts`` their texts."""

    def __init__(self, cloud: Cloud, plan: FailoverPlan = PLAN) -> None:
        self.failover = Failover(cloud.api, plan)
        self.events: list[str] = []
        self.texts: list[str] = []

    def saw(self, event: str) -> bool:
        for note in self.failover.notes():
            self.events.append(note.event)
            self.texts.append(note.text)
        return event in self.events

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        self.failover.close()


def test_the_calls_are_awss(cloud: Cloud) -> None:
    cloud.api.assign_private_ip_addresses("fw2-untrust", [MOVING])
    cloud.api.detach_network_interface("fw1-trust")
    cloud.api.attach_network_interface("fw1-trust", "fw2")
    cloud.api.replace_route("security/tgw-a", IPv4Network("0.0.0.0/0"), "fw2-trust")
    assert cloud.calls == [
        (
            "AssignPrivateIpAddresses",
            {"NetworkInterfaceId": "fw2-untrust", "PrivateIpAddresses": ["10.100.0.24"], "AllowReassignment": True},
        ),
        ("DetachNetworkInterface", {"NetworkInterfaceId": "fw1-trust"}),
        ("AttachNetworkInterface", {"NetworkInterfaceId": "fw1-trust", "InstanceId": "fw2"}),
        (
            "ReplaceRoute",
            {
                "RouteTableId": "security/tgw-a",
                "DestinationCidrBlock": "0.0.0.0/0",
                "NetworkInterfaceId": "fw2-trust",
            },
        ),
    ]
    assert cloud.api.describe_network_interfaces()["fw2-untrust"] == ("fw2", frozenset({MOVING}))
    assert cloud.api.describe_route_tables() == {("security/tgw-a", IPv4Network("0.0.0.0/0")): "fw2-trust"}


@pytest.mark.parametrize(
    ("status", "body", "text"),
    [
        (400, b'{"error": "InvalidParameterValue: no such\\n address"}', "InvalidParameterValue: no such address"),
        (500, b"<html>", "500 Internal Server Error"),
        (200, b"<html>", "the answer is not JSON"),
        (200, b"[]", "the answer is no JSON object"),
        (200, b"{}", "no description in the answer"),
        (200, b'{"NetworkInterfaces": [{"NetworkInterfaceId": "x"}]}', "no description in the answer"),
    ],
)
def test_errors_are_one_line(cloud: Cloud, status: int, body: bytes, text: str) -> None:
    cloud.answer = status, body
    with pytest.raises(CloudError) as caught:
        cloud.api.describe_network_interfaces()
    port = cloud.server.server_port
    assert str(caught.value) == f"http://127.0.0.1:{port}: DescribeNetworkInterfaces: {text}"


def test_routes_that_are_not_described(cloud: Cloud) -> None:
    cloud.answer = 200, b'{"RouteTables": [{"RouteTableId": "x"}]}'
    with pytest.raises(CloudError, match=r": DescribeRouteTables: no description in the answer$"):
        cloud.api.describe_route_tables()


def test_a_cloud_that_does_not_answer_is_named() -> None:
    with pytest.raises(CloudError, match=r"(?i)^http://127.0.0.1:1: DetachNetworkInterface: no answer: .*refused"):
        CloudApi("http://127.0.0.1:1").detach_network_interface("fw1-trust")


def test_a_claim_moves_addresses_then_routes(cloud: Cloud) -> None:
    with Running(cloud) as running:
        assert cloud.calls == []
        running.failover.claim()
        wait_for(lambda: running.saw("ha-cloud-done"))
        assert running.events == ["ha-cloud-claim", "ha-cloud-done"]
    assert cloud.changes() == ["AssignPrivateIpAddresses", "ReplaceRoute"]


def test_interfaces_are_detached_and_attached_in_the_older_way(cloud: Cloud) -> None:
    with Running(cloud, FailoverPlan(instance="fw2", interfaces=("fw1-trust",), retry=0.02, watch=0.02)) as running:
        running.failover.claim()
        wait_for(lambda: running.saw("ha-cloud-done"))
        assert cloud.changes() == ["DetachNetworkInterface", "AttachNetworkInterface"]
        running.failover.claim()
        wait_for(lambda: running.saw("ha-cloud-done") and running.events.count("ha-cloud-done") == 2)
    assert len(cloud.changes()) == 2, "what is here is left alone"


def test_calls_are_made_again_until_the_cloud_answers(cloud: Cloud) -> None:
    cloud.answer = 503, b"busy"
    with Running(cloud) as running:
        running.failover.claim()
        wait_for(lambda: running.saw("ha-cloud-error"))
        cloud.answer = None
        wait_for(lambda: running.saw("ha-cloud-done"))
        assert running.events.count("ha-cloud-error") == 1, "said once, not with each try"
        assert not running.failover.lost()


def test_addresses_that_went_to_another_are_lost_once(cloud: Cloud) -> None:
    with Running(cloud) as running:
        running.failover.claim()
        wait_for(lambda: running.saw("ha-cloud-done"))
        cloud.owner = "fw1-untrust"
        wait_for(running.failover.lost)
        assert not running.failover.lost()
        calls = len(cloud.changes())
        running.failover.claim()
        wait_for(lambda: len(cloud.changes()) == calls + 2 and cloud.owner == "fw2-untrust")


def test_who_has_the_addresses_has_won_and_gets_the_routes(cloud: Cloud) -> None:
    """Both called at once: the one's call for the address was the last, and the other's for the route."""
    with Running(cloud) as running:
        running.failover.claim()
        wait_for(lambda: running.saw("ha-cloud-done"))
        cloud.target = "fw1-trust"
        wait_for(lambda: cloud.target == "fw2-trust")
        wait_for(lambda: running.saw("ha-cloud-done") and running.events.count("ha-cloud-done") == 2)
        assert not running.failover.lost()


def test_who_has_a_route_alone_has_lost(cloud: Cloud) -> None:
    with Running(cloud) as running:
        running.failover.claim()
        wait_for(lambda: running.saw("ha-cloud-done"))
        cloud.owner = "fw1-untrust"
        wait_for(running.failover.lost)
        assert cloud.target == "fw2-trust"


def test_without_addresses_the_routes_decide(cloud: Cloud) -> None:
    with Running(cloud, PLAN.model_copy(update={"addresses": {}})) as running:
        running.failover.claim()
        wait_for(lambda: running.saw("ha-cloud-done"))
        cloud.target = "fw1-trust"
        wait_for(running.failover.lost)


def test_a_loss_during_an_outage_of_the_cloud_is_noticed_after_it(cloud: Cloud) -> None:
    with Running(cloud) as running:
        running.failover.claim()
        wait_for(lambda: running.saw("ha-cloud-done"))
        cloud.answer = 503, b"busy"
        wait_for(lambda: running.saw("ha-cloud-error"))
        cloud.owner = "fw1-untrust"
        cloud.answer = None
        wait_for(running.failover.lost)


def test_a_move_that_never_takes_effect_is_a_loss(cloud: Cloud) -> None:
    cloud.moves = False
    with Running(cloud, PLAN.model_copy(update={"patience": 0.1})) as running:
        running.failover.claim()
        wait_for(running.failover.lost)


def test_a_released_claim_is_given_up(cloud: Cloud) -> None:
    cloud.answer = 503, b"busy"
    with Running(cloud) as running:
        running.failover.claim()
        wait_for(lambda: running.saw("ha-cloud-error"))
        running.failover.release()
        cloud.answer = None
        running.failover.close()
    assert cloud.owner == "fw1-untrust"
