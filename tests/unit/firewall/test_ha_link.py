"""The sealed datagrams, the sessions' synchronisation over a link that loses, and the service on loopback."""

from __future__ import annotations

import hashlib
import hmac
import json
import random
import select
import signal
import socket
import time
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firewall_vnf import ha_link
from firewall_vnf.adapter import Loop
from firewall_vnf.ha_link import BATCH, RESEND, HaLinkError, HaService, SessionSync, seal, unseal
from firewall_vnf.high_availability import HaLink, HaSettings, HaState, HighAvailability, Note
from firewall_vnf.log import Log
from firewall_vnf.session_store import Change, Sharing
from tests.unit.firewall.traffic import Bench, Connection, rules

KEY = b"k" * 32
SSH = rules("name: ssh, application: ssh, service: any, log_end: true, action: allow")


def test_a_sealed_content_is_unsealed() -> None:
    assert unseal(KEY, seal(KEY, {"ha": 1})) == {"ha": 1}


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"[" * 5000, b"\xff", b"9" * 5000])
def test_what_is_no_content_is_refused_even_with_the_key(body: bytes) -> None:
    sealed = seal(KEY, {})
    data = sealed[:5] + hmac.digest(KEY, body, hashlib.sha256)[:16] + body
    assert unseal(KEY, data) is None


@given(st.integers(0, 200), st.integers(1, 255))
def test_a_changed_byte_breaks_the_seal(place: int, change: int) -> None:
    data = bytearray(seal(KEY, {"boot": 1, "acknowledge": 2}))
    data[place % len(data)] ^= change
    assert unseal(KEY, bytes(data)) is None
    assert unseal(b"o" * 32, seal(KEY, {})) is None


@given(st.binary(max_size=100))
def test_hostile_bytes_are_refused(data: bytes) -> None:
    assert unseal(KEY, data) is None


class Wire:
    """Two synchronisations; ``loss`` is the part of the datagrams that is lost. Both hear each other."""

    def __init__(self) -> None:
        self.now, self.loss, self.random = 0.0, 0.0, random.Random(1)
        self.queue: list[tuple[int, dict[str, Any]]] = []
        self.sizes: list[int] = []
        self.ends = [self.end(0, 10), self.end(1, 20)]

    def end(self, index: int, boot: int) -> SessionSync:
        return SessionSync(self.sender(1 - index), boot, lambda: self.now)

    def sender(self, target: int) -> Callable[[dict[str, Any]], None]:
        def send(content: dict[str, Any]) -> None:
            self.sizes.append(len(seal(KEY, content)))
            if self.random.random() >= self.loss:
                self.queue.append((target, json.loads(json.dumps(content))))

        return send

    def meet(self) -> None:
        for end, boot in zip(self.ends, (20, 10), strict=True):
            end.peer(boot)

    def run(self, seconds: float) -> None:
        for _ in range(round(seconds / 0.05)):
            self.now += 0.05
            for end in self.ends:
                end.serve(self.now)
            while self.queue:
                target, content = self.queue.pop(0)
                self.ends[target].receive(content)


def change(number: int, text: str = "x", lifetime: int = 60) -> Change:
    return Change(f"key{number}", text, lifetime)


def test_a_change_is_at_the_peer_with_the_next_turn() -> None:
    wire = Wire()
    wire.meet()
    wire.ends[0].put([change(1)])
    wire.run(0.05)
    assert wire.ends[1].get("key1") == b"x"
    wire.ends[0].put([Change("key1", None, 0)])
    wire.run(0.05)
    assert wire.ends[1].get("key1") is None
    assert wire.ends[0].unsent == 0


def test_a_peer_that_comes_gets_everything() -> None:
    wire = Wire()
    record = json.dumps({"name": "x" * 300, "a": "b"})
    wire.ends[0].put([change(number, record) for number in range(500)])
    wire.run(1)
    assert wire.ends[1].count == 0
    wire.meet()
    wire.run(1)
    assert wire.ends[1].count == 500
    assert max(wire.sizes) <= BATCH + 150
    # It starts anew, with nothing, and has not been missed.
    wire.ends[1] = wire.end(1, 30)
    wire.ends[1].peer(10)
    wire.ends[0].peer(30)
    wire.run(1)
    assert wire.ends[1].count == 500


def test_what_is_lost_is_sent_again_as_it_is_by_then() -> None:
    wire = Wire()
    wire.meet()
    wire.loss = 1.0
    wire.ends[0].put([change(1, "old"), change(2)])
    wire.run(RESEND / 2)
    wire.loss = 0.0
    wire.ends[0].put([change(1, "new"), Change("key2", None, 0)])
    wire.run(2 * RESEND)
    assert (wire.ends[1].get("key1"), wire.ends[1].get("key2")) == (b"new", None)


def test_half_of_all_datagrams_lost() -> None:
    wire = Wire()
    wire.meet()
    wire.loss = 0.5
    wire.ends[0].put([change(number) for number in range(2000)])
    wire.run(10)
    assert wire.ends[1].count == 2000
    assert wire.ends[0].unsent == 0


