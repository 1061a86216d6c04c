"""The rate scale at which the largest points fit the machine: estimated from what it carries, then tried."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from testbed.comparison.demand import allowed
from testbed.comparison.model import VPN, Load, Settings
from testbed.errors import MachineError
from testbed.nodes import BUFFER, LEAST
from testbed.progress import quantity

#: Share of what the machine carries that the largest point may need; the rest is for clients, servers and probes.
SHARE = 0.6
#: Below that, in bit/s, a tunnel's queue is no longer a length in time: it has room for ten packets in any case.
SLOWEST_TUNNEL = 8 * LEAST / BUFFER


@dataclass(frozen=True)
class Calibration:
    """A rate scale and what it follows from; the measurements are None where the user gave the scale."""

    rate_scale: float
    reason: str
    plain: float | None = None
    tunnel: float | None = None


class Trial(Protocol):
    """What a calibration measures."""

    def unlimited(self, architecture: str) -> float:
        """Return what one firewall of an architecture carries without any limit, in bit/s."""

    def loaded(self, architecture: str, firewalls: int, rate_scale: float) -> Load:
        """Offer so many firewalls more than they are rated for."""


def calibrate(trial: Trial, settings: Settings, most: Mapping[str, int]) -> Calibration:
    """Choose 1, 2 or 5 times a power of ten, at most 1.

    The estimate is from what one firewall carries without a limit, with tunnels and without. Tunnels share the CPUs, so
    all together are taken to carry no more than one's. Then each architecture's largest point, of *most* firewalls at
    most, is loaded: while the machine limits it, the scale goes down. Raises MachineError where already the estimate is
    too low to be emulated; the least scale that can be is kept although the machine limits it, and the reason says so.
    """
    others = [name for name in settings.architectures if name != VPN]
    plain = trial.unlimited(others[0]) if others else None
    tunnel = trial.unlimited(VPN) if VPN in settings.architectures else None
    largest = {
        name: max(number for number in settings.firewalls if number <= most[name]) for name in settings.architectures
    }
    fits = {
        name: SHARE * ((tunnel if name == VPN else plain) or 0.0) / allowed(name, number, settings, 1.0)
        for name, number in largest.items()
    }
    order = sorted(fits, key=lambda name: fits[name])
    tightest = order[0]
    scale = min(_round_down(fits[tightest]), 1.0)
    shown = ", ".join(
        f"{name} {quantity(rate, 'bit/s')}" for name, rate in (("plain path", plain), ("tunnel", tunnel)) if rate
    )
    if not _can_be_emulated(scale, settings):
        raise MachineError(
            f"comparison: {tightest} with {largest[tightest]} firewalls does not fit this machine "
            f"({shown or 'it carries nothing'}); compare fewer firewalls"
        )
    reason = f"{tightest} with {largest[tightest]} firewalls is the tightest ({shown})"
    for name in order:
        while trial.loaded(name, largest[name], scale).limited_by_machine(
            allowed(name, largest[name], settings, scale), settings
        ):
            point = f"{name} with {largest[name]} firewalls"
            lower = _round_down(scale * 0.9)
            if not _can_be_emulated(lower, settings):
                return Calibration(scale, f"the machine limits {point} at any scale that works", plain, tunnel)
            reason = f"at {scale:g} the machine was the limit of {point}"
            scale = lower
    return Calibration(scale, reason, plain, tunnel)


def _can_be_emulated(scale: float, settings: Settings) -> bool:
    return settings.tunnel_rate * scale >= SLOWEST_TUNNEL * (1 - 1e-9)


def tunnel_scale(carried: float, tunnels: int, tunnel_rate: float) -> float:
    """Return the rate scale at which a machine that carries *carried* bit/s fills all *tunnels* at once.

    *tunnel_rate* is that of one tunnel of the real product, in bit/s. Raises MachineError where none fits.
    """
    scale = min(_round_down(SHARE * carried / (tunnels * tunnel_rate)), 1.0)
    if tunnel_rate * scale < SLOWEST_TUNNEL:
        raise MachineError(
            f"VPN: this machine carries {quantity(carried, 'bit/s')} through {tunnels} tunnels, too little to limit "
            "each; use fewer firewalls, or a machine with nothing else to do"
        )
    return scale


def _round_down(value: float) -> float:
    if value <= 0:
        return 0.0
    power = 10.0 ** math.floor(math.log10(value))
    digit = max(digit for digit in (1, 2, 5) if digit * power <= value * (1 + 1e-9))
    return float(f"{digit * power:.1g}")
