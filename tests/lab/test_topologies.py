"""Topologies other than the reference lab come up as well."""

from __future__ import annotations

from pathlib import Path

import pytest

from testbed.lab import Lab
from topologies.loader import load_topology

pytestmark = pytest.mark.lab


def test_a_small_one_without_firewalls_routes_and_switches() -> None:
    with Lab(load_topology(str(Path(__file__).parent / "topologies" / "small.yaml"))) as lab:
        for source, destination in (("one", "two"), ("one", "three"), ("three", "two")):
            ping = lab.host(source).run(["ping", "-c1", "-W2", str(lab.host(destination).address)])
            assert ping.returncode == 0, f"{source} to {destination}: {ping.stdout}"
        counters = lab.flow_counters()
        assert counters["left/all same subnet"] == 2
        assert counters["tgw/default 10.2.0.0/16"] == 2
