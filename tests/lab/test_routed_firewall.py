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
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pyroute2 import netns

from firewall_vnf.control import Control
from firewall_vnf.routed import LEASE, queue_rules

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


@contextmanager
def inside(namespace: str) -> Iterator[None]:
    netns.pushns(namespace)
    try:
        yield
    finally:
        netns.popns()


def wait_for(condition: Callable[[], Any], seconds: float = 8.0) -> Any:
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
        for command in (
            *(f"ip netns add {namespace}" for namespace in (self.client, self.router, self.server)),
            f"ip -n {self.router} link add eth0 type veth peer name eth0 netns {self.client}",
            f"ip -n {self.router} link add eth1 type veth peer name eth0 netns {self.server}",
            f"ip -n {self.router} address add {OUTSIDE}/24 dev eth0",
            f"ip -n {self.router} address add {INSIDE}/24 dev eth1",
            f"ip -n {self.client} address add {CLIENT}/24 dev eth0",
            f"ip -n {self.server} address add {SERVER}/24 dev eth0",
            f"ip -n {self.router} link set eth0 mtu 8500 up",
            f"ip -n {self.router} link set eth1 mtu 8500 up",
            f"ip -n {self.router} link set lo up",
            f"ip -n {self.client} link set eth0 mtu 8500 up",
            f"ip -n {self.server} link set eth0 mtu 8500 up",
            f"ip -n {self.client} route add default via {OUTSIDE}",
            f"ip -n {self.server} route add default via {INSIDE}",
            f"ip netns exec {self.router} sysctl -qw net.ipv4.ip_forward=1",
        ):
            subprocess.run(command.split(), check=True)
        for namespace, interface in ((self.client, "eth0"), (self.server, "eth0"), (self.router, "eth0"), (self.router, "eth1")):
            command = f"ip netns exec {namespace} ethtool -K {interface} tso off gso off gro off"
            subprocess.run(command.split(), check=True, stdout=subprocess.DEVNULL)

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

    def firewall(self, rules: str = RULES, *, fail_open: bool = False, bypass: bool = True, **more: object) -> subprocess.Popen[str]:
        """Install the kernel's rules and start the process."""
        for arguments in queue_rules(5, fail_open, bypass):
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

    def connect(self, port: int = 22, address: str = SERVER, to_port: int | None = None) -> tuple[socket.socket, socket.socket]:
        """Return the client's and the server's socket of a new connection."""
        listener = self.listen(port)
        client = self.dial(address, to_port or port)
        server, _ = listener.accept()
        server.settimeout(5)
        self.sockets.append(server)
        return client, server

    def ssh(self, port: int = 22) -> tuple[socket.socket, socket.socket]:
        """Return an SSH connection that the kernel carries."""
        client, server = self.connect(port)
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
    text = subprocess.run(["ip", "-n", namespace, "-j", "-s", "link", "show", "eth0"], capture_output=True, check=True).stdout
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
