"""Probes: the parsers on recorded outputs, the processes on loopback."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Sequence
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

from testbed.errors import MachineError
from testbed.probes import child, connections, iperf3, ping, ssh, web
from testbed.probes.child import Child, ProbeError
from testbed.statistics import summarize

RECORDED = Path(__file__).with_name("recorded")
LOOPBACK = IPv4Address("127.0.0.1")


def recorded(name: str) -> str:
    return (RECORDED / name).read_text()


class Loopback:
    """A node that is this machine."""

    name = "here"
    pid = os.getpid()
    address = LOOPBACK

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


def needs(*programs: str) -> None:
    for name in programs:
        try:
            child.program(name)
        except MachineError as error:
            pytest.skip(str(error))


# -- statistics ----------------------------------------------------------------------------------------------------


def test_the_median_is_not_moved_by_one_bad_repeat() -> None:
    summary = summarize([10, 9, 1])
    assert (summary.median, summary.minimum, summary.maximum, summary.count) == (9, 1, 10, 3)


def test_nothing_has_no_median() -> None:
    with pytest.raises(ValueError, match="nothing was measured"):
        summarize([])


# -- iperf3 --------------------------------------------------------------------------------------------------------


def test_iperf3_tcp() -> None:
    test = iperf3.parse(recorded("iperf3-tcp-client.json"), recorded("iperf3-tcp-server.json"))
    assert (test.protocol, test.streams, test.retransmissions) == ("tcp", 2, 0)
    assert test.bits_per_second == pytest.approx(22.4617562e9)
    assert test.segments == -(-2818048000 // json.loads(recorded("iperf3-tcp-client.json"))["start"]["tcp_mss_default"])
    assert test.peer == LOOPBACK
    assert test.congestion_control == "bbr"
    # The second interval lasted 35 µs.
    assert test.intervals == ((pytest.approx(1.000936), pytest.approx(22.46254e9)),)
    assert test.lost_packets is None


def test_iperf3_udp_counts_what_the_receiver_got() -> None:
    report = json.loads(recorded("iperf3-udp-client.json"))
    report["end"]["sum_received"]["lost_packets"] = 4
    report["end"]["sum_received"]["bits_per_second"] = 9.0e6
    test = iperf3.parse(json.dumps(report), recorded("iperf3-udp-server.json"))
    assert (test.protocol, test.packets, test.lost_packets) == ("udp", 39, 4)
    assert test.bits_per_second == 9.0e6
    assert test.jitter == pytest.approx(9.783e-6, rel=1e-3)
    assert test.retransmissions is None
    assert test.retransmission_ratio == 0


def test_iperf3_before_3_10_reports_the_senders_udp_rate_only() -> None:
    report = json.loads(recorded("iperf3-udp-client.json"))
    for key in ("sum_sent", "sum_received"):
        del report["end"][key]
    report["end"]["sum"] |= {"packets": 40, "lost_packets": 10, "bits_per_second": 8e6}
    test = iperf3.parse(json.dumps(report), recorded("iperf3-udp-server.json"))
    assert test.bits_per_second == 6e6


def test_iperf3_retransmissions_are_a_share_of_the_segments() -> None:
    report = json.loads(recorded("iperf3-tcp-client.json"))
    report["end"]["sum_sent"] |= {"retransmits": 5, "bytes": 8460 * 1000}
    report["start"]["tcp_mss_default"] = 8460
    test = iperf3.parse(json.dumps(report), recorded("iperf3-tcp-server.json"))
    assert test.retransmission_ratio == 0.005


@pytest.mark.parametrize(
    ("client", "message"),
    [
        (recorded("iperf3-refused.json"), "iperf3: unable to connect to server: Connection refused"),
        ("", "iperf3: no JSON report, but ''"),
        ("iperf3: error - no route\n", "iperf3: no JSON report, but 'iperf3: error - no route'"),
        ("[1]", "iperf3: no JSON report, but '[1]'"),
        ('{"start": {}}', "iperf3: the report lacks a value or has a wrong one (KeyError('test_start'))"),
    ],
)
def test_iperf3_errors(client: str, message: str) -> None:
    with pytest.raises(ProbeError, match=f"^{re.escape(message)}$"):
        iperf3.parse(client, recorded("iperf3-tcp-server.json"))


def test_iperf3_server_errors_say_that_it_was_the_server() -> None:
    with pytest.raises(ProbeError, match=r"^iperf3, server: the client has terminated$"):
        iperf3.parse(recorded("iperf3-tcp-client.json"), '{"error": "the client has terminated"}')


def test_iperf3_on_loopback(node: Loopback, port: int) -> None:
    needs("iperf3")
    test = iperf3.measure(node, node, seconds=1, port=port)
    assert test.bits_per_second > 1e6
    assert test.peer == LOOPBACK
    assert all(process.poll() == 0 for process in node.processes)


def test_iperf3_that_is_refused_ends_the_server(node: Loopback, port: int) -> None:
    needs("iperf3")
    with pytest.raises(ProbeError, match=r"^iperf3 here → here \(240.0.0.1\): unable to connect to server"):
        iperf3.measure(node, node, IPv4Address("240.0.0.1"), seconds=1, port=port)
    assert all(process.poll() is not None for process in node.processes)


# -- ping ----------------------------------------------------------------------------------------------------------

PING = """\
PING 10.250.0.52 (10.250.0.52) 56(84) bytes of data.
64 bytes from 10.250.0.52: icmp_seq=1 ttl=62 time=1.70 ms
64 bytes from 10.250.0.52: icmp_seq=2 ttl=62 time=0.612 ms

