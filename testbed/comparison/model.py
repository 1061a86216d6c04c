"""A point of the comparison, and what an architecture must offer to be measured.

Rates are bit/s as they are in the lab: AWS's and the firewall's rates times ``rate_scale``. Times are seconds in the
lab, where the intervals of AWS and PAN-OS that decide on a failure are divided by ``time_scale``.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from testbed.comparison.headroom import Headroom

#: Flows that get so much of what queues allow are limited by those: headers and acknowledgements take the rest.
REACHED = 0.8
GWLB, VPN, ACTIVE_PASSIVE, SANDWICH = "gwlb", "vpn-ecmp", "active-passive", "sandwich"


@dataclass(frozen=True)
class Settings:
    """What is measured, and how. Rates are those of the real products, in bit/s.

    A VPN connection has two tunnels of 1.25 Gbit/s (quotas of AWS Site-to-Site VPN); an attachment of a VPC carries
    50 Gbit/s (the announcement that :mod:`testbed.comparison.claims` decides).
    """

    architectures: tuple[str, ...] = (GWLB, VPN, ACTIVE_PASSIVE, SANDWICH)
    firewalls: tuple[int, ...] = (1, 2, 4)
    seconds: float = 5.0  # of each measurement
    flows: int = 64  # that share the load; few flows hash unevenly over the firewalls
    time_scale: float = 10.0  # the same for all: BGP, whose hold time is 3 s at least, allows no larger one
    rating: float = 5e9  # of one firewall
    tunnel_rate: float = 1.25e9
    tunnels: int = 2  # of one VPN connection
    attachment_rate: float = 50e9
    rate_scale: float | None = None  # None: calibrated
    idle_share: float = 0.15  # less idle CPU than that under load: the machine is the limit
    thread_share: float = 0.9  # a thread that is busy for more than that: the machine is the limit


@dataclass(frozen=True)
class Latency:
    """Round trips."""

    median: float
    p99: float

    @classmethod
    def of(cls, times: Sequence[float]) -> Latency:
        """Summarize at least one round trip; p99 is a round trip that was measured. Raises ValueError for none."""
        if not times:
            raise ValueError("no round trip was measured")
        return cls(statistics.median(times), sorted(times)[math.ceil(0.99 * len(times)) - 1])


@dataclass(frozen=True)
class Load:
    """What flows carried together, as their receiver counts it, and what the machine had left meanwhile."""

    rate: float
    headroom: Headroom

    def limited_by_machine(self, allowed: float, settings: Settings) -> bool:
        """Whether the machine was the limit: little was left of it, and the flows got less than queues *allowed*.

        A thread that polls is busy long before it is the limit: each time that it wakes up, Open vSwitch's looks at
        all ports.
        """
        return self.headroom.exhausted(settings) and self.rate < REACHED * allowed


@dataclass(frozen=True)
class Wire:
    """What the leg to the firewall adds to the tenant's IP packet, in bytes, and whether it hides the payload.

    *intact* is whether packets reach the client as the server sent them, in all but their TTL.
    """

    encapsulation: str  # GENEVE, ESP, none
    overhead: int
    encrypted: bool
    intact: bool


@dataclass(frozen=True)
class Source:
    """Whom the server sees, by the load balancer or path *via*. *forwarded_for* is X-Forwarded-For's first address."""

    via: str
    client: str
    seen: str
    forwarded_for: str | None = None

    @property
    def kept(self) -> bool:
        return self.seen == self.client


@dataclass(frozen=True)
class Failure:
    """What became of flows when one firewall died at the time *died* of *rates*: (seconds, bit/s).

    *seconds* is how long new connections failed; None where they did not recover while they were watched. The rates
    are of flows that are made anew when they are lost.
    """

    flows: int
    flows_lost: int
    seconds: float | None
    died: float
    rates: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Application:
    """What must be configured for one more application: rules of the security policy and of NAT, listeners."""

    policy_rules: int
    nat_rules: int
    listeners: int

    @property
    def rules(self) -> int:
        return self.policy_rules + self.nat_rules

    @property
    def total(self) -> int:
        return self.rules + self.listeners


@dataclass(frozen=True)
class Point:
    """An architecture with so many firewalls, measured. *duration* is what that took, with building."""

    architecture: str
    firewalls: int
    throughput: float
    single_flow: float
    latency_idle: Latency
    latency_loaded: Latency
    wire: Wire
    sources: tuple[Source, ...]
    application: Application
    failure: Failure | None  # of one firewall there is none left
    #: Of clients and servers as well, less what was spent without a load; None where other work kept the machine busy.
    cpu_seconds_per_gigabyte: float | None
    idle_share: float  # of all CPUs, under load: the least of one flow's and all flows'
    thread_share: float  # of a CPU, that the busiest thread took under load: the most
    machine_limited: bool
    time: str  # ISO 8601
    duration: float

    @property
    def name(self) -> str:
        return f"{self.architecture}/{self.firewalls}"


class Cloud(Protocol):
    """An architecture that is built, and what can be measured of it, one at a time."""

    def idle(self, seconds: float) -> Headroom:
        """Return what the machine has left while nothing is measured."""

    def throughput(self, flows: int, seconds: float) -> Load:
        """Return what so many TCP flows carry together."""

    def latency(self, flows: int, seconds: float) -> Sequence[float]:
        """Return round trips between client and server while so many flows load the path; none load it if 0."""

    def wire(self) -> Wire:
        """Return what a capture on the leg to the firewall shows."""

    def sources(self) -> Sequence[Source]:
        """Return whom the server saw, for each kind of load balancer that the architecture has, or once."""

    def failure(self, flows: int, seconds: float) -> Failure:
        """Kill a firewall that carries traffic, and watch so many flows for at least *seconds* after it."""

    def application(self) -> Application:
        """Return what differs between the configurations with n and n + 1 applications."""


class Architecture(Protocol):
    """A way to insert firewalls. *most* is the number of firewalls beyond which there is none more to build."""

    @property
    def name(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def most(self) -> int: ...

    def build(self, firewalls: int, rate_scale: float) -> AbstractContextManager[Cloud]:
        """Build it, to be taken down at the end of the block."""
