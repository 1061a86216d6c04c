"""How many firewalls a demand needs, in each architecture, and how much a further firewall adds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from testbed.comparison.model import ACTIVE_PASSIVE, VPN, Point, Settings


@dataclass(frozen=True)
class Sizing:
    """One firewall's capacity in an architecture, in bit/s of the real products; *most* firewalls can be active."""

    architecture: str
    capacity: float
    most: int | None = None

    def needed(self, demand: float, spare: int = 1) -> int | None:
        """Return the firewalls for a demand in bit/s, with those that may fail; None where no number is enough."""
        active = self.active(demand)
        return None if self.most is not None and active > self.most else active + spare

    def active(self, demand: float) -> int:
        """Return the firewalls that carry a demand, were there no bound."""
        return max(1, math.ceil(demand / self.capacity - 1e-9))


def rated(architecture: str, settings: Settings) -> Sizing:
    """Size by the ratings: a firewall's own, in a VPN no more than its tunnels'."""
    tunnels = settings.tunnels * settings.tunnel_rate
    capacity = min(settings.rating, tunnels) if architecture == VPN else settings.rating
    return Sizing(architecture, capacity, 1 if architecture == ACTIVE_PASSIVE else None)


def allowed(architecture: str, firewalls: int, settings: Settings, rate_scale: float) -> float:
    """Return what so many firewalls carry together by their ratings, in bit/s of the lab."""
    sizing = rated(architecture, settings)
    return sizing.capacity * min(firewalls, sizing.most or firewalls) * rate_scale


def allowed_flow(architecture: str, settings: Settings, rate_scale: float) -> float:
    """Return what a single flow is carried with by the ratings, in bit/s of the lab."""
    limits = [settings.rating, *([settings.tunnel_rate] if architecture == VPN else [])]
    return min(limits) * rate_scale


def measured(one: Point, rate_scale: float) -> Sizing:
    """Size by what one firewall of the architecture carried."""
    most = 1 if one.architecture == ACTIVE_PASSIVE else None
    return Sizing(one.architecture, one.throughput / rate_scale, most)


def efficiency(few: Point, many: Point, one: Point) -> float:
    """Return what each firewall that *many* has more than *few* adds, as a share of what the first carries."""
    return (many.throughput - few.throughput) / ((many.firewalls - few.firewalls) * one.throughput)


def demands(sizings: Sequence[Sizing], steps: int = 80) -> list[float]:
    """Return demands up to eight times the largest capacity, in steps, in bit/s."""
    top = 8 * max(sizing.capacity for sizing in sizings)
    return [top * (number + 1) / steps for number in range(steps)]
