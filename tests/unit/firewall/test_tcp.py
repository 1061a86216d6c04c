"""Connection tracking and timers: states, time-outs and end reasons of TCP sessions."""

from __future__ import annotations

import pytest

from firewall_vnf.benchmark import frame, tcp
from firewall_vnf.session import EndReason, State
from tests.unit.firewall.traffic import ACK, CLIENT, FIN, RST, SERVER, SYN, Bench, Connection


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_handshake_states_and_timers(bench: Bench) -> None:
    connection = Connection(bench)
    connection.segment(0, SYN)
    assert (bench.session.state, bench.session.timeout) == (State.OPENING, 5)
    connection.segment(1, SYN | ACK)
    assert (bench.session.state, bench.session.timeout) == (State.OPENING, 10)
    connection.segment(0, ACK)
    assert (bench.session.state, bench.session.timeout) == (State.ACTIVE, 3600)


@pytest.mark.parametrize(("segments", "timeout"), [(1, 5), (2, 10), (3, 3600)])
def test_session_ages_out_when_its_timer_ran_out_and_not_before(bench: Bench, segments: int, timeout: int) -> None:
    connection = Connection(bench)
    for side, flags in [(0, SYN), (1, SYN | ACK), (0, ACK)][:segments]:
        connection.segment(side, flags)
    bench.wait(timeout - 0.5)
    assert bench.engine.table.count == 1
    bench.wait(2)
    assert bench.engine.table.count == 0
    assert bench.logged()[0]["session_end_reason"] == "aged-out"


def test_packets_prolong_a_session(bench: Bench) -> None:
    connection = Connection(bench).ssh()
    for _ in range(3):
        bench.wait(3599)
        assert connection.client(b"x")
    bench.wait(3598)
    assert bench.engine.table.count == 1
    bench.wait(4)
    assert bench.engine.table.count == 0


def test_half_closed_and_time_wait(bench: Bench) -> None:
    connection = Connection(bench).open()
    connection.segment(0, FIN | ACK)
    assert (bench.session.state, bench.session.timeout) == (State.ACTIVE, 120)
    bench.wait(100)
    assert connection.server(b"still sending")
    bench.wait(100)
    assert connection.segment(1, FIN | ACK)
    assert (bench.session.state, bench.session.timeout) == (State.CLOSING, 15)
    bench.wait(14)
    assert connection.segment(0, ACK)  # passes, but does not prolong the session
    bench.wait(2.5)
    assert bench.engine.table.count == 0
    assert bench.logged()[0]["session_end_reason"] == "tcp-fin"


def test_fin_sent_again_passes(bench: Bench) -> None:
    connection = Connection(bench).open()
    connection.client(b"data" * 100)
    connection.segment(0, FIN | ACK)
    assert connection.segment(0, FIN | ACK, sequence=501)


@pytest.mark.parametrize(("side", "reason"), [(0, EndReason.TCP_RST_FROM_CLIENT), (1, EndReason.TCP_RST_FROM_SERVER)])
def test_verified_reset(bench: Bench, side: int, reason: EndReason) -> None:
    connection = Connection(bench).ssh()
    connection.client(b"x" * 1000)
    connection.server(b"y" * 1000)
    assert connection.segment(side, RST)
    assert (bench.session.state, bench.session.timeout, bench.session.end_reason) == (State.CLOSING, 15, reason)


def test_reset_behind_what_the_receiver_has_not_acknowledged_is_verified(bench: Bench) -> None:
    connection = Connection(bench).ssh()
    for _ in range(10):
        connection.client(b"x" * 1000)
    assert connection.segment(0, RST | ACK)
    assert bench.session.timeout == 15


def test_unverified_reset_waits_longer(bench: Bench) -> None:
    connection = Connection(bench).ssh()
    assert connection.segment(0, RST, sequence=connection.next[0] + 5000)
    assert (bench.session.state, bench.session.timeout) == (State.CLOSING, 30)


@pytest.mark.parametrize("flags", [RST, RST | ACK, FIN | ACK])
def test_blind_reset_and_fin_are_dropped(bench: Bench, flags: int) -> None:
    connection = Connection(bench).ssh()
    assert not connection.segment(0, flags, sequence=connection.next[0] + 1_000_000)
    assert not connection.segment(1, flags, sequence=connection.next[1] - 1_000_000 & 0xFFFFFFFF)
    assert bench.session.state is State.ACTIVE
    assert bench.count("tcp_drop_out_of_wnd") == 2


