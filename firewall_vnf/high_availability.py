"""Active/passive high availability of two firewalls: the state machine of one of them, without I/O.

::

    initial ─peer is active, or will be─▶ passive        initial, passive ─peer gone, or cannot─▶ active
    active ─peer is active too and comes first; preempted─▶ passive ─▶ …
    any ─monitor fails; fenced─▶ non-functional ─mended─▶ initial
    any ─operator; max_flaps─▶ suspended ─operator─▶ initial

States, timers and their defaults are PAN-OS's (administrator's guide, "HA Timers", "HA Firewall States"; VM-Series on
AWS, "High Availability"). ``tentative`` is a state of active/active pairs only. The lower device priority comes first,
then the lower address. Heartbeats and hellos go over HA1 and, as heartbeat backup, over HA2: the peer is gone when
:data:`LOST` heartbeats in a row are missing on *both*, so a broken HA1 alone promotes nobody. PAN-OS's heartbeats are
pings; these say the sender's state too, so that a lost hello costs one heartbeat's time.

A link that carries one direction only does not count as working: the end that hears nothing cannot know. If both links
fail, both firewalls can be active. Then the cloud is the fence: it gives the addresses to whoever asked last, and the
other learns from the cloud that it has lost them (:meth:`HighAvailability.fenced`) and carries on only when it hears
its peer again, or the operator says so. When the links come back and both are active, the first in order stays
and claims the addresses again; the other yields.

All times are seconds of any clock that never goes back. ``time_scale`` divides every timer.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

#: Missing heartbeats from which the peer is gone.
LOST = 3
#: A flap: leaving the active state within these seconds after it was left before.
FLAP_WINDOW = 900.0


class HaState(str, Enum):
    INITIAL = "initial"
    ACTIVE = "active"
    PASSIVE = "passive"
    SUSPENDED = "suspended"
    NON_FUNCTIONAL = "non-functional"


#: States from which a firewall never takes over.
UNABLE = (HaState.SUSPENDED, HaState.NON_FUNCTIONAL)


class HaLink(Enum):
    HA1 = "ha1"
    HA2 = "ha2"


class HaTimers(BaseModel):
    """PAN-OS's timers in seconds, before ``time_scale``; the defaults are its profile "recommended".

    ``promotion_hold`` begins when the peer is found gone; ``additional_master_hold_up`` is how long an active firewall
    waits after a monitor failed, in case the peer's fails too. ``max_flaps`` 0 means no limit.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    hello_interval: float = Field(default=8.0, gt=0)
    heartbeat_interval: float = Field(default=2.0, gt=0)
    promotion_hold: float = Field(default=2.0, ge=0)
    preemption_hold: float = Field(default=60.0, ge=0)
    additional_master_hold_up: float = Field(default=0.5, ge=0)
    max_flaps: int = Field(default=3, ge=0, le=16)


RECOMMENDED = HaTimers()
AGGRESSIVE = HaTimers(heartbeat_interval=1.0, promotion_hold=0.5)
PROFILES = {"recommended": RECOMMENDED, "aggressive": AGGRESSIVE}


class HaSettings(BaseModel):
    """One firewall of the pair. ``address`` is that of its HA1, different from the peer's."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    group: int = Field(default=1, ge=1, le=63)
    priority: int = Field(default=100, ge=0, le=255)
    preemptive: bool = False
    address: IPv4Address
    timers: HaTimers = RECOMMENDED
    time_scale: float = Field(default=1.0, gt=0)


class Message(BaseModel):
    """A heartbeat or hello. ``boot`` and ``number`` order a sender's messages over all links and restarts."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    kind: Literal["heartbeat", "hello"]
    group: Annotated[int, Field(ge=1, le=63)]
    boot: Annotated[int, Field(ge=0, lt=2**64)]
    number: Annotated[int, Field(ge=0, lt=2**64)]
    state: HaState
    priority: Annotated[int, Field(ge=0, le=255)]
    preemptive: bool
    address: IPv4Address


def parse_hostile_message(data: str | bytes) -> Message | None:
    """Return the message, None if it is none. Never raises, whatever the bytes."""
    try:
        return Message.model_validate_json(data)
    except (ValidationError, ValueError):
        return None


@dataclass(frozen=True)
class Send:
    """Send *message* to the peer over *link*."""

    link: HaLink
    message: Message


@dataclass(frozen=True)
class Claim:
    """Have the cloud move the addresses here; those that are here stay."""


@dataclass(frozen=True)
class Release:
    """Ask the cloud for nothing any more."""


@dataclass(frozen=True)
class Note:
    """A line of the system log: as :meth:`firewall_vnf.log.Log.system` takes it."""

    event: str
    severity: str
    text: str


