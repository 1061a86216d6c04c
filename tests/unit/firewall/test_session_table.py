"""The session table: timers cost what expires, not what lives."""

from __future__ import annotations

import pytest

from firewall_vnf.benchmark import tcp
from firewall_vnf.packet import SYN, parse_hostile_packet
from firewall_vnf.session import Endpoint, Session, SessionTable, Timers


def session(number: int, timeout: int, now: float) -> Session:
    packet = bytearray(tcp(number, 0x0A000001, (1024, 22), (1, 0), SYN, b""))
    made = Session(number, Endpoint(1, "zone"), parse_hostile_packet(packet, 0, len(packet)), now)
    made.timeout = timeout
    return made


def expire(table: SessionTable, now: float) -> list[int]:
    ended = []
    for one in table.expired(now):
        ended.append(one.id)
        table.remove(one)
    return sorted(ended)


@pytest.fixture
def table() -> SessionTable:
    table = SessionTable(100)
    table.endpoints[1] = shared = Endpoint(1, "zone")
    table.endpoints[1].flows[b"keeps it"] = session(0, 1, 0)
    assert shared.flows
    return table


def install(table: SessionTable, made: Session) -> Session:
    made.endpoint = table.endpoints[1]
    table.install(made)
    return made


def test_each_ends_in_its_second(table: SessionTable) -> None:
    for number, timeout in ((1, 5), (2, 10), (3, 3600)):
        install(table, session(number, timeout, 0.5))
    assert expire(table, 5.4) == []
    assert expire(table, 6.5) == [1]
    assert expire(table, 3599.9) == [2]
    assert expire(table, 3602) == [3]
    assert table.count == 0


def test_shorter_and_longer_timeouts(table: SessionTable) -> None:
    one, other = (install(table, session(number, 100, 0.0)) for number in (1, 2))
    table.set_timeout(one, 10, 50.0)
    table.set_timeout(other, 1000, 50.0)
    assert expire(table, 62.0) == [1]
    assert expire(table, 1040.0) == []
    assert expire(table, 1052.0) == [2]


def test_looking_at_the_table_does_not_visit_the_living(table: SessionTable) -> None:
    visits = 0

    class Watched(Session):
        __slots__ = ()

        def __getattribute__(self, name: str) -> object:
            nonlocal visits
            if name == "last":
                visits += 1
            return super().__getattribute__(name)

    for number in range(1, 50):
        made = session(number, 3600, 0.0)
        made.__class__ = Watched
        install(table, made)
    visits = 0
    for second in range(1, 3000):
        assert expire(table, float(second)) == []
    assert visits == 0


def test_removed_sessions_are_forgotten_at_once(table: SessionTable) -> None:
    made = install(table, session(1, 3600, 0.0))
    table.remove(made)
    assert not any(table._buckets.values())
    assert [one for one in table if one.id == 1] == []


def test_default_timers_are_pan_os_defaults() -> None:
    assert Timers().model_dump() == {
        "tcp": 3600, "udp": 30, "icmp": 6, "other": 30, "tcp_init": 5, "tcp_handshake": 10, "tcp_half_closed": 120,
        "tcp_time_wait": 15, "tcp_unverified_rst": 30, "discard_tcp": 90, "discard_udp": 60, "discard_other": 60,
    }  # fmt: skip