def test_window_scale_widens_the_window(bench: Bench) -> None:
    ports = (40000, 22)

    def syn(flags: int, numbers: tuple[int, int], *, back: bool) -> bytearray:
        ends = (SERVER, CLIENT, ports[::-1]) if back else (CLIENT, SERVER, ports)
        packet = bytearray(frame(tcp(*ends, numbers, flags, b"\x01\x03\x03\x07")))
        packet[114] = 0x60  # the four bytes are options: NOP, window scale 7
        return packet

    connection = Connection(bench)
    assert bench.send(syn(SYN, (100, 0), back=False))
    assert bench.send(syn(SYN | ACK, (500, 101), back=True))
    connection.next = [101, 501]
    assert connection.segment(0, ACK)
    assert connection.segment(1, ACK)
    assert connection.segment(0, RST, sequence=101 + 1_000_000)  # 65535 << 7 is more than that
    assert bench.session.timeout == 30


def test_refused_connection_and_stray_resets(bench: Bench) -> None:
    connection = Connection(bench)
    connection.segment(0, SYN)
    blind = frame(tcp(SERVER, CLIENT, (22, 40000), (0, 9999), RST | ACK, b""))
    assert not bench.send(blind)
    assert connection.segment(1, RST | ACK)
    assert bench.session.end_reason is EndReason.TCP_RST_FROM_SERVER


def test_half_open_server_is_reset_and_the_client_gets_through(bench: Bench) -> None:
    """RFC 9293, 3.5.1: the server still has an old connection; its ACK makes the client reset it, then SYN again."""
    connection = Connection(bench)
    assert connection.segment(0, SYN)
    assert bench.send(frame(tcp(SERVER, CLIENT, (22, 40000), (300000, 77777), ACK, b"")))
    assert bench.send(frame(tcp(CLIENT, SERVER, (40000, 22), (77777, 0), RST, b"")))
    assert bench.session.state is State.OPENING
    assert connection.segment(0, SYN, sequence=100)
    assert connection.segment(1, SYN | ACK)
    assert connection.segment(0, ACK)
    assert bench.session.state is State.ACTIVE


def test_handshake_must_fit_together(bench: Bench) -> None:
    connection = Connection(bench)
    connection.segment(0, SYN)
    assert not connection.client(b"data before the SYN-ACK")
    connection.next[0] = 101
    assert not bench.send(frame(tcp(SERVER, CLIENT, (22, 40000), (500, 4242), SYN | ACK, b"")))
    assert not bench.send(frame(tcp(SERVER, CLIENT, (22, 40000), (500, 0), SYN, b"")))  # split handshake
    assert connection.segment(1, SYN | ACK)
    assert not bench.send(frame(tcp(CLIENT, SERVER, (40000, 22), (101, 4242), ACK, b"")))
    assert bench.session.state is State.OPENING
    assert connection.segment(1, SYN | ACK, sequence=500)  # sent again
    assert connection.segment(0, ACK)
    assert bench.count("tcp_drop_handshake") == 4


def test_new_connection_over_a_closing_one(bench: Bench) -> None:
    old = Connection(bench).open()
    old.segment(0, RST | ACK)
    assert Connection(bench).open().client(b"fresh")
    assert bench.session.id == 2
    assert bench.logged()[0]["session_end_reason"] == "tcp-rst-from-client"


def test_sequence_numbers_wrap(bench: Bench) -> None:
    connection = Connection(bench)
    connection.next = [0xFFFFFFFF - 10, 0xFFFFFFFF]

    def wrap() -> None:
        connection.next = [number & 0xFFFFFFFF for number in connection.next]

    for side, flags, data in (
        (0, SYN, b""), (1, SYN | ACK, b""), (0, ACK, b""), (1, ACK, b"SSH-2.0-OpenSSH_9.2\r\n"),
        (0, ACK, b"SSH-2.0-OpenSSH_9.2\r\n"), (0, ACK, b"x" * 100), (1, ACK, b""),
    ):  # fmt: skip
        assert connection.segment(side, flags, data)
        wrap()
    assert bench.session.application == "ssh"
    assert connection.segment(0, FIN | ACK)
    wrap()
    assert connection.segment(1, FIN | ACK)
    assert bench.session.state is State.CLOSING
