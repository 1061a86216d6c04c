"""Moves of secondary addresses, interfaces and routes, on the packaged topology."""

from __future__ import annotations

import json
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any, Literal

import pytest

from controllers.management.network_interfaces import CallRefusedError, NetworkInterfaces
from topologies.loader import load_topology
from topologies.model import Topology
from topologies.validation import validate

FILE = Path(__file__).parents[4] / "topologies/active-passive.yaml"
MOVING, PUBLIC = IPv4Address("10.100.0.24"), IPv4Address("192.0.2.31")
ANY = IPv4Network("0.0.0.0/0")


class Cloud:
    """A lab's interfaces with a clock; ``texts`` are the changes' lines."""

    def __init__(self, move: Literal["secondary-ip", "interface"] = "secondary-ip", time_scale: float = 1.0) -> None:
        self.topology = load_topology(FILE)
        vpc = self.topology.vpcs["security"]
        pairs = {name: pair.model_copy(update={"move": move}) for name, pair in vpc.high_availability.items()}
        self.write(
            self.topology.model_copy(
                update={"vpcs": {**self.topology.vpcs, "security": vpc.model_copy(update={"high_availability": pairs})}}
            )
        )
        self.texts: list[str] = []
        self.interfaces = NetworkInterfaces(lambda: self.topology, self.write, time_scale)

    def write(self, topology: Topology, text: str = "") -> None:
        assert list(validate(topology)) == []
        self.topology = topology
        if text:
            self.texts.append(text)

    def assign(self, interface: str, now: float, address: IPv4Address = MOVING, reassign: bool = True) -> Any:
        return self.interfaces.call(
            "AssignPrivateIpAddresses",
            {"NetworkInterfaceId": interface, "PrivateIpAddresses": [str(address)], "AllowReassignment": reassign},
            now,
        )

    def route(self, interface: str, now: float, table: str = "security/tgw-attach-a", cidr: str = "0.0.0.0/0") -> Any:
        parameters = {"RouteTableId": table, "DestinationCidrBlock": cidr, "NetworkInterfaceId": interface}
        return self.interfaces.call("ReplaceRoute", parameters, now)

    def detach(self, interface: str) -> Any:
        return self.interfaces.call("DetachNetworkInterface", {"NetworkInterfaceId": interface}, 0.0)

    def attach(self, interface: str, instance: str, now: float) -> Any:
        parameters = {"NetworkInterfaceId": interface, "InstanceId": instance}
        return self.interfaces.call("AttachNetworkInterface", parameters, now)

    def secondary(self, firewall: str) -> dict[IPv4Address, IPv4Address | None]:
        return self.topology.vpcs["security"].firewalls[firewall].untrust.secondary_addresses

    def target(self) -> str:
        return self.topology.vpcs["security"].route_tables["tgw-attach-a"].routes[ANY]

    def described(self, interface: str) -> dict[str, Any]:
        items = self.interfaces.call("DescribeNetworkInterfaces", {}, 0.0)["NetworkInterfaces"]
        return next(item for item in items if item["NetworkInterfaceId"] == interface)


def test_an_address_moves_after_the_delay_and_its_public_one_follows() -> None:
    cloud = Cloud()
    answer = cloud.assign("fw2-untrust", 100.0)
    assert answer == {
        "NetworkInterfaceId": "fw2-untrust",
        "AssignedPrivateIpAddresses": [{"PrivateIpAddress": "10.100.0.24"}],
    }
    assert cloud.interfaces.due == 110.0
    cloud.interfaces.tick(109.9)
    assert (cloud.secondary("fw1"), cloud.secondary("fw2")) == ({MOVING: PUBLIC}, {})
    cloud.interfaces.tick(110.0)
    assert (cloud.secondary("fw1"), cloud.secondary("fw2")) == ({}, {MOVING: PUBLIC})
    assert cloud.texts == ["AssignPrivateIpAddresses: 10.100.0.24 is fw2-untrust's"]
    assert cloud.interfaces.due is None


