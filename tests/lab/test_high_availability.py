"""A pair of firewalls in namespaces of their own, with a management and a data network, and the cloud's API."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

from controllers.management.network_interfaces import CallRefusedError, NetworkInterfaces
from tests.lab.namespaces import inside
from topologies.loader import load_topology
from topologies.model import Topology

pytestmark = pytest.mark.lab

ROOT = Path(__file__).parents[2]
TIME_SCALE = 10.0
#: With PAN-OS's recommended timers: three heartbeats and the promotion hold; the cloud's delay for addresses.
TAKEOVER, MOVE = 8.0 / TIME_SCALE, 10.0 / TIME_SCALE
#: What a busy machine may add.
SLACK = 1.5
PORTS = {"ha1": 28769, "ha2": 29281}
MOVING, RECORDS = IPv4Address("10.100.0.24"), 2000


def wait_for(condition: Callable[[], bool], seconds: float = 30.0) -> float:
    """Return the seconds that it took."""
    start = time.monotonic()
    while not condition():
        assert time.monotonic() < start + seconds, "waited in vain"
        time.sleep(0.01)
    return time.monotonic() - start


def run(command: str) -> None:
    subprocess.run(command.split(), check=True)


class Cloud:
    """The API on the management network's address 100.64.0.1. ``changes`` are what has taken effect."""

    def __init__(self) -> None:
        self.topology = load_topology(ROOT / "topologies/active-passive.yaml")
        self.changes: list[str] = []
        self.interfaces = NetworkInterfaces(lambda: self.topology, self.write, TIME_SCALE)
        lock = threading.Lock()
        interfaces = self.interfaces

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                parameters = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    interfaces.tick(time.monotonic())
                    try:
                        answer, status = interfaces.call(self.path[5:], parameters, time.monotonic()), 200
                    except CallRefusedError as error:
                        answer, status = {"error": str(error)}, 400
                body = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *arguments: object) -> None:
                """Nobody reads it."""

        self.server = ThreadingHTTPServer(("100.64.0.1", 8080), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def write(self, topology: Topology, text: str) -> None:
        self.topology = topology
        self.changes.append(text)

    def owner(self) -> str:
        firewalls = self.topology.vpcs["security"].firewalls
        (name,) = (name for name, one in firewalls.items() if MOVING in one.untrust.secondary_addresses)
        return name

    def route(self) -> str:
        ((_, target),) = self.topology.vpcs["security"].route_tables["tgw-attach-a"].routes.items()
        return target


class Pair:
    """Namespaces ``fw1``, ``fw2`` and the one of the bridges, where the cloud is."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.spaces = {name: f"bwt-{name}-{os.getpid()}" for name in ("hub", "fw1", "fw2")}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def up(self) -> None:
        hub = self.spaces["hub"]
        for space in self.spaces.values():
            run(f"ip netns add {space}")
            run(f"ip -n {space} link set lo up")
        for link in PORTS:
            run(f"ip -n {hub} link add {link} type bridge")
            run(f"ip -n {hub} link set {link} up")
            for name in ("fw1", "fw2"):
                run(f"ip -n {hub} link add {name}-{link} type veth peer name {link} netns {self.spaces[name]}")
                run(f"ip -n {hub} link set {name}-{link} master {link} up")
                run(f"ip -n {self.spaces[name]} address add {self.address(name, link)}/24 dev {link}")
                run(f"ip -n {self.spaces[name]} link set {link} up")
        run(f"ip -n {hub} address add 100.64.0.1/24 dev ha1")
        with inside(hub):
            self.cloud = Cloud()

    def down(self) -> None:
        for name in list(self.processes):
            self.kill(name)
        self.cloud.server.shutdown()
        self.cloud.server.server_close()
        for space in self.spaces.values():
            run(f"ip netns delete {space}")

    @staticmethod
    def address(name: str, link: str) -> str:
        return f"{'100.64.0' if link == 'ha1' else '10.100.0'}.{10 + int(name[-1])}"

    def start(self, name: str, records: int = 0) -> None:
        peer = "fw2" if name == "fw1" else "fw1"
        settings: dict[str, Any] = {
            "name": name,
            "status": str(self.directory / name),
            "ha": {"address": self.address(name, "ha1"), "priority": 90 + int(name[-1]), "time_scale": TIME_SCALE},
            "cloud": "http://100.64.0.1:8080",
            "plan": {
                "addresses": {f"{name}-untrust": [str(MOVING)]},
                "routes": [
                    {"table": "security/tgw-attach-a", "destination": "0.0.0.0/0", "interface": f"{name}-trust"}
                ],
                "retry": 0.1,
                "watch": 0.3,
            },
            "here": {link: self.address(name, link) for link in PORTS},
            "there": {link: self.address(peer, link) for link in PORTS},
            "records": records,
        }
        enter = ["ip", "netns", "exec", self.spaces[name]]
        with (self.directory / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [*enter, sys.executable, "-m", "tests.lab.ha_firewall", json.dumps(settings)], cwd=ROOT, stderr=log
            )

    def kill(self, name: str) -> None:
        process = self.processes.pop(name)
        process.kill()
        process.wait()

    def status(self, name: str) -> list[Any]:
        """``[time, state, reason, records, unsent]``, the latest."""
        path = self.directory / name
        lines = path.read_text().splitlines() if path.exists() else []
        return json.loads(lines[-1]) if lines else [0, "", "", 0, 0]

    def states(self) -> tuple[str, str]:
        return self.status("fw1")[1], self.status("fw2")[1]

    def cut(self, link: str, mend: bool = False) -> None:
        """Drop what comes to the first firewall by a link and what it sends; all else of the network works."""
        for chain in ("INPUT", "OUTPUT"):
            command = f"iptables -w {'-D' if mend else '-A'} {chain} -p udp --dport {PORTS[link]} -j DROP"
            run(f"ip netns exec {self.spaces['fw1']} {command}")

    def settle(self) -> None:
        self.start("fw1", RECORDS)
        wait_for(lambda: self.status("fw1")[1] == "active")
        self.start("fw2")
        wait_for(lambda: self.states() == ("active", "passive"))
        wait_for(lambda: self.status("fw2")[3] == RECORDS and self.status("fw1")[4] == 0)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    pair = Pair(tmp_path)
    try:
        pair.up()
        yield pair
    finally:
        pair.down()


def test_a_killed_active_is_replaced_with_its_sessions(pair: Pair) -> None:
    pair.settle()
    assert (pair.cloud.owner(), pair.cloud.route()) == ("fw1", "fw1-trust")
    pair.kill("fw1")
    detection = wait_for(lambda: pair.status("fw2")[1] == "active")
    move = wait_for(lambda: (pair.cloud.owner(), pair.cloud.route()) == ("fw2", "fw2-trust"))
    print(f"taken over after {detection:.2f} s, moved after {move:.2f} s more")
    assert TAKEOVER - 2.0 / TIME_SCALE - 0.1 < detection < TAKEOVER + SLACK
    assert MOVE - 0.1 < move < MOVE + SLACK
    assert pair.status("fw2")[3] == RECORDS
    # It comes back as the passive one, and gets the sessions in full.
    pair.start("fw1")
    wait_for(lambda: pair.states() == ("passive", "active") and pair.status("fw1")[3] == RECORDS)
    assert pair.cloud.owner() == "fw2"


def test_no_split_brain_without_ha1_and_a_fence_without_both(pair: Pair) -> None:
    pair.settle()
    pair.cut("ha1")
    before = [(pair.directory / name).read_text() for name in ("fw1", "fw2")]
    log = pair.directory / "fw2.log"
    wait_for(lambda: "ha1-link-down" in log.read_text())
    deadline = time.monotonic() + 3 * TAKEOVER
    wait_for(lambda: time.monotonic() > deadline)
    assert [(pair.directory / name).read_text() for name in ("fw1", "fw2")] == before, "nothing has changed"
    # Without both the passive one takes over; the active one learns from the cloud that it is alone.
    pair.cut("ha2")
    wait_for(lambda: pair.status("fw2")[1] == "active", TAKEOVER + SLACK)
    wait_for(lambda: pair.states() == ("non-functional", "active"), MOVE + SLACK)
    assert pair.cloud.owner() == "fw2"
    # One link is enough for them to agree again.
    pair.cut("ha1", mend=True)
    wait_for(lambda: pair.states() == ("passive", "active"), SLACK)
    assert pair.cloud.owner() == "fw2"
