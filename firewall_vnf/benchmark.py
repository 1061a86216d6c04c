"""What the engine alone can do on one core, without sockets: what ``bumpwire bench`` prints, and the soak.

Frames are as AWS sends them and prepared beforehand; what is measured is
:meth:`~firewall_vnf.engine.Engine.process` called from a Python loop, turning the frame around included. Seconds are of
processor time: rates are those of one core, whatever else the machine does.
"""

from __future__ import annotations

import gc
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from struct import pack, pack_into

from firewall_vnf.config import EngineConfig
from firewall_vnf.counters import MEANINGS
from firewall_vnf.engine import Engine
from firewall_vnf.geneve import BASE_AND_FIRST_OPTION, INNER, PORT, SECOND_OPTION, THIRD_OPTION, checksum
from firewall_vnf.log import Log
from firewall_vnf.packet import ACK, FIN, ICMP, PSH, RST, SYN, TCP, UDP
from firewall_vnf.policy import Policy

POLICY = """
zones: [transit]
addresses: {clients: 10.0.0.0/9, servers: 10.128.0.0/9}
rules:
  - {name: management, source: clients, destination: servers, application: [ssh, ping, icmp], service: any,
  action: allow}
  - {name: web, source: clients, destination: servers, application: [web-browsing, ssl], service: any, action:
  allow}
  - {name: names, application: [dns, ntp], action: allow}
  - {name: rest, service: any, action: deny}
"""
ENDPOINT = 0x0123456789ABCDEF
CLIENT, SERVER = 0x0A000000, 0x0A800001


def frame(inner: bytes, endpoint: int = ENDPOINT, cookie: int = 1) -> bytearray:
    """Return the Ethernet frame in which a GWLB sends the IPv4 packet *inner* to an appliance."""
    options = pack("!QIQII", endpoint, SECOND_OPTION, 0, THIRD_OPTION, cookie)
    total = INNER - 14 + len(inner)
    outer = pack("!BBHHHBBH4s4s", 0x45, 0, total, 0, 0x4000, 64, UDP, 0, b"\x0a\x64\0\x14", b"\x0a\x64\0\x15")
    outer = outer[:10] + pack("!H", checksum(outer)) + outer[12:]
    ethernet = b"\x02\0\0\0\0\x02\x02\0\0\0\0\x01\x08\0"
    udp = pack("!HHHH", 50000, PORT, total - 20, 0)
    return bytearray(ethernet + outer + udp + BASE_AND_FIRST_OPTION + options + inner)


def ipv4(source: int, destination: int, protocol: int, payload: bytes) -> bytes:
    header = pack("!BBHHHBBHII", 0x45, 0, 20 + len(payload), 1, 0x4000, 64, protocol, 0, source, destination)
    return header[:10] + pack("!H", checksum(header)) + header[12:] + payload


def tcp(
    source: int, destination: int, ports: tuple[int, int], numbers: tuple[int, int], flags: int, data: bytes
) -> bytes:
    """Return an IPv4 packet with a TCP segment; its checksum is 0, which nobody on the way looks at."""
    header = pack("!HHIIBBHHH", *ports, *numbers, 0x50, flags, 65535, 0, 0)
    return ipv4(source, destination, TCP, header + data)


def make_engine(sessions: int) -> Engine:
    """Return an engine with room for so many sessions, whose log lines are formatted and then thrown away."""
    config = EngineConfig(max_sessions=sessions, default_zone="transit")
    return Engine(config, Policy.parse(POLICY), Log("benchmark", lambda log, line: None, 0.0))


def conversation(number: int) -> Iterator[bytearray]:
    """The frames that establish SSH session *number*, up to where App-ID is final; TCP data starts at 1 (101, 501)."""
    client, ports = CLIENT + number // 60000, (1024 + number % 60000, 22)
    back = (ports[1], ports[0])
    for inner in (
        tcp(client, SERVER, ports, (100, 0), SYN, b""),
        tcp(SERVER, client, back, (500, 101), SYN | ACK, b""),
        tcp(client, SERVER, ports, (101, 501), ACK, b""),
        tcp(SERVER, client, back, (501, 101), PSH | ACK, b"SSH-2.0-OpenSSH_9.2\r\n"),
        tcp(client, SERVER, ports, (101, 522), PSH | ACK, b"SSH-2.0-OpenSSH_9.2\r\n"),
    ):
        yield frame(inner, cookie=number & 0xFFFFFFFF)


