"""VPN connections for real: a Transit Gateway's router, an internet, two firewalls, hosts at both sides."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import pytest

from testbed import doctor
from testbed.vpn.bgp import BgpSpeaker, bird_conf
from testbed.vpn.ipsec import TunnelEnd, wait_ready
from testbed.vpn.tunnel import Connection, Side, Tunnel, end_commands, joining, router_commands, shaping

pytestmark = pytest.mark.lab

RATE, TIME_SCALE = 20e6, 10
HOST, SERVER = "10.1.0.2", "198.51.100.2"
MARKER = "PLAINTEXTMARKER0"


def connection(number: int) -> Connection:
    tunnels = tuple(
        Tunnel(
            f"vpn{number}-{letter}",
            IPv4Address(f"100.64.{number}.{1 + index}"),
            IPv4Address(f"100.64.{number}.{11 + index}"),
            IPv4Network(f"169.254.{10 + number}.{4 * index}/30"),
            f"secret.of.tunnel.{number}.{letter}",
        )
        for index, letter in enumerate("ab")
    )
    return Connection(f"vpn{number}", tunnels)


def wait_for(condition: Callable[[], Any], seconds: float = 60.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)
    return result


class Net:
    """Namespaces, each held by a process; ``run`` a command in one."""

    def __init__(self, directory: Path, firewalls: int = 2, rate: float | None = RATE) -> None:
        self.directory, self.rate = directory, rate
        self.holders: dict[str, subprocess.Popen[bytes]] = {}
        self.children: list[subprocess.Popen[bytes]] = []
        self.connections = [connection(number) for number in range(1, firewalls + 1)]
        self.ends: dict[tuple[str, Side], TunnelEnd] = {}
        self.speakers: dict[str, BgpSpeaker] = {}
        self.kernel_esp = doctor.kernel_esp()

    def pid(self, name: str) -> int:
        if name not in self.holders:
            holder = subprocess.Popen(["unshare", "--net", "sleep", "infinity"])
            self.holders[name] = holder
            mine = os.readlink("/proc/self/ns/net")
            wait_for(lambda: os.readlink(f"/proc/{holder.pid}/ns/net") != mine)
        return self.holders[name].pid

    def inside(self, name: str, command: str | list[str]) -> list[str]:
        words = command.split() if isinstance(command, str) else command
        return ["nsenter", "-t", str(self.pid(name)), "-n", *words]

    def run(self, name: str, command: str | list[str], check: bool = True) -> str:
        return subprocess.run(self.inside(name, command), check=check, capture_output=True, text=True).stdout

    def popen(self, name: str, command: str | list[str], **keywords: Any) -> subprocess.Popen[bytes]:
        self.children.append(subprocess.Popen(self.inside(name, command), **keywords))
        return self.children[-1]

    def veth(self, one: str, interface: str, two: str, far: str) -> None:
        command = f"ip link add {interface} mtu 1600 netns {self.pid(one)} type veth"
        command += f" peer name {far} mtu 1600 netns {self.pid(two)}"
        subprocess.run(command.split(), check=True)
        for name, end in ((one, interface), (two, far)):
            self.run(name, f"ethtool -K {end} tx off tso off gso off gro off")
            self.run(name, f"ip link set {end} up")

    def up(self) -> None:
        self.pid("internet")
        self.run("internet", "ip link add name br0 type bridge")
        self.run("internet", "ip link set br0 up")
        self.veth("host", "eth0", "tgw", "lan")
        self.run("host", f"ip address add {HOST}/24 dev eth0")
        self.run("host", "ip route add default via 10.1.0.1")
        self.run("tgw", "ip address add 10.1.0.1/24 dev lan")
        self.pid("server")
        self.run("server", "ip link add name br0 type bridge")
        self.run("server", f"ip address add {SERVER}/24 dev br0")
        self.run("server", "ip link set br0 up")
        for connection in self.connections:
            self.add(connection)
        everything = [tunnel for connection in self.connections for tunnel in connection.tunnels]
        for command in router_commands(everything, Side.AMAZON):
            self.run("tgw", command)
        announced = [IPv4Network("10.1.0.0/24")]
        configuration = bird_conf(self.connections, Side.AMAZON, announced, TIME_SCALE)
        self.speakers["tgw"] = BgpSpeaker("tgw", self.pid("tgw"), configuration, self.directory)

    def add(self, connection: Connection) -> None:
        firewall, number = f"fw-{connection.name}", connection.name[3:]
        self.veth("server", f"p{number}", firewall, "untrust")
        self.run("server", f"ip link set p{number} master br0")
        self.run(firewall, f"ip address add 198.51.100.{100 + int(number)}/24 dev untrust")
        self.run(firewall, ["iptables", "-t", "nat", "-A", "POSTROUTING", "-o", "untrust", "-j", "MASQUERADE"])
        for tunnel in connection.tunnels:
            for side, router in ((Side.AMAZON, "tgw"), (Side.CUSTOMER, firewall)):
                end = f"{tunnel.name}-{side.value}"
                self.veth(end, "outside", "internet", f"{tunnel.name}-{side.value[0]}")
                self.run("internet", f"ip link set {tunnel.name}-{side.value[0]} master br0")
                for command in joining(tunnel, self.pid(router), self.pid(end)):
                    subprocess.run(command, check=True)
                for name, interface in ((router, tunnel.name), (end, "inside")):
                    self.run(name, f"ethtool -K {interface} tx off tso off gso off gro off")
                gateway = IPv4Address(int(tunnel.amazon) | 0xFF) - 1
                for command in end_commands(tunnel, side, gateway):
                    self.run(end, command)
                self.ends[tunnel.name, side] = self.end(tunnel, side)
        for command in router_commands(connection.tunnels, Side.CUSTOMER):
            self.run(firewall, command)
        configuration = bird_conf([connection], Side.CUSTOMER, [IPv4Network("0.0.0.0/0")], TIME_SCALE)
        self.speakers[firewall] = BgpSpeaker(firewall, self.pid(firewall), configuration, self.directory)

    def end(self, tunnel: Tunnel, side: Side) -> TunnelEnd:
        """Start the charon of an end."""
        return TunnelEnd(
            tunnel,
            side,
            self.pid(f"{tunnel.name}-{side.value}"),
            self.directory,
            kernel_esp=self.kernel_esp,
            rate=self.rate,
            time_scale=TIME_SCALE,
        )

    def down(self) -> None:
        for part in (*self.ends.values(), *self.speakers.values()):
            part.end()
        for part in (*self.ends.values(), *self.speakers.values()):
            part.wait()
        for process in (*self.children, *self.holders.values()):
            process.kill()
            process.wait()

    def next_hops(self) -> list[str]:
        """The tunnels that the Transit Gateway's default route uses."""
        routes = json.loads(self.run("tgw", "ip -json route show default") or "[]")
        return sorted(hop["dev"] for route in routes for hop in route.get("nexthops", [route]))

    def sent(self) -> dict[str, int]:
        """Bytes that the Transit Gateway's router sent into each tunnel."""
        links = json.loads(self.run("tgw", "ip -json -s link show"))
        return {link["ifname"]: link["stats64"]["tx"]["bytes"] for link in links if link["ifname"].startswith("vpn")}


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Net]:
    net = Net(tmp_path_factory.mktemp("vpn"))
    try:
        net.up()
        yield net
    finally:
        net.down()


