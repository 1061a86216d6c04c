"""The rate scale at which the largest point fits the machine, from a short measurement of what the machine carries."""

from __future__ import annotations

import math
from dataclasses import dataclass

from testbed.comparison.model import ACTIVE_PASSIVE, VPN, Settings
from testbed.errors import MachineError
from testbed.progress import quantity

#: Share of what the machine carries that the largest point may need; the rest is for clients, servers and probes.
SHARE = 0.6
#: Below that, in bit/s, a tunnel's queue is shorter than one burst of TCP.
SLOWEST_TUNNEL = 1e6


@dataclass(frozen=True)
class Calibration:
    """A rate scale and what it follows from; the measurements are None where the user gave the scale."""

    rate_scale: float
    reason: str
    plain: float | None = None
    tunnel: float | None = None


def calibrate(plain: float, tunnel: float, settings: Settings) -> Calibration:
    """Choose 1, 2 or 5 times a power of ten, at most 1.

    *plain* is what the path without tunnels carries, *tunnel* what one tunnel without a limit does, in bit/s. Tunnels
    share the CPUs, so all together are taken to carry no more than one. Raises MachineError where nothing fits.
    """
    largest = max(settings.firewalls)
    needs = {
        name: settings.rating * (1 if name == ACTIVE_PASSIVE else largest)
        for name in settings.architectures
        if name != VPN
    }
    fits = {name: SHARE * plain / need for name, need in needs.items()}
    if VPN in settings.architectures:
        fits[VPN] = SHARE * tunnel / (largest * min(settings.rating, settings.tunnels * settings.tunnel_rate))
    tightest = min(fits, key=lambda name: fits[name])
    scale = min(_round_down(fits[tightest]), 1.0)
    if settings.tunnel_rate * scale < SLOWEST_TUNNEL:
        raise MachineError(
            f"comparison: {tightest} with {largest} firewalls does not fit this machine (plain path "
            f"{quantity(plain, 'bit/s')}, tunnel {quantity(tunnel, 'bit/s')}); compare fewer firewalls"
        )
    carried = f"one tunnel carries {quantity(tunnel, 'bit/s')}" if tightest == VPN else ""
    carried = carried or f"the plain path carries {quantity(plain, 'bit/s')}"
    return Calibration(scale, f"{tightest} with {largest} firewalls is the tightest: {carried}", plain, tunnel)


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
