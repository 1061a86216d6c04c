"""An active/passive pair's settings, and the calls of its failover through the managed service and its API."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from controllers.management.api import cloud_application
from controllers.management.configuration import Configuration
from controllers.management.service import Service
from firewall_vnf.config import HaConfig
from firewall_vnf.high_availability import AGGRESSIVE, RECOMMENDED
from testbed.routed_firewall import floating_address, node_commands, pair_settings
from topologies.loader import load_topology
from topologies.model import Topology


def settings(name: str) -> HaConfig:
    topology = load_topology("active-passive")
    section = pair_settings(topology, topology.vpcs["security"], name, 10.0)
    return HaConfig.model_validate(section["high_availability"])


def test_both_ends_of_a_pair_agree() -> None:
    one, other = settings("fw1"), settings("fw2")
    assert (one.here, one.there) == (other.there, other.here)
    assert (one.group, one.secret) == (other.group, other.secret)
    assert one.priority < other.priority
    assert {name: [*map(str, found)] for name, found in other.plan.addresses.items()} == {
        "fw2-untrust": ["10.100.0.24"]
    }
    assert [(route.table, route.interface) for route in other.plan.routes] == [("security/tgw-attach-a", "fw2-trust")]
    assert other.scaled_plan.retry == other.plan.retry / 10


def test_the_links_of_a_pair_are_on_no_interface_that_moves() -> None:
    vpc = load_topology("active-passive").vpcs["security"]
    moving = {address for one in vpc.interfaces.values() for address in one.addresses}
    here = settings("fw1").here
    assert len(set(here.values())) == 2
    assert not moving & set(here.values())


def interface_pair() -> Topology:
    topology = load_topology("active-passive")
    vpc = topology.vpcs["security"]
    pair = vpc.high_availability["ha-a"].model_copy(update={"move": "interface"})
    vpc = vpc.model_copy(update={"high_availability": {**vpc.high_availability, "ha-a": pair}})
    return topology.model_copy(update={"vpcs": {**topology.vpcs, "security": vpc}})


def test_a_pair_whose_interfaces_move_is_configured_alike() -> None:
    topology = interface_pair()
    vpc = topology.vpcs["security"]
    one, other = (
        [line for line in node_commands(topology, vpc, name) if " dev ha" not in line] for name in ("fw1", "fw2")
    )
    assert one == other
    assert "ip address add 10.100.0.36/28 dev trust" in other
    assert node_commands(topology, vpc, "fw4") != node_commands(topology, vpc, "fw3")


def test_a_pair_goes_on_with_connections_that_were_the_peers_for_a_while() -> None:
    """The kernel remembers where they were, and would take what is further for invalid."""
    topology = load_topology("active-passive")
    commands = node_commands(topology, topology.vpcs["security"], "fw1")
    assert commands[-1] == "echo 1 > /proc/sys/net/netfilter/nf_conntrack_tcp_be_liberal"


def test_without_a_secondary_address_the_source_is_the_moving_interfaces() -> None:
    vpc = interface_pair().vpcs["security"]
    firewalls = {
        name: one.model_copy(update={"untrust": one.untrust.model_copy(update={"secondary_addresses": {}})})
        for name, one in vpc.firewalls.items()
    }
    vpc = vpc.model_copy(update={"firewalls": firewalls})
    assert [str(floating_address(vpc, name)) for name in ("fw1", "fw2", "fw4")] == [
        "10.100.0.20",
        "10.100.0.20",
        "10.100.1.21",
    ]


def test_a_pair_has_the_timers_of_its_profile() -> None:
    assert settings("fw1").timers == RECOMMENDED
    topology = interface_pair()
    pairs = topology.vpcs["security"].high_availability
    pairs["ha-a"] = pairs["ha-a"].model_copy(update={"timers": "aggressive"})
    section = pair_settings(topology, topology.vpcs["security"], "fw1", 1.0)["high_availability"]
    assert HaConfig.model_validate(section).timers == AGGRESSIVE


def test_pairs_of_a_vpc_are_different_groups() -> None:
    assert settings("fw1").group != settings("fw3").group


@pytest.fixture
def moment() -> list[float]:
    return [1000.0]


@pytest.fixture
def service(tmp_path: Path, moment: list[float]) -> Service:
    file = tmp_path / "topology.yaml"
    file.write_text(load_topology("active-passive").model_dump_json())
    names = {name: tmp_path / f"{name}.json" for name in ("state", "controller_status", "status", "events")}
    clock: Callable[[], float] = lambda: moment[0]  # noqa: E731
    return Service(Configuration(topology=file, time_scale=10.0, **names), clock)


def route(service: Service) -> str:
    (target,) = service.topology.vpcs["security"].route_tables["tgw-attach-a"].routes.values()
    return target


def test_a_call_takes_effect_after_the_clouds_delay(service: Service, moment: list[float]) -> None:
    body: dict[str, Any] = {
        "RouteTableId": "security/tgw-attach-a",
        "DestinationCidrBlock": "0.0.0.0/0",
        "NetworkInterfaceId": "fw2-trust",
    }
    service.call("ReplaceRoute", body)
    assert service.tick() == moment[0] + 1.0
    assert route(service) == "fw1-trust"
    service = Service(service.configuration, service.clock)  # it is killed, and another one goes on
    assert service.tick() == moment[0] + 1.0
    moment[0] += 1.0
    assert service.tick() is None
    assert route(service) == "fw2-trust"
    assert load_topology(str(service.configuration.topology)) == service.topology
    assert service.events.since(0)[-1].kind == "failover"
    assert service.memory["attachments"]["fw2-trust"] == ["security", "fw2", "trust"]


def test_firewalls_reach_no_other_part_of_the_api(service: Service) -> None:
    assert cloud_application(service).openapi()["paths"].keys() == {"/ec2/{action}"}