def test_a_route_is_replaced_after_the_delay() -> None:
    cloud = Cloud(time_scale=10.0)
    assert cloud.route("fw2-trust", 0.0) == {"Return": True}
    cloud.interfaces.tick(0.9)
    assert cloud.target() == "fw1-trust"
    cloud.interfaces.tick(1.0)
    assert cloud.target() == "fw2-trust"


def test_the_last_caller_wins_also_over_what_is_under_way() -> None:
    cloud = Cloud()
    cloud.assign("fw2-untrust", 0.0)
    cloud.assign("fw1-untrust", 5.0)
    cloud.interfaces.tick(14.9)
    assert cloud.texts == []
    cloud.interfaces.tick(15.0)
    assert cloud.secondary("fw1") == {MOVING: PUBLIC}


def test_a_new_address_needs_no_reassignment() -> None:
    cloud = Cloud()
    new = IPv4Address("10.100.0.25")
    cloud.assign("fw2-untrust", 0.0, new, reassign=False)
    cloud.interfaces.tick(10.0)
    assert cloud.secondary("fw2") == {new: None}


def test_interfaces_change_places_and_routes_follow() -> None:
    cloud = Cloud("interface")
    before = cloud.topology.vpcs["security"].firewalls
    cloud.detach("fw1-trust")
    assert (cloud.described("fw1-trust")["Status"], "Attachment" in cloud.described("fw1-trust")) == (
        "available",
        False,
    )
    cloud.attach("fw1-trust", "fw2", 0.0)
    cloud.interfaces.tick(39.9)
    assert cloud.target() == "fw1-trust"
    cloud.interfaces.tick(40.0)
    after = cloud.topology.vpcs["security"].firewalls
    assert (after["fw2"].trust, after["fw1"].trust) == (before["fw1"].trust, before["fw2"].trust)
    assert cloud.target() == "fw2-trust"
    assert cloud.described("fw1-trust")["Attachment"] == {"InstanceId": "fw2", "Status": "attached"}
    # The next process knows where it is, and it can go back.
    cloud.interfaces = NetworkInterfaces(lambda: cloud.topology, cloud.write, 1.0, cloud.interfaces.attachments)
    cloud.detach("fw1-trust")
    cloud.attach("fw1-trust", "fw1", 50.0)
    cloud.interfaces.tick(90.0)
    assert cloud.topology.vpcs["security"].firewalls == before
    assert cloud.target() == "fw1-trust"


def test_what_is_described_is_awss_form() -> None:
    assert Cloud().described("fw1-untrust") == {
        "NetworkInterfaceId": "fw1-untrust",
        "SubnetId": "untrust-a",
        "Status": "in-use",
        "PrivateIpAddresses": [
            {"PrivateIpAddress": "10.100.0.20", "Primary": True},
            {"PrivateIpAddress": "10.100.0.24", "Primary": False, "Association": {"PublicIp": "192.0.2.31"}},
        ],
        "Attachment": {"InstanceId": "fw1", "Status": "attached"},
    }


def test_another_process_goes_on_with_what_is_under_way() -> None:
    cloud = Cloud("interface")
    cloud.detach("fw1-trust")
    cloud.attach("fw1-trust", "fw2", 5.0)
    cloud.detach("fw1-untrust")
    cloud.route("fw4-trust", 7.0, "security/tgw-attach-b")
    before = cloud.interfaces.calls
    cloud.interfaces = NetworkInterfaces(lambda: cloud.topology, cloud.write, 1.0, None, json.loads(json.dumps(before)))
    assert json.dumps(cloud.interfaces.calls) == json.dumps(before)
    assert cloud.described("fw1-untrust")["Status"] == "available"
    assert cloud.interfaces.due == 45.0
    cloud.interfaces.tick(47.0)
    assert cloud.target() == "fw2-trust"
    assert len(cloud.texts) == 2
    assert [action for _, action, _ in cloud.interfaces.calls] == ["DetachNetworkInterface"]


