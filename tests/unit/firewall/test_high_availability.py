"""Both firewalls of a pair and the links between them, simulated: a clock of 0.1 s steps, links that lose and delay."""

from __future__ import annotations

import random
from ipaddress import IPv4Address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firewall_vnf.high_availability import (
    AGGRESSIVE,
    LOST,
    Action,
    Claim,
    HaLink,
    HaSettings,
    HaState,
    HaTimers,
    HighAvailability,
    Note,
    Release,
    Send,
    parse_hostile_message,
)

STEP = 0.1
HA1, HA2 = HaLink
ACTIVE, PASSIVE = HaState.ACTIVE, HaState.PASSIVE
DETECTION = LOST * 2.0
#: Until a peer that is gone has been replaced, with the steps of the clock and of the links.
TAKEOVER = DETECTION + 2.0 + 3 * STEP


class Pair:
    """Firewalls 0 and 1, where 0 comes first. ``owner`` is whom the cloud gave the addresses last."""

    def __init__(self, loss: float = 0.0, seed: int = 0, **settings: Any) -> None:
        self.now, self.settings = 0.0, settings
        self.cut: set[HaLink] = set()
        self.stopped: set[int] = set()
        self.loss, self.random = loss, random.Random(seed)
        self.owner: int | None = None
        self.notes: list[tuple[int, str]] = []
        self.wire: list[tuple[float, int, Send]] = []
        self.boots = 0
        self.firewalls = [self.boot(0), self.boot(1)]

    def boot(self, index: int) -> HighAvailability:
        self.boots += 1
        address = IPv4Address(f"10.0.0.{index + 1}")
        settings = HaSettings(address=address, priority=100 + index, **self.settings)
        return HighAvailability(settings, self.boots, self.now)

    def restart(self, index: int) -> None:
        self.stopped.discard(index)
        self.firewalls[index] = self.boot(index)

    def act(self, index: int, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, Send):
                self.wire.append((self.now + STEP * self.random.random(), 1 - index, action))
            elif isinstance(action, Claim):
                self.owner = index
            elif isinstance(action, Note):
                self.notes.append((index, action.event))

    def step(self) -> None:
        self.now += STEP
        due = sorted((item for item in self.wire if item[0] <= self.now), key=lambda item: item[0])
        self.wire = [item for item in self.wire if item[0] > self.now]
        for _, index, sent in due:
            if sent.link not in self.cut and index not in self.stopped and self.random.random() >= self.loss:
                self.act(index, self.firewalls[index].receive(sent.link, sent.message, self.now))
        for index, firewall in enumerate(self.firewalls):
            if index not in self.stopped:
                self.act(index, firewall.tick(self.now))

    def run(self, seconds: float) -> None:
        for _ in range(round(seconds / STEP)):
            self.step()

    def until(self, *states: HaState, limit: float = 100.0) -> float:
        """Run until the firewalls have these states; return the seconds that it took."""
        start = self.now
        while self.states != list(states):
            assert self.now < start + limit, (self.states, self.notes)
            self.step()
        return self.now - start

    @property
    def states(self) -> list[HaState]:
        return [firewall.state for firewall in self.firewalls]

    @property
    def events(self) -> list[tuple[int, str]]:
        events, self.notes = self.notes, []
        return events


def settled(**settings: Any) -> Pair:
    """A pair whose first firewall has been active for a while."""
    pair = Pair(**settings)
    pair.until(ACTIVE, PASSIVE, limit=1.0)
    pair.run(20)
    assert pair.owner == 0
    pair.notes.clear()
    return pair


def test_the_lower_priority_is_elected_then_nothing_changes() -> None:
    pair = settled()
    pair.run(3600)
    assert (pair.states, pair.events, pair.owner) == ([ACTIVE, PASSIVE], [], 0)


def test_the_lower_address_is_elected_among_equals() -> None:
    one, two = (HaSettings(address=IPv4Address(f"10.0.0.{host}")) for host in (9, 10))
    hello = next(action for action in HighAvailability(one, 1, 0.0).tick(0.0) if isinstance(action, Send))
    loser = HighAvailability(two, 2, 0.0)
    loser.receive(HA1, hello.message, 0.1)
    winner = HighAvailability(one, 1, 0.0)
    reply = next(action for action in loser.tick(0.1) if isinstance(action, Send))
    winner.receive(HA1, reply.message, 0.2)
    assert (winner.state, loser.state) == (ACTIVE, HaState.INITIAL)


