"""The routed firewall's engine, and the kernel's connections as a list."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from firewall_vnf import conntrack
from firewall_vnf.adapter import AdapterError
from firewall_vnf.benchmark import ipv4, tcp
from firewall_vnf.config import EngineConfig
from firewall_vnf.conntrack import Connection
from firewall_vnf.log import Log
from firewall_vnf.packet import ACK, FIN, ICMP, PSH, RST, SYN, reverse_key
from firewall_vnf.policy import Policy
from firewall_vnf.routed import ACCEPT, BYPASS, DROP, MARK, REFUSE, RoutedEngine, Verdict, lease_name, queue_rules
from tests.unit.firewall.traffic import ALLOW_ALL, BANNER, CLIENT, REQUEST, SERVER

SSH = """
zones: [untrust, trust]
rules:
  - {name: ssh, from: untrust, to: trust, application: ssh, service: any, log_end: true, action: allow}
  - {name: rest, service: any, action: reset-both, log_end: true}
"""
PORTS = (40000, 22)
KEY = tcp(CLIENT, SERVER, PORTS, (0, 0), ACK, b"")[12:24]


class Kernel:
    """Connections by key; those in ``now_ended`` are told of once."""

    def __init__(self) -> None:
        self.connections: dict[bytes, Connection] = {}
        self.now_ended: list[Connection] = []
        self.unmarked: list[bytes] = []
        self.deleted: list[bytes] = []

    def carry(self, key: bytes, sent: tuple[int, int], received: tuple[int, int], number: int = 1) -> Connection:
        """Have a marked connection with these packets and bytes."""
        reply = reverse_key(key)[:12]
        made = Connection(key, key[:12], reply, b"", bytes([number]), MARK, *sent, *received)
        self.connections[key] = made
        return made

    def marked(self) -> Iterator[Connection]:
        return iter([connection for connection in self.connections.values() if connection.mark & MARK])

    def find(self, key: bytes) -> Connection | None:
        return self.connections.get(key)

    def unmark(self, connections: Iterable[Connection]) -> None:
        for connection in connections:
            self.unmarked.append(connection.key)
            self.connections[connection.key] = connection._replace(mark=0)

    def delete(self, connections: Iterable[Connection]) -> None:
        for connection in connections:
            self.deleted.append(connection.key)
            del self.connections[connection.key]

    def ended(self) -> Iterator[Connection]:
        ended, self.now_ended = self.now_ended, []
        for connection in ended:
            self.connections.pop(connection.key, None)
        return iter(ended)


class Bench:
    def __init__(self, policy: str = SSH, bypass: bool = True, **settings: Any) -> None:
        self.now = 1000.0
        self.lines: list[dict[str, Any]] = []
        self.kernel = Kernel()
        log = Log("fw1", lambda name, line: self.lines.append(json.loads(line)), 0.0)
        config, parsed = EngineConfig(**settings), Policy.parse(policy)
        self.engine = RoutedEngine(config, parsed, log, kernel=self.kernel, bypass=bypass, timer=lambda: self.now)

    def send(self, packet: bytes, zones: tuple[str | None, str | None] = ("untrust", "trust")) -> Verdict:
        return self.engine.judge(bytearray(packet), *zones, self.now)

    def client(self, flags: int, data: bytes = b"", numbers: tuple[int, int] = (101, 501)) -> Verdict:
        return self.send(tcp(CLIENT, SERVER, PORTS, numbers, flags, data))

    def server(self, flags: int, data: bytes = b"", numbers: tuple[int, int] = (501, 101)) -> Verdict:
        return self.send(tcp(SERVER, CLIENT, PORTS[::-1], numbers, flags, data), ("trust", "untrust"))

    def ssh(self) -> None:
        """An SSH session up to where it is bypassed: 3 packets there (141 bytes), 2 back (101)."""
        assert self.client(SYN, numbers=(100, 0)) is ACCEPT
        assert self.server(SYN | ACK, numbers=(500, 101)) is ACCEPT
        assert self.client(ACK) is ACCEPT
        self.server(PSH | ACK, BANNER)
        assert self.client(PSH | ACK, BANNER) is BYPASS
        assert self.session.packets_sent == 3

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.engine.expire(self.now)

    @property
    def session(self) -> Any:
        [session] = self.engine.table
        return session


def test_the_kernels_rules() -> None:
    assert [" ".join(rule) for rule in queue_rules(3, False, True)] == [
        "-t mangle -A FORWARD -p tcp --tcp-flags FIN,SYN,RST NONE -m connmark --mark 0x10000/0x10000"
        " -m recent --name bumpwire-3 --rcheck --seconds 2 --mask 0.0.0.0 -j ACCEPT",
        "-t mangle -A FORWARD -p udp -m connmark --mark 0x10000/0x10000"
        " -m recent --name bumpwire-3 --rcheck --seconds 2 --mask 0.0.0.0 -j ACCEPT",
        "-t mangle -A POSTROUTING -m mark --mark 0x10000/0x10000 -j CONNMARK --set-xmark 0x10000/0x10000",
        "-t mangle -A FORWARD -p tcp ! --tcp-flags FIN,RST NONE -m conntrack --ctstate INVALID -j DROP",
        "-t mangle -A FORWARD -j NFQUEUE --queue-num 3",
        "-t filter -A FORWARD -m conntrack --ctstate INVALID -j DROP",
    ]
    assert not any(lease_name(3) in rule for rule in queue_rules(3, True, True))
    assert "--queue-bypass" in queue_rules(3, True, False)[1]
    assert len(queue_rules(3, False, False)) == 3


def test_rules_see_both_zones_and_a_reply_belongs_to_its_session() -> None:
    bench = Bench()
    bench.ssh()
    assert (bench.session.zone, bench.session.zone_to) == ("untrust", "trust")
    other_way = tcp(SERVER, CLIENT, (50000, 22), (1, 0), SYN, b"")
    assert bench.send(other_way, ("trust", "untrust")) is DROP
    assert bench.send(tcp(CLIENT, SERVER, (1, 22), (1, 0), SYN, b""), ("untrust", "untrust")) is DROP
    assert bench.send(tcp(CLIENT, SERVER, (2, 22), (1, 0), SYN, b""), ("untrust", None)) is DROP
    assert bench.engine.counters["flow_no_zone"] == 1
    assert bench.lines[0]["from"] == "trust"
    assert bench.lines[0]["to"] == "untrust"


@pytest.mark.parametrize("broken", [b"", b"\x45", bytes(20), ipv4(CLIENT, SERVER, 6, b"\0" * 5), b"\x60" + bytes(60)])
def test_broken_packets_are_dropped_and_counted(broken: bytes) -> None:
    bench = Bench()
    assert bench.send(broken) is DROP
    assert bench.engine.counters["pkt_recv"] == 1
    assert bench.engine.counters["pkt_forwarded"] == 0


def test_a_packet_that_was_cut_off_counts_in_full() -> None:
    bench = Bench(ALLOW_ALL, bypass=False)
    bench.client(SYN, numbers=(100, 0))
    bench.server(SYN | ACK, numbers=(500, 101))
    bench.client(ACK)
    before = bench.session.bytes_sent
    assert bench.send(tcp(CLIENT, SERVER, PORTS, (101, 501), ACK, bytes(8000))[:3900]) is ACCEPT
    assert bench.session.bytes_sent - before == 8040
    assert bench.session.client_next == 8101


def test_what_needs_inspection_is_not_bypassed() -> None:
    without = Bench(bypass=False)
    without.client(SYN, numbers=(100, 0))
    without.server(SYN | ACK, numbers=(500, 101))
    without.client(ACK)
    without.server(PSH | ACK, BANNER)
    assert without.client(PSH | ACK, BANNER) is ACCEPT

    ping = ipv4(CLIENT, SERVER, ICMP, bytes.fromhex("0800000000070001") + bytes(56))
    assert Bench(ALLOW_ALL).send(ping) is ACCEPT


def test_the_kernels_counts_are_the_sessions() -> None:
    bench = Bench()
    bench.ssh()
    bench.kernel.carry(KEY, (1000, 1_400_000), (500, 26_000))
    bench.wait(1)
    session = bench.session
    assert (session.packets_sent, session.bytes_sent) == (1000, 1_400_000)
    assert (session.packets_received, session.bytes_received) == (500, 26_000)
    assert bench.engine.counters["pkt_offloaded"] == 1500 - 5
    assert bench.engine.offload.bytes == 1_426_000 - 141 - 101
    assert session.last == bench.now


def test_a_session_lives_on_while_its_connection_carries_something() -> None:
    bench = Bench(timers={"tcp": 5})
    bench.ssh()
    for count in range(10, 30):
        bench.kernel.carry(KEY, (count, 1000 * count), (0, 0))
        bench.wait(1)
    assert bench.session.packets_sent == 29
    for _ in range(7):
        bench.wait(1)
    [record] = bench.lines
    assert (record["session_end_reason"], record["bytes_sent"]) == ("aged-out", 29_000)
    assert bench.kernel.deleted == [KEY]


@pytest.mark.parametrize(("flags", "reason"), [(FIN | ACK, "tcp-fin"), (RST, "tcp-rst-from-client")])
def test_the_end_of_a_connection_is_seen_wherever_it_stands(flags: int, reason: str) -> None:
    bench = Bench()
    bench.ssh()
    bench.kernel.carry(KEY, (9_000_000, 9_000_000_000), (9, 900))
    bench.wait(1)
    there = 0xE0000000
    assert bench.client(flags, numbers=(there, 777)) is not DROP
    if flags & FIN:
        assert bench.server(FIN | ACK, numbers=(777, there + 1)) is ACCEPT
    assert bench.session.state.value == "CLOSING"
    bench.wait(16)
    assert bench.lines[0]["session_end_reason"] == reason
    assert bench.lines[0]["bytes_sent"] >= 9_000_000_000
    assert bench.kernel.deleted == [KEY]


def test_a_connection_that_the_kernel_ended_ends_its_session() -> None:
    bench = Bench()
    bench.ssh()
    connection = bench.kernel.carry(KEY, (10, 1000), (10, 1000))
    bench.wait(1)
    bench.kernel.now_ended = [connection._replace(id=b"another")]
    bench.kernel.carry(KEY, (10, 1000), (10, 1000))
    bench.engine.expire(bench.now)
    assert bench.session.state.value == "ACTIVE"
    bench.kernel.now_ended = [connection._replace(bytes_sent=1060, packets_sent=11)]
    bench.engine.expire(bench.now)
    assert bench.lines[0]["bytes_sent"] == 1060
    assert bench.kernel.deleted == []


def test_a_connection_that_is_missing_again_and_again_has_ended() -> None:
    bench = Bench()
    bench.ssh()
    for _ in range(2):
        bench.wait(1)
    assert bench.session.state.value == "ACTIVE"
    bench.wait(1)
    assert [record["session_end_reason"] for record in bench.lines] == ["aged-out"]


def test_marks_without_a_session_are_taken_back() -> None:
    bench = Bench()
    bench.kernel.carry(KEY, (1, 40), (0, 0))
    bench.wait(1)
    assert bench.kernel.unmarked == [KEY]
    assert not list(bench.kernel.marked())


def test_a_commit_takes_everything_back_before_it_is_in_force() -> None:
    bench = Bench()
    bench.ssh()
    bench.kernel.carry(KEY, (100, 10_000), (10, 1000))
    bench.engine.commit(Policy.parse(SSH.replace("name: ssh", "name: renamed")), bench.now)
    assert not list(bench.kernel.marked())
    assert bench.session.bytes_sent == 10_000
    assert bench.client(ACK, b"x" * 60, (9000, 900)) is BYPASS
    assert (bench.session.rule.name, bench.session.bytes_sent) == ("renamed", 10_100)

    bench.engine.commit(
        Policy.parse("rules: [{name: denied, service: any, action: reset-both, log_end: true}]"), bench.now
    )
    assert bench.client(ACK, b"x", (9060, 900)) is DROP
    to_client, to_server = bench.engine.outbox
    assert (to_client[12:24], to_server[12:24]) == (reverse_key(KEY), KEY)
    assert bench.lines[-1]["session_end_reason"] == "policy-deny"


def test_resets_of_a_translated_connection_are_in_the_kernels_addresses() -> None:
    bench = Bench()
    public, shared = bytes([192, 0, 2, 1]), bytes([192, 0, 2, 2])
    original = KEY[:4] + public + KEY[8:10] + b"\x1b\x58"
    reply = KEY[4:8] + shared + KEY[10:12] + b"\x04\xd2"
    bench.ssh()
    connection = bench.kernel.carry(KEY, (3, 141), (2, 101))
    bench.kernel.connections[KEY] = connection._replace(original=original, reply=reply)
    bench.engine.commit(Policy.parse("rules: [{name: denied, service: any, action: reset-both}]"), bench.now)
    assert bench.server(ACK, b"x", (522, 122)) is DROP
    to_server, to_client = bench.engine.outbox
    assert (to_server[12:24], to_client[12:24]) == (original, reply)
    assert (to_client[24:28], to_server[24:28]) == ((522).to_bytes(4, "big"), (122).to_bytes(4, "big"))


def test_one_of_a_pair_that_is_not_active_drops_everything() -> None:
    bench = Bench()
    bench.ssh()
    bench.engine.active = lambda: False
    assert bench.client(ACK) is DROP
    assert bench.client(SYN, numbers=(100, 0)) is DROP
    assert bench.engine.counters["flow_ha_not_active"] == 2
    bench.engine.active = lambda: True
    assert bench.client(ACK) is BYPASS


def test_an_unreachable_is_left_to_the_kernel() -> None:
    bench = Bench("rules: [{name: never, service: any, action: drop}]", icmp_unreachable=True)
    assert bench.client(SYN, numbers=(100, 0)) is REFUSE
    assert bench.client(SYN, numbers=(100, 0)) is DROP, "the session is discarded: told once"
    assert bench.engine.outbox == []
    assert bench.engine.counters["pkt_injected"] == 1
    assert Bench("rules: [{name: never, service: any, action: drop}]").client(SYN, numbers=(100, 0)) is DROP
    assert " ".join(queue_rules(3, False, True, unreachable=True)[-1]) == (
        "-t filter -I FORWARD -m mark --mark 0x20000/0x20000 -j REJECT --reject-with icmp-admin-prohibited"
    )


def test_an_operator_and_the_end_of_the_process_see_the_last_counts() -> None:
    for end in ("clear", "close"):
        bench = Bench()
        bench.ssh()
        bench.kernel.carry(KEY, (100, 10_000), (10, 1000))
        if end == "clear":
            bench.engine.clear([bench.session], bench.now)
            assert bench.kernel.deleted == [KEY]
        else:
            bench.engine.close(bench.now)
            assert bench.kernel.unmarked == [KEY]
        assert bench.lines[-1]["bytes_sent"] == 10_000


def test_app_id_denies() -> None:
    bench = Bench()
    bench.client(SYN, numbers=(100, 0))
    bench.server(SYN | ACK, numbers=(500, 101))
    bench.client(ACK)
    assert bench.client(PSH | ACK, REQUEST) is DROP
    assert len(bench.engine.outbox) == 2


def test_a_long_look_at_the_connections_is_taken_less_often() -> None:
    bench = Bench()
    looks = []

    def slow() -> Iterator[Connection]:
        looks.append(bench.now)
        bench.now += 0.5
        return iter(())

    bench.kernel.marked = slow  # type: ignore[method-assign]
    for _ in range(40):
        bench.wait(0.25)
    assert len(looks) == 2


def test_the_kernels_message() -> None:
    def ends(source: str, destination: str, ports: tuple[int, int], protocol: int) -> bytes:
        addresses = conntrack._attribute(1, bytes.fromhex(source)) + conntrack._attribute(2, bytes.fromhex(destination))
        numbers = [protocol.to_bytes(1, "big"), *(port.to_bytes(2, "big") for port in ports)]
        proto = b"".join(conntrack._attribute(kind, value) for kind, value in enumerate(numbers, 1))
        return conntrack._attribute(0x8001, addresses) + conntrack._attribute(0x8002, proto)

    def counters(packets: int, size: int) -> bytes:
        return b"".join(conntrack._attribute(n, v.to_bytes(8, "big")) for n, v in ((1, packets), (2, size)))

    original = ends("0a010002", "c0000201", (40000, 7000), 17)
    body = (
        b"\2\0\0\0"
        + conntrack._attribute(0x8001, original)
        + conntrack._attribute(0x8002, ends("0a020002", "c0000202", (53, 1234), 17))
        + conntrack._attribute(8, (0x10001).to_bytes(4, "big"))
        + conntrack._attribute(0x8009, counters(7, 700))
        + conntrack._attribute(0x800A, counters(5, 500))
        + conntrack._attribute(12, b"\1\2\3\4")
    )
    connection = conntrack._connection(body)
    assert connection is not None
    assert connection.key.hex() == "0a0100020a0200029c40003511"
    assert connection.original.hex() == "0a010002c00002019c401b58"
    assert connection.reply.hex() == "0a020002c0000202003504d2"
    assert connection.name == conntrack._attribute(0x8001, original)
    assert connection[4:] == (b"\1\2\3\4", 0x10001, 7, 700, 5, 500)
    assert conntrack._connection(b"\x0a" + body[1:]) is None


def test_an_interface_that_is_not_there() -> None:
    nfqueue = pytest.importorskip("firewall_vnf.nfqueue", exc_type=ImportError)
    with pytest.raises(AdapterError, match=r"interface nosuch0: no such interface; name some of .*lo"):
        nfqueue.QueueInterface(0, {"nosuch0": "trust"}, False)
