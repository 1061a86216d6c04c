"""The routed firewall for real: a Linux router between two hosts, three network namespaces made by hand."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from firewall_vnf.control import Control
from firewall_vnf.offload import LEASE
from firewall_vnf.routed import queue_rules
from tests.lab.namespaces import inside

pytestmark = pytest.mark.lab

CLIENT, SERVER = "10.1.0.2", "10.2.0.2"
OUTSIDE, INSIDE = "10.1.0.1", "10.2.0.1"  # the firewall's own addresses
RULES = """
zones: [untrust, trust]
services: {closed: tcp/2222}
rules:
  - {name: ssh, from: untrust, to: trust, application: ssh, service: any, log_end: true, action: allow}
  - {name: web, from: untrust, to: trust, application: web-browsing, log_end: true, action: allow}
  - {name: reset, service: [closed], action: reset-both, log_end: true}
  - {name: rest, service: any, action: drop, log_end: true}
"""
BANNER = b"SSH-2.0-OpenSSH_9.2\r\n"


def wait_for(condition: Callable[[], Any], seconds: float = 60.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
    return result


class Router:
    """``client`` - ``router`` (the firewall) - ``server``."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.client, self.router, self.server = (f"bwr-{name}-{os.getpid()}" for name in ("client", "fw", "server"))
        self.processes: list[subprocess.Popen[str]] = []
        self.sockets: list[socket.socket] = []

    def up(self) -> None:
        for namespace in (self.client, self.router, self.server):
            subprocess.run(["ip", "netns", "add", namespace], check=True)
        ends = (("eth0", self.client, OUTSIDE, CLIENT), ("eth1", self.server, INSIDE, SERVER))
        lines = ["link set lo up"]
        for interface, namespace, here, _ in ends:
            lines += [
                f"link add {interface} mtu 8500 type veth peer name eth0 mtu 8500 netns {namespace}",
                f"address add {here}/24 dev {interface}",
                f"link set {interface} up",
            ]
        self.ip(self.router, lines)
        for _, namespace, gateway, address in ends:
            up = [f"address add {address}/24 dev eth0", "link set eth0 up", f"route add default via {gateway}"]
            self.ip(namespace, up)
            command = f"ip netns exec {namespace} ethtool -K eth0 tso off gso off gro off"
            subprocess.run(command.split(), check=True, stdout=subprocess.DEVNULL)
        with inside(self.router):
            Path("/proc/sys/net/ipv4/ip_forward").write_text("1")

    def ip(self, namespace: str, lines: list[str]) -> None:
        subprocess.run(["ip", "-n", namespace, "-batch", "-"], input="\n".join(lines), text=True, check=True)

    def down(self) -> None:
        for opened in self.sockets:
            opened.close()
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait()
        for namespace in (self.client, self.router, self.server):
            subprocess.run(["ip", "netns", "delete", namespace], check=True)

    def iptables(self, *arguments: str) -> None:
        subprocess.run(["ip", "netns", "exec", self.router, "iptables", *arguments], check=True)

    def firewall(
        self, rules: str = RULES, *, fail_open: bool = False, bypass: bool = True, **more: object
    ) -> subprocess.Popen[str]:
        """Install the kernel's rules and start the process."""
        for arguments in queue_rules(5, fail_open, bypass, unreachable=bool(more.get("icmp_unreachable"))):
            self.iptables(*arguments)
        (self.directory / "policy.yaml").write_text(rules)
        settings = {
            "name": "fw1",
            "interfaces": {"eth0": "untrust", "eth1": "trust"},
            "queue": 5,
            "fail_open": fail_open,
            "bypass": bypass,
            "policy": "policy.yaml",
            "log_directory": "logs",
            "control": "fw1.sock",
            "health_port": 8080,
            **more,
        }
        (self.directory / "fw1.yaml").write_text(json.dumps(settings))
        command = ["ip", "netns", "exec", self.router, sys.executable, "-m", "firewall_vnf", "--config"]
        process = subprocess.Popen([*command, str(self.directory / "fw1.yaml")], stderr=subprocess.PIPE, text=True)
        self.processes.append(process)
        wait_for(lambda: self.control.answers() or process.poll() is not None)
        assert process.poll() is None, process.communicate()[1]
        return process

    @property
    def control(self) -> Control:
        return Control(self.directory / "fw1.sock")

    def traffic(self) -> list[dict[str, Any]]:
        file = self.directory / "logs" / "traffic.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def listen(self, port: int) -> socket.socket:
        with inside(self.server):
            listener = socket.create_server((SERVER, port))
        listener.settimeout(5)
        self.sockets.append(listener)
        return listener

    def dial(self, address: str = SERVER, port: int = 22, timeout: float = 5.0) -> socket.socket:
        with inside(self.client):
            dialled = socket.socket()
        self.sockets.append(dialled)
        dialled.settimeout(timeout)
        dialled.connect((address, port))
        return dialled

    def connect(
        self, port: int = 22, address: str = SERVER, to_port: int | None = None
    ) -> tuple[socket.socket, socket.socket]:
        """Return the client's and the server's socket of a new connection."""
        listener = self.listen(port)
        client = self.dial(address, to_port or port)
        server, _ = listener.accept()
        server.settimeout(5)
        self.sockets.append(server)
        return client, server

    def ssh(self, *where: Any) -> tuple[socket.socket, socket.socket]:
        """Return an SSH connection that the kernel carries."""
        client, server = self.connect(*where)
        server.sendall(BANNER)
        assert client.recv(100) == BANNER
        client.sendall(BANNER)
        assert server.recv(100) == BANNER
        return client, server