Action = Send | Claim | Release | Note


class HighAvailability:
    """One firewall of a pair, from *now* on. *boot* is greater with each start: the wall time, for example.

    Every event returns what to do, in order. :meth:`tick` is to be called often, a few times a heartbeat interval.
    """

    def __init__(self, settings: HaSettings, boot: int, now: float) -> None:
        self.settings = settings
        self.state = HaState.INITIAL
        self.reason = "started"
        #: When the state began.
        self.since = now
        #: The peer's last word; None before the first, and when the peer is gone.
        self.peer: Message | None = None
        self._boot, self._number = boot, 0
        timers, scale = settings.timers, settings.time_scale
        self._heartbeat = timers.heartbeat_interval / scale
        self._hello = timers.hello_interval / scale
        self._promotion = timers.promotion_hold / scale
        self._preemption = timers.preemption_hold / scale
        self._hold_up = timers.additional_master_hold_up / scale
        self._window = FLAP_WINDOW / scale
        #: When each link was last heard; at first, as if just now. A link that is down has an entry in ``_down``.
        self._heard = dict.fromkeys(HaLink, now)
        self._latest = dict.fromkeys(HaLink, (0, 0))
        self._down: set[HaLink] = set()
        self._gone_at: float | None = None
        self._peer_since = now
        self._failed_at: float | None = None
        self._monitor = ""
        self._fenced = False
        self._flaps = 0
        self._left_active = float("-inf")
        self._ticked = now
        self._excused = False
        self._heartbeat_due = self._hello_due = now

    def hears(self, link: HaLink) -> bool:
        """Whether the peer is heard on *link*."""
        return self.peer is not None and link not in self._down

    def is_active(self) -> bool:
        """Whether this firewall carries traffic."""
        return self.state is HaState.ACTIVE

    # -- events ------------------------------------------------------------------------------------------------------

    def receive(self, link: HaLink, message: Message, now: float) -> list[Action]:
        """The peer has been heard. What is another group's, our own, repeated or overtaken is ignored."""
        settings, order = self.settings, (message.boot, message.number)
        if message.group != settings.group or message.address == settings.address or order <= self._latest[link]:
            return []
        actions: list[Action] = []
        newest = order > max(self._latest.values())
        self._latest[link] = order
        self._heard[link] = now
        self._excused = False
        if link in self._down:
            self._down.discard(link)
            actions.append(Note(f"{link.value}-link-up", "informational", f"{link.name}: the peer is heard"))
        met = self.peer is None
        self._gone_at = None
        if newest or met:
            before = self.peer.state if self.peer else None
            if message.state is not before:
                self._peer_since = now
            self.peer = message
            if self.state is HaState.ACTIVE is not message.state and before in (None, HaState.ACTIVE):
                actions.append(Claim())  # the peer may have been active too, and have had the addresses moved
        if self._fenced:
            self._fenced = False
            actions += self._become(HaState.INITIAL, "the peer is heard again", now)
        actions += self._decide(now)
        if met:
            actions += self._send("hello")
        return actions

    def tick(self, now: float) -> list[Action]:
        """Time has passed. What arrived meanwhile is to be given to :meth:`receive` first."""
        gap = now - self._ticked
        self._ticked = now
        # We were stopped, and could not hear: the peer gets that time again, once until it is heard.
        if gap > self._heartbeat and not self._excused:
            self._excused = True
            self._heard = {link: min(now, heard + gap) for link, heard in self._heard.items()}
        actions: list[Action] = []
        for link, heard in self._heard.items():
            if link not in self._down and now - heard >= LOST * self._heartbeat:
                self._down.add(link)
                text = f"{link.name}: {LOST} heartbeats of the peer are missing"
                actions.append(Note(f"{link.value}-link-down", "high", text))
        if len(self._down) == len(HaLink) and self._gone_at is None:
            self._gone_at = now
            self.peer = None
            # Its clock may have gone back when it comes again.
            self._latest = dict.fromkeys(HaLink, (0, 0))
            actions.append(Note("ha-peer-gone", "critical", "the peer is heard on no link"))
        actions += self._decide(now)
        if now >= self._hello_due:
            actions += self._send("hello")
            self._hello_due = now + self._hello
            self._heartbeat_due = now + self._heartbeat
        elif now >= self._heartbeat_due:
            actions += self._send("heartbeat")
            self._heartbeat_due = now + self._heartbeat
        return actions

    def monitor(self, failure: str, now: float) -> list[Action]:
        """Link and path monitoring found *failure*, or that nothing fails: an empty text."""
        if failure and self._failed_at is None:
            self._failed_at = now
        elif not failure:
            self._failed_at = None
        self._monitor = failure
        if not failure and self.state is HaState.NON_FUNCTIONAL and not self._fenced:
            return self._become(HaState.INITIAL, "monitored links and paths work", now) + self._decide(now)
        return self._decide(now)

    def suspend(self, now: float, reason: str = "by the operator") -> list[Action]:
        """The operator takes this firewall out (``request high-availability state suspend``); or it stops."""
        self._fenced = False
        return self._become(HaState.SUSPENDED, reason, now)

    def functional(self, now: float) -> list[Action]:
        """The operator lets it take part again (``request high-availability state functional``)."""
        if self.state not in UNABLE:
            return []
        self._fenced = False
        self._flaps = 0
        return self._become(HaState.INITIAL, "by the operator", now) + self._decide(now)

    def fenced(self, now: float) -> list[Action]:
        """The cloud says that another interface has the addresses. With the peer in sight, the pair's word counts."""
        if self.state is not HaState.ACTIVE:
            return []
        if self.peer:
            return [Claim()]
        self._fenced = True
        return self._become(HaState.NON_FUNCTIONAL, "the cloud has moved the addresses to another firewall", now)

    # -- decisions ---------------------------------------------------------------------------------------------------

    def _decide(self, now: float) -> list[Action]:
        """Take the state that the settings, the monitor and the peer ask for."""
        if self.state in UNABLE:
            return []
        peer = self.peer
        if self._failed_at is not None and (
            self.state is not HaState.ACTIVE
            # An active firewall gives up only for one that can take over.
            or (now >= self._failed_at + self._hold_up and peer is not None and peer.state not in UNABLE)
        ):
            return self._leave(HaState.NON_FUNCTIONAL, self._monitor, now)
        if self.state is HaState.ACTIVE:
            return self._decide_active(now)
        if peer is None:
            if self._gone_at is not None and now >= self._gone_at + self._promotion:
                return self._become(HaState.ACTIVE, "the peer is gone", now)
            return []
        if peer.state in UNABLE:
            return self._become(HaState.ACTIVE, f"the peer is {peer.state.value}", now)
        if peer.state is HaState.ACTIVE:
            if self.state is HaState.INITIAL:
                return self._become(HaState.PASSIVE, "the peer is active", now)
            return []
        # Neither is active. One that is passive already has sessions; one that has just started has none.
        alike = peer.state is self.state
        if (alike and self._first(peer)) or (not alike and self.state is HaState.PASSIVE):
            return self._become(HaState.ACTIVE, f"elected; the peer is {peer.state.value}", now)
        return []

    def _decide_active(self, now: float) -> list[Action]:
        peer = self.peer
        if peer is None or self._first(peer):
            return []
        if peer.state is HaState.ACTIVE:
            return self._leave(HaState.PASSIVE, "both were active; the peer comes first", now)
        preempts = self.settings.preemptive and peer.preemptive and peer.state is HaState.PASSIVE
        if preempts and now >= max(self._peer_since, self.since) + self._preemption:
            return self._leave(HaState.PASSIVE, "preempted by the peer's priority", now)
        return []

    def _first(self, peer: Message) -> bool:
        return (self.settings.priority, self.settings.address) < (peer.priority, peer.address)

    def _leave(self, state: HaState, reason: str, now: float) -> list[Action]:
        """Become *state*; if that is leaving the active state once too often, suspended."""
        if self.state is HaState.ACTIVE:
            self._flaps = self._flaps + 1 if now < self._left_active + self._window else 0
            self._left_active = now
            if self.settings.timers.max_flaps and self._flaps >= self.settings.timers.max_flaps:
                state, reason = HaState.SUSPENDED, f"{self._flaps} flaps ({reason})"
        return self._become(state, reason, now)

    def _become(self, state: HaState, reason: str, now: float) -> list[Action]:
        before = self.state
        if state is before:
            return []
        self.state, self.reason, self.since = state, reason, now
        severity = "informational" if state in (HaState.INITIAL, HaState.PASSIVE) else "high"
        actions: list[Action] = [Note("ha-state", severity, f"{before.value} to {state.value}: {reason}")]
        if state is HaState.ACTIVE:
            actions.append(Claim())
        elif before is HaState.ACTIVE:
            actions.append(Release())
        return actions + self._send("hello")

    def _send(self, kind: Literal["heartbeat", "hello"]) -> list[Action]:
        settings = self.settings
        sends: list[Action] = []
        for link in HaLink:
            self._number += 1
            message = Message(
                kind=kind,
                group=settings.group,
                boot=self._boot,
                number=self._number,
                state=self.state,
                priority=settings.priority,
                preemptive=settings.preemptive,
                address=settings.address,
            )
            sends.append(Send(link, message))
        return sends
