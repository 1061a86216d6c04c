"""The comparison measures real labs, and what it says of them follows from how they are built."""

from __future__ import annotations

import io
import json
from contextlib import ExitStack
from pathlib import Path

import pytest
from rich.console import Console

from testbed.comparison.application import PORT
from testbed.lab import Lab
from testbed.probes import downloads, source_log
from testbed.rating import SHARED, rate_firewalls
from testbed.scenario import execute, find, parse_options
from topologies.applications import with_application
from topologies.loader import load_topology
from topologies.sizing import with_firewalls

pytestmark = pytest.mark.lab


def test_the_source_and_the_wire_of_two_architectures(tmp_path: Path) -> None:
    scenario = find("compare")
    settings = ["only=gwlb,sandwich", "firewalls=1", "seconds=1", "flows=8", "rate_scale=0.002"]
    execute(scenario, parse_options(scenario, settings), Console(file=io.StringIO(), width=160), tmp_path)
    (directory,) = tmp_path.iterdir()
    _, *lines = (directory / "points.jsonl").read_text().splitlines()
    gwlb, sandwich = map(json.loads, lines)
    assert gwlb["wire"] == {"encapsulation": "GENEVE", "overhead": 68, "encrypted": False, "intact": True}
    assert not sandwich["wire"]["intact"]
    assert [source["seen"] == source["client"] for source in gwlb["sources"]] == [True]
    assert [source["seen"] == source["client"] for source in sandwich["sources"]] == [False, False]
    assert sandwich["sources"][1]["forwarded_for"] == sandwich["sources"][1]["client"]
    for point in (gwlb, sandwich):
        assert 0 < point["throughput"] < 10e6 * 1.1  # rated 5 Gbit/s; a burst counts
    assert (directory / "comparison.csv").stat().st_size > 100


def test_a_further_application_works_with_what_it_takes_and_not_without() -> None:
    topology = with_application(with_firewalls(load_topology("sandwich"), 2), PORT)
    address = topology.vpcs["app"].load_balancers["nlb"].public_address
    assert address
    with Lab(topology, time_scale=10) as lab, ExitStack() as stack:
        rate_firewalls(lab, 10e6)
        for server in topology.vpcs["app"].instances:
            for port in (80, PORT, PORT + 1):
                stack.enter_context(downloads.serving(lab.host(server), port))
        lab.wait(lab.balanced, "all targets to be healthy")
        before = {name: sent(lab, name) for name in lab.firewalls}
        assert len(source_log.request(lab.host("client"), address, PORT, count=10).seen) == 10
        # Through the queue that both interfaces of a firewall share.
        assert sum(sent(lab, name) - before[name] for name in lab.firewalls) >= 10
        assert len(source_log.request(lab.host("client"), address, PORT + 1, count=2).failed) == 2


def sent(lab: Lab, firewall: str) -> int:
    """Return the packets that a firewall's queue has let pass."""
    said = lab.host(firewall).run(["tc", "-s", "-j", "qdisc", "show", "dev", SHARED]).stdout
    return int(json.loads(said)[0]["packets"])
