"""Sessions that firewalls share: one begins them, another goes on. The store is in memory."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firewall_vnf import session_store
from firewall_vnf.inspection import Inspection
from firewall_vnf.policy import Policy
from firewall_vnf.session import EndReason, State
from firewall_vnf.session_store import ABSENT, REFRESH, RETRY, TURN, parse_hostile_record
from tests.unit.firewall.traffic import (
    ACK,
    ALLOW_ALL,
    BANNER,
    ENDPOINT,
    FIN,
    RST,
    Bench,
    Connection,
    Memory,
    rules,
    udp,
)  # fmt: skip

SSH = rules("name: ssh, application: ssh, service: any, log_end: true, action: allow")


class Pair:
    """Two firewalls with a store between them; ``other`` is on another machine, with another monotonic clock."""

    def __init__(self, policy: str = SSH, **settings: Any) -> None:
        self.store = Memory()
        self.first = Bench(policy, backend=self.store, **settings)
        self.other = Bench(policy, backend=self.store, epoch=1.7e9 - 5000, **settings)
        self.other.now += 5000

    def moved(self, connection: Connection) -> Connection:
        """The load balancer has given the connection to the other firewall."""
        self.first.turn()
        connection.bench = self.other
        return connection

    @property
    def record(self) -> dict[str, Any]:
        [(record, _)] = self.store.records.values()
        decoded: dict[str, Any] = json.loads(record)
        return decoded


def dns(number: int) -> bytearray:
    query = bytes.fromhex("12340100000100000000000003777777076578616d706c6503636f6d0000010001")
    return udp(query, (20000 + number, 53))


def test_an_established_session_goes_on_elsewhere() -> None:
    pair = Pair()
    connection = Connection(pair.first).ssh()
    began, before = pair.first.session, pair.first.session.packets_sent
    pair.moved(connection)
    pair.other.now += 7
    assert connection.client(b"x" * 1000)
    went_on = pair.other.session
    assert (went_on.application, went_on.rule.name, went_on.state) == ("ssh", "ssh", State.ACTIVE)
    assert went_on.packets_sent == before + 1
    assert went_on.start + 1.7e9 - 5000 == pytest.approx(began.start + 1.7e9)
    assert went_on.cleared is pair.other.engine.policy
    assert connection.server(b"y")
    assert connection.segment(0, ACK)
    assert connection.segment(1, FIN | ACK)
    assert connection.segment(0, FIN | ACK)
    assert connection.segment(1, ACK)
    pair.other.wait(17)
    [end] = pair.other.logged()
    assert (end["session_end_reason"], end["app"], end["rule"], end["pkts_sent"]) == (
        "tcp-fin",
        "ssh",
        "ssh",
        before + 3,
    )
    assert pair.other.count("session_shared_resumed") == pair.other.count("session_installed") == 1
    assert not pair.store.records


def test_the_server_may_be_first_to_speak_and_by_another_endpoint() -> None:
    pair = Pair()
    connection = pair.moved(Connection(pair.first).ssh())
    connection.endpoint = ENDPOINT + 1
    assert connection.server(b"y" * 100)
    session = pair.other.session
    assert (session.source_port, session.destination_port) == (40000, 22)
    assert (session.packets_received, session.endpoint.id) == (3, ENDPOINT + 1)


def test_without_a_store_and_before_it_is_established_it_is_rejected() -> None:
    for pair, steps in ((Pair(), Connection.open), (Pair(), Connection.ssh)):
        connection = pair.moved(steps(Connection(pair.first)))
        if steps is Connection.ssh:
            connection.bench = Bench(SSH)
        assert not connection.client(b"data")
        assert connection.bench.count("flow_tcp_non_syn_drop") == 1


def test_the_policy_in_force_decides() -> None:
    pair = Pair()
    connection = pair.moved(Connection(pair.first).ssh())
    pair.other.engine.commit(Policy.parse(rules("name: ssh, application: dns, action: allow")), pair.other.now)
    assert not connection.client(b"data")
    assert pair.other.count("flow_tcp_non_syn_drop") == 1
    assert not list(pair.other.engine.table)
    pair.other.engine.commit(Policy.parse(SSH.replace("name: ssh", "name: renamed")), pair.other.now)
    assert connection.client(b"data")
    assert pair.other.session.rule.name == "renamed"


def test_zones_do_not_share() -> None:
    policy = "zones: [one, two]\n" + ALLOW_ALL
    pair = Pair(policy, zones={"vpce-00000000000000001": "one", "vpce-00000000000000002": "two"})
    connection = pair.moved(Connection(pair.first, endpoint=1).ssh())
    connection.endpoint = 2
    assert not connection.client(b"data")
    connection.endpoint = 1
    assert connection.client(b"data")


def test_inspections_do_not_look_into_what_was_continued() -> None:
    seen = []

    class Look(Inspection):
        applications = frozenset({"ssh"})

        def inspect(self, session: Any, direction: int, payload: Any) -> None:
            seen.append(bytes(payload))

    store, policy = Memory(), rules("name: ssh, application: ssh, service: any, inspect: true, action: allow")
    first, other = Bench(policy, Look, backend=store), Bench(policy, Look, backend=store)
    connection = Connection(first).ssh()
    first.turn()
    looked = len(seen)
    assert looked
    connection.bench = other
    assert connection.client(b"data")
    assert len(seen) == looked


def test_udp_keeps_its_direction_and_application() -> None:
    pair = Pair(rules("name: names, application: dns, action: allow"))
    assert pair.first.send(dns(0))
    pair.first.turn()
    assert pair.other.send(udp(b"no dns at all", (20000, 53), back=True))
    session = pair.other.session
    assert (session.application, session.destination_port, session.packets_received) == ("dns", 53, 1)
    assert not pair.other.send(udp(b"no dns at all", (30000, 53), back=True))


def test_a_forged_reset_does_not_end_a_session_that_moved() -> None:
    pair = Pair()
    connection = pair.moved(Connection(pair.first).ssh())
    assert not connection.segment(0, RST, sequence=99_999_999)
    assert pair.other.count("tcp_drop_out_of_wnd") == 1
    assert connection.client(b"data")
    assert connection.segment(1, RST | ACK)
    assert pair.other.session.state is State.CLOSING


def test_a_half_closed_connection_is_closed_elsewhere() -> None:
    pair = Pair()
    connection = Connection(pair.first).ssh()
    pair.first.turn()
    pair.first.now += 1
    assert connection.segment(0, FIN | ACK)
    pair.first.wait(REFRESH)
    [(_, lifetime)] = pair.store.records.values()
    assert lifetime == 120
    pair.moved(connection)
    assert connection.segment(1, FIN | ACK)
    assert pair.other.session.state is State.CLOSING
    assert pair.other.session.end_reason is EndReason.TCP_FIN


@pytest.mark.parametrize("way", ["reset", "cleared", "refused"])
def test_what_has_ended_is_removed(way: str) -> None:
    pair = Pair()
    bench, connection = pair.first, Connection(pair.first).ssh()
    bench.turn()
    assert len(pair.store.records) == 1
    if way == "reset":
        assert connection.segment(0, RST | ACK)
    elif way == "cleared":
        bench.engine.clear([bench.session], bench.now)
    else:
        bench.engine.commit(Policy.parse(rules("name: none, application: dns, action: allow")), bench.now)
        assert not connection.client(b"data")
    bench.turn()
    assert not pair.store.records
    assert (bench.count("session_shared_published"), bench.count("session_shared_removed")) == (1, 1)


def test_what_ages_out_or_was_alive_at_the_end_stays_for_the_others() -> None:
    pair = Pair(timers={"tcp": 60})
    Connection(pair.first).ssh()
    Connection(pair.first, client_port=40001).ssh()
    pair.first.turn()
    pair.first.wait(100)
    assert not list(pair.first.engine.table)
    Connection(pair.first, client_port=40002).ssh()
    assert pair.first.sharing
    pair.first.sharing.close(pair.first.now)
    pair.first.engine.close(pair.first.now)
    assert len(pair.store.records) == 3


def test_a_new_connection_in_an_old_ones_place() -> None:
    pair = Pair()
    connection = Connection(pair.first).ssh()
    pair.first.turn()
    assert connection.segment(0, RST | ACK)
    Connection(pair.first).ssh()
    pair.first.turn()
    assert pair.record["packets_sent"] == 3


def test_a_session_with_traffic_is_refreshed_and_an_idle_one_is_not() -> None:
    pair = Pair(timers={"tcp": 100})
    connection = Connection(pair.first).ssh()
    pair.first.wait(1)
    [(_, lifetime)] = pair.store.records.values()
    assert lifetime == 100 + REFRESH - 1
    for _ in range(3):
        pair.first.wait(REFRESH)
    assert pair.first.count("session_shared_published") == 1
    assert connection.client(b"x")
    pair.first.wait(1)
    assert pair.first.count("session_shared_published") == 1
    pair.first.wait(REFRESH)
    assert pair.first.count("session_shared_published") == 2
    assert pair.record["client_next"] == 101 + len(BANNER) + 1


def test_one_turn_does_not_take_all() -> None:
    pair = Pair(ALLOW_ALL)
    for number in range(2 * TURN + 5):
        assert pair.first.send(dns(number))
    for expected in (TURN, 2 * TURN, 2 * TURN + 5):
        pair.first.turn()
        assert len(pair.store.records) == expected


def test_a_flood_of_unknown_packets_is_not_asked_for() -> None:
    pair = Pair()
    stray = Connection(pair.other)
    assert not stray.client(b"a")
    assert not stray.client(b"b")
    assert pair.store.asked == 1
    assert pair.other.count("session_shared_missed") == 2
    pair.other.now += ABSENT
    assert not stray.client(b"c")
    assert pair.store.asked == 2


def test_a_syn_is_not_asked_for() -> None:
    pair = Pair()
    assert Connection(pair.other).open()
    assert pair.store.asked == 0


def test_the_memory_of_absent_sessions_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_store, "REMEMBERED", 4)
    pair = Pair()
    for port in range(5):
        Connection(pair.other, client_port=40000 + port).client(b"a")
    for port in (0, 4):  # the last one is remembered, the first no more
        Connection(pair.other, client_port=40000 + port).client(b"a")
    assert pair.store.asked == 6


def test_slow_look_ups_are_rationed() -> None:
    pair = Pair()

    def slow(key: str) -> None:
        pair.other.now += 0.05  # the clock that measures

    pair.store.get = slow  # type: ignore[method-assign]
    for port in range(200):
        assert not Connection(pair.other, client_port=1000 + port).client(b"a")
        pair.other.now += 0.01
    elapsed, asked = pair.other.now - 6000, pair.other.count("session_shared_missed")
    assert asked + pair.other.count("session_shared_skipped") == 200
    assert 0.2 < 0.05 * asked / elapsed < 0.3


def test_a_store_that_fails_is_left_alone_and_said_once() -> None:
    pair = Pair()
    connection = pair.moved(Connection(pair.first).ssh())
    pair.store.error = "Connection refused"
    for number in range(5):
        assert not Connection(pair.other, client_port=number + 1).client(b"a")
    pair.other.turn()
    pair.other.turn()
    assert pair.store.asked == 1
    assert pair.other.count("session_shared_skipped") == 5
    [down] = pair.other.logged("system")
    assert (down["eventid"], down["severity"]) == ("session-store-down", "high")
    assert down["opaque"] == "session store memory: Connection refused; sessions are not shared until it answers"
    pair.store.error = None
    pair.other.wait(RETRY)
    assert connection.client(b"data")
    assert pair.other.logged("system")[-1]["opaque"] == "session store memory answers"


def test_a_store_that_has_lost_everything_gets_it_again() -> None:
    pair = Pair()
    Connection(pair.first).ssh()
    pair.first.turn()
    pair.store.error = "Connection refused"
    pair.store.records.clear()
    pair.first.wait(REFRESH)
    pair.store.error = None
    pair.first.wait(1)
    pair.first.wait(REFRESH)
    assert len(pair.store.records) == 1
    assert [line["eventid"] for line in pair.first.logged("system")] == ["session-store-down", "session-store-up"]


def test_a_full_table_takes_no_more() -> None:
    pair = Pair(max_sessions=1)
    connection = pair.moved(Connection(pair.first).ssh())
    Connection(pair.other, client_port=50000).open()
    assert not connection.client(b"data")
    assert pair.other.count("flow_tcp_non_syn_drop") == 1


@pytest.mark.parametrize(
    "change",
    [
        {"application": "doom"}, {"client": "0a0100"}, {"client": "zz" * 12}, {"client": "0b" * 12}, {"seen": -1},
        {"start": 1e300}, {"start": "now"}, {"client_scale": 99}, {"bytes_sent": "9"}, {"rule": None},
    ],
)  # fmt: skip
def test_a_record_that_makes_no_sense_is_none(change: dict[str, object]) -> None:
    pair = Pair()
    connection = pair.moved(Connection(pair.first).ssh())
    [(key, (record, lifetime))] = pair.store.records.items()
    pair.store.records[key] = json.dumps(json.loads(record) | change), lifetime
    assert not connection.client(b"data")
    assert not list(pair.other.engine.table)
    pair.store.records[key] = record, lifetime
    pair.other.now += ABSENT
    assert connection.client(b"data")


@given(st.one_of(st.binary(), st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["client", "start", "rule"]) | st.text(), inner),
).map(lambda value: json.dumps(value).encode())))  # fmt: skip
def test_no_bytes_raise(data: bytes) -> None:
    assert parse_hostile_record(data) is None
