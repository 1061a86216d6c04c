"""Session offload at work: a firewall's process and its program at the end of a veth pair."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from struct import unpack
from typing import Any

import pytest

from firewall_vnf.benchmark import frame, tcp
from firewall_vnf.offload import LEASE
from firewall_vnf.packet import ACK, FIN, RST
from tests.lab.test_firewall_process import CLIENT, SERVER, Bench, ssh, turned, wait_for
from tests.unit.firewall.traffic import BANNER, ssh6

pytestmark = pytest.mark.lab

SO_TIMESTAMPNS = 35  # asm-generic/socket.h
OFFLOAD_AT = 6  # ssh() opens a session with as many frames
POLICY = "rules: [{name: ssh, application: ssh, service: any, log_end: true, action: allow}]"


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    try:
        made.up()
        yield made
    finally:
        made.down()


def open_session(bench: Bench, number: int = 1000) -> bytes:
    """Open an SSH session up to where it is offloaded, if there is room; return a frame of its client."""
    frames = ssh(number)
    for sent in frames:
        assert bench.exchange(sent) == turned(sent)
    return frames[-1]


def session_of(bench: Bench, number: int = 1000) -> dict[str, Any]:
    [session] = bench.control.sessions(source_port=number)
    return session


def comes_back(bench: Bench, sent: bytes, patience: float = 0.5) -> bool:
    bench.wire.settimeout(patience)
    try:
        return bench.exchange(sent) == turned(sent)
    except TimeoutError:
        return False
    finally:
        bench.wire.settimeout(5)


def filters(bench: Bench) -> str:
    command = ["ip", "netns", "exec", bench.firewall_ns, "tc", "filter", "show", "dev", "eth0", "ingress"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_the_kernel_carries_a_session_and_its_figures_are_the_wires(bench: Bench) -> None:
    process = bench.firewall(offload_packets=OFFLOAD_AT)
    assert bench.control.info()["offload"] == "on"
    sent = open_session(bench)
    for _ in range(1000):
        assert bench.exchange(sent) == turned(sent)
    session, counters = session_of(bench), bench.control.counters()
    assert session["offloaded"]
    assert (session["packets_sent"], session["packets_received"]) == (1004, 2)
    assert (counters["pkt_recv"], counters["pkt_offloaded"], counters["session_offload"]) == (6, 1000, 1)

    start, size = 122 + 8400, 8440
    for closing in (
        tcp(CLIENT, SERVER, (1000, 22), (start, 522), FIN | ACK, b""),
        tcp(SERVER, CLIENT, (22, 1000), (522, start + 1), FIN | ACK, b""),
        tcp(CLIENT, SERVER, (1000, 22), (start + 1, 523), ACK, b""),
    ):
        assert bench.exchange(bytes(frame(closing))) == turned(bytes(frame(closing)))
    session = session_of(bench)
    assert (session["state"], session["offloaded"]) == ("CLOSING", False)
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 0
    [record] = bench.log("traffic")
    assert (record["session_end_reason"], record["pkts_sent"]) == ("tcp-fin", 1006)
    assert record["bytes_sent"] == 40 + 40 + 61 + 1001 * size + 40 + 40
    assert filters(bench) == ""


def test_the_kernel_carries_ipv6_too(bench: Bench) -> None:
    bench.firewall(offload_packets=5)
    *_, last = (bytes(sent) for sent in ssh6() if bench.exchange(bytes(sent)) == turned(bytes(sent)))
    for _ in range(100):
        assert bench.exchange(last) == turned(last)
    session = session_of(bench, 40000)
    assert (session["offloaded"], session["source"]) == (True, "2001:db8:1::10")
    assert (session["packets_sent"], session["packets_received"]) == (103, 2)
    assert session["bytes_sent"] == 60 + 60 + 101 * (60 + len(BANNER))
    assert bench.control.counters()["pkt_offloaded"] == 100


def test_metrics_count_what_the_kernel_carries(bench: Bench) -> None:
    bench.firewall(offload_packets=OFFLOAD_AT, management_address="10.100.0.21", metrics_interval=0.1)
    sent = open_session(bench)

    def busy() -> bool:
        for _ in range(50):
            bench.exchange(sent)
        metrics = bench.metrics()
        return metrics["panSessionThroughputPps"] > 0 and metrics["panSessionThroughputKbps"] > 0

    before = bench.control.counters()["pkt_recv"]
    wait_for(lambda: bench.metrics()["panSessionThroughputPps"] == 0)
    wait_for(busy)
    assert bench.control.counters()["pkt_recv"] == before


def test_a_reset_outside_the_window_ends_no_offloaded_session(bench: Bench) -> None:
    bench.firewall(offload_packets=OFFLOAD_AT)
    sent = open_session(bench)
    far = 122
    for _ in range(40):  # far beyond where the engine saw it last
        data = bytes(frame(tcp(CLIENT, SERVER, (1000, 22), (far, 522), ACK, bytes(8400))))
        assert bench.exchange(data) == turned(data)
        far += 8400
        answer = bytes(frame(tcp(SERVER, CLIENT, (22, 1000), (522, far), ACK, b"")))
        assert bench.exchange(answer) == turned(answer)
    assert not comes_back(bench, bytes(frame(tcp(CLIENT, SERVER, (1000, 22), (122, 522), RST, b""))))
    assert comes_back(bench, sent)
    assert comes_back(bench, bytes(frame(tcp(CLIENT, SERVER, (1000, 22), (far, 522), RST, b""))))
    assert session_of(bench)["end_reason"] == "tcp-rst-from-client"


@pytest.mark.parametrize("change", ["reload", "clear"])
def test_no_packet_passes_after_a_change_is_acknowledged(bench: Bench, change: str) -> None:
    bench.firewall(offload_packets=OFFLOAD_AT)
    sent = open_session(bench)
    bench.wire.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    stop = threading.Event()

    def flood() -> None:
        while not stop.is_set():
            bench.wire.send(sent)

    received: list[int] = []

    def receive() -> None:
        while not stop.is_set():
            try:
                data, ancillary, _, (_, _, kind, *_) = bench.wire.recvmsg(65536, 64)
            except TimeoutError:  # as it must be, from some moment on
                continue
            if kind != socket.PACKET_OUTGOING and data == turned(sent):
                [(_, _, stamp)] = ancillary
                seconds, nanoseconds = unpack("qq", stamp)
                received.append(seconds * 10**9 + nanoseconds)

    threads = [threading.Thread(target=work) for work in (flood, receive)]
    for thread in threads:
        thread.start()
    try:
        wait_for(lambda: len(received) > 1000)
        if change == "reload":
            (bench.directory / "policy.yaml").write_text(POLICY.replace("allow", "drop"))
            bench.control.reload()
        else:
            assert bench.control.clear(application="ssh") == 1
        acknowledged = time.time_ns()
        before = bench.control.counters()["pkt_recv"]
        wait_for(lambda: bench.control.counters()["pkt_recv"] > before + 1000)  # the flood goes on
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert received
    assert max(received) < acknowledged
    refused = "session_discard_drop" if change == "reload" else "flow_tcp_non_syn_drop"
    assert bench.control.counters()[refused] > 1000


def test_sessions_without_room_are_carried_by_the_engine_until_there_is(bench: Bench) -> None:
    bench.firewall(offload_packets=OFFLOAD_AT, offload_sessions=1)
    first, second = open_session(bench, 1000), open_session(bench, 2000)
    for _ in range(10):
        assert comes_back(bench, first)
        assert comes_back(bench, second)
    counters = bench.control.counters()
    assert (counters["session_offload"], counters["session_offload_full"]) == (1, 1)
    assert (counters["pkt_offloaded"], counters["pkt_recv"]) == (10, 22)
    assert [session_of(bench, number)["offloaded"] for number in (1000, 2000)] == [True, False]

    assert bench.control.clear(source_port=1000) == 1
    wait_for(lambda: comes_back(bench, second) and session_of(bench, 2000)["offloaded"])
    assert bench.control.counters()["session_offload"] == 2


def test_an_idle_session_ends_in_its_time(bench: Bench) -> None:
    bench.firewall(offload_packets=OFFLOAD_AT, timers={"tcp": 2})
    sent = open_session(bench)
    start = time.monotonic()
    while time.monotonic() < start + 5:  # longer than the time-out, which each packet prolongs
        assert comes_back(bench, sent)
        time.sleep(0.1)
    assert session_of(bench)["offloaded"]
    wait_for(lambda: not bench.control.sessions())
    assert not comes_back(bench, sent)
    wait_for(lambda: bool(bench.log("traffic")))
    [record] = bench.log("traffic")
    assert record["session_end_reason"] == "aged-out"
    assert record["pkts_sent"] == bench.control.counters()["pkt_offloaded"] + 4


def test_a_hung_firewall_carries_nothing(bench: Bench) -> None:
    process = bench.firewall(offload_packets=OFFLOAD_AT)
    sent = open_session(bench)
    assert comes_back(bench, sent)
    os.kill(process.pid, signal.SIGSTOP)
    stopped = time.monotonic()
    while comes_back(bench, sent):
        assert time.monotonic() < stopped + LEASE + 5
    with pytest.raises(OSError, match="timed out"):
        bench.health()
    os.kill(process.pid, signal.SIGCONT)
    wait_for(lambda: comes_back(bench, sent))
    offloaded = bench.control.counters()["pkt_offloaded"]
    wait_for(lambda: comes_back(bench, sent) and bench.control.counters()["pkt_offloaded"] > offloaded)


def test_a_firewall_that_is_killed_and_started_again_under_traffic(bench: Bench) -> None:
    process = bench.firewall(offload_packets=OFFLOAD_AT)
    sent = open_session(bench)
    stop = threading.Event()

    def flood() -> None:
        while not stop.is_set():
            bench.wire.send(sent)

    thread = threading.Thread(target=flood)
    thread.start()
    try:
        process.kill()
        process.wait()
        (bench.directory / "fw1.sock").unlink()
        assert filters(bench).count("handle") == 1
        bench.firewall(offload_packets=OFFLOAD_AT)
        wait_for(lambda: bench.control.counters()["flow_tcp_non_syn_drop"] > 1000)
        assert filters(bench).count("handle") == 1
    finally:
        stop.set()
        thread.join()
    drain(bench)
    assert not bench.control.sessions()
    again = open_session(bench, 3000)
    assert comes_back(bench, again)
    assert session_of(bench, 3000)["offloaded"]


def test_a_firewall_that_does_not_offload_removes_what_a_killed_one_left(bench: Bench) -> None:
    process = bench.firewall(offload_packets=OFFLOAD_AT)
    open_session(bench)
    process.kill()
    process.wait()
    (bench.directory / "fw1.sock").unlink()
    assert filters(bench)
    bench.firewall(offload=False)
    assert filters(bench) == ""
    assert bench.control.info()["offload"] == "off"
    open_session(bench, 4000)
    assert not session_of(bench, 4000)["offloaded"]


def drain(bench: Bench) -> None:
    """Read what has come back until nothing more does."""
    bench.wire.settimeout(0.3)
    try:
        while True:
            bench.wire.recv(65536)
    except TimeoutError:
        pass
    finally:
        bench.wire.settimeout(5)