@pytest.fixture
def router(tmp_path: Path) -> Iterator[Router]:
    router = Router(tmp_path)
    try:
        router.up()
        yield router
    finally:
        router.down()


def pump(sender: socket.socket, receiver: socket.socket, count: int) -> None:
    """Send *count* bytes and receive them."""
    thread = threading.Thread(target=sender.sendall, args=(bytes(count),))
    thread.start()
    left = count
    while left:
        left -= len(receiver.recv(1 << 20))
    thread.join()


def passes(sender: socket.socket, receiver: socket.socket, seconds: float = 0.5) -> bool:
    """Whether something sent now arrives within *seconds*."""
    receiver.settimeout(seconds)
    try:
        sender.sendall(b"x")
        return receiver.recv(100) != b""
    except OSError:
        return False


def link_bytes(namespace: str) -> int:
    """What the host's interface has sent in IP packets, bytes."""
    text = subprocess.run(
        ["ip", "-n", namespace, "-j", "-s", "link", "show", "eth0"], capture_output=True, check=True
    ).stdout
    sent = json.loads(text)[0]["stats64"]["tx"]
    return int(sent["bytes"]) - 14 * int(sent["packets"])


def test_a_bypassed_session_is_counted_and_logged_in_full(router: Router) -> None:
    router.firewall()
    before = link_bytes(router.client)
    client, server = router.ssh()
    pump(client, server, 20_000_000)
    pump(server, client, 3_000_000)
    counters = router.control.counters()
    assert counters["pkt_recv"] < 50
    [session] = router.control.sessions(application="ssh")
    assert (session["zone"], session["zone_to"]) == ("untrust", "trust")
    client.close()
    server.close()
    wait_for(lambda: router.control.sessions(state="closing"))
    router.processes[0].terminate()
    assert router.processes[0].wait(5) == 0
    [record] = router.traffic()
    assert (record["from"], record["to"], record["app"], record["rule"]) == ("untrust", "trust", "ssh", "ssh")
    assert record["session_end_reason"] == "tcp-fin"
    sent = link_bytes(router.client) - before
    assert 20_000_000 < record["bytes_sent"] <= sent
    assert sent - record["bytes_sent"] < 600  # ARP and IPv6's neighbour discovery


def test_what_the_policy_denies_is_dropped_and_logged(router: Router) -> None:
    router.firewall()
    with inside(router.client):
        router.sockets.append(socket.create_server((CLIENT, 22)))
    with inside(router.server), pytest.raises(TimeoutError):  # the rule for SSH is for the other direction
        socket.create_connection((CLIENT, 22), 0.3)
    [record] = wait_for(router.traffic)
    assert (record["action"], record["rule"], record["src"], record["dst"]) == ("drop", "rest", SERVER, CLIENT)
    assert (record["from"], record["to"]) == ("trust", "untrust")


