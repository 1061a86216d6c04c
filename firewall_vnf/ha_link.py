"""The links of a pair of firewalls: HA1 and HA2, and the service of the firewall's loop that speaks over them.

HA1 is UDP port 28769: heartbeats and hellos. HA2 is UDP port 29281: session synchronisation, and the heartbeats' second
way (ports: VM-Series on AWS, "High Availability", where HA1 is the management port and HA2 ethernet1/1; PAN-OS's HA1 is
TCP). Datagrams are sealed with a key of the pair: from anybody else they are ignored. They are not encrypted, as
PAN-OS's by default.

::

    b"BWHA", version 1, HMAC-SHA256 of the rest (16 bytes), JSON

A message on either link is ``{"ha": Message}``; HA2 also has ``{"boot": N, "batch": N, "records": [[key, record,
seconds]]}``, where a record of null is a removal, and its acknowledgement ``{"boot": N, "acknowledge": N}``.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import select
import socket
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address
from typing import Any, NamedTuple, Protocol

from firewall_vnf.high_availability import (
    Action,
    Claim,
    HaLink,
    HighAvailability,
    Message,
    Note,
    Release,
    Send,
    parse_hostile_message,
)
from firewall_vnf.log import Log
from firewall_vnf.session_store import Change

PORTS = {HaLink.HA1: 28769, HaLink.HA2: 29281}
MAGIC = b"BWHA\x01"
SEAL = 16
#: Bytes of records in a datagram: one frame of Ethernet with it.
BATCH = 1300
#: Batches sent in one turn between packets, and batches that may wait for their acknowledgement.
TURN, WINDOW = 16, 256
#: Seconds after which a batch without acknowledgement is sent again.
RESEND = 0.25
#: Records that are kept, and seconds between two searches for those whose time is over.
CAPACITY, PRUNE = 500_000, 60.0
#: No record lives longer, in seconds.
LONGEST = 1e6
#: Datagrams read from a link in one turn.
READ = 256
#: Looks at the clock and the links in a heartbeat's time, when nothing comes in between.
LOOKS = 10


class HaLinkError(Exception):
    """A link cannot be opened; one line."""


class Cloud(Protocol):
    """Who moves the addresses. Nothing here waits or raises."""

    def claim(self) -> None:
        """Move the addresses here, and see to it that they stay."""

    def release(self) -> None:
        """Ask for nothing any more."""

    def lost(self) -> bool:
        """Say, once, that the addresses have gone to another."""

    def notes(self) -> list[Note]:
        """Return what the system log has not been told yet."""


def seal(key: bytes, content: dict[str, Any]) -> bytes:
    """Return the datagram."""
    body = json.dumps(content, separators=(",", ":")).encode()
    return MAGIC + hmac.digest(key, body, hashlib.sha256)[:SEAL] + body


def unseal(key: bytes, data: bytes) -> dict[str, Any] | None:
    """Return the content, None if it is not from a holder of the key. Never raises, whatever the bytes."""
    head, seal_, body = data[: len(MAGIC)], data[len(MAGIC) : len(MAGIC) + SEAL], data[len(MAGIC) + SEAL :]
    if head != MAGIC or not hmac.compare_digest(seal_, hmac.digest(key, body, hashlib.sha256)[:SEAL]):
        return None
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


class Kept(NamedTuple):
    record: str
    until: float


class SessionSync:
    """Both firewalls' records of sessions: the backend of :class:`firewall_vnf.session_store.Sharing` over HA2.

    What :meth:`put` changes here is sent to the peer until it acknowledges; when the peer comes (back), all records
    are. A batch that is sent again carries what its records are by then. *send* sends a datagram's content;
    *boot* is this start's number. ``lost`` counts records for which there was no room.
    """

    name = "HA2"

    def __init__(self, send: Callable[[dict[str, Any]], None], boot: int, clock: Callable[[], float]) -> None:
        self._send, self._boot, self._clock = send, boot, clock
        self.error: str | None = None
        self.lost = 0
        self._records: dict[str, Kept] = {}
        #: Keys whose change the peer does not know yet, and those of each batch under way, with when to send it again.
        self._changed: dict[str, None] = {}
        self._waiting: dict[int, tuple[float, list[str]]] = {}
        self._batch = 0
        self._peer: int | None = None
        self._prune_at = clock() + PRUNE

    @property
    def count(self) -> int:
        """Records that are kept."""
        return len(self._records)

    @property
    def changed(self) -> bool:
        """Whether there is something to send."""
        return bool(self._changed)

    @property
    def unsent(self) -> int:
        """Records that the peer is not known to have."""
        return len(self._changed) + sum(len(keys) for _, keys in self._waiting.values())

    def get(self, key: str) -> bytes | None:
        """Return the record, None if there is none."""
        kept = self._records.get(key)
        return kept.record.encode(errors="replace") if kept and kept.until > self._clock() else None

    def put(self, changes: Sequence[Change]) -> None:
        """Make *changes*, and have the peer make them."""
        for change in changes:
            if self._keep(*change) and self._peer is not None:
                self._changed[change.key] = None

    def _keep(self, key: str, record: str | None, lifetime: float) -> bool:
        if record is None:
            self._records.pop(key, None)
        elif len(self._records) >= CAPACITY and key not in self._records:
            self.lost += 1
            return False
        else:
            self._records[key] = Kept(record, self._clock() + lifetime)
        return True

    def peer(self, boot: int | None) -> None:
        """HA2 hears the peer, whose start has the number *boot*, or nothing: None."""
        if boot == self._peer:
            return
        self._peer = boot
        self._waiting.clear()
        self._changed = dict.fromkeys(self._records if boot is not None else ())
        self.error = "the peer is not heard" if boot is None else None

    def receive(self, content: dict[str, Any]) -> None:
        """Take a batch or an acknowledgement of the peer's; what is neither is ignored."""
        match content:
            case {"boot": int(boot), "acknowledge": int(batch)} if boot == self._boot:
                self._waiting.pop(batch, None)
            case {"boot": int(boot), "batch": int(batch), "records": list(records)}:
                for item in records:
                    match item:
                        case [str(key), str() | None as record, int() | float() as lifetime] if lifetime < LONGEST:
                            self._keep(key, record, lifetime)
                self._send({"boot": boot, "acknowledge": batch})

    def serve(self, now: float) -> None:
        """Send some of what the peer does not have."""
        if now >= self._prune_at:
            self._prune_at = now + PRUNE
            self._records = {key: kept for key, kept in self._records.items() if kept.until > now}
        while self._waiting:
            batch, (due, keys) = next(iter(self._waiting.items()))
            if due > now:
                break
            del self._waiting[batch]
            self._changed.update(dict.fromkeys(keys))
        for _ in range(TURN):
            if not self._changed or len(self._waiting) >= WINDOW:
                break
            self._send_batch(now)

    def _send_batch(self, now: float) -> None:
        keys: list[str] = []
        records: list[tuple[str, str | None, float]] = []
        size = 0
        for key in self._changed:
            kept = self._records.get(key)
            # Quotation marks are escaped once more in the datagram.
            size += len(key) + 24 + (len(kept.record) + kept.record.count('"') if kept else 0)
            if keys and size > BATCH:
                break
            keys.append(key)
            records.append((key, kept.record, round(kept.until - now, 1)) if kept else (key, None, 0))
        for key in keys:
            del self._changed[key]
        self._batch += 1
        self._waiting[self._batch] = now + RESEND, keys
        self._send({"boot": self._boot, "batch": self._batch, "records": records})


