"""The flow probe: its records and its clock without sockets, the two ends on loopback, servers that misbehave."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import struct
import subprocess
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, replace
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.probes import flow_ends, flows
from testbed.probes.child import ProbeError
from testbed.probes.flow_ends import RECORD, Client, Exchange, WrongEchoError
from testbed.probes.flows import RECORD_SIZE, Report, Settings, Status

QUICK = Settings(tcp=3, udp=2, interval=0.01, gap=0.5, dead_after=20, connect_every=0.01, connect_timeout=20)


class Loopback:
    """A node that is this machine."""

    name = "here"
    pid = os.getpid()
    address = IPv4Address("127.0.0.1")

    def __init__(self) -> None:
        self.processes: list[subprocess.Popen[Any]] = []

    def popen(self, command: Sequence[str], **keywords: Any) -> subprocess.Popen[Any]:
        self.processes.append(subprocess.Popen(command, **keywords))
        return self.processes[-1]


@pytest.fixture
def node() -> Loopback:
    return Loopback()


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


# -- settings ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"interval": 0}, "interval and connect_every are more than 0 seconds"),
        ({"connect_every": 0}, "interval and connect_every are more than 0 seconds"),
        ({"gap": 0.1}, "interval < gap < dead_after does not hold: 0.1, 0.1, 30 s"),
        ({"dead_after": 0.2}, "interval < gap < dead_after does not hold: 0.1, 0.3, 0.2 s"),
    ],
)
def test_settings_that_measure_nothing(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        replace(Settings(), **changes)


# -- one flow, without a socket ------------------------------------------------------------------------------------


def tcp(now: float = 100.0) -> Exchange:
    exchange = Exchange("tcp", Settings(gap=0.3, dead_after=5), now)
    exchange.establish(now)
    return exchange


def test_an_answered_flow_has_no_gap_and_no_deadline() -> None:
    exchange = tcp()
    for number in range(10):
        exchange.receive(exchange.send(100 + number / 10), 100.05 + number / 10)
    exchange.end(101)
    flow = exchange.flow()
    assert (flow.sent, flow.received, flow.bytes_received, flow.gaps) == (10, 10, 10 * RECORD_SIZE, ())
    assert exchange.deadline == float("inf")
    assert flow.longest_gap == 0


@given(st.integers(1, 20), st.lists(st.integers(1, 3 * RECORD_SIZE), min_size=1))
def test_a_stream_may_come_in_any_pieces(count: int, sizes: list[int]) -> None:
    exchange = tcp()
    stream = b"".join(exchange.send(100) for _ in range(count))
    while stream:
        for size in sizes:
            exchange.receive(stream[:size], 100)
            stream = stream[size:]
    assert exchange.received == count
    assert exchange.deadline == float("inf")


def test_a_silence_is_a_gap_from_answer_to_answer() -> None:
    exchange = tcp()
    exchange.receive(exchange.send(100), 100.1)
    late = exchange.send(100.2)
    assert [exchange.silent(now) for now in (100.3, 102.0)] == [False, True]
    exchange.receive(late, 102.1)
    assert not exchange.silent(102.2)
    exchange.end(102.2)
    flow = exchange.flow()
    assert flow.gaps == ((100.1, 102.1),)
    assert flow.longest_gap == 2
    assert (flow.died, flow.cause) == (None, None)


def test_the_silence_before_a_death_is_a_gap_too() -> None:
    exchange = tcp()
    exchange.send(100)
    exchange.end(103, flows.RESET)
    exchange.end(110)  # the end of the traffic changes nothing of it
    flow = exchange.flow()
    assert (flow.gaps, flow.died, flow.cause) == (((100, 103),), 103, "reset")


def test_the_deadline_counts_from_the_first_record_that_nobody_answered() -> None:
    exchange = tcp()
    first = exchange.send(100)
    exchange.send(101)
    assert exchange.deadline == 105
    exchange.receive(first, 102)  # the second is not answered, but the flow lives
    assert exchange.deadline == 107


@pytest.mark.parametrize(
    "echo", [RECORD.pack(b"bumpwire", 2), RECORD.pack(b"bumpwirf", 1), bytes(RECORD_SIZE)], ids=["number", "mark", "0"]
)
def test_a_wrong_echo(echo: bytes) -> None:
    exchange = tcp()
    exchange.send(100)
    exchange.send(100)
    with pytest.raises(WrongEchoError):
        exchange.receive(echo, 100)


def test_datagrams_may_be_lost() -> None:
    exchange = Exchange("udp", Settings(), 100)
    exchange.send(100)
    exchange.receive(exchange.send(100.1), 100.2)
    flow = exchange.flow()
    assert (flow.established, flow.sent, flow.received) == (100.2, 2, 1)
    with pytest.raises(WrongEchoError):
        exchange.receive(RECORD.pack(b"bumpwire", 3), 100.3)


@pytest.mark.parametrize(
    ("error", "word"),
    [
        (asyncio.TimeoutError(), "time-out"),
        (TimeoutError(110, "Connection timed out"), "time-out"),
        (ConnectionRefusedError(), "refused"),
        (ConnectionResetError(), "reset"),
        (BrokenPipeError(), "reset"),
        (EOFError(), "closed"),
        (WrongEchoError(), "wrong echo"),
        (OSError(113, "No route to host"), "EHOSTUNREACH"),
    ],
)
def test_causes(error: BaseException, word: str) -> None:
    assert flow_ends.cause(error) == word


# -- the client, against servers that misbehave --------------------------------------------------------------------

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def client_against(answer: Answer | None, settings: Settings, enough: Callable[[Status], bool]) -> Report:
    """Run the client against a server that answers like that (None: nobody listens) until a status is *enough*."""

    async def both() -> Report:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            assert answer is not None
            try:
                await answer(reader, writer)
            except (OSError, asyncio.IncompleteReadError):
                pass
            finally:
                writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        if answer is None:
            server.close()
            await server.wait_closed()
        stop = asyncio.Event()
        try:
            running = Client("127.0.0.1", port, settings).run(stop, lambda now: stop.set() if enough(now) else None)
            return await asyncio.wait_for(running, 30)
        finally:
            server.close()

    return asyncio.run(both())


async def echo_for_ever(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(await reader.readexactly(RECORD_SIZE))


async def echo_then_reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(await reader.readexactly(RECORD_SIZE))
    await reader.readexactly(RECORD_SIZE)
    connection = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close is RST


async def echo_then_close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(await reader.readexactly(RECORD_SIZE))
    await reader.readexactly(RECORD_SIZE)


async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def say_wrong(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(bytes(await reader.readexactly(RECORD_SIZE)).swapcase())
    await reader.read()


LONG = Settings(tcp=2, interval=0.01, gap=0.02, dead_after=0.2, connect_every=None)


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        (echo_then_reset, "reset"),
        (echo_then_close, "closed"),
        (say_nothing, "time-out"),
        (say_wrong, "wrong echo"),
    ],
)
def test_what_flows_die_of(answer: Answer, word: str) -> None:
    # A record every 50 ms: the server's end comes before the next one, which would be answered by a reset.
    settings = replace(LONG, interval=0.05, gap=0.06) if answer is echo_then_close else LONG
    report = client_against(answer, settings, lambda status: status.established == 2 and not status.alive)
    assert [flow.cause for flow in report.flows] == [word, word]
    for flow in report.flows:
        assert flow.established is not None
        assert flow.died is not None
        assert report.start <= flow.started <= flow.established < flow.died <= report.end
        assert flow.local_port > 0
    if word == "time-out":
        assert all(flow.longest_gap >= 0.2 for flow in report.flows)
        assert all(flow.received == 0 < flow.sent for flow in report.flows)


def test_a_flow_that_is_refused_was_never_established() -> None:
    report = client_against(None, replace(LONG, connect_every=0.01), lambda status: status.failed > 3)
    assert [(flow.established, flow.cause) for flow in report.flows] == [(None, "refused")] * 2
    assert {connection.error for connection in report.connections} == {"refused"}
    assert all(connection.local_port > 0 for connection in report.connections)


def test_no_port_is_used_again_soon() -> None:
    settings = replace(LONG, tcp=0, connect_every=0.0005)
    report = client_against(None, settings, lambda status: status.failed > 600)
    ports = [connection.local_port for connection in report.connections]
    assert len(set(ports)) == len(ports)


def test_new_connections_time_out_while_others_are_tried() -> None:
    settings = replace(LONG, tcp=0, connect_every=0.01, connect_timeout=0.3)
    report = client_against(say_nothing, settings, lambda status: status.failed > 3)
    assert {connection.error for connection in report.connections} == {"time-out"}
    first = report.connections[0]
    assert first.ended - first.started >= 0.3
    assert any(connection.started < first.ended for connection in report.connections[1:])


def test_what_lives_until_the_end_has_not_died() -> None:
    settings = replace(LONG, dead_after=20, connect_every=0.01, connect_timeout=20)
    report = client_against(echo_for_ever, settings, lambda status: status.alive == 2 and status.connected > 3)
    assert [(flow.died, flow.cause) for flow in report.flows] == [(None, None)] * 2
    assert all(connection.error is None for connection in report.connections)
    assert report.samples[-1].received == sum(flow.bytes_received for flow in report.flows) > 0


# -- both ends, as processes ---------------------------------------------------------------------------------------


def test_flows_on_loopback(node: Loopback, port: int, tmp_path: Path) -> None:
    before = time.monotonic()
    file = tmp_path / "here.traffic.json"
    with flows.keep(node, node, settings=QUICK, port=port, status=file) as traffic:
        assert traffic.wait_established().wanted == 5
        traffic.wait(lambda status: status.connected > 5, "new connections")
        assert flows.read_status(file).alive == 5
    after = time.monotonic()
    report = traffic.report
    assert [flow.protocol for flow in report.flows] == ["tcp"] * 3 + ["udp"] * 2
    assert all(flow.died is None and flow.received > 0 for flow in report.flows)
    assert before < report.start < report.end < after  # one clock for all processes
    assert len(report.connections) > 5
    assert list(tmp_path.iterdir()) == []
    assert all(process.poll() is not None for process in node.processes)


def test_a_server_that_dies_kills_the_flows(node: Loopback, port: int) -> None:
    with flows.keep(node, node, settings=QUICK, port=port) as traffic:
        traffic.wait_established()
        node.processes[0].kill()
        status = traffic.wait(lambda status: status.alive == 0 and status.failed > 0, "the end of all flows")
        assert status.established == 5
    assert {flow.cause for flow in traffic.report.flows} <= {"closed", "reset", "refused"}
    assert traffic.report.connections[-1].error == "refused"


def test_waiting_in_vain_says_for_what(node: Loopback, port: int) -> None:
    message = r"^flows here → here \(127.0.0.1\): waited 0 s for rain in vain: \d of 5 flows were established, \d are"
    with (
        pytest.raises(ProbeError, match=message),
        flows.keep(node, node, settings=QUICK, port=port) as traffic,
    ):
        traffic.wait(lambda status: False, "rain", 0)
    assert all(process.poll() is not None for process in node.processes)


def test_a_client_that_is_killed_is_an_error(node: Loopback, port: int) -> None:
    message = r"^flows here → here \(127.0.0.1\): exit code -9$"
    with pytest.raises(ProbeError, match=message), flows.keep(node, node, settings=QUICK, port=port):
        node.processes[1].kill()


def test_a_client_that_cannot_start_is_an_error(node: Loopback, port: int, tmp_path: Path) -> None:
    with (
        pytest.raises(ProbeError, match=r"^flows here → here \(127.0.0.1\): exit code 1: FileNotFoundError: "),
        flows.keep(node, node, settings=QUICK, port=port, status=tmp_path / "nowhere" / "status.json"),
    ):
        pass


# -- what is read back ---------------------------------------------------------------------------------------------

REPORT = Report(
    start=1.0,
    end=9.0,
    flows=(flows.Flow("tcp", 40000, 1.0, 1.1, 8.0, "reset", 20, 18, ((2.0, 4.0), (6.0, 8.0))),),
    connections=(flows.Connection(40001, 2.0, 2.1, None), flows.Connection(40002, 3.0, 5.0, "time-out")),
    samples=(Status(1.5, 1, 1, 1, 0, 0, 640),),
)


def test_a_report_comes_back_as_it_was() -> None:
    assert flows.parse(json.dumps(asdict(REPORT))) == REPORT


@pytest.mark.parametrize("output", ["", "[]", "{}", '{"start": 1, "end": 2, "flows": [{}]}', "null"])
def test_a_malformed_report(output: str) -> None:
    with pytest.raises(ProbeError, match=r"^flows: malformed result"):
        flows.parse(output)


def test_a_status_that_is_gone_or_malformed(tmp_path: Path) -> None:
    with pytest.raises(ProbeError, match=r"^flows: has ended$"):
        flows.read_status(tmp_path / "none")
    (tmp_path / "wrong").write_text("{}")
    with pytest.raises(ProbeError, match=r"^flows: malformed status"):
        flows.read_status(tmp_path / "wrong")
