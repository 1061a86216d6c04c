"""What the managed service's rows are made of: samples, topologies, texts of Open vSwitch, datagrams."""

from __future__ import annotations

import os
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from rich.console import Console

from testbed import bench_service
from testbed.bench import Target, target_table
from testbed.bench_service import FEW, GWLB, MANY, ServiceBench, number_of, receives, unhealthy_at, with_appliances
from testbed.probes import datagrams
from testbed.probes.child import Node, ProbeError
from testbed.progress import Narrator
from testbed.results import new_results
from topologies.loader import load_topology
from topologies.validation import validate


@pytest.fixture
def bench(tmp_path: Path) -> ServiceBench:
    """Three rounds in which everything is as promised, but not by much."""
    results = new_results("bench", "", tmp_path, datetime(2026, 1, 1))
    made = ServiceBench(results, Narrator(Console(quiet=True)), load_topology("gwlb"), rounds=3, seconds=1)
    made.samples |= {
        bench_service.INTERVAL: [0.5],
        bench_service.CONFIGURED: [1.5],
        bench_service.OUTAGE: [1.2, 1.59, 9.0],
        bench_service.AFTER_EVENT: [-0.1, 0.09, 9.0],
        bench_service.REGISTRATION: [0.1, 1.09, 9.0],
        bench_service.FLOWS_LOST: [0, 0, 0],
        bench_service.DATAGRAMS_LOST: [0, 0, 0],
        bench_service.throughput(FEW): [0.5e9, 1e9, 2e9],
        bench_service.throughput(MANY): [0.5e9, 0.96e9, 2e9],
        bench_service.held(MANY): [100_000, 100_000, 100_000],
        bench_service.used(MANY): [64, 64, 64],
    }
    return made


def verdicts(targets: Iterator[Target]) -> list[str]:
    return [row[-1] for row in target_table(targets).rows]


def test_what_is_promised_is_met(bench: ServiceBench) -> None:
    assert verdicts(bench.targets()) == ["met"] * 8


@pytest.mark.parametrize(
    ("figure", "values", "row"),
    [
        (bench_service.OUTAGE, [1.2, 1.61, 9.0], 0),
        (bench_service.AFTER_EVENT, [0.0, 0.11, 0.2], 1),
        (bench_service.REGISTRATION, [0.1, 1.11, 2.0], 2),
        (bench_service.held(MANY), [100_000, 99_999, 100_000], 3),
        (bench_service.used(MANY), [64, 64, 63], 4),
        (bench_service.throughput(MANY), [0.94e9] * 3, 5),
        (bench_service.FLOWS_LOST, [0, 1, 0], 6),
        (bench_service.DATAGRAMS_LOST, [0, 0, 1], 7),
    ],
)
def test_each_promise_can_be_missed(bench: ServiceBench, figure: str, values: list[float], row: int) -> None:
    bench.samples[figure] = values
    assert verdicts(bench.targets()) == ["missed" if number == row else "met" for number in range(8)]


def test_measurements_are_medians_and_losses_are_sums(bench: ServiceBench) -> None:
    bench.samples[bench_service.FLOWS_LOST] = [0, 2, 1]
    found = {measurement.name: measurement for measurement in bench.measurements()}
    outage, lost = found[bench_service.OUTAGE], found[bench_service.FLOWS_LOST]
    assert (outage.value, outage.unit) == (1.59, "s")
    assert outage.labels == {"repeats": 3, "minimum": 1.2, "maximum": 9.0}
    assert (lost.value, lost.unit) == (3, "flows")
    units = {name: one.unit for name, one in found.items()}
    assert units[bench_service.throughput(MANY)] == "bit/s"
    assert units[bench_service.held(MANY)] == "flows"
    assert units[bench_service.used(MANY)] == "targets"


@pytest.mark.parametrize("count", [2, 64])
def test_a_topology_with_many_appliances_is_valid(count: int) -> None:
    topology = with_appliances(load_topology("gwlb"), count)
    assert validate(topology) == []
    balancer = topology.gateway_load_balancers[GWLB]
    assert set(balancer.target_group.targets) == balancer.appliances.keys()
    assert Counter(one.subnet for one in balancer.appliances.values()) == {"data-a": count // 2, "data-b": count // 2}
    addresses = {one.address for one in balancer.appliances.values()} | set(balancer.subnets.values())
    assert len(addresses) == count + 2


def test_the_first_unhealthy_after_the_kill_counts() -> None:
    def health(time: float, target: str, state: str) -> dict[str, object]:
        return {"time": time, "kind": "health", "resource": target, "text": f"gwlb in a: healthy → {state} (why)"}

    events = [health(1, "fw1", "unhealthy"), health(5, "fw2", "unhealthy"), health(6, "fw1", "healthy")]
    events += [health(7, "fw1", "unhealthy"), health(8, "fw1", "unhealthy")]
    assert unhealthy_at(events, "fw1", since=4) == 7
    with pytest.raises(ProbeError) as refused:
        unhealthy_at(events, "fw1", since=9)
    assert str(refused.value) == "the managed service has noted no event that fw1 is unhealthy"


def test_numbers_are_read_from_open_vswitch() -> None:
    connections = "Connections Stats:\n    Total: 50657\n  TCP: 6\n  UDP: 50650\n  ICMP: 1\n"
    assert number_of("UDP", connections) == 50650
    assert number_of("UDP", "Connections Stats:\n    Total: 0\n") == 0
    shown = "netdev@ovs-netdev:\n  lookups: hit:423108 missed:100321 lost:422\n  flows: 40896\n  port 0: x (tap)\n"
    assert number_of("flows", shown) == 40896


def test_a_socket_is_seen_from_outside() -> None:
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as bound:
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        assert receives(os.getpid(), port)
    assert not receives(os.getpid(), port)


def test_no_two_flows_have_the_same_ports() -> None:
    pairs = list(datagrams.ports(100_000))
    assert len(set(pairs)) == 100_000
    # Nothing that the system gives to others: net.ipv4.ip_local_port_range starts at 32768.
    assert max(source for source, _ in datagrams.ports(datagrams.LIMIT)) < 32768
    assert max(destination for _, destination in pairs) < 32768


def test_every_flow_is_sent_one_datagram() -> None:
    flows = 2 * datagrams.PORTS
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as receiver:
        receiver.bind(("127.0.0.1", datagrams.FIRST_PORT + 7))
        receiver.settimeout(30)
        datagrams.run("127.0.0.1", flows, rate=1e6)
        sources = [receiver.recvfrom(64)[1][1] for _ in range(2)]
        receiver.setblocking(False)
        with pytest.raises(BlockingIOError):
            receiver.recv(64)
    assert sources == [datagrams.FIRST_PORT, datagrams.FIRST_PORT + 1]


class Here:
    name, pid, address = "here", 0, IPv4Address("127.0.0.1")

    def popen(self, *_: object, **__: object) -> None:
        raise AssertionError("nothing is started")


@pytest.mark.parametrize(("flows", "rate"), [(0, 1.0), (datagrams.LIMIT + 1, 1.0), (1, 0.0)])
def test_impossible_flows_are_refused(flows: int, rate: float) -> None:
    node: Node = Here()  # type: ignore[assignment]
    words = f"{flows:,} flows, {rate:g} a second: there can be 1 to 1,000,000, at more than 0 a second"
    with pytest.raises(ValueError, match=f"^{words}$"):
        datagrams.send(node, node.address, flows, rate)
