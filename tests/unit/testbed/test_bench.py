"""What the benchmark makes of its samples."""

from __future__ import annotations

import json
import re
from datetime import datetime
from pathlib import Path

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

import testbed.bench
from testbed.bench import (
    BPF_TURN_AROUND,
    ESTABLISHED,
    FIREWALL,
    FLOWS,
    MTUS,
    NEW_SESSIONS,
    NO_DETOUR,
    OFFLOAD,
    TURN_AROUND,
    VARIANTS,
    PathBench,
    Target,
    cost_table,
    ratio_table,
    target_table,
)
from testbed.commands import bench as bench_command
from testbed.progress import Narrator
from testbed.results import Measurement, new_results
from topologies.loader import load_topology


@pytest.fixture
def bench(tmp_path: Path) -> PathBench:
    """Three rounds; the firewall carries 0.95 of the turn-around, which carries half of the path without the detour."""
    results = new_results("bench", "", tmp_path, datetime(2026, 1, 1))
    made = PathBench(results, Narrator(Console(quiet=True)), load_topology("gwlb"), rounds=3, seconds=1)
    rates = dict.fromkeys(VARIANTS, 1e6) | {NO_DETOUR: 2e9, TURN_AROUND: 1e9, FIREWALL: 0.95e9}
    rates |= {BPF_TURN_AROUND: 1.6e9, OFFLOAD: 1.59e9}
    for variant, rate in rates.items():
        for mtu in MTUS:
            for flows in FLOWS:
                made.samples[variant.name, "throughput", mtu, flows] = [rate / 10, rate, rate * 10]
                if variant is not NO_DETOUR:
                    made.samples[variant.name, "processor time", mtu, flows] = [0.5, 1.25, 3.0]
                    made.samples[variant.name, "packets", mtu, flows] = [rate / 8e4]
    return made


def bench_app() -> typer.Typer:
    app = typer.Typer()
    app.command()(bench_command.command)
    return app


def test_one_part_is_measured_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    engine = [
        Measurement(ESTABLISHED, 300_000, "1/s", {}),
        Measurement(NEW_SESSIONS, 20_000, "1/s", {}),
        Measurement("engine memory at 1,000,000 sessions", 2**29, "B", {}),
    ]
    monkeypatch.setattr(testbed.bench, "engine_measurements", lambda: engine)
    answer = CliRunner().invoke(bench_app(), ["--only", "engine", "--results", str(tmp_path / "results")])
    assert answer.exit_code == 0, answer.output
    (folder,) = (tmp_path / "results").iterdir()
    measured = json.loads((folder / "result.json").read_text())["measurements"]
    assert [one["name"] for one in measured] == [one.name for one in engine]
    assert re.findall(r"engine: (\w+ \w+|[\d,]+ \w+).* (met|missed)", answer.output) == [
        ("established packets", "met"), ("new sessions", "missed"), ("1,000,000 sessions", "met"),
    ]  # fmt: skip


def test_an_unknown_part_is_refused() -> None:
    answer = CliRunner().invoke(bench_app(), ["--only", "weather"])
    assert answer.exit_code == 2
    for name in ("path", "engine", "service"):
        assert f"'{name}'" in answer.output


def test_medians_carry_the_spread(bench: PathBench) -> None:
    measurement = next(bench.medians())
    assert (measurement.name, measurement.value, measurement.unit) == ("throughput", 2e9, "bit/s")
    assert measurement.labels == {
        "variant": "no detour", "mtu": 8500, "streams": 1, "repeats": 3, "minimum": 2e8, "maximum": 2e10,
    }  # fmt: skip


def test_ratios_are_of_medians(bench: PathBench) -> None:
    rows = ratio_table(bench).rows
    assert rows[0] == ("turn-around", "8500", "1", "0.50", "1.00", "0.62")
    assert rows[2] == ("firewall", "8500", "1", "0.47", "0.95", "0.59")
    assert rows[3] == ("firewall with offload", "8500", "1", "0.80", "1.59", "0.99")


def test_what_an_appliance_costs(bench: PathBench) -> None:
    assert cost_table(bench).rows[3] == ("firewall with offload", "8500", "1", "1.25", "19,875")


@pytest.mark.parametrize(
    ("datapath", "target"),
    [
        ("netdev", ("firewall with offload / turn-around in BPF, one flow, MTU 8,500", 1.59 / 1.6, True)),
        ("system", ("firewall with offload / no detour, one flow, MTU 8,500", 1.59 / 2, False)),
    ],
)
def test_what_offload_promises_depends_on_the_datapath(
    bench: PathBench, datapath: str, target: tuple[str, float, bool]
) -> None:
    bench.datapath = datapath
    for name in ("lab up", "lab down"):
        bench.samples[FIREWALL.name, name, 0, 0] = [1.0]
    targets = {one.name: one for one in bench.targets()}
    assert (target[0], targets[target[0]].value, targets[target[0]].met) == target
    assert sum(name.startswith("firewall with offload") for name in targets) == 1


@pytest.mark.parametrize(
    ("value", "at_most", "verdict"), [(0.95, False, "met"), (0.85, False, "missed"), (0.85, True, "met")]
)
def test_a_target_is_met_or_missed(value: float, at_most: bool, verdict: str) -> None:
    table = target_table([Target("ratio", value, 0.9, "", at_most)])
    assert table.rows[0][-1] == verdict
