"""Sessions that firewalls share, so that each can continue what another one began.

VM-Series keeps them in a Redis cache that all firewalls of a target group reach by their management interfaces
("Enable Session Resiliency on VM-Series for AWS"). When the load balancer gives a flow to another firewall, that one
finds the session there and goes on, inspecting no more than layer 4.

What is shared are identified, allowed TCP and UDP sessions in state ACTIVE. A record is written soon after App-ID is
final and again while the session has traffic, every :data:`REFRESH` seconds at most. It is removed when the
connection is closed, reset, refused or cleared; a session that ages out, or whose firewall ends, leaves its record
to the record's own time to live, because another firewall may have taken over. So what is lost with a firewall are
sessions younger than about 0.1 s.

Records are found by zone and addresses, not by endpoint: a flow may come back by the endpoint of another AZ. Tenants
that use the same addresses need zones of their own.

A look-up keeps the data path waiting, so it is rationed: what was not found is not asked for again in
:data:`ABSENT` seconds, a store that failed is left alone for :data:`RETRY`, and all look-ups together take no more
than :data:`SHARE` of the time. A look-up that is left out is counted; TCP sends its packet again.
"""

from __future__ import annotations

import json
import select
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, NamedTuple, Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from firewall_vnf.applications import APPLICATIONS
from firewall_vnf.packet import UDP, reverse_key, split_key
from firewall_vnf.session import ACTIVE, Session

if TYPE_CHECKING:
    from firewall_vnf.log import Log

#: Seconds between two records of a session that has traffic.
REFRESH = 15.0
#: Seconds for which the store's "no such session" is believed.
ABSENT = 1.0
#: Seconds without look-ups after the store has failed.
RETRY = 5.0
#: Part of the time that look-ups may take, and seconds of it that can be saved up.
SHARE, SAVED = 0.25, 0.1
#: Sessions looked at in one turn between packets.
TURN = 64
#: Keys remembered as not found.
REMEMBERED = 10_000

_encode = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode

Number = Annotated[int, Field(ge=0, le=0xFFFFFFFF)]
Total = Annotated[int, Field(ge=0)]

#: The fields that a record has as the session has them.
_COPIED = (
    "application", "detail", "seen", "packets_sent", "packets_received", "bytes_sent", "bytes_received",
    "client_next", "client_ack", "client_window", "client_scale",
    "server_next", "server_ack", "server_window", "server_scale",
)  # fmt: skip


class StoreError(Exception):
    """The store does not answer; one line."""


class Change(NamedTuple):
    """A record to write for *lifetime* seconds, or to remove where it is None."""

    key: str
    record: str | None
    lifetime: int


class Backend(Protocol):
    """Where records are kept. ``error`` is why the last operation failed, None if it did not."""

    name: str
    error: str | None

    def get(self, key: str) -> bytes | None:
        """Return the record, None if there is none. Raises :class:`StoreError` soon if the store does not answer."""

    def put(self, changes: Sequence[Change]) -> None:
        """Have *changes* made, in order, without waiting for it."""


class SharedSession(BaseModel):
    """A record: a session's attributes, as :class:`~firewall_vnf.session.Session` has them.

    ``client`` is the session key of the client's packets, in hexadecimal digits; ``start`` is seconds since 1970.
    ``rule`` is for whoever reads the store: the policy in force decides anew.
    """

    model_config = ConfigDict(frozen=True, strict=True)

    client: str
    start: Annotated[float, Field(ge=0, le=2**37)]
    rule: str
    application: str
    detail: str
    seen: Number
    packets_sent: Total
    packets_received: Total
    bytes_sent: Total
    bytes_received: Total
    client_next: Total
    client_ack: Number
    client_window: Number
    client_scale: Annotated[int, Field(ge=-1, le=14)]
    server_next: Total
    server_ack: Number
    server_window: Number
    server_scale: Annotated[int, Field(ge=-1, le=14)]

    def restore(self, session: Session, epoch: float) -> None:
        """Give *session*, made from whichever packet came, what the record says. *epoch* as in :class:`Sharing`."""
        session.key = bytes.fromhex(self.client)
        session.reverse = reverse_key(session.key)
        session.start = self.start - epoch
        for name in _COPIED:
            setattr(session, name, getattr(self, name))
        session.identified = True
        session.state = ACTIVE


class SessionStore(Protocol):
    """What the engine asks and tells. Nothing here raises."""

    def restore(self, session: Session, now: float) -> bool:
        """Make *session*, of whose packet it has the key and the zone, the one that is shared; False: there is none."""

    def established(self, session: Session) -> None:
        """*session* is one to share; may be said more than once."""

    def ended(self, session: Session) -> None:
        """*session* has ended for all firewalls."""


