"""What the endpoint is told of a topology, its counters' names, and its compiler's errors."""

from __future__ import annotations

import re
from ipaddress import IPv4Address

import pytest

from firewall_vnf.bpf_object import counter_meanings
from testbed.geneve_endpoint import SOURCE, Target, endpoint_configuration
from topologies.fabric import build_fabric, endpoint_index, mac_address
from topologies.ids import endpoint_ids
from topologies.loader import load_topology
from topologies.model import Topology


@pytest.fixture(scope="module")
def topology() -> Topology:
    return load_topology("gwlb")


def test_the_configuration_is_the_topologys(topology: Topology) -> None:
    configuration = endpoint_configuration(topology, build_fabric(topology), "gwlb")
    assert configuration.nodes == {1: IPv4Address("10.100.0.20"), 2: IPv4Address("10.100.1.20")}
    assert configuration.targets[3] == Target(IPv4Address("10.100.1.21"), mac_address("fw3"), "fw3")
    assert list(configuration.targets) == [1, 2, 3, 4]
    assert configuration.max_inner == 8500
    ids = endpoint_ids(topology)
    assert len(configuration.endpoints) == 6
    for name, index in endpoint_index(topology).items():
        assert f"vpce-{configuration.endpoints[index]:017x}" == ids[name]


def test_an_appliance_that_is_not_registered_is_known_all_the_same(topology: Topology) -> None:
    balancer = topology.gateway_load_balancers["gwlb"]
    group = balancer.target_group.model_copy(update={"targets": ("fw1", "fw4")})
    fewer = topology.model_copy(
        update={"gateway_load_balancers": {"gwlb": balancer.model_copy(update={"target_group": group})}}
    )
    configuration = endpoint_configuration(fewer, build_fabric(fewer), "gwlb")
    assert [target.interface for target in configuration.targets.values()] == ["fw1", "fw2", "fw3", "fw4"]


def test_endpoints_of_another_load_balancer_are_unknown(topology: Topology) -> None:
    security = topology.vpcs["security"]
    endpoints = {
        name: endpoint.model_copy(update={"service": "other"}) for name, endpoint in security.endpoints.items()
    }
    vpcs = topology.vpcs | {"security": security.model_copy(update={"endpoints": endpoints})}
    changed = topology.model_copy(update={"vpcs": vpcs})
    configuration = endpoint_configuration(changed, build_fabric(topology), "gwlb")
    numbers = endpoint_index(changed)
    assert set(configuration.endpoints) == {numbers[name] for name in numbers if not name.startswith("gwlbe3")}


def test_every_lab_has_a_key_of_its_own(topology: Topology) -> None:
    one, other = (endpoint_configuration(topology, build_fabric(topology), "gwlb") for _ in range(2))
    assert one.key != other.key
    assert one.key.hex() not in repr(one)


def test_every_counter_of_the_program_has_a_name_and_a_meaning() -> None:
    meanings = counter_meanings(SOURCE)
    enumeration = re.search(r"enum counter \{(.*?)\}", SOURCE.read_text(), re.DOTALL)
    assert enumeration is not None
    lines = [line for line in enumeration[1].splitlines() if line.strip()]
    assert lines[-1].strip() == "COUNTERS,"
    assert [line.split(",")[0].strip().lower() for line in lines[:-1]] == list(meanings)
    assert meanings["return_ttl"] == "outer time to live 0"
    used = set(re.findall(r"(?:drop|count)\((\w+)", SOURCE.read_text()))
    assert {name.upper() for name in meanings} <= used