def test_one_alone_becomes_active() -> None:
    pair = Pair()
    pair.stopped = {0}
    assert pair.until(HaState.INITIAL, ACTIVE) == pytest.approx(TAKEOVER, abs=0.5)


@pytest.mark.parametrize(
    ("timers", "seconds"), [(HaTimers(), 8.0), (AGGRESSIVE, 3.5), (HaTimers(promotion_hold=0), 6.0)]
)
def test_a_dead_active_is_replaced(timers: HaTimers, seconds: float) -> None:
    pair = settled(timers=timers)
    pair.stopped = {0}
    assert seconds - timers.heartbeat_interval <= pair.until(ACTIVE, ACTIVE) <= seconds + 0.3
    assert pair.owner == 1
    assert pair.events == [(1, "ha1-link-down"), (1, "ha2-link-down"), (1, "ha-peer-gone"), (1, "ha-state")]


def test_time_scale_divides_the_timers() -> None:
    pair = settled(time_scale=4.0)
    pair.stopped = {0}
    assert 1.5 <= pair.until(ACTIVE, ACTIVE) <= 2.3


def test_a_returned_firewall_is_passive_without_preemption() -> None:
    pair = settled()
    pair.stopped = {0}
    pair.until(ACTIVE, ACTIVE)
    pair.restart(0)
    assert pair.until(PASSIVE, ACTIVE) < 1
    pair.run(300)
    assert (pair.states, pair.owner) == ([PASSIVE, ACTIVE], 1)


def test_an_active_that_restarts_at_once_leaves_the_role_to_the_passive() -> None:
    """It has lost its sessions; the passive has them."""
    pair = settled()
    pair.restart(0)
    assert pair.until(PASSIVE, ACTIVE) < 1


def test_preemption_waits_for_the_hold_time_and_never_makes_two() -> None:
    pair = settled(preemptive=True)
    pair.stopped = {0}
    pair.until(ACTIVE, ACTIVE)
    pair.restart(0)
    pair.until(PASSIVE, ACTIVE)
    start = pair.now
    while pair.states != [ACTIVE, PASSIVE]:
        pair.step()
        assert pair.states != [ACTIVE, ACTIVE]
    assert pair.now - start == pytest.approx(60, abs=0.5)
    assert pair.owner == 0


@pytest.mark.parametrize("link", HaLink)
def test_one_broken_link_promotes_nobody(link: HaLink) -> None:
    pair = settled()
    pair.cut = {link}
    pair.run(600)
    assert (pair.states, pair.owner) == ([ACTIVE, PASSIVE], 0)
    assert sorted(pair.events) == [(0, f"{link.value}-link-down"), (1, f"{link.value}-link-down")]
    pair.cut = set()
    pair.run(5)
    assert sorted(pair.events) == [(0, f"{link.value}-link-up"), (1, f"{link.value}-link-up")]


def test_both_links_broken_the_cloud_is_the_fence() -> None:
    pair = settled()
    pair.cut = set(HaLink)
    pair.until(ACTIVE, ACTIVE)
    assert pair.owner == 1
    pair.act(0, pair.firewalls[0].fenced(pair.now))
    pair.run(600)
    assert pair.states == [HaState.NON_FUNCTIONAL, ACTIVE]
    pair.cut = set()
    assert pair.until(PASSIVE, ACTIVE) < 2.5
    assert pair.owner == 1


def test_split_brain_is_over_when_a_link_returns() -> None:
    """The first in order stays and claims what the other one had the cloud move."""
    pair = settled()
    pair.cut = set(HaLink)
    pair.until(ACTIVE, ACTIVE)
    pair.cut = {HA1}
    assert pair.until(ACTIVE, PASSIVE) < 2.5
    pair.run(1)
    assert pair.owner == 0


def test_the_cloud_is_not_believed_against_the_pair() -> None:
    pair = settled()
    assert pair.firewalls[0].fenced(pair.now) == [Claim()]
    assert pair.firewalls[1].fenced(pair.now) == []
    assert pair.states == [ACTIVE, PASSIVE]


def test_a_stopped_firewall_that_goes_on_yields_nothing_and_takes_nothing() -> None:
    """A passive one that was stopped has not heard its peer, and does not take that for the peer's death."""
    pair = settled()
    pair.stopped = {1}
    pair.run(31)
    pair.events.clear()
    pair.stopped = set()
    pair.run(30)
    assert (pair.states, pair.owner) == ([ACTIVE, PASSIVE], 0)
    assert [event for index, event in pair.events if index == 1] == []