--- 10.250.0.52 ping statistics ---
3 packets transmitted, 2 received, 33.3333% packet loss, time 408ms
rtt min/avg/max/mdev = 0.612/1.156/1.700/0.544 ms
"""

NO_REPLY = """\
PING 203.0.113.7 (203.0.113.7) 56(84) bytes of data.
From 10.200.0.17 icmp_seq=1 Destination Host Unreachable

--- 203.0.113.7 ping statistics ---
2 packets transmitted, 0 received, +2 errors, 100% packet loss, time 202ms

"""


def test_ping() -> None:
    trips = ping.parse(PING)
    assert (trips.sent, trips.received, trips.ttl) == (3, 2, 62)
    assert trips.loss == pytest.approx(1 / 3)
    assert trips.times == (0.0017, 0.000612)
    assert (trips.minimum, trips.average, trips.maximum) == (0.000612, 0.001156, 0.0017)
    assert trips.deviation == 0.000544


def test_ping_without_replies_is_a_result() -> None:
    trips = ping.parse(NO_REPLY)
    assert (trips.sent, trips.loss, trips.times, trips.average, trips.ttl) == (2, 1, (), None, None)


@pytest.mark.parametrize("output", ["", "ping: connect: Network is unreachable\n", "0 packets transmitted, 0 received"])
def test_ping_without_a_summary(output: str) -> None:
    with pytest.raises(ProbeError, match=r"^ping: no summary in its output$"):
        ping.parse(output)


def test_ping_that_fails_is_an_error(node: Loopback) -> None:
    needs("ping")
    with pytest.raises(ProbeError, match=r"^ping here → here \(127.255.255.255\): exit code 2: .*ping broadcast"):
        ping.measure(node, node, IPv4Address("127.255.255.255"), count=1)


# -- HTTP ----------------------------------------------------------------------------------------------------------


def test_http_on_loopback(node: Loopback, port: int) -> None:
    response = web.fetch(node, node, path="/bytes/100000", port=port)
    assert (response.status, response.size, response.peer) == (200, 100000, LOOPBACK)
    assert 0 < response.first_byte <= response.end < 5
    assert all(process.poll() is not None for process in node.processes)


def test_http_to_nobody(node: Loopback, port: int) -> None:
    with pytest.raises(ProbeError, match=r"^http here → here \(240.0.0.1\): exit code 1: "):
        web.fetch(node, node, IPv4Address("240.0.0.1"), port=port, timeout=1)


@pytest.mark.parametrize(
    ("request_", "log"), [("", "{}"), ("{}", ""), ('{"status": 200}', '{"peer": "10.0.0.1"}'), ("[]", "[]")]
)
def test_http_malformed(request_: str, log: str) -> None:
    with pytest.raises(ProbeError, match=r"^http: malformed result"):
        web.parse(request_, log)


# -- SSH -----------------------------------------------------------------------------------------------------------


def test_ssh_on_loopback(node: Loopback, port: int) -> None:
    needs("ssh", "sshd")
    assert ssh.login(node, node, port=port).peer == LOOPBACK
    assert all(process.poll() is not None for process in node.processes)


def test_ssh_refuses_a_key_that_is_not_the_users(node: Loopback, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    needs("ssh", "sshd")
    make_keys = ssh.make_keys

    def make_wrong_keys(directory: Path) -> None:
        make_keys(directory)
        (directory / "user_key.pub").write_text((directory / "host_key.pub").read_text())

    monkeypatch.setattr(ssh, "make_keys", make_wrong_keys)
    with pytest.raises(ProbeError, match=r"^ssh here → here \(127.0.0.1\): exit code 255: .*Permission denied"):
        ssh.login(node, node, port=port)


def test_ssh_leaves_the_machines_run_directory_as_it_is(node: Loopback, port: int) -> None:
    needs("ssh", "sshd")
    before = set(Path("/run").iterdir())
    ssh.login(node, node, port=port)
    assert {Path("/run/sshd")} & set(Path("/run").iterdir()) == {Path("/run/sshd")} & before


@pytest.mark.parametrize("text", ["", "\n", "nobody 1 2 3"])
def test_ssh_without_a_peer(text: str) -> None:
    with pytest.raises(ProbeError, match=r"^ssh: no address in "):
        ssh.parse_peer(text)


# -- connections ---------------------------------------------------------------------------------------------------


def test_connections_on_loopback(node: Loopback, port: int) -> None:
    rate = connections.measure(node, node, port=port, seconds=0.3)
    assert rate.completed > 10
    assert rate.failed == 0
    assert rate.latency is not None
    assert rate.latency_99 is not None
    assert 0 < rate.latency <= rate.latency_99
    assert rate.per_second == rate.completed / rate.seconds


def test_connections_that_are_refused_count_as_failed(port: int) -> None:
    rate = connections.connect("127.0.0.1", port, seconds=0.05, concurrency=2)
    assert rate.completed == 0
    assert rate.failed > 0
    assert rate.latency is None


@pytest.mark.parametrize(
    "output", ["", "{}", '{"completed": 1, "failed": 0, "seconds": 0, "latency": 1, "latency_99": 1}']
)
def test_connections_malformed(output: str) -> None:
    with pytest.raises(ProbeError, match=r"^connections: malformed result"):
        connections.parse(output)


# -- processes -----------------------------------------------------------------------------------------------------


def test_a_server_that_ends_is_noticed_with_its_last_words(node: Loopback, port: int) -> None:
    command = [sys.executable, "-c", "import sys; sys.exit('no such device\\n\\n')"]
    with (
        Child(node, "server", command) as server,
        pytest.raises(ProbeError, match=r"^server: ended with 1 before it listened: no such device$"),
    ):
        server.wait_listening(port)


def test_a_server_that_never_listens(node: Loopback, port: int) -> None:
    with (
        Child(node, "server", ["sleep", "60"]) as server,
        pytest.raises(ProbeError, match=f"^server: does not listen on port {port} after 0.1 s$"),
    ):
        server.wait_listening(port, timeout=0.1)
    assert node.processes[0].poll() is not None


def test_a_process_that_takes_too_long_is_ended(node: Loopback) -> None:
    with (
        Child(node, "client", ["sleep", "60"]) as client,
        pytest.raises(ProbeError, match=r"^client: no result within 0.1 s$"),
    ):
        client.wait(0.1)
    assert node.processes[0].poll() is not None


def test_a_process_that_ignores_its_end_is_killed(node: Loopback, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "GRACE", 0.2)
    code = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(60)"
    )
    with Child(node, "deaf", [sys.executable, "-c", code]) as deaf:
        while "ready" not in deaf.output:
            pass
    assert node.processes[0].poll() == -9


def test_a_program_that_is_missing_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child.shutil, "which", lambda *_, **__: None)
    with pytest.raises(MachineError, match=r"^ping is not installed: apt-get install iputils-ping$"):
        child.program("ping")


def test_listening_ports_of_the_kernels_table() -> None:
    table = (
        "  sl  local_address rem_address   st tx_queue rx_queue\n"
        "   0: 0100007F:1451 00000000:0000 0A 00000000:00000000\n"
        "   1: 0100007F:0016 0100007F:C350 01 00000000:00000000\n"
    )
    assert child.parse_listening(table) == {5201}
