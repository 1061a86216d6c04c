"""Firewalls for a demand, the next firewall's efficiency, the rate scale: pure numbers."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from testbed.comparison.calibration import SLOWEST_TUNNEL, calibrate, tunnel_scale
from testbed.comparison.demand import Sizing, allowed, allowed_flow, rated
from testbed.comparison.headroom import Headroom
from testbed.comparison.model import ACTIVE_PASSIVE, GWLB, SANDWICH, VPN, Load, Settings
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


def test_what_queues_allow() -> None:
    assert [allowed(name, 4, Settings(), 0.01) for name in (GWLB, VPN, ACTIVE_PASSIVE)] == [200e6, 100e6, 50e6]
    assert [allowed_flow(name, Settings(), 0.01) for name in (GWLB, VPN)] == [50e6, 12.5e6]


def test_a_busy_machine_is_not_the_limit_where_queues_are_full() -> None:
    busy, idle = Headroom(1.5, 0.1, 0.99), Headroom(0.5, 0.5, 0.5)
    assert Load(79.0, busy).limited_by_machine(100.0, Settings())
    assert not Load(81.0, busy).limited_by_machine(100.0, Settings())
    assert not Load(10.0, idle).limited_by_machine(100.0, Settings())


def test_a_firewall_slower_than_its_tunnels_is_the_limit() -> None:
    assert rated(VPN, Settings(rating=1e9)).capacity == rated(GWLB, Settings(rating=1e9)).capacity == 1e9


def test_spares_and_steps() -> None:
    sizing = Sizing(GWLB, 3.0)
    assert [sizing.needed(demand, spare=0) for demand in (0, 3.0, 3.01, 0.3 * 30)] == [1, 1, 2, 3]


MOST = dict.fromkeys((GWLB, VPN, ACTIVE_PASSIVE, SANDWICH), 8) | {ACTIVE_PASSIVE: 4}


@dataclass
class Machine:
    """A machine that carries so much without tunnels and in one; with tunnels no more than *within* of the estimate."""

    plain: float
    tunnel: float
    limit: float = 1.0  # the largest scale at which it is not the limit of VPN attachments
    tried: list[tuple[str, int, float]] = field(default_factory=list)

    def unlimited(self, architecture: str) -> float:
        return self.tunnel if architecture == VPN else self.plain

    def loaded(self, architecture: str, firewalls: int, rate_scale: float) -> Load:
        self.tried.append((architecture, firewalls, rate_scale))
        limited = architecture == VPN and rate_scale > self.limit
        rate = allowed(architecture, firewalls, Settings(), rate_scale)
        return Load(rate / 2 if limited else rate, Headroom(1.0, 0.1, 0.5))


def test_tunnels_are_what_fits_least() -> None:
    calibration = calibrate(Machine(6e9, 170e6), Settings(), MOST)
    assert calibration.rate_scale == 0.01  # 0.6 × 170 Mbit/s for 4 × 2.5 Gbit/s
    assert calibration.reason == ("vpn-ecmp with 4 firewalls is the tightest (plain path 6 Gbit/s, tunnel 170 Mbit/s)")
    assert calibrate(Machine(6e9, 170e6), Settings(firewalls=(1, 8)), MOST).rate_scale == 0.005


def test_the_plain_path_is_what_fits_least() -> None:
    calibration = calibrate(Machine(400e6, 1e9), Settings(), MOST)
    assert calibration.rate_scale == 0.01
    assert calibration.reason.startswith("gwlb with 4 firewalls is the tightest (plain path 400 Mbit/s")


def test_the_largest_point_of_each_is_tried() -> None:
    machine = Machine(6e9, 170e6)
    calibrate(machine, Settings(firewalls=(1, 8)), MOST)
    assert sorted(machine.tried) == [
        (ACTIVE_PASSIVE, 1, 0.005), (GWLB, 8, 0.005), (SANDWICH, 8, 0.005), (VPN, 8, 0.005),
    ]  # fmt: skip


def test_the_scale_goes_down_until_the_machine_is_not_the_limit() -> None:
    machine = Machine(6e9, 170e6, limit=0.004)
    calibration = calibrate(machine, Settings(), MOST)
    assert calibration.rate_scale == 0.002
    assert calibration.reason == "at 0.005 the machine was the limit of vpn-ecmp with 4 firewalls"
    assert machine.tried[:3] == [(VPN, 4, 0.01), (VPN, 4, 0.005), (VPN, 4, 0.002)]
    assert {scale for *_, scale in machine.tried[3:]} == {0.002}


def test_a_machine_that_is_the_limit_in_any_case_is_named() -> None:
    calibration = calibrate(Machine(6e9, 170e6, limit=0.0), Settings(), MOST)
    assert calibration.rate_scale == 0.002  # half of it is below SLOWEST_TUNNEL
    assert 0.001 * 1.25e9 < SLOWEST_TUNNEL < 0.002 * 1.25e9
    assert calibration.reason == "the machine limits vpn-ecmp with 4 firewalls at any scale that works"


def test_a_fast_machine_needs_no_scale() -> None:
    assert calibrate(Machine(1e12, 1e12), Settings(), MOST).rate_scale == 1.0


def test_only_what_is_compared_has_to_fit() -> None:
    assert calibrate(Machine(6e9, 1e3), Settings(architectures=(GWLB,)), MOST).rate_scale == 0.1
    assert calibrate(Machine(6e9, 1e3), Settings(architectures=(ACTIVE_PASSIVE,)), MOST).rate_scale == 0.5
    assert calibrate(Machine(1e3, 170e6), Settings(architectures=(VPN,)), MOST).rate_scale == 0.01


@pytest.mark.parametrize(("tunnel", "shown"), [(0.0, "plain path 6 Gbit/s"), (2e6, "tunnel 2 Mbit/s")])
def test_a_machine_that_carries_too_little(tunnel: float, shown: str) -> None:
    machine = Machine(6e9, tunnel)
    with pytest.raises(MachineError, match="comparison: vpn-ecmp with 4 firewalls does not fit this machine ") as said:
        calibrate(machine, Settings(), MOST)
    assert shown in str(said.value)
    assert str(said.value).endswith("; compare fewer firewalls")
    assert not machine.tried


def test_tunnels_that_a_machine_fills() -> None:
    assert tunnel_scale(60e6, 4, 1.25e9) == 0.005  # 0.6 × 60 Mbit/s for 4 × 6.25 Mbit/s
    assert tunnel_scale(1e12, 4, 1.25e9) == 1.0
    with pytest.raises(
        MachineError,
        match="VPN: this machine carries 6 Mbit/s through 4 tunnels, too little to limit each; use fewer firewalls, or "
        "a machine with nothing else to do",
    ):
        tunnel_scale(6e6, 4, 1.25e9)
