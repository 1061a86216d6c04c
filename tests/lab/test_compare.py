"""The comparison measures real labs, and what it says of them follows from how they are built."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from testbed.scenario import execute, find, parse_options

pytestmark = pytest.mark.lab


def test_the_source_and_the_wire_of_two_architectures(tmp_path: Path) -> None:
    scenario = find("compare")
    settings = ["only=gwlb,sandwich", "firewalls=1", "seconds=1", "flows=8", "rate_scale=0.002"]
    execute(scenario, parse_options(scenario, settings), Console(file=io.StringIO(), width=160), tmp_path)
    (directory,) = tmp_path.iterdir()
    _, *lines = (directory / "points.jsonl").read_text().splitlines()
    gwlb, sandwich = map(json.loads, lines)
    assert gwlb["wire"] == {"encapsulation": "GENEVE", "overhead": 68, "encrypted": False}
    assert [source["seen"] == source["client"] for source in gwlb["sources"]] == [True]
    assert [source["seen"] == source["client"] for source in sandwich["sources"]] == [False, False]
    assert sandwich["sources"][1]["forwarded_for"] == sandwich["sources"][1]["client"]
    for point in (gwlb, sandwich):
        assert 0 < point["throughput"] < 10e6 * 1.1  # rated 5 Gbit/s; a burst counts
    assert (directory / "comparison.csv").stat().st_size > 100