def test_app_id_denies_http_on_a_port_that_is_not_its_own(router: Router) -> None:
    rules = RULES.replace("application: web-browsing, log_end", "application: [web-browsing, ssl], log_end")
    router.firewall(rules)
    client, server = router.connect(8081)  # open as long as it could still be SSH
    client.sendall(b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n")
    record = wait_for(lambda: [record for record in router.traffic() if record["dport"] == 8081])[0]
    assert (record["app"], record["subtype"], record["rule"]) == ("web-browsing", "deny", "rest")
    server.settimeout(0.2)
    with pytest.raises(TimeoutError):
        server.recv(100)


NAT = {
    "none": (SERVER, 22, []),
    "SNAT": (SERVER, 22, [f"-t nat -A POSTROUTING -o eth1 -j SNAT --to-source {INSIDE}"]),
    "DNAT": (OUTSIDE, 7022, [f"-t nat -A PREROUTING -i eth0 -p tcp --dport 7022 -j DNAT --to-destination {SERVER}:22"]),
}
NAT["both"] = (OUTSIDE, 7022, [*NAT["SNAT"][2], *NAT["DNAT"][2]])
DENY_SSH = RULES.replace("log_end: true, action: allow", "log_end: true, action: reset-both", 1)


@pytest.mark.parametrize("nat", NAT)
def test_a_commit_takes_a_bypassed_session_back_and_resets_both_ends(router: Router, nat: str) -> None:
    address, port, rules = NAT[nat]
    for rule in rules:
        router.iptables(*rule.split())
    router.firewall()
    client, server = router.ssh(22, address, port)
    assert server.getpeername()[0] == (INSIDE if nat in ("SNAT", "both") else CLIENT)
    pump(client, server, 1_000_000)
    received = router.control.counters()["pkt_recv"]
    pump(client, server, 1_000_000)
    assert router.control.counters()["pkt_recv"] == received
    (router.directory / "policy.yaml").write_text(DENY_SSH)
    router.control.reload()
    client.sendall(b"after the commit")
    with pytest.raises(ConnectionResetError):
        server.recv(100)
    with pytest.raises(ConnectionResetError):
        client.recv(100)
    [record] = wait_for(router.traffic)
    assert (record["src"], record["dst"], record["dport"]) == (CLIENT, SERVER, 22)
    assert (record["action"], record["session_end_reason"]) == ("reset-both", "policy-deny")
    assert record["bytes_sent"] > 2_000_000


@pytest.mark.parametrize("nat", ["none", "DNAT"])
def test_a_client_that_is_refused_is_told_so_at_the_address_that_it_used(router: Router, nat: str) -> None:
    """A connection that is refused at its first packet is no more: only the kernel can tell which address that was."""
    address, port, rules = NAT[nat]
    for rule in rules:
        router.iptables(*rule.split())
        router.iptables(*rule.replace("-p tcp", "-p udp").split())
    router.firewall("rules: [{name: rest, service: any, action: drop}]", icmp_unreachable=True)
    with pytest.raises(OSError, match="No route to host"):
        router.dial(address, port, timeout=3)
    with inside(router.client), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        datagrams.settimeout(3)
        datagrams.connect((address, port))
        datagrams.send(b"anybody?")
        with pytest.raises(OSError, match="No route to host"):
            datagrams.recv(100)
    assert router.control.counters()["pkt_injected"] == 2


def test_an_allowed_session_survives_a_commit_and_is_bypassed_again(router: Router) -> None:
    router.firewall()
    client, server = router.ssh()
    pump(client, server, 1_000_000)
    (router.directory / "policy.yaml").write_text(RULES.replace("name: ssh", "name: renamed"))
    router.control.reload()
    pump(client, server, 1_000_000)
    received = router.control.counters()["pkt_recv"]
    pump(server, client, 1_000_000)
    assert router.control.counters()["pkt_recv"] == received
    [session] = wait_for(lambda: [one for one in router.control.sessions() if one["bytes_received"] > 1_000_000])
    assert (session["rule"], session["bytes_sent"] > 2_000_000) == ("renamed", True)


def test_a_reset_ends_the_session_and_the_operator_can(router: Router) -> None:
    router.firewall()
    client, server = router.ssh()
    pump(client, server, 1_000_000)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.close()
    with pytest.raises(ConnectionResetError):
        server.recv(100)
    [session] = wait_for(lambda: router.control.sessions(state="closing"))
    assert session["end_reason"] == "tcp-rst-from-client"

    client, server = router.ssh(2200)
    pump(client, server, 1_000_000)
    assert router.control.clear(destination_port=2200) == 1
    assert not passes(client, server)
    [record] = wait_for(lambda: [record for record in router.traffic() if record["dport"] == 2200])
    assert record["bytes_sent"] > 1_000_000


def test_a_session_lives_as_long_as_the_kernel_carries_it(router: Router) -> None:
    router.firewall(timers={"tcp": 2})
    client, server = router.ssh()
    deadline = time.monotonic() + 2.5
    while time.monotonic() < deadline:
        assert passes(client, server)
    assert [session["state"] for session in router.control.sessions()] == ["ACTIVE"]


def test_without_a_process_fail_closed_stops_all_traffic(router: Router) -> None:
    process = router.firewall()
    client, server = router.ssh()
    pump(client, server, 1_000_000)
    process.kill()
    killed = time.monotonic()
    wait_for(lambda: not passes(client, server, 0.3))
    assert time.monotonic() - killed < LEASE + 1.5
    router.listen(2200)
    with pytest.raises(TimeoutError):
        router.dial(port=2200, timeout=0.3)


def test_a_stopped_process_leaves_nothing_to_the_kernel(router: Router) -> None:
    process = router.firewall()
    client, server = router.ssh()
    pump(client, server, 1_000_000)
    process.terminate()
    assert process.wait(5) == 0
    assert not passes(client, server)
    [record] = router.traffic()
    assert record["bytes_sent"] > 1_000_000


def test_without_a_process_fail_open_lets_traffic_pass(router: Router) -> None:
    process = router.firewall(fail_open=True)
    client, server = router.ssh()
    process.kill()
    process.wait()
    assert passes(client, server)
    client, server = router.connect(23)
    assert passes(client, server)


def test_a_successor_takes_its_predecessors_marks_back(router: Router) -> None:
    process = router.firewall()
    client, server = router.ssh()
    process.kill()
    process.wait()
    router.iptables("-t", "mangle", "-F")
    router.iptables("-F")
    (router.directory / "fw1.sock").unlink()
    router.firewall()
    assert not passes(client, server)
    wait_for(lambda: router.control.counters()["flow_tcp_non_syn_drop"])


def test_datagrams_are_bypassed_and_counted(router: Router) -> None:
    router.firewall("rules: [{name: all, service: any, log_end: true, action: allow}]", timers={"udp": 1})
    with inside(router.server):
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        server.bind((SERVER, 9000))
    with inside(router.client):
        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        client.connect((SERVER, 9000))
    router.sockets += [server, client]
    server.settimeout(5)
    for _ in range(300):
        client.send(bytes(5000))
        server.recv(6000)
    assert router.control.counters()["pkt_recv"] < 30
    [record] = wait_for(router.traffic)
    assert (record["pkts_sent"], record["bytes_sent"]) == (300, 300 * 5028)
    assert record["session_end_reason"] == "aged-out"
    for _ in range(2):  # a new session of the same addresses counts from 0, and what the kernel carries of it too
        client.send(bytes(100))
        server.recv(6000)
    wait_for(lambda: [session["bytes_sent"] for session in router.control.sessions()] == [256])


def test_without_the_rule_for_it_nothing_is_refused_aloud(router: Router) -> None:
    router.firewall()
    file = router.directory / "fw1.yaml"
    file.write_text(json.dumps({**json.loads(file.read_text()), "icmp_unreachable": True, "queue": 6}))
    command = ["ip", "netns", "exec", router.router, sys.executable, "-m", "firewall_vnf", "--config", str(file)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (ended.returncode, ended.stderr) == (
        3,
        "firewall_vnf: icmp_unreachable: iptables has no rule for it; install those of queue_rules(unreachable)\n",
    )


def test_a_second_process_on_the_queue_is_refused(router: Router) -> None:
    router.firewall()
    command = ["ip", "netns", "exec", router.router, sys.executable, "-m", "firewall_vnf", "--config"]
    second = subprocess.run([*command, str(router.directory / "fw1.yaml")], capture_output=True, text=True, check=False)
    assert second.returncode == 3
    assert "queue 5: " in second.stderr
    assert "a queue that no other process serves" in second.stderr
