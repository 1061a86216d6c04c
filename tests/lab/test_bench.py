"""Every variant of the benchmark is a lab whose packets arrive, on the way that its name says; the service serves."""

from __future__ import annotations

import importlib.util
from datetime import datetime
from pathlib import Path

import pytest
from rich.console import Console

from testbed import bench_service
from testbed.bench import CLIENT, NO_DETOUR, SERVER, VARIANTS, Variant, ping
from testbed.bench_service import ServiceBench
from testbed.progress import Narrator
from testbed.results import new_results
from topologies.loader import load_topology

pytestmark = pytest.mark.lab


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_packets_arrive(variant: Variant) -> None:
    if variant.name == "NFQUEUE" and importlib.util.find_spec("netfilterqueue") is None:
        pytest.skip("needs netfilterqueue: run make setup")
    with variant.lab(load_topology("gwlb")) as lab:
        lab.wait(lambda: lab.host(CLIENT).run(ping(lab)).returncode == 0, f"a reply through {variant.name}", 30)
        assert lab.problems() == []
        detour = lab.endpoint_counters()["decapsulated"] > 0
        assert detour is (variant is not NO_DETOUR)
        assert lab.host(SERVER).run(["true"]).returncode == 0


def test_the_managed_service_is_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    few, many = (2, 8), (30, 2000)
    monkeypatch.setattr(bench_service, "FEW", few)
    monkeypatch.setattr(bench_service, "MANY", many)
    results = new_results("bench", "", tmp_path, datetime(2026, 1, 1))
    bench = ServiceBench(results, Narrator(Console(quiet=True)), load_topology("gwlb"), rounds=1, seconds=1)
    bench.run()
    found = {measurement.name: measurement.value for measurement in results.measurements}
    assert found[bench_service.FLOWS_LOST] == 0
    assert found[bench_service.RESTARTS] >= 1
    assert found[bench_service.OUTAGE] > 0 < found[bench_service.DETECTED]
    assert found[bench_service.REGISTRATION] > 0
    for targets, flows in (few, many):
        assert found[bench_service.held((targets, flows))] == flows
        assert found[bench_service.throughput((targets, flows))] > 0
    assert found[bench_service.used(many)] == 30
    assert len(list(bench.targets())) == 8