def test_both_directions_at_once() -> None:
    wire = Wire()
    wire.ends[0].put([change(1)])
    wire.ends[1].put([change(2)])
    wire.meet()
    wire.run(1)
    assert [end.count for end in wire.ends] == [2, 2]


def test_records_live_as_long_as_said() -> None:
    wire = Wire()
    wire.meet()
    wire.ends[0].put([change(1, lifetime=30), change(2, lifetime=300)])
    wire.run(31)
    assert [end.get("key1") for end in wire.ends] == [None, None]
    wire.run(60)
    assert [end.count for end in wire.ends] == [1, 1]


def test_a_peer_that_is_gone_is_sent_nothing() -> None:
    wire = Wire()
    wire.meet()
    wire.ends[0].peer(None)
    assert wire.ends[0].error == "the peer is not heard"
    wire.ends[0].put([change(1)])
    wire.run(1)
    assert wire.sizes == []
    wire.ends[0].peer(20)
    assert wire.ends[0].error is None
    wire.run(1)
    assert wire.ends[1].get("key1") == b"x"


def test_no_more_records_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ha_link, "CAPACITY", 3)
    end = Wire().ends[0]
    end.put([change(number) for number in range(5)])
    end.put([change(1, "changed")])
    assert (end.count, end.lost, end.get("key1")) == (3, 2, b"changed")


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"boot": "1", "batch": 1, "records": []},
        {"boot": 1, "batch": 1, "records": [None, [], ["key", 1, 1], [1, "x", 1], ["key", "x", "y"]]},
        {"boot": 1, "batch": 1, "records": [["key", "x", 10**400]]},
        {"boot": 1, "batch": 1, "records": [["key", "x", float("nan")], ["key", "x", -1]]},
        {"boot": 99, "acknowledge": 1},
        {"boot": 10, "acknowledge": 77},
    ],
)
def test_a_wrong_content_changes_nothing(content: dict[str, Any]) -> None:
    wire = Wire()
    wire.meet()
    wire.ends[0].receive(content)
    assert wire.ends[0].get("key") is None


def test_a_record_that_is_no_text_is_found_and_refused_by_its_reader() -> None:
    end = Wire().ends[0]
    end.receive({"boot": 1, "batch": 1, "records": [["key", "\ud800", 10]]})
    assert end.get("key") == b"?"


def test_a_session_goes_on_at_the_peer() -> None:
    """The engine of the peer continues a connection in mid-stream that it has never seen."""
    wire = Wire()
    wire.meet()
    first, second = (Bench(SSH, backend=end) for end in wire.ends)
    connection = Connection(first).ssh()
    first.turn()
    wire.run(0.1)
    connection.bench = second
    assert connection.client(b"data")
    assert connection.server(b"data")
    assert second.count("session_shared_resumed") == 1
    assert second.count("session_installed") == 1


class Cloud:
    def __init__(self) -> None:
        self.claims = self.releases = 0
        self.gone = False
        self.news: list[Note] = []

    def claim(self) -> None:
        self.claims += 1

    def release(self) -> None:
        self.releases += 1

    def lost(self) -> bool:
        return self.gone

    def notes(self) -> list[Note]:
        notes, self.news = self.news, []
        return notes


class Node:
    """A firewall on loopback addresses of its own."""

    def __init__(self, index: int, secret: str = "secret", time_scale: float = 1.0, now: float = 0.0) -> None:
        def addresses(index: int) -> dict[HaLink, IPv4Address]:
            return {link: IPv4Address(f"127.{number}.0.{index}") for number, link in enumerate(HaLink, 41)}

        self.lines: list[str] = []
        self.cloud = Cloud()
        settings = HaSettings(address=addresses(index)[HaLink.HA1], priority=100 + index, time_scale=time_scale)
        log = Log(f"fw{index}", lambda _, line: self.lines.append(line), 0.0)
        machine = HighAvailability(settings, 1000 + index, now)
        self.failure = ""
        self.service = HaService(
            machine,
            addresses(index),
            addresses(3 - index),
            secret,
            self.cloud,
            lambda: self.failure,
            log,
            1000 + index,
            lambda: 0.0,
        )

    @property
    def state(self) -> HaState:
        return self.service.machine.state

    @property
    def events(self) -> list[str]:
        return [json.loads(line)["eventid"] for line in self.lines]


@pytest.fixture
def nodes() -> Iterator[list[Node]]:
    nodes = [Node(1), Node(2)]
    yield nodes
    for node in nodes:
        node.service.close(0.0)


def serve(nodes: list[Node], *moments: float) -> None:
    for now in moments:
        for node in nodes:
            node.service.serve((), now)


def test_two_services_agree_and_share(nodes: list[Node]) -> None:
    serve(nodes, 0.0, 0.1, 0.2)
    assert [node.state for node in nodes] == [HaState.ACTIVE, HaState.PASSIVE]
    assert [node.cloud.claims > 0 for node in nodes] == [True, False]
    nodes[0].service.sync.put([change(1)])
    serve(nodes, 0.3, 0.4)
    assert nodes[1].service.sync.get("key1") == b"x"