class Sharing:
    """The :class:`SessionStore` on a *backend*, and a service of :class:`firewall_vnf.adapter.Loop`.

    *log* takes the counters and says when the store fails and answers again; *epoch* is the wall time at 0 of the
    engine's clock. *timer* measures how long look-ups take, in seconds.
    """

    def __init__(
        self, backend: Backend, log: Log, epoch: float, timer: Callable[[], float] = time.perf_counter
    ) -> None:
        self._backend, self._log, self._epoch, self._timer = backend, log, epoch, timer
        self._counters = log.counters
        #: Shared sessions, with their ``last`` as of what the store has; None where it has nothing yet.
        self._shared: dict[Session, float | None] = {}
        self._new: deque[Session] = deque()
        self._due: deque[tuple[float, Session]] = deque()
        self._removed: list[Change] = []
        self._absent: dict[str, float] = {}
        self._silent_until = self._asked = float("-inf")
        self._allowance = SAVED
        self._down = False

    def restore(self, session: Session, now: float) -> bool:
        key = record_key(session)
        shared = self._find(key, now)
        if shared is None:
            return False
        if bytes.fromhex(shared.client) not in (session.key, session.reverse):
            return False
        shared.restore(session, self._epoch)
        return True

    def established(self, session: Session) -> None:
        if session not in self._shared:
            self._shared[session] = None
            self._new.append(session)

    def ended(self, session: Session) -> None:
        if session in self._shared:
            del self._shared[session]
            self._removed.append(Change(record_key(session), None, 0))

    def register(self, poll: select.poll) -> None:
        """There is nothing to wait for: what has changed is written with the loop's next turn."""

    def serve(self, descriptors: Sequence[int], now: float) -> None:
        """Hand over some of what has changed."""
        self._judge(self._backend.error, now)
        # Removals first: where both have come up since the last turn, the new session took the old one's place.
        changes, self._removed = self._removed, []
        self._counters["session_shared_removed"] += len(changes)
        for _ in range(min(TURN, len(self._new))):
            self._publish(self._new.popleft(), changes, now)
        for _ in range(TURN):
            if not self._due or self._due[0][0] > now:
                break
            self._publish(self._due.popleft()[1], changes, now)
        if changes:
            self._backend.put(changes)

    def close(self, now: float) -> None:
        """Hand over all sessions that the store does not have yet."""
        while self._new or self._removed:
            self.serve((), now)

    def _publish(self, session: Session, changes: list[Change], now: float) -> None:
        if session.state is not ACTIVE or session not in self._shared:
            self._shared.pop(session, None)
            return
        if session.last != self._shared[session]:
            self._shared[session] = None if self._down else session.last
            # The session lives longer with each packet; its record does with the next refreshment.
            lifetime = session.last + session.timeout - now + REFRESH
            changes.append(Change(record_key(session), make_record(session, self._epoch), max(1, int(lifetime))))
            self._counters["session_shared_published"] += 1
        self._due.append((now + REFRESH, session))

    def _find(self, key: str, now: float) -> SharedSession | None:
        self._allowance = min(SAVED, self._allowance + (now - self._asked) * SHARE)
        self._asked = now
        if self._absent.get(key, now) > now:
            self._counters["session_shared_missed"] += 1
            return None
        if now < self._silent_until or self._allowance <= 0:
            self._counters["session_shared_skipped"] += 1
            return None
        start = self._timer()
        try:
            data = self._backend.get(key)
        except StoreError:
            self._counters["session_shared_skipped"] += 1
            self._silent_until = now + RETRY
            return None
        finally:
            self._allowance -= self._timer() - start
        shared = None if data is None else parse_hostile_record(data)
        if shared is None:
            self._counters["session_shared_missed"] += 1
            if len(self._absent) >= REMEMBERED:
                self._absent.clear()
            self._absent[key] = now + ABSENT
        return shared

    def _judge(self, error: str | None, now: float) -> None:
        """Say so when the store fails, and when it works again. It may have lost what it had: write all once more."""
        if (error is not None) is self._down:
            return
        self._down = not self._down
        self._shared = dict.fromkeys(self._shared)
        store = f"session store {self._backend.name}"
        if error is None:
            self._log.system("session-store-up", "informational", f"{store} answers", now)
        else:
            text = f"{store}: {error}; sessions are not shared until it answers"
            self._log.system("session-store-down", "high", text, now)


def record_key(session: Session) -> str:
    """Return the key of the session's record: the same for both directions, and for all endpoints of a zone."""
    protocol = "udp" if session.protocol == UDP else "tcp"
    source, destination, rest = split_key(min(session.key, session.reverse))
    return f"bumpwire:session:{session.zone}:{protocol}:{(source + destination + rest[:4]).hex()}"


def make_record(session: Session, epoch: float) -> str:
    """Return the session's record, JSON."""
    record = {name: getattr(session, name) for name in _COPIED}
    record |= {"client": session.key.hex(), "rule": session.rule.name, "start": session.start + epoch}
    return _encode(record)


def parse_hostile_record(data: bytes) -> SharedSession | None:
    """Return what the record says, None if it is none of ours. Never raises, whatever the bytes."""
    try:
        shared = SharedSession.model_validate_json(data)
        known = shared.application in APPLICATIONS and len(bytes.fromhex(shared.client)) in (12, 13, 36, 37)
    except (ValidationError, ValueError):
        return None
    return shared if known else None