def test_routes_are_described_by_the_interface_that_they_lead_to_wherever_it_is() -> None:
    cloud = Cloud("interface")

    def described() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = cloud.interfaces.call("DescribeRouteTables", {}, 0.0)["RouteTables"]
        return found

    def routes(zone: str, interface: str) -> dict[str, Any]:
        route = {"DestinationCidrBlock": "0.0.0.0/0", "NetworkInterfaceId": interface}
        return {"RouteTableId": f"security/tgw-attach-{zone}", "VpcId": "security", "Routes": [route]}

    assert described() == [routes("a", "fw1-trust"), routes("b", "fw3-trust")]
    cloud.detach("fw1-trust")
    cloud.attach("fw1-trust", "fw2", 0.0)
    cloud.interfaces.tick(40.0)
    assert cloud.target() == "fw2-trust", "its place"
    assert described()[0] == routes("a", "fw1-trust")
    cloud.route("fw2-trust", 50.0)
    cloud.interfaces.tick(90.0)
    assert described()[0] == routes("a", "fw2-trust")


def refused(call: Any, *arguments: Any) -> str:
    with pytest.raises(CallRefusedError) as caught:
        call(*arguments)
    return str(caught.value)


def test_what_is_refused_says_why() -> None:
    cloud = Cloud()
    known = ", ".join(cloud.interfaces.attachments)
    assert refused(cloud.assign, "fw9-trust", 0.0) == (
        f"InvalidNetworkInterfaceID.NotFound: there is no interface 'fw9-trust'; there are {known}"
    )
    assert refused(cloud.assign, "fw2-untrust", 0.0, MOVING, False) == (
        "InvalidParameterValue: 10.100.0.24 is assigned to fw1-untrust; allow its reassignment"
    )
    assert refused(cloud.assign, "fw2-untrust", 0.0, IPv4Address("10.100.0.20")) == (
        "InvalidParameterValue: 10.100.0.20 is the primary address of fw1-untrust; only secondary ones move"
    )
    assert refused(cloud.assign, "fw2-trust", 0.0) == (
        "InvalidParameterValue: 10.100.0.24 is not in 10.100.0.32/28, the subnet of fw2-trust"
    )
    assert refused(cloud.route, "fw2-trust", 0.0, "tgw-attach-a") == (
        "InvalidRouteTableID.NotFound: 'tgw-attach-a'; write VPC/TABLE"
    )
    assert refused(cloud.route, "fw2-trust", 0.0, "spoke1/app") == (
        "InvalidParameterValue: fw2-trust is in security, not in spoke1"
    )
    assert refused(cloud.route, "fw2-trust", 0.0, "security/tgw-attach-a", "10.9.0.0/16") == (
        "InvalidParameterValue: there is no route 10.9.0.0/16 in security/tgw-attach-a to replace"
    )
    assert refused(cloud.attach, "fw1-trust", "fw2", 0.0) == (
        "InvalidNetworkInterface.InUse: fw1-trust is attached to fw1; detach it first"
    )
    cloud.detach("fw1-trust")
    assert refused(cloud.detach, "fw1-trust") == "IncorrectState: fw1-trust is not attached"
    assert refused(cloud.attach, "fw1-trust", "fw9", 0.0) == (
        "InvalidInstanceID.NotFound: security has no firewall 'fw9'; it has fw1, fw2, fw3, fw4"
    )
    call = cloud.interfaces.call
    assert refused(call, "RunInstances", {}, 0.0) == "InvalidAction: there is no action 'RunInstances' here"
    assert refused(call, "DetachNetworkInterface", {}, 0.0) == (
        "InvalidParameterValue: DetachNetworkInterface: NetworkInterfaceId: Field required"
    )
    assert refused(call, "DescribeNetworkInterfaces", {"Filters": []}, 0.0).startswith("InvalidParameterValue: ")
    assert cloud.interfaces.due is None