def test_a_clock_that_is_looked_at_too_rarely_keeps_no_dead_peer_alive() -> None:
    pair = settled()
    pair.stopped = {0}
    start, survivor = pair.now, pair.firewalls[1]
    while survivor.state is not ACTIVE:
        pair.now += 2.5 * survivor.settings.timers.heartbeat_interval
        survivor.tick(pair.now)
        assert pair.now < start + 3 * TAKEOVER


def test_a_stopped_active_takes_the_addresses_back() -> None:
    pair = settled()
    pair.stopped = {0}
    pair.until(ACTIVE, ACTIVE)
    assert pair.owner == 1
    pair.stopped = set()
    assert pair.until(ACTIVE, PASSIVE) < 3
    pair.run(1)
    assert pair.owner == 0


def test_suspend_hands_over_at_once_and_functional_comes_back_as_passive() -> None:
    pair = settled()
    actions = pair.firewalls[0].suspend(pair.now)
    assert Release() in actions
    pair.act(0, actions)
    assert pair.until(HaState.SUSPENDED, ACTIVE) < 0.5
    pair.run(600)
    pair.act(0, pair.firewalls[0].functional(pair.now))
    assert pair.until(PASSIVE, ACTIVE) < 0.5
    assert pair.firewalls[0].functional(pair.now) == []


def test_a_suspended_pair_has_no_active() -> None:
    pair = settled()
    for index in (1, 0):
        pair.act(index, pair.firewalls[index].suspend(pair.now))
    pair.run(60)
    assert pair.states == [HaState.SUSPENDED] * 2


def test_a_failed_monitor_hands_over_after_the_hold_up() -> None:
    pair = settled()
    pair.act(0, pair.firewalls[0].monitor("ethernet1/1 is down", pair.now))
    assert 0.5 <= pair.until(HaState.NON_FUNCTIONAL, ACTIVE) <= 0.9
    pair.act(0, pair.firewalls[0].monitor("", pair.now))
    assert pair.until(PASSIVE, ACTIVE) < 0.5


def test_a_failure_that_both_see_moves_nothing() -> None:
    pair = settled()
    for index in (0, 1):
        pair.act(index, pair.firewalls[index].monitor("10.0.0.254 does not answer", pair.now))
    pair.run(60)
    assert pair.states == [ACTIVE, HaState.NON_FUNCTIONAL]
    pair.act(1, pair.firewalls[1].monitor("", pair.now))
    assert pair.until(HaState.NON_FUNCTIONAL, ACTIVE) < 0.5


@pytest.mark.parametrize("limit", [0, 1, 3])
def test_too_many_flaps_suspend(limit: int) -> None:
    pair = settled(timers=HaTimers(max_flaps=limit), preemptive=True)
    handovers = 0
    while pair.states[0] is not HaState.SUSPENDED and handovers < 6:
        pair.act(0, pair.firewalls[0].monitor("link down", pair.now))
        pair.run(1)
        pair.act(0, pair.firewalls[0].monitor("", pair.now))
        pair.run(70)
        handovers += 1
    assert handovers == (limit + 1 if limit else 6)
    if limit:
        assert pair.states[1] is ACTIVE
        assert pair.firewalls[0].reason == f"{limit} flaps (link down)"


@pytest.mark.parametrize("seed", range(5))
def test_a_third_of_all_messages_lost(seed: int) -> None:
    """Three in a row on both links happen once in 729 heartbeats, and are mended with the next one."""
    pair = Pair(loss=1 / 3, seed=seed)
    pair.run(60)
    doubled = 0
    for _ in range(36_000):
        pair.step()
        doubled += pair.states == [ACTIVE, ACTIVE]
        assert ACTIVE in pair.states
    assert doubled * STEP < 60


MOMENTS = st.lists(
    st.tuples(
        st.floats(0.1, 25.0),
        st.sampled_from(["cut ha1", "cut ha2", "mend ha1", "mend ha2", "stop", "restart", "monitor", "suspend"]),
        st.integers(0, 1),
    ),
    max_size=25,
)