def test_tunnels_come_up_with_aws_proposals(net: Net) -> None:
    wait_ready(net.ends.values())
    wait_for(lambda: all(speaker.ready() for speaker in net.speakers.values()))
    for end in net.ends.values():
        sa = end.sa()
        assert sa is not None
        assert sa.ike == "AES_GCM_16-128/PRF_HMAC_SHA2_256/ECP_256"
        assert sa.esp.startswith("AES_GCM_16-128")
        assert sa.encapsulated is not net.kernel_esp


def test_bgp_gives_four_equal_next_hops(net: Net) -> None:
    wait_for(lambda: net.next_hops() == ["vpn1-a", "vpn1-b", "vpn2-a", "vpn2-b"])
    assert {route.path for route in net.speakers["tgw"].routes()} == {(65000,)}
    assert [route.network for route in net.speakers["fw-vpn1"].routes()] == [IPv4Network("10.1.0.0/24")] * 2


def test_inside_mtu_is_1446(net: Net) -> None:
    assert "1 received" in net.run("tgw", "ping -c1 -W2 -M do -s 1418 169.254.11.2")
    assert "0 received" in net.run("tgw", "ping -c1 -W1 -M do -s 1419 169.254.11.2", check=False)
    assert "1 received" in net.run("host", f"ping -c1 -W2 -M do -s 1418 {SERVER}")


