"""What the engine's tests are made of: an engine whose log is a list, and the two ends of a TCP connection."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from ipaddress import IPv6Address
from struct import pack
from typing import Any

from firewall_vnf.benchmark import frame, ipv4, tcp
from firewall_vnf.config import EngineConfig
from firewall_vnf.engine import Engine
from firewall_vnf.inspection import Inspection
from firewall_vnf.log import Log
from firewall_vnf.packet import ACK, FIN, ICMP, PSH, RST, SYN, TCP, UDP
from firewall_vnf.policy import Policy
from firewall_vnf.session import Session
from firewall_vnf.session_store import Change, Sharing, StoreError

CLIENT, SERVER = 0x0A010001, 0x0A020001
CLIENT6, SERVER6 = IPv6Address("2001:db8:1::10").packed, IPv6Address("2001:db8:2::22").packed
ENDPOINT = 0x0123456789ABCDEF
BANNER = b"SSH-2.0-OpenSSH_9.2\r\n"
REQUEST = b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n"

ALLOW_ALL = "rules: [{name: all, service: any, log_end: true, action: allow}]"


def rules(*lines: str) -> str:
    """A policy of these rules, each without its braces, and a last one that drops."""
    return "rules:\n" + "".join(
        f"  - {{{line}}}\n" for line in (*lines, "name: rest, service: any, action: drop, log_end: true")
    )


class Memory:
    """A session store in memory: ``records`` by key, with their lifetimes. ``error`` makes it fail."""

    name = "memory"

    def __init__(self) -> None:
        self.records: dict[str, tuple[str, int]] = {}
        self.error: str | None = None
        self.asked = 0

    def get(self, key: str) -> bytes | None:
        self.asked += 1
        if self.error:
            raise StoreError(self.error)
        return self.records[key][0].encode() if key in self.records else None

    def put(self, changes: Sequence[Change]) -> None:
        if self.error:
            return
        for key, record, lifetime in changes:
            if record is None:
                self.records.pop(key, None)
            else:
                self.records[key] = record, lifetime


class Bench:
    """An engine with a clock of its own (``now``, seconds), its log in ``lines`` and what it shares in *backend*."""

    def __init__(
        self,
        policy: str = ALLOW_ALL,
        *inspections: type[Inspection],
        backend: Memory | None = None,
        epoch: float = 1.7e9,
        **settings: Any,
    ) -> None:
        self.now = 1000.0
        self.lines: list[tuple[str, dict[str, Any]]] = []
        log = Log("fw1", lambda name, line: self.lines.append((name, json.loads(line))), epoch)
        self.sharing = Sharing(backend, log, epoch, lambda: self.now) if backend else None
        config = EngineConfig(**({"default_zone": "transit"} | settings))
        self.engine = Engine(config, Policy.parse(policy), log, inspections, self.sharing)

    def send(self, sent: bytearray) -> bool:
        """Whether the frame comes back; then it must be turned around, and nothing else changed."""
        received = bytearray(sent)
        passed = self.engine.process(received, len(received), self.now)
        turned = sent[6:12] + sent[0:6] + sent[12:26] + sent[30:34] + sent[26:30] + sent[34:]
        assert received == (turned if passed else sent)
        return passed

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.engine.expire(self.now)
        self.turn()

    def turn(self) -> None:
        """What the loop does between packets."""
        if self.sharing:
            self.sharing.serve((), self.now)

    @property
    def session(self) -> Session:
        [session] = self.engine.table
        return session

    @property
    def injected(self) -> list[bytes]:
        frames, self.engine.outbox = self.engine.outbox, []
        return frames

    def logged(self, name: str = "traffic") -> list[dict[str, Any]]:
        return [record for log, record in self.lines if log == name]

    def count(self, name: str) -> int:
        return self.engine.counters[name]


class Connection:
    """A TCP connection as its two ends would send it; each method tells whether the segment passed."""

    def __init__(self, bench: Bench, port: int = 22, client_port: int = 40000, endpoint: int = ENDPOINT) -> None:
        self.bench = bench
        self.ports = (client_port, port)
        self.endpoint = endpoint
        self.next = [100, 500]

    def segment(self, side: int, flags: int, data: bytes = b"", *, sequence: int | None = None) -> bool:
        """Send from *side* (0 client, 1 server). *sequence* other than the next one leaves the connection as it is."""
        numbers = self.next[side] if sequence is None else sequence, self.next[1 - side] if flags & ACK else 0
        ends = (CLIENT, SERVER, self.ports) if side == 0 else (SERVER, CLIENT, self.ports[::-1])
        passed = self.bench.send(frame(tcp(*ends, numbers, flags, data), self.endpoint))
        if sequence is None:
            self.next[side] += len(data) + bool(flags & SYN) + bool(flags & FIN)
        return passed

    def open(self) -> Connection:
        assert self.segment(0, SYN)
        assert self.segment(1, SYN | ACK)
        assert self.segment(0, ACK)
        return self

    def client(self, data: bytes) -> bool:
        return self.segment(0, PSH | ACK, data)

    def server(self, data: bytes) -> bool:
        return self.segment(1, PSH | ACK, data)

    def ssh(self) -> Connection:
        """Open it and exchange the banners, so that App-ID is final."""
        self.open()
        assert self.server(BANNER)
        assert self.client(BANNER)
        return self


def udp(
    data: bytes, ports: tuple[int, int] = (40000, 9999), *, back: bool = False, endpoint: int = ENDPOINT
) -> bytearray:
    source, destination = (SERVER, CLIENT) if back else (CLIENT, SERVER)
    sport, dport = ports[::-1] if back else ports
    header = b"".join(number.to_bytes(2, "big") for number in (sport, dport, 8 + len(data), 0))
    return frame(ipv4(source, destination, UDP, header + data), endpoint)


def icmp(kind: int, identifier: int = 7, *, back: bool = False, rest: bytes = bytes(56)) -> bytearray:
    source, destination = (SERVER, CLIENT) if back else (CLIENT, SERVER)
    message = bytes((kind, 0, 0, 0)) + identifier.to_bytes(2, "big") + b"\0\1" + rest
    return frame(ipv4(source, destination, ICMP, message))


def ipv6(source: bytes, destination: bytes, protocol: int, payload: bytes) -> bytes:
    return pack("!IHBB", 6 << 28, len(payload), protocol, 64) + source + destination + payload


def frame6(packet: bytes) -> bytearray:
    """Return the packet in a GENEVE frame that says IPv6."""
    made = frame(packet)
    made[44:46] = b"\x86\xdd"
    return made


def ssh6(port: int = 40000) -> Iterator[bytearray]:
    """The frames that open an SSH session over IPv6, up to where App-ID is final."""
    numbers, ends = [100, 500], (CLIENT6, SERVER6)
    for side, flags, data in (
        (0, SYN, b""),
        (1, SYN | ACK, b""),
        (0, ACK, b""),
        (1, PSH | ACK, BANNER),
        (0, PSH | ACK, BANNER),
    ):
        ports, acknowledged = ((port, 22), (22, port))[side], numbers[1 - side] if flags & ACK else 0
        segment = pack("!HHIIBBHHH", *ports, numbers[side], acknowledged, 0x50, flags, 65535, 0, 0) + data
        yield frame6(ipv6(ends[side], ends[1 - side], TCP, segment))
        numbers[side] += len(data) + bool(flags & SYN)


__all__ = ["ACK", "FIN", "PSH", "RST", "SYN", "Bench", "Connection", "Memory", "icmp", "rules", "udp"]