@given(MOMENTS, st.booleans(), st.integers(0, 99))
def test_never_two_active_for_longer_than_the_detection_while_a_link_works(
    moments: list[tuple[float, str, int]], preemptive: bool, seed: int
) -> None:
    pair = Pair(seed=seed, preemptive=preemptive, timers=HaTimers(max_flaps=0, preemption_hold=5.0))
    works_since = dict.fromkeys(HaLink, 0.0)
    single = 0.0

    def run(seconds: float) -> None:
        nonlocal single
        for _ in range(round(seconds / STEP)):
            pair.step()
            if pair.states != [ACTIVE, ACTIVE] or pair.stopped:
                single = pair.now
            working = max(
                (pair.now - since for link, since in works_since.items() if link not in pair.cut), default=0.0
            )
            assert min(pair.now - single, working) <= DETECTION

    for wait, what, index in moments:
        run(wait)
        firewall = pair.firewalls[index]
        match what.split():
            case ["cut", link]:
                pair.cut.add(HaLink(link))
            case ["mend", link] if HaLink(link) in pair.cut:
                pair.cut.discard(HaLink(link))
                works_since[HaLink(link)] = pair.now
            case ["stop"]:
                pair.stopped.add(index)
            case ["restart"]:
                pair.restart(index)
            case ["monitor"] if index not in pair.stopped:
                pair.act(index, firewall.monitor("" if firewall.state is HaState.NON_FUNCTIONAL else "down", pair.now))
            case ["suspend"] if index not in pair.stopped:
                suspended = firewall.state is HaState.SUSPENDED
                pair.act(index, (firewall.functional if suspended else firewall.suspend)(pair.now))
    # Whatever happened: with everything mended, one is active.
    pair.cut = set()
    for link in HaLink:
        works_since[link] = pair.now
    for index in (0, 1):
        pair.restart(index)
    run(TAKEOVER)
    assert sorted(pair.states) == [ACTIVE, PASSIVE]


def test_what_is_not_the_peers_is_ignored() -> None:
    pair = settled()
    firewall = pair.firewalls[1]
    peer = firewall.peer
    assert peer is not None
    alive = peer.model_copy(update={"number": peer.number + 10, "state": HaState.SUSPENDED})
    for wrong in (
        {"group": 2},
        {"address": firewall.settings.address},
        {"number": 1},
        {"boot": 0},
    ):
        assert firewall.receive(HA1, alive.model_copy(update=wrong), pair.now) == []
    assert firewall.state is PASSIVE
    firewall.receive(HA1, alive, pair.now)
    assert firewall.state is ACTIVE
    assert firewall.receive(HA1, alive, pair.now) == []  # the same once more


def test_repeated_messages_of_a_dead_peer_do_not_keep_it_alive() -> None:
    pair = settled()
    pair.stopped = {0}
    pair.run(1)
    firewall = pair.firewalls[1]
    assert firewall.peer is not None
    recorded, start = firewall.peer, pair.now
    while pair.now < start + TAKEOVER + 1:
        pair.step()
        if firewall.peer:
            for link in HaLink:
                pair.act(1, firewall.receive(link, recorded, pair.now))
    assert firewall.state is ACTIVE


def test_a_peer_whose_clock_went_back_is_heard_after_it_was_gone_and_answered_at_once() -> None:
    pair = settled()
    firewall = pair.firewalls[1]
    assert firewall.peer is not None
    returned = firewall.peer.model_copy(update={"boot": 0, "number": 1, "state": HaState.INITIAL})
    pair.stopped = {0}
    pair.until(ACTIVE, ACTIVE)
    answers = [action for action in firewall.receive(HA1, returned, pair.now) if isinstance(action, Send)]
    assert [(answer.link, answer.message.kind, answer.message.state) for answer in answers] == [
        (HA1, "hello", ACTIVE),
        (HA2, "hello", ACTIVE),
    ]


def test_an_overtaken_message_of_the_other_link_counts_only_as_heard() -> None:
    pair = settled()
    firewall = pair.firewalls[1]
    peer = firewall.peer
    assert peer is not None
    newer = peer.model_copy(update={"number": peer.number + 10})
    firewall.receive(HA1, newer, pair.now)
    firewall.receive(HA2, newer.model_copy(update={"number": peer.number + 9, "state": HaState.SUSPENDED}), pair.now)
    assert (firewall.state, firewall.peer) == (PASSIVE, newer)


@given(st.binary(max_size=200))
def test_hostile_bytes_are_no_message(data: bytes) -> None:
    assert parse_hostile_message(data) is None


def test_a_message_survives_the_wire_and_nothing_else_does() -> None:
    sent = next(action for action in Pair().firewalls[0].tick(0.0) if isinstance(action, Send)).message
    text = sent.model_dump_json()
    assert parse_hostile_message(text) == sent
    for wrong in (text.replace('"initial"', '"tentative"'), text.replace("100", "256"), text.replace("}", ',"x":1}')):
        assert parse_hostile_message(wrong) is None
