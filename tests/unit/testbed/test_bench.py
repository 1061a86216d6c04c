"""What the benchmark makes of its samples."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pytest
from rich.console import Console

from testbed.bench import (
    FIREWALL,
    FLOWS,
    MTUS,
    NO_DETOUR,
    TURN_AROUND,
    VARIANTS,
    Bench,
    Target,
    ratio_table,
    target_table,
)
from testbed.progress import Narrator
from testbed.results import new_results
from topologies.loader import load_topology


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """Three rounds; the firewall carries 0.95 of the turn-around, which carries half of the path without the detour."""
    results = new_results("bench", "", tmp_path, datetime(2026, 1, 1))
    made = Bench(results, Narrator(Console(quiet=True)), load_topology("gwlb"), rounds=3, seconds=1)
    rates = dict.fromkeys(VARIANTS, 1e6) | {NO_DETOUR: 2e9, TURN_AROUND: 1e9, FIREWALL: 0.95e9}
    for variant, rate in rates.items():
        for mtu in MTUS:
            for flows in FLOWS:
                made.samples[variant.name, "throughput", mtu, flows] = [rate / 10, rate, rate * 10]
    return made


def test_medians_carry_the_spread(bench: Bench) -> None:
    measurement = next(bench.medians())
    assert (measurement.name, measurement.value, measurement.unit) == ("throughput", 2e9, "bit/s")
    assert measurement.labels == {
        "variant": "no detour", "mtu": 8500, "streams": 1, "repeats": 3, "minimum": 2e8, "maximum": 2e10,
    }  # fmt: skip


def test_ratios_are_of_medians(bench: Bench) -> None:
    rows = ratio_table(bench).rows
    assert rows[0] == ("turn-around", "8500", "1", "0.50", "1.00")
    assert rows[1] == ("firewall", "8500", "1", "0.47", "0.95")


@pytest.mark.parametrize(
    ("value", "at_most", "verdict"), [(0.95, False, "met"), (0.85, False, "missed"), (0.85, True, "met")]
)
def test_a_target_is_met_or_missed(value: float, at_most: bool, verdict: str) -> None:
    table = target_table([Target("ratio", value, 0.9, "", at_most)])
    assert table.rows[0][-1] == verdict