class HaService:
    """One firewall of a pair at work: a service of :class:`firewall_vnf.adapter.Loop`.

    *addresses* and *peers* are this firewall's and the peer's on each link; none of them moves at a failover. *secret*
    is the pair's. *monitor* says what of this firewall has failed, in words, nothing if it is well. ``sync`` is for
    :class:`~firewall_vnf.session_store.Sharing`. Raises :class:`HaLinkError`.
    """

    def __init__(
        self,
        machine: HighAvailability,
        addresses: dict[HaLink, IPv4Address],
        peers: dict[HaLink, IPv4Address],
        secret: str,
        cloud: Cloud,
        monitor: Callable[[], str],
        log: Log,
        boot: int,
        clock: Callable[[], float],
    ) -> None:
        self.machine = machine
        self._cloud, self._monitor, self._log = cloud, monitor, log
        self._key = hashlib.sha256(f"bumpwire-ha:{machine.settings.group}:{secret}".encode()).digest()
        self._peers = {link: (str(peers[link]), port) for link, port in PORTS.items()}
        self._sockets = {link: _open(link, addresses[link]) for link in HaLink}
        self._descriptors = [opened.fileno() for opened in self._sockets.values()]
        timers = machine.settings.timers
        #: Seconds after which it wants to be served at the latest.
        self.interval = timers.heartbeat_interval / machine.settings.time_scale / LOOKS
        self._look_at = float("-inf")
        self.sync = SessionSync(lambda content: self._transmit(HaLink.HA2, content), boot, clock)
        #: Datagrams that no link took, and those that were not the peer's.
        self.send_errors = self.refused = 0

    def register(self, poll: select.poll) -> None:
        for opened in self._sockets.values():
            poll.register(opened, select.POLLIN)

    def serve(self, descriptors: Sequence[int], now: float) -> None:
        """Hear the peer, then let time pass. Between packets that are not its own it costs next to nothing."""
        if now < self._look_at and not self.sync.changed and not any(one in descriptors for one in self._descriptors):
            return
        self._look_at = now + self.interval
        for link, opened in self._sockets.items():
            for _ in range(READ):
                try:
                    data, (host, _) = opened.recvfrom(65536)
                except BlockingIOError:
                    break
                except OSError:  # what an earlier datagram met: nobody listens there
                    continue
                content = unseal(self._key, data) if host == self._peers[link][0] else None
                if content is None:
                    self.refused += 1
                else:
                    self._take(link, content, now)
        self._act(self.machine.monitor(self._monitor(), now), now)
        self._act(self.machine.tick(now), now)
        self._act([*self._cloud.notes()], now)
        if self._cloud.lost():
            self._act(self.machine.fenced(now), now)
        peer = self.machine.peer
        self.sync.peer(peer.boot if peer and self.machine.hears(HaLink.HA2) else None)
        self.sync.serve(now)

    def suspend(self, now: float) -> None:
        """The operator takes this firewall out."""
        self._act(self.machine.suspend(now), now)

    def functional(self, now: float) -> None:
        """The operator lets it take part again."""
        self._act(self.machine.functional(now), now)

    def close(self, now: float) -> None:
        """Hand over: the sessions, and the news that this firewall stops. Close after the session store."""
        self.sync.serve(now)
        self._act(self.machine.suspend(now, "stopped"), now)
        for opened in self._sockets.values():
            opened.close()

    def _take(self, link: HaLink, content: dict[str, Any], now: float) -> None:
        if "ha" in content:
            message = parse_hostile_message(json.dumps(content["ha"]))
            if message is not None:
                self._act(self.machine.receive(link, message, now), now)
        elif link is HaLink.HA2:
            self.sync.receive(content)

    def _act(self, actions: list[Action], now: float) -> None:
        for action in actions:
            match action:
                case Send(link, message):
                    self._transmit(link, {"ha": _plain(message)})
                case Claim():
                    self._cloud.claim()
                case Release():
                    self._cloud.release()
                case Note(event, severity, text):
                    self._log.system(event, severity, text, now)

    def _transmit(self, link: HaLink, content: dict[str, Any]) -> None:
        try:
            self._sockets[link].sendto(seal(self._key, content), self._peers[link])
        except OSError:  # the link is down; heartbeats find that out
            self.send_errors += 1


def _plain(message: Message) -> dict[str, Any]:
    return message.model_dump(mode="json")


def _open(link: HaLink, address: IPv4Address) -> socket.socket:
    opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    opened.setblocking(False)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    try:
        opened.bind((str(address), PORTS[link]))
    except OSError as error:
        opened.close()
        raise HaLinkError(
            f"{link.name} {address}:{PORTS[link]}: {error.strerror};"
            " name an address of this firewall, and end what else uses the port"
        ) from error
    return opened