@contextmanager
def as_in_the_process() -> Iterator[None]:
    """Without Python's cyclic garbage collector, as the firewall's process runs."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def established_packets_per_second(seconds: float = 2.0, payload: int = 1400) -> float:
    """Both directions of one TCP flow, data one way and acknowledgements back; *payload* in bytes."""
    engine = make_engine(10)
    for setup in conversation(1):
        assert engine.process(setup, len(setup), 0.0)
    ports = (1025, 22)
    there = frame(tcp(CLIENT, SERVER, ports, (122, 522), ACK, bytes(payload)))
    back = frame(tcp(SERVER, CLIENT, ports[::-1], (522, 122 + payload), ACK, b""))
    lengths = len(there), len(back)
    process, now = engine.process, 1.0
    with as_in_the_process():
        packets, start = 0, time.process_time()
        while (elapsed := time.process_time() - start) < seconds:
            for _ in range(1000):
                process(there, lengths[0], now)
                process(back, lengths[1], now)
            packets += 2000
    assert engine.counters["pkt_forwarded"] == packets + 5
    return packets / elapsed


def new_sessions_per_second(count: int = 50_000, packets: int = 3) -> float:
    """Set up *count* sessions, each with the policy's look-up, by the first *packets* of a conversation.

    With 3 that is the TCP handshake, with 5 also App-ID and the look-up that follows from it.
    """
    engine = make_engine(count)
    with as_in_the_process():
        start = time.process_time()
        set_up(engine, count, packets)
        return count / (time.process_time() - start)


def set_up(engine: Engine, count: int, packets: int) -> None:
    """Open *count* sessions of different clients. As from an interface, all frames come in one buffer."""
    templates = list(conversation(0))[:packets]
    # Where the client's address and port are: among the sources or the destinations, by turns.
    places = [(INNER + 16, INNER + 22) if number in (1, 3) else (INNER + 12, INNER + 20) for number in range(packets)]
    steps = [(template, len(template), *place) for template, place in zip(templates, places, strict=True)]
    buffer = bytearray(65536)
    for number in range(count):
        for template, length, address, port in steps:
            buffer[:length] = template
            pack_into("!I", buffer, address, CLIENT + number // 60000)
            pack_into("!H", buffer, port, 1024 + number % 60000)
            engine.process(buffer, length, number * 1e-5)
    assert engine.table.count == count


def memory(sessions: int) -> int:
    """Return what so many established sessions add to the resident memory of a process of its own, in bytes."""
    command = [sys.executable, "-m", "firewall_vnf.benchmark", str(sessions)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def soak(frames: int, seed: int = 1) -> dict[str, int]:
    """Feed mutated frames to an engine; returns its counters. Raises whatever the engine lets through: it
    must not.

    Each frame is a valid one of a busy firewall with some of its bytes changed, cut off or added.
    """
    generator = random.Random(seed)
    engine = make_engine(50_000)
    valid = list(_variety())
    buffer = bytearray(65536)
    choose, chance, below = generator.choice, generator.random, generator.randrange
    for number in range(frames):
        original = choose(valid)
        length = len(original)
        buffer[:length] = original
        if chance() < 0.15:
            length = below(length + 40)
        for _ in range(below(5)):
            buffer[12 + below(120)] = below(256)
        if chance() < 0.2:
            pack_into("!H", buffer, INNER + 20, 1024 + below(60000))
        engine.process(buffer, length, number * 1e-4)
        engine.outbox.clear()
        if not number % 1024:
            engine.expire(number * 1e-4)
    counters = engine.counters
    dropped = sum(counters[name] for name, meaning in MEANINGS.items() if meaning.startswith("Packets dropped"))
    assert counters["pkt_recv"] == frames == counters["pkt_forwarded"] + dropped
    return counters


def _variety() -> Iterator[bytearray]:
    """Frames of every kind that the parsers know."""
    for number in range(8):
        yield from conversation(number)
    ports = (1024, 22)
    yield frame(tcp(CLIENT, SERVER, ports, (122, 522), FIN | ACK, b""))
    yield frame(tcp(CLIENT, SERVER, ports, (122, 522), RST, b""))
    yield frame(tcp(CLIENT, SERVER, (2000, 80), (100, 0), SYN, b""))
    query = bytes.fromhex("12340100000100000000000003777777076578616d706c6503636f6d0000010001")
    yield frame(ipv4(CLIENT, SERVER, UDP, pack("!HHHH", 3000, 53, 8 + len(query), 0) + query))
    yield frame(ipv4(CLIENT, SERVER, ICMP, pack("!BBHHH", 8, 0, 0, 7, 1) + bytes(56)))
    yield frame(ipv4(SERVER, CLIENT, ICMP, pack("!BBHHH", 0, 0, 0, 7, 1) + bytes(56)))
    quoted = tcp(CLIENT, SERVER, ports, (122, 522), ACK, b"")
    yield frame(ipv4(SERVER, CLIENT, ICMP, pack("!BBHI", 3, 1, 0, 0) + quoted))
    yield frame(ipv4(CLIENT, SERVER, 50, bytes(40)))


def _resident() -> int:
    with open("/proc/self/statm") as statistics:
        return int(statistics.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _measure_memory(sessions: int) -> int:
    engine = make_engine(sessions)
    with as_in_the_process():
        before = _resident()
        set_up(engine, sessions, 5)
        return _resident() - before


if __name__ == "__main__":
    print(_measure_memory(int(sys.argv[1])))