def test_flows_spread_and_the_underlay_shows_no_plaintext(net: Net, tmp_path: Path) -> None:
    capture = tmp_path / "underlay.pcap"
    tcpdump = net.popen("internet", ["tcpdump", "-U", "-i", "br0", "-w", str(capture)], stderr=subprocess.DEVNULL)
    wait_for(lambda: capture.exists() and capture.stat().st_size)
    before = net.sent()
    script = (
        "import socket\nfor port in range(64):\n s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        f" s.bind(('', 20000 + port)); s.sendto(b'{MARKER}' * 60, ('{SERVER}', 9))"
    )
    net.run("host", [sys.executable, "-c", script])
    sent = {name: count - before[name] for name, count in net.sent().items()}
    assert all(count > 4 * 960 for count in sent.values()), sent  # 64 flows, 4 tunnels
    wait_for(lambda: capture.stat().st_size > 64 * 960)
    tcpdump.terminate()
    tcpdump.wait()
    assert MARKER.encode() not in capture.read_bytes()
    others = "ip and not esp and not udp port 4500 and not udp port 500 and not igmp"
    read = subprocess.run(["tcpdump", "-nr", str(capture), others], capture_output=True, text=True, check=True)
    assert read.stdout == ""


def test_one_flow_uses_one_tunnel_and_keeps_its_limit(net: Net) -> None:
    limit = min(RATE, throughput(net, "-t2") / 2)  # the tunnel and not a slow machine is to be the limit
    for tunnel, side in net.ends:
        for command in shaping(limit):
            net.run(f"{tunnel}-{side.value}", command)
    before = net.sent()
    rate = throughput(net, "-t2")
    sent = {name: count - before[name] for name, count in net.sent().items()}
    assert [count > sum(sent.values()) / 10 for count in sent.values()].count(True) == 1, sent
    assert 0.6 * limit < rate < 1.05 * limit  # a burst adds to it


def test_mss_is_clamped(net: Net) -> None:
    server = net.popen("server", f"iperf3 -s -1 -B {SERVER} -p 5202", stdout=subprocess.DEVNULL)
    wait_for(lambda: ":5202" in net.run("server", "ss -ltn"))
    report = json.loads(net.run("host", f"iperf3 -J -c {SERVER} -p 5202 -n 100K"))
    server.wait(5)
    assert report["start"]["tcp_mss_default"] <= 1406


def test_keys_are_changed_under_traffic(net: Net) -> None:
    """Phase 2, then phase 1, as at the ends of their lifetimes; the tunnel carries on and stays the only one."""
    wait_for(lambda: len(net.next_hops()) == 4)
    end = net.ends["vpn1-a", Side.AMAZON]
    ping = net.popen("tgw", "ping -i 0.05 -W 2 169.254.11.2", stdout=subprocess.PIPE, text=True)
    for kind in ("--child", "--ike"):
        before = end.ask("--list-sas", "--raw")
        keys = set(re.findall(r"spi[a-z-]*=(\w+)", before))
        end.ask("--rekey", kind, "vpn1-a")
        wait_for(lambda keys=keys: set(re.findall(r"spi[a-z-]*=(\w+)", end.ask("--list-sas", "--raw"))) - keys)
        wait_for(lambda: end.ask("--list-sas", "--raw").count("vpn1-a {") == 1)
    ping.send_signal(signal.SIGINT)
    said = ping.communicate()[0]
    assert " 0% packet loss" in said, said
    assert end.ready()
    assert len(net.next_hops()) == 4


