"""Every variant of the benchmark is a lab whose packets arrive, on the way that its name says."""

from __future__ import annotations

import importlib.util

import pytest

from testbed.bench import CLIENT, NO_DETOUR, SERVER, VARIANTS, Variant, ping
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