def test_the_sockets_wake_the_loop(nodes: list[Node]) -> None:
    poll = select.poll()
    nodes[1].service.register(poll)
    serve([nodes[0]], 0.0)
    assert poll.poll(1000)


def test_between_looks_only_its_own_sockets_are_served(nodes: list[Node]) -> None:
    poll = select.poll()
    nodes[1].service.register(poll)
    serve(nodes, 0.0)
    nodes[0].service.suspend(0.01)
    [(descriptor, _), *_] = poll.poll(1000)
    nodes[1].service.serve((-1,), 0.02)
    assert nodes[1].state is not HaState.ACTIVE
    nodes[1].service.serve((descriptor,), 0.02)
    assert nodes[1].state is HaState.ACTIVE


class Quiet:
    """An interface and a processor without a packet."""

    def __init__(self) -> None:
        self.ends = socket.socketpair()

    def fileno(self) -> int:
        return self.ends[0].fileno()

    def serve(self, processor: Quiet) -> int:
        return 0

    def expire(self, now: float) -> None:
        """There is nothing to expire."""


class Until:
    """Ends the loop when *condition* holds, or after some seconds."""

    def __init__(self, condition: Callable[[], bool]) -> None:
        self.condition, self.loop = condition, None
        self.deadline = time.monotonic() + 10

    def register(self, poll: select.poll) -> None:
        """It waits for nothing."""

    def serve(self, descriptors: Any, now: float) -> None:
        assert self.loop is not None
        self.loop.running = not self.condition() and now < self.deadline

    loop: Loop[Quiet] | None


@pytest.mark.parametrize("time_scale", [10.0, 60.0, 1000.0])
def test_a_quiet_firewall_finds_its_peer_gone_at_every_time_scale(time_scale: float) -> None:
    node = Node(1, time_scale=time_scale, now=time.monotonic())
    until, quiet = Until(lambda: node.state is HaState.ACTIVE), Quiet()
    until.loop = loop = Loop(quiet, quiet, node.service, until, tick=node.service.interval)
    loop.run()
    signal.set_wakeup_fd(-1)
    node.service.close(time.monotonic())
    for end in quiet.ends:
        end.close()
    assert node.events[:4] == ["ha1-link-down", "ha2-link-down", "ha-peer-gone", "ha-state"]


def test_a_service_that_closes_hands_over(nodes: list[Node]) -> None:
    serve(nodes, 0.0, 0.1, 0.2)
    nodes[0].service.close(0.3)
    nodes[1].service.serve((), 0.4)
    assert nodes[1].state is HaState.ACTIVE
    assert nodes[0].cloud.releases == 1
    nodes[0] = nodes[1]


def test_a_loss_that_the_cloud_reports_is_the_machines(nodes: list[Node]) -> None:
    serve(nodes[:1], 0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0)
    assert nodes[0].state is HaState.ACTIVE
    nodes[0].cloud.gone = True
    nodes[0].cloud.news = [Note("ha-cloud-error", "high", "no answer")]
    serve(nodes[:1], 8.5)
    assert nodes[0].state is HaState.NON_FUNCTIONAL
    assert nodes[0].events[-2:] == ["ha-cloud-error", "ha-state"]


def test_the_operator_reaches_the_machine(nodes: list[Node]) -> None:
    service = nodes[0].service
    service.suspend(0.0)
    assert nodes[0].state is HaState.SUSPENDED
    service.functional(0.0)
    assert nodes[0].state is HaState.INITIAL


def test_what_the_monitor_finds_hands_over_and_mends(nodes: list[Node]) -> None:
    serve(nodes, 0.0, 0.1, 0.2)
    nodes[0].failure = "no link: trust"
    serve(nodes, 0.4, 1.0, 1.2)
    assert [node.state for node in nodes] == [HaState.NON_FUNCTIONAL, HaState.ACTIVE]
    assert nodes[0].service.machine.reason == "no link: trust"
    nodes[0].failure = ""
    serve(nodes, 1.4, 1.6, 1.8)
    assert [node.state for node in nodes] == [HaState.PASSIVE, HaState.ACTIVE]


def test_another_pairs_datagrams_and_strangers_are_refused(nodes: list[Node]) -> None:
    nodes[0].service.close(0.0)
    nodes[0] = Node(1, "another secret")
    nodes[1].service.close(0.0)
    nodes[1] = Node(2)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as elsewhere:
        elsewhere.bind(("127.0.0.1", 0))
        elsewhere.sendto(b"x", ("127.41.0.2", 28769))
    serve(nodes, 0.0, 0.1)
    assert nodes[1].service.machine.peer is None
    assert nodes[1].service.refused >= 3


def test_an_address_that_cannot_be_used_is_said_in_one_line(nodes: list[Node]) -> None:
    with pytest.raises(HaLinkError) as caught:
        Node(1)
    assert str(caught.value) == (
        "HA1 127.41.0.1:28769: Address already in use;"
        " name an address of this firewall, and end what else uses the port"
    )


def test_sharing_takes_the_synchronisation_as_its_backend() -> None:
    end = Wire().ends[0]
    Sharing(end, Log("fw1", lambda *_: None, 0.0), 0.0).serve((), 0.0)
