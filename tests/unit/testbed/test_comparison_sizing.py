"""Firewalls for a demand, the next firewall's efficiency, the rate scale: pure numbers."""

from __future__ import annotations

import pytest

from testbed.comparison.calibration import calibrate, tunnel_scale
from testbed.comparison.demand import Sizing, rated
from testbed.comparison.model import ACTIVE_PASSIVE, GWLB, SANDWICH, VPN, Settings
from testbed.errors import MachineError


@pytest.mark.parametrize(
    ("architecture", "counts"),
    [
        (GWLB, [2, 2, 3, 3, 5]),
        (SANDWICH, [2, 2, 3, 3, 5]),
        (VPN, [2, 3, 4, 5, 9]),  # 2.5 Gbit/s of tunnels for a firewall
        (ACTIVE_PASSIVE, [2, 2, None, None, None]),
    ],
)
def test_firewalls_for_a_demand(architecture: str, counts: list[int | None]) -> None:
    sizing = rated(architecture, Settings(rating=5e9))
    assert [sizing.needed(demand) for demand in (1e9, 5e9, 5.1e9, 10e9, 20e9)] == counts


def test_a_firewall_slower_than_its_tunnels_is_the_limit() -> None:
    assert rated(VPN, Settings(rating=1e9)).capacity == rated(GWLB, Settings(rating=1e9)).capacity == 1e9


def test_spares_and_steps() -> None:
    sizing = Sizing(GWLB, 3.0)
    assert [sizing.needed(demand, spare=0) for demand in (0, 3.0, 3.01, 0.3 * 30)] == [1, 1, 2, 3]


def test_tunnels_are_what_fits_least() -> None:
    calibration = calibrate(6e9, 170e6, Settings())
    assert calibration.rate_scale == 0.01  # 0.6 × 170 Mbit/s for 4 × 2.5 Gbit/s
    assert calibration.reason == "vpn-ecmp with 4 firewalls is the tightest: one tunnel carries 170 Mbit/s"
    assert calibrate(6e9, 170e6, Settings(firewalls=(1, 8))).rate_scale == 0.005


def test_the_plain_path_is_what_fits_least() -> None:
    calibration = calibrate(400e6, 1e9, Settings())
    assert calibration.rate_scale == 0.01
    assert calibration.reason == "gwlb with 4 firewalls is the tightest: the plain path carries 400 Mbit/s"


def test_a_fast_machine_needs_no_scale() -> None:
    assert calibrate(1e12, 1e12, Settings()).rate_scale == 1.0


def test_only_what_is_compared_has_to_fit() -> None:
    assert calibrate(6e9, 1e3, Settings(architectures=(GWLB,))).rate_scale == 0.1
    assert calibrate(6e9, 1e3, Settings(architectures=(ACTIVE_PASSIVE,))).rate_scale == 0.5


@pytest.mark.parametrize("tunnel", [0.0, 2e6])
def test_a_machine_that_carries_too_little(tunnel: float) -> None:
    with pytest.raises(
        MachineError, match=r"^comparison: vpn-ecmp with 4 firewalls does not fit this machine .*tunnel"
    ):
        calibrate(6e9, tunnel, Settings())


def test_tunnels_that_a_machine_fills() -> None:
    assert tunnel_scale(60e6, 4, 1.25e9) == 0.005  # 0.6 × 60 Mbit/s for 4 × 6.25 Mbit/s
    assert tunnel_scale(1e12, 4, 1.25e9) == 1.0
    with pytest.raises(
        MachineError,
        match="VPN: this machine carries 6 Mbit/s through 4 tunnels, too little to limit each; use fewer firewalls, or "
        "a machine with nothing else to do",
    ):
        tunnel_scale(6e6, 4, 1.25e9)
