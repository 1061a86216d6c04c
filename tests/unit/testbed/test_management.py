"""The management network's plan, and what the managed service's process is started with."""

from __future__ import annotations

import json
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import pytest

from controllers.management.client import Management, ManagementError
from controllers.management.configuration import Configuration
from testbed import management
from testbed.management import ManagementProcess, appliance_commands, management_addresses, node_commands
from testbed.service import Service
from topologies.fabric import build_fabric
from topologies.loader import load_topology

LINKS = build_fabric(load_topology("gwlb")).appliance_links


def test_appliances_have_link_local_addresses_after_the_nodes_own() -> None:
    addresses = management_addresses(link.appliance for link in LINKS)
    assert {name: str(address) for name, address in addresses.items()} == {
        "fw1": "169.254.1.1",
        "fw2": "169.254.1.2",
        "fw3": "169.254.1.3",
        "fw4": "169.254.1.4",
    }
    assert all(address.is_link_local for address in (*addresses.values(), management.FIRST))
    assert str(management.FIRST) in management.STORE


def test_more_appliances_than_an_octet_holds_have_addresses_of_their_own() -> None:
    addresses = management_addresses(f"fw{number}" for number in range(512))
    assert len(set(addresses.values())) == 512
    network = IPv4Network((management.FIRST, management.PREFIX), strict=False)
    assert all(address in network for address in addresses.values())


def test_appliances_reach_the_node_and_not_each_other() -> None:
    commands = node_commands(["fw1", "fw2"])
    assert commands[:2] == ["ip link add network type bridge", "ip address add 169.254.1.0/16 dev network"]
    for name in ("fw1", "fw2"):
        assert f"ip link set {name} master network up" in commands
        assert f"ip link set {name} type bridge_slave isolated on" in commands
    assert appliance_commands(IPv4Address("169.254.1.2")) == [
        "ip address add 169.254.1.2/16 dev mgmt0",
        "ip link set mgmt0 up",
    ]


@pytest.fixture
def process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ManagementProcess:
    """The process, which is not started."""
    monkeypatch.setattr(Service, "start", lambda _: None)
    appliance = {"management_address": "169.254.1.1", "command": ["true"], "log": str(tmp_path / "output.log")}
    return ManagementProcess(tmp_path, 10, {"gwlb": 4711}, 4712, {"fw1": appliance})


def test_the_service_accepts_the_configuration_that_the_lab_writes(process: ManagementProcess, tmp_path: Path) -> None:
    option, file = process.arguments()
    assert option == "--config"
    written = Configuration.model_validate_json(Path(file).read_bytes())
    assert written.time_scale == 10
    assert (written.topology, written.state) == (tmp_path / "topology.yaml", tmp_path / "state.json")
    assert str(written.namespaces["gwlb"]) == "/proc/4711/ns/net"
    assert str(written.management_namespace) == "/proc/4712/ns/net"
    assert str(written.appliances["fw1"].management_address) == "169.254.1.1"


def test_before_it_listens_there_is_no_client(process: ManagementProcess, tmp_path: Path) -> None:
    with pytest.raises(ManagementError, match=r"^the management process does not listen yet$"):
        _ = process.client
    assert not process.all_healthy()
    (tmp_path / "management.json").write_text(json.dumps({"pid": 1, "port": 4713}))
    assert process.client.url == "http://127.0.0.1:4713"


@pytest.mark.parametrize(
    ("states", "healthy"),
    [
        (["healthy", "healthy"], True),
        (["healthy", "unused"], True),
        (["healthy", "initial"], False),
        (["unhealthy"], False),
        ([], False),
    ],
)
def test_whether_all_are_healthy(
    process: ManagementProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, states: list[str], healthy: bool
) -> None:
    def health(_: Management, gwlb: str) -> list[dict[str, Any]]:
        assert gwlb == "gwlb"
        return [{"state": state} for state in states]

    (tmp_path / "management.json").write_text(json.dumps({"port": 4713}))
    monkeypatch.setattr(Management, "health", health)
    assert process.all_healthy() is healthy
