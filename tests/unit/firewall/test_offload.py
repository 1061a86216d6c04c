"""When sessions are offloaded, how their figures stay right, how they are taken back: the engine and a fake kernel."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from firewall_vnf import bpf_object
from firewall_vnf.config import EngineConfig
from firewall_vnf.engine import Engine
from firewall_vnf.inspection import Inspection
from firewall_vnf.log import Log
from firewall_vnf.offload import Offload
from firewall_vnf.policy import Policy
from firewall_vnf.session import Session
from tests.unit.firewall import traffic
from tests.unit.firewall.traffic import ACK, FIN, RST, SYN, Connection, Memory, rules, udp

SSH = "name: ssh, application: ssh, service: any, action: allow"


class FakeOffload(Offload):
    """A kernel that carries what the test says with :meth:`carry`. ``taken`` are sessions that were taken back."""

    def __init__(self, least_packets: int, room: int) -> None:
        super().__init__(lambda: 0.0)
        self.least_packets, self.room = least_packets, room
        self.sessions: dict[Session, list[int]] = {}
        self.taken: list[Session] = []
        self.clock = 0.0

    def carry(self, session: Session, sent: tuple[int, int], received: tuple[int, int], now: float) -> None:
        assert session in self.sessions, "the program carries what is in its map"
        self.sessions[session][:] = [a + b for a, b in zip(self.sessions[session], (*sent, *received), strict=True)]
        self.clock = now

    def start(self, session: Session) -> None:
        if session not in self.sessions and len(self.sessions) < self.room:
            self.sessions[session] = [0, 0, 0, 0]

    def look(self, now: float) -> Iterable[Session]:
        for session, counts in self.sessions.items():
            self._read(session, counts)
        return ()

    def closing(self, session: Session, now: float) -> bool:
        self.taken.append(session)
        self._read(session, self.sessions.pop(session))
        return True

    def take_back(self, sessions: Iterable[Session], now: float) -> None:
        for session in sessions:
            if session in self.sessions:
                self.closing(session, now)

    def take_all_back(self, now: float) -> None:
        self.take_back(list(self.sessions), now)

    def ended(self, session: Session, now: float) -> None:
        self.take_back([session], now)

    def _read(self, session: Session, counts: list[int]) -> None:
        if any(counts):
            self.account(session, (counts[0], counts[1]), (counts[2], counts[3]), self.clock)
            counts[:] = [0, 0, 0, 0]


class Bench(traffic.Bench):
    def __init__(
        self,
        policy: str = rules(SSH),
        *inspections: type[Inspection],
        least_packets: int = 8,
        room: int = 10,
        backend: Memory | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(policy, *inspections, backend=backend, **settings)
        self.offload = FakeOffload(least_packets, room)
        self.engine.offload = self.offload

    def carried(self) -> bool:
        return self.engine.offloaded(self.session)


class Looker(Inspection):
    applications = frozenset({"ssh"})
    seen = 0

    def inspect(self, session: Session, direction: int, payload: bytes | memoryview) -> None:
        Looker.seen += 1


def test_a_session_is_offloaded_with_its_first_packet_that_makes_it_worth_it() -> None:
    bench = Bench(least_packets=8)
    connection = Connection(bench).ssh()
    for _ in range(2):
        assert connection.client(b"x")
        assert not bench.carried()
    assert connection.server(b"y")
    assert (bench.carried(), bench.session.packets_sent + bench.session.packets_received) == (True, 8)


def test_what_app_id_does_not_know_yet_is_not_offloaded() -> None:
    bench = Bench(traffic.ALLOW_ALL, least_packets=1)
    connection = Connection(bench, port=9999).open()
    for _ in range(10):
        assert connection.segment(0, ACK)
    assert not bench.carried()
    connection.client(b"\x00\x01 nothing that is known")
    connection.server(b"\x00\x01 nor this")
    assert (bench.session.application, bench.carried()) == ("unknown-tcp", True)


@pytest.mark.parametrize(("setting", "carried"), [("after-app-id", True), ("never", False)])
def test_a_rule_says_whether(setting: str, carried: bool) -> None:
    bench = Bench(rules(f"{SSH}, offload: {setting}"), least_packets=1)
    connection = Connection(bench).ssh()
    connection.client(b"x")
    assert bench.carried() is carried
    assert bench.session.cleared is bench.engine.policy


def test_a_rule_says_after_how_many_bytes() -> None:
    bench = Bench(rules(f"{SSH}, offload: {{after: 4KiB}}"), least_packets=1)
    connection = Connection(bench).ssh()
    while bench.session.bytes_sent + bench.session.bytes_received < 4096 - 1040:
        assert connection.client(bytes(1000))
        assert not bench.carried()
    assert connection.client(bytes(1000))
    assert connection.client(bytes(1000))
    assert bench.carried()


@pytest.mark.parametrize("offload", [True, False])
@pytest.mark.parametrize(("setting", "looked"), [("after-app-id", 12), ("never", 12), ("{after: 4KiB}", 5)])
def test_an_inspection_ends_where_the_rule_limits_it(setting: str, looked: int, offload: bool) -> None:
    bench = Bench(rules(f"{SSH}, inspect: true, offload: {setting}"), Looker, least_packets=1)
    if not offload:
        bench.engine.offload = None
    connection = Connection(bench).ssh()
    Looker.seen = 0
    for _ in range(12):
        assert connection.client(bytes(1000))
    assert Looker.seen == looked if setting != "{after: 4KiB}" else 3 <= Looker.seen <= 4
    assert bench.carried() is (offload and setting == "{after: 4KiB}")


def test_datagrams_are_offloaded_too() -> None:
    bench = Bench(traffic.ALLOW_ALL, least_packets=4)
    for _ in range(2):
        assert bench.send(udp(b"\x00 unknown"))
        assert bench.send(udp(b"\x00 answer", back=True))
    assert bench.carried()


def test_without_room_the_fast_path_carries_it() -> None:
    bench = Bench(least_packets=1, room=0)
    connection = Connection(bench).ssh()
    assert connection.client(b"x")
    assert not bench.carried()
    assert bench.session.cleared is bench.engine.policy


def test_figures_come_from_the_kernel() -> None:
    bench = Bench(least_packets=1)
    Connection(bench).ssh()
    session, before = bench.session, bench.session.bytes_sent
    bench.offload.carry(session, (1000, 1_400_000), (500, 20_000), bench.now + 3)
    bench.now += 4
    bench.engine.look(bench.now)
    assert (session.packets_sent, session.packets_received) == (1003, 502)
    assert session.bytes_sent == before + 1_400_000
    assert session.last == 1003.0
    assert (bench.count("pkt_offloaded"), bench.offload.total()) == (1500, (1500, 1_420_000))
    assert bench.count("pkt_recv") == bench.count("pkt_forwarded") == 5


@pytest.mark.parametrize("flags", [FIN | ACK, RST, SYN])
def test_what_may_end_a_session_takes_it_back_first(flags: int) -> None:
    bench = Bench(least_packets=1)
    connection = Connection(bench).ssh()
    session = bench.session
    bench.offload.carry(session, (9, 9000), (0, 0), bench.now)
    connection.segment(0, flags)
    assert bench.offload.taken == [session]
    assert session.packets_sent == 3 + 9 + 1
    assert connection.segment(1, ACK)
    assert bench.carried() is (flags == SYN)  # which ends nothing; a closing session is the engine's


def test_a_half_closed_session_is_not_offloaded_again() -> None:
    bench = Bench(least_packets=1)
    connection = Connection(bench).ssh()
    assert connection.segment(0, FIN | ACK)
    assert connection.server(b"still something")
    assert not bench.carried()
    assert connection.segment(1, FIN | ACK)
    assert bench.session.state.value == "CLOSING"


def test_a_commit_takes_all_back_and_judges_again() -> None:
    bench = Bench(least_packets=1)
    connection = Connection(bench).ssh()
    session = bench.session
    bench.offload.carry(session, (5, 500), (0, 0), bench.now)
    bench.engine.commit(Policy.parse(rules(SSH.replace("name: ssh", "name: renamed"))), bench.now)
    assert (bench.offload.taken, session.packets_sent) == ([session], 8)
    assert connection.client(b"x")
    assert (session.rule.name, bench.carried()) == ("renamed", True)

    bench.engine.commit(Policy.parse(rules()), bench.now)
    assert not connection.client(b"x")
    assert (session.state.value, bench.carried()) == ("DISCARD", False)
    assert bench.logged()[-1]["pkts_sent"] == 9


def test_a_cleared_session_is_taken_back_and_logged_with_all_it_had() -> None:
    for end in ("clear", "close"):
        bench = Bench(rules(f"{SSH}, log_end: true"), least_packets=1)
        Connection(bench).ssh()
        bench.offload.carry(bench.session, (5, 500), (7, 700), bench.now)
        if end == "clear":
            bench.engine.clear([bench.session], bench.now)
        else:
            bench.engine.close(bench.now)
        assert not bench.offload.sessions
        [record] = bench.logged()
        assert (record["pkts_sent"], record["pkts_received"]) == (8, 9)


def test_a_time_out_takes_the_session_back_before_it_ends() -> None:
    bench = Bench(rules(f"{SSH}, log_end: true"), least_packets=1, timers={"tcp": 5})
    Connection(bench).ssh()
    session = bench.session
    for _ in range(20):
        bench.offload.carry(session, (1, 100), (0, 0), bench.now + 0.9)
        bench.wait(1)
        assert bench.carried()
    while bench.carried():
        bench.wait(1)
    assert bench.session.state.value == "ACTIVE"
    assert not bench.logged()
    bench.wait(1)
    [record] = bench.logged()
    assert (record["session_end_reason"], record["pkts_sent"], record["elapsed"]) == ("aged-out", 23, 19)
    assert 5 < bench.now - session.last < 5 + 3  # looks are a second apart here


def test_a_session_that_was_not_idle_after_all_lives_on() -> None:
    bench = Bench(least_packets=1, timers={"tcp": 5})
    connection = Connection(bench).ssh()
    session = bench.session
    bench.offload.interval = 100
    bench.engine.expire(bench.now)
    bench.offload.carry(session, (1, 100), (0, 0), bench.now + 5)
    bench.wait(6)
    assert bench.offload.taken == [session]
    bench.wait(2)
    assert connection.client(b"x")
    assert bench.carried()


def test_what_firewalls_share_is_up_to_date() -> None:
    backend = Memory()
    bench = Bench(least_packets=1, backend=backend)
    Connection(bench).ssh()
    bench.turn()
    bench.offload.carry(bench.session, (100, 10_000), (0, 0), bench.now + 14)
    bench.wait(16)
    [(record, _)] = backend.records.values()
    assert f'"packets_sent":{bench.session.packets_sent}' in record
    assert bench.session.packets_sent == 103

    other = Bench(least_packets=1, backend=backend, epoch=1.7e9)
    other.now = bench.now
    continued = Connection(other)
    continued.next = [122, 522]
    assert continued.client(b"x")
    assert (other.session.packets_sent, other.carried()) == (104, True)


def test_where_the_program_is_not_compiled_the_firewall_runs_without(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    from firewall_vnf import __main__ as process
    from firewall_vnf import libbpf

    monkeypatch.setattr(bpf_object, "BUILD", tmp_path)
    monkeypatch.setattr(libbpf, "detach", lambda interface: None)
    lines: list[str] = []
    config = process.Config.model_validate(
        {"name": "fw1", "interface": "lo", "policy": "p", "log_directory": "l", "control": "c"}
    )
    log = Log("fw1", lambda name, line: lines.append(line), 0.0)
    reason = "the BPF program session_offload is not compiled: run make setup"
    assert process._open_offload(config, log) == (None, reason)
    assert f"sessions are not offloaded: {reason}" in lines[0]
    assert process._open_offload(config.model_copy(update={"offload": False}), log) == (None, "off")
    assert len(lines) == 1
    assert Engine(EngineConfig(), Policy.parse(rules(SSH)), log).offload is None
