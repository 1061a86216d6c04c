"""Session offload: a session whose inspection is over is carried by the kernel, without the engine.

What carries it differs, BPF behind a GWLB (:mod:`firewall_vnf.bpf_offload`), the kernel's connections in a routed
firewall (:mod:`firewall_vnf.routed`); when it may, how its figures stay right and how it is taken back does not:

* :func:`inspection_over` says when nothing more is to be learnt from a session's packets. SYN, FIN, RST, ICMP and all
  that is unusual is the engine's to see, of every session.
* Sessions have their counts, numbers and last packet from the kernel: by a look every so often, by one before anybody
  is told of them, by a last one when they end. So timers, logs and what firewalls share are right.
* Before a policy is committed all sessions are taken back: when that is acknowledged, no packet passes that the new
  policy has not allowed. A cleared session is taken back before it ends.
* The kernel carries packets only while the firewall renews a lease of :data:`LEASE` seconds with every round of its
  loop. A firewall that hangs or dies is fail-closed for what it has offloaded, too.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Container, Iterable

from firewall_vnf.session import ACTIVE, Session

#: Seconds for which the kernel believes that the firewall lives.
LEASE = 2
#: The part of the time that looks may take.
SHARE = 0.05


def inspection_over(session: Session) -> bool:
    """Whether no inspection is to see more of an identified session: it has none, or its rule sets a limit."""
    limit = session.rule.offload_after or math.inf
    return not session.inspections or session.bytes_sent + session.bytes_received >= limit


class Offload(ABC):
    """What carries sessions. ``packets`` and ``bytes`` (of inner IP packets) are what it has carried, as accounted.

    *timer* measures how long a look takes, in seconds; ``now`` is always seconds of the engine's clock.
    """

    #: The sessions that are carried.
    sessions: Container[Session]
    #: A session of fewer packets is not worth it.
    least_packets = 0
    #: Seconds between two looks.
    interval = 1.0

    def __init__(self, timer: Callable[[], float] = time.perf_counter) -> None:
        self.packets = self.bytes = 0
        self._timer = timer
        self._due = float("-inf")

    def worthwhile(self, session: Session) -> bool:
        """Whether the session has come so far, by its rule and by its packets, that it is to be carried."""
        rule = session.rule
        return (
            session.packets_sent + session.packets_received >= self.least_packets
            and session.bytes_sent + session.bytes_received >= (rule.offload_after or 0)
        )

    def turn(self, now: float) -> Iterable[Session]:
        """Look if it is time to; return the sessions that the kernel has ended."""
        if now < self._due:
            return ()
        start = self._timer()
        ended = self.look(now)
        self._due = now + max(self.interval, (self._timer() - start) / SHARE)
        return ended

    def total(self) -> tuple[int, int]:
        """Return packets and bytes carried up to now; in any thread, without the data path's help."""
        return self.packets, self.bytes

    def account(self, session: Session, sent: tuple[int, int], received: tuple[int, int], last: float) -> None:
        """Give *session* the packets and bytes that were carried of it, the last of them at *last*."""
        session.packets_sent += sent[0]
        session.bytes_sent += sent[1]
        session.packets_received += received[0]
        session.bytes_received += received[1]
        self.packets += sent[0] + received[0]
        self.bytes += sent[1] + received[1]
        if session.state is ACTIVE:
            session.last = max(session.last, last)

    @abstractmethod
    def start(self, session: Session) -> None:
        """Carry the session's packets from now on, where there is room for it."""

    @abstractmethod
    def look(self, now: float) -> Iterable[Session]:
        """Give all sessions what was carried of them; return those that the kernel has ended."""

    @abstractmethod
    def closing(self, session: Session, now: float) -> bool:
        """A carried session may be ending: have the engine see its packets. Whether it is no longer carried."""

    @abstractmethod
    def take_back(self, sessions: Iterable[Session], now: float) -> None:
        """Carry none of *sessions* any more. When this returns, their figures are final."""

    @abstractmethod
    def take_all_back(self, now: float) -> None:
        """The same for whatever is carried."""

    @abstractmethod
    def ended(self, session: Session, now: float) -> None:
        """The session has left the table; its figures are about to be logged."""