@pytest.mark.parametrize("victim", ["charon", "bird"])
def test_a_dead_tunnel_leaves_the_set_and_comes_back(net: Net, victim: str) -> None:
    wait_for(lambda: len(net.next_hops()) == 4)
    part = net.ends["vpn2-b", Side.CUSTOMER] if victim == "charon" else net.speakers["fw-vpn2"]
    left = ["vpn1-a", "vpn1-b", "vpn2-a"] if victim == "charon" else ["vpn1-a", "vpn1-b"]
    part.kill()
    started = time.monotonic()
    wait_for(lambda: net.next_hops() == left)
    gone = time.monotonic() - started
    assert gone < 30 / TIME_SCALE + 2
    assert part.problem() is not None
    # The firewall gives its routes up by its own hold timer.
    dead = {"vpn2-a", "vpn2-b"} - set(left) if victim == "charon" else set()
    wait_for(lambda: not any(s.established for s in net.speakers["fw-vpn2"].sessions() if s.name in dead))
    for _ in range(8):
        assert "1 received" in net.run("host", f"ping -c1 -W2 {SERVER}")
    part.start()
    wait_for(lambda: len(net.next_hops()) == 4)
    print(f"{victim}: gone {gone:.2f} s, back {time.monotonic() - started - gone:.2f} s")


def throughput(net: Net, *options: str) -> float:
    """Bit/s of iperf3 from the host to the server."""
    server = net.popen("server", f"iperf3 -s -1 -B {SERVER}", stdout=subprocess.DEVNULL)
    wait_for(lambda: ":5201" in net.run("server", "ss -ltn"))
    report = json.loads(net.run("host", ["iperf3", "-J", "-c", SERVER, *options]))
    server.wait(5)
    return float(report["end"]["sum_received"]["bits_per_second"])


def test_a_customer_that_begins_too_early_is_not_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Amazon's end listens, but its connection is not loaded before the test says so."""
    gate, program = tmp_path / "gate", tmp_path / "bin" / "swanctl"
    os.mkfifo(gate)
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\ncat {gate}\nexec {shutil.which("swanctl")} "$@"\n')
    program.chmod(0o755)
    with one_tunnel(tmp_path) as (net, tunnel, amazon):
        with monkeypatch.context() as patch:
            patch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
            net.ends[tunnel.name, Side.AMAZON] = net.end(tunnel, Side.AMAZON)
        wait_for(lambda: ":500 " in net.run(amazon, "ss -lun"))
        net.ends[tunnel.name, Side.CUSTOMER] = net.end(tunnel, Side.CUSTOMER)
        wait_for(lambda: re.search("policy [A-Z]+ [1-9]", net.run(amazon, "iptables -w -L INPUT -v -x")))
        gate.write_text("")
        wait_ready(net.ends.values())


def test_a_customer_whose_attempts_were_not_answered_is_still_heard(tmp_path: Path) -> None:
    """Each attempt leaves Amazon's end a half-open SA for 30 s: what a flood would look like."""
    with one_tunnel(tmp_path) as (net, tunnel, amazon):
        net.run(amazon, "iptables -w -A OUTPUT -o outside -p udp -j DROP")
        for side in Side:
            net.ends[tunnel.name, side] = net.end(tunnel, side)
        log = net.ends[tunnel.name, Side.AMAZON].log
        wait_for(lambda: log.read_text().count("is initiating an IKE_SA") == 5, seconds=25)
        net.run(amazon, "iptables -w -D OUTPUT -o outside -p udp -j DROP")
        wait_ready(net.ends.values())


@contextmanager
def one_tunnel(directory: Path) -> Iterator[tuple[Net, Tunnel, str]]:
    """A net with the two ends of one tunnel, without their charons; yields it, the tunnel, Amazon's end."""
    net, tunnel = Net(directory), connection(1).tunnels[0]
    amazon, customer = (f"{tunnel.name}-{side.value}" for side in Side)
    try:
        net.veth(amazon, "outside", customer, "outside")
        for name, side in ((amazon, Side.AMAZON), (customer, Side.CUSTOMER)):
            net.veth(name, "inside", f"{name}-router", "end")
            for command in end_commands(tunnel, side, IPv4Address("100.64.1.254")):
                net.run(name, command)
        yield net, tunnel, amazon
    finally:
        net.down()
