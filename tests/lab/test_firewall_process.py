"""The firewall's process for real, at the end of a veth pair in a network namespace of its own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from prometheus_client.parser import text_string_to_metric_families

from firewall_vnf.benchmark import frame, ipv4, tcp
from firewall_vnf.control import Control, ControlError
from firewall_vnf.packet import ACK, PSH, SYN
from tests.lab.namespaces import inside

pytestmark = pytest.mark.lab

ETH_P_IP = 0x0800
CLIENT, SERVER = 0x0A000001, 0x0A800001
FIREWALL_MAC, BALANCER_MAC = "02:00:00:00:00:02", "02:00:00:00:00:01"  # those of benchmark.frame
POLICY = """
zones: [transit]
rules:
  - {name: ssh, application: ssh, service: any, log_end: true, action: allow}
  - {name: rest, service: any, action: drop}
"""


def wait_for(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


class Bench:
    """Two namespaces joined by a veth pair: ``wire`` is a raw socket at the load balancer's end."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.firewall_ns, self.balancer_ns = f"bwt-fw-{os.getpid()}", f"bwt-lb-{os.getpid()}"
        self.processes: list[subprocess.Popen[str]] = []

    def up(self) -> None:
        for command in (
            f"ip netns add {self.firewall_ns}",
            f"ip netns add {self.balancer_ns}",
            f"ip -n {self.firewall_ns} link add eth0 address {FIREWALL_MAC} type veth"
            f" peer name eth0 address {BALANCER_MAC} netns {self.balancer_ns}",
            f"ip -n {self.firewall_ns} address add 10.100.0.21/24 dev eth0",
            f"ip -n {self.balancer_ns} address add 10.100.0.20/24 dev eth0",
            f"ip -n {self.firewall_ns} link set eth0 mtu 9001 up",
            f"ip -n {self.balancer_ns} link set eth0 mtu 9001 up",
            f"ip -n {self.firewall_ns} link set lo up",
        ):
            subprocess.run(command.split(), check=True)
        with inside(self.balancer_ns):
            self.wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_IP))
        self.wire.bind(("eth0", ETH_P_IP))
        self.wire.settimeout(5)

    def down(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait()
        self.wire.close()
        for namespace in (self.firewall_ns, self.balancer_ns):
            subprocess.run(["ip", "netns", "delete", namespace], check=True)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        command = ["ip", "netns", "exec", self.firewall_ns, sys.executable, "-m", "firewall_vnf", *arguments]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self.processes.append(process)
        return process

    def firewall(self, **more: object) -> subprocess.Popen[str]:
        (self.directory / "policy.yaml").write_text(POLICY)
        settings = {
            "name": "fw1",
            "interface": "eth0",
            "address": "10.100.0.21",
            "default_zone": "transit",
            "policy": "policy.yaml",
            "log_directory": "logs",
            "control": "fw1.sock",
            "health_port": 8080,
            "health_limit": 0.5,
            **more,
        }
        (self.directory / "fw1.yaml").write_text(json.dumps(settings))
        process = self.start("--config", str(self.directory / "fw1.yaml"))
        wait_for(lambda: self.control.answers() or process.poll() is not None)
        assert process.poll() is None, process.communicate()[1]
        return process

    @property
    def control(self) -> Control:
        return Control(self.directory / "fw1.sock")

    def health(self) -> int:
        try:
            with inside(self.balancer_ns):
                return int(urllib.request.urlopen("http://10.100.0.21:8080/", timeout=5).status)
        except urllib.error.HTTPError as error:
            return error.code

    def metrics(self) -> dict[str, float]:
        with inside(self.balancer_ns), urllib.request.urlopen("http://10.100.0.21:9090/metrics", timeout=5) as answer:
            families = text_string_to_metric_families(answer.read().decode())
            return {family.name: family.samples[0].value for family in families}

    def exchange(self, sent: bytes) -> bytes:
        self.wire.send(sent)
        while True:
            data, (_, _, kind, *_) = self.wire.recvfrom(65536)
            if kind != socket.PACKET_OUTGOING:
                return data

    def log(self, name: str) -> list[dict[str, object]]:
        return [json.loads(line) for line in (self.directory / "logs" / f"{name}.jsonl").read_text().splitlines()]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    try:
        bench.up()
        yield bench
    finally:
        bench.down()


def turned(sent: bytes) -> bytes:
    return sent[6:12] + sent[0:6] + sent[12:26] + sent[30:34] + sent[26:30] + sent[34:]


def ssh(number: int = 1000) -> list[bytes]:
    there, back = (number, 22), (22, number)
    return [
        bytes(frame(packet))
        for packet in (
            tcp(CLIENT, SERVER, there, (100, 0), SYN, b""),
            tcp(SERVER, CLIENT, back, (500, 101), SYN | ACK, b""),
            tcp(CLIENT, SERVER, there, (101, 501), ACK, b""),
            tcp(SERVER, CLIENT, back, (501, 101), PSH | ACK, b"SSH-2.0-OpenSSH_9.2\r\n"),
            tcp(CLIENT, SERVER, there, (101, 522), PSH | ACK, b"SSH-2.0-OpenSSH_9.2\r\n"),
            tcp(CLIENT, SERVER, there, (122, 522), ACK, bytes(8400)),
        )
    ]


def test_an_ssh_session_goes_through_and_is_seen_and_logged(bench: Bench) -> None:
    process = bench.firewall()
    for sent in ssh():
        assert bench.exchange(sent) == turned(sent)

    [session] = bench.control.sessions(application="ssh")
    assert (session["state"], session["source"], session["packets_sent"]) == ("ACTIVE", "10.0.0.1", 4)
    assert bench.health() == 200

    process.send_signal(signal.SIGTERM)
    assert process.wait(5) == 0
    [record] = bench.log("traffic")
    assert (record["app"], record["rule"], record["subtype"]) == ("ssh", "ssh", "end")
    assert not (bench.directory / "fw1.sock").exists()


def test_what_the_policy_refuses_does_not_come_back(bench: Bench) -> None:
    bench.firewall()
    bench.wire.send(frame(ipv4(CLIENT, SERVER, 1, bytes.fromhex("0800000000070001") + bytes(56))))
    other_port, other_address = bytearray(ssh(2000)[0]), bytearray(ssh(2000)[0])
    other_port[36:38] = b"\x17\xc2"
    other_address[30:34] = b"\x0a\x64\0\x63"
    assert bench.exchange(bytes(other_port))[23] == 1  # the kernel's affair: ICMP port unreachable
    bench.wire.send(other_address)
    # Neither an echo nor the kernel's own ICMP port unreachable: the next frame answers the next one.
    first = ssh()[0]
    assert bench.exchange(first) == turned(first)
    counters = bench.control.counters()
    assert (counters["pkt_recv"], counters["pkt_forwarded"], counters["session_discard"]) == (2, 1, 1)


def test_reload_keeps_sessions_and_a_wrong_policy_changes_nothing(bench: Bench) -> None:
    process = bench.firewall()
    frames = ssh()
    for sent in frames:
        bench.exchange(sent)

    (bench.directory / "policy.yaml").write_text("rules: [{name: x, action: perhaps}]")
    with pytest.raises(ControlError, match=r"policy\.yaml"):
        bench.control.reload()
    assert bench.exchange(frames[-1]) == turned(frames[-1])

    (bench.directory / "policy.yaml").write_text(POLICY.replace("ssh, appl", "renamed, appl"))
    process.send_signal(signal.SIGHUP)
    wait_for(lambda: bench.control.counters()["policy_commit"] == 1)
    assert bench.exchange(frames[-1]) == turned(frames[-1])
    [session] = bench.control.sessions(state="active")
    assert session["rule"] == "renamed"


def test_a_stuck_data_path_is_unhealthy(bench: Bench) -> None:
    source = bench.directory / "stuck.py"
    source.write_text(
        "import time\n"
        "from firewall_vnf.inspection import Inspection\n"
        "class Stuck(Inspection):\n"
        "    applications = frozenset({'ssh'})\n"
        "    def inspect(self, session, direction, payload):\n"
        "        time.sleep(3)\n"
    )
    process = bench.firewall()
    process.terminate()
    process.wait()
    settings = json.loads((bench.directory / "fw1.yaml").read_text()) | {"inspections": ["stuck:Stuck"]}
    (bench.directory / "fw1.yaml").write_text(json.dumps(settings))
    (bench.directory / "policy.yaml").write_text(POLICY.replace("log_end: true", "inspect: true"))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(bench.directory), os.getcwd()))}
    command = ["ip", "netns", "exec", bench.firewall_ns, sys.executable, "-m", "firewall_vnf", "--config"]
    bench.processes.append(subprocess.Popen([*command, str(bench.directory / "fw1.yaml")], env=environment, text=True))
    wait_for(bench.control.answers)
    assert bench.health() == 200
    for sent in ssh()[:4]:
        bench.wire.send(sent)
    wait_for(lambda: bench.health() == 503)


def test_metrics_are_of_what_it_carries(bench: Bench) -> None:
    bench.firewall(management_address="10.100.0.21", metrics_interval=0.1)
    frames = ssh()

    def busy() -> bool:
        for _ in range(20):
            bench.exchange(frames[-1])
        return all(bench.metrics()[name] > 0 for name in carried)

    carried = ("DataPlaneCPUUtilizationPct", "panSessionThroughputKbps", "panSessionThroughputPps")
    for sent in frames:
        bench.exchange(sent)
    wait_for(busy)
    wait_for(lambda: bench.metrics()["panSessionThroughputPps"] == 0)
    metrics = bench.metrics()
    assert metrics["panSessionActive"] == bench.control.info()["sessions"] == 1
    assert metrics["panSessionUtilization"] == pytest.approx(100 / 250_000)
    assert metrics["DataPlanePacketBufferUtilization"] == 0


@pytest.mark.skipif(not shutil.which("redis-server"), reason="there is no redis-server")
def test_a_session_survives_its_firewall(bench: Bench) -> None:
    options = f"--bind 127.0.0.1 --port 6379 --save --appendonly no --dir {bench.directory}"
    with inside(bench.firewall_ns):
        server = subprocess.Popen(["redis-server", *options.split()], stdout=subprocess.DEVNULL)
    try:
        store = "redis://127.0.0.1:6379"
        process = bench.firewall(session_store=store)
        frames = ssh()

        wait_for(lambda: records(bench) == 0)
        for sent in frames:
            bench.exchange(sent)
        wait_for(lambda: records(bench) == 1)
        process.kill()
        process.wait()
        (bench.directory / "fw1.sock").unlink()

        bench.firewall(session_store=store)
        assert bench.exchange(frames[-1]) == turned(frames[-1])
        [session] = bench.control.sessions()
        assert (session["application"], session["rule"], session["source"]) == ("ssh", "ssh", "10.0.0.1")
        counters = bench.control.counters()
        assert (counters["session_shared_resumed"], counters["session_shared_lost"]) == (1, 0)
    finally:
        server.terminate()
        server.wait()


def records(bench: Bench) -> int | None:
    """Count what is in the session store; None: it does not answer yet."""
    with inside(bench.firewall_ns), redis.Redis() as client:
        try:
            return len(client.keys("bumpwire:session:*"))
        except redis.ConnectionError:
            return None


def test_the_turnaround_sends_everything_back(bench: Bench) -> None:
    process = bench.start("--turnaround", "--interface", "eth0")
    sent = bytes(frame(b"not even IP"))
    bench.wire.settimeout(0.2)

    def comes_back() -> bool:
        try:
            return bench.exchange(sent) == turned(sent)  # before the process is up, the kernel answers unreachable
        except TimeoutError:
            return False

    wait_for(comes_back)
    process.send_signal(signal.SIGINT)
    assert process.wait(5) == 0


def test_a_second_firewall_is_refused(bench: Bench) -> None:
    bench.firewall()
    second = bench.start("--config", str(bench.directory / "fw1.yaml"))
    assert second.wait(10) == 3
    assert "UDP port 6081 is in use: another appliance runs here; stop it" in second.communicate()[1]
