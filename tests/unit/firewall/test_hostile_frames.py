"""Hostile bytes: every refusal by its reason, nothing raised, and a fast path that takes nothing the parsers refuse."""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from firewall_vnf import benchmark
from firewall_vnf.benchmark import frame, ipv4, tcp
from firewall_vnf.counters import MEANINGS
from firewall_vnf.geneve import Malformed, endpoint_name, parse_hostile_frame
from firewall_vnf.packet import ACK, FIN, RST, SYN, parse_hostile_packet
from tests.unit.firewall.traffic import CLIENT, SERVER, Bench, Connection, icmp, udp

PORTS = (40000, 22)
DATA = frame(tcp(CLIENT, SERVER, PORTS, (122, 522), ACK, b"data" * 10))
DATA_LESS = frame(tcp(CLIENT, SERVER, PORTS, (122, 522), ACK, b""))
UDP_DATA = udp(b"data")
PING = icmp(8)


def changed(original: bytearray, offset: int, value: bytes) -> bytearray:
    result = bytearray(original)
    result[offset : offset + len(value)] = value
    return result


MALFORMED = {
    "shorter than Ethernet and IPv4": (DATA[:33], "geneve_outer_ip"),
    "outer ARP": (changed(DATA, 12, b"\x08\x06"), "geneve_outer_ip"),
    "outer version": (changed(DATA, 14, b"\x65"), "geneve_outer_ip"),
    "outer header length": (changed(DATA, 14, b"\x44"), "geneve_outer_ip"),
    "outer total length too long": (changed(DATA, 16, b"\xff\xff"), "geneve_outer_ip"),
    "outer fragment": (changed(DATA, 20, b"\x20\x00"), "geneve_outer_ip"),
    "outer TCP": (changed(DATA, 23, b"\x06"), "geneve_outer_ip"),
    "no room for UDP": (changed(DATA, 16, b"\x00\x18"), "geneve_outer_udp"),
    "other port": (changed(DATA, 36, b"\x12\xb5"), "geneve_outer_udp"),
    "UDP length": (changed(DATA, 38, b"\x00\x08"), "geneve_outer_udp"),
    "GENEVE version": (changed(DATA, 42, b"\x48"), "geneve_header"),
    "option length": (changed(DATA, 42, b"\x07"), "geneve_header"),
    "control packet": (changed(DATA, 43, b"\x80"), "geneve_header"),
    "VNI": (changed(DATA, 48, b"\x01"), "geneve_header"),
    "Ethernet payload": (changed(DATA, 44, b"\x65\x58"), "geneve_protocol"),
    "option class": (changed(DATA, 50, b"\x01\x05"), "geneve_options"),
    "options in another order": (changed(DATA, 52, b"\x02"), "geneve_options"),
    "option of another length": (changed(DATA, 77, b"\x02"), "geneve_options"),
    "inner version": (changed(DATA, 82, b"\x65"), "flow_parse_ip"),
    "inner header length": (changed(DATA, 82, b"\x44"), "flow_parse_ip"),
    "inner total length beyond the frame": (changed(DATA, 84, b"\x00\xff"), "flow_parse_ip"),
    "inner total length below the header": (changed(DATA, 84, b"\x00\x13"), "flow_parse_ip"),
    "inner reserved flag": (changed(DATA, 88, b"\x80\x00"), "flow_parse_ip"),
    "inner fragment": (changed(DATA, 88, b"\x20\x00"), "flow_ipfrag_drop"),
    "empty inner packet": (frame(b""), "flow_parse_ip"),
    "no room for TCP": (frame(ipv4(CLIENT, SERVER, 6, bytes(19))), "flow_parse_l4_tcp"),
    "TCP data offset too small": (changed(DATA, 114, b"\x40"), "flow_parse_l4_tcp"),
    "TCP data offset beyond the packet": (changed(DATA_LESS, 114, b"\x60"), "flow_parse_l4_tcp"),
    "no TCP flags": (changed(DATA, 115, b"\x00"), "flow_parse_l4_tcpflags"),
    "SYN and FIN": (changed(DATA, 115, bytes((SYN | FIN,))), "flow_parse_l4_tcpflags"),
    "SYN and RST": (changed(DATA, 115, bytes((SYN | RST,))), "flow_parse_l4_tcpflags"),
    "FIN and RST": (changed(DATA, 115, bytes((FIN | RST | ACK,))), "flow_parse_l4_tcpflags"),
    "FIN alone": (changed(DATA, 115, bytes((FIN,))), "flow_parse_l4_tcpflags"),
    "port 0": (changed(DATA, 102, b"\x00\x00"), "flow_parse_l4_port"),
    "land": (frame(tcp(CLIENT, CLIENT, (22, 22), (1, 0), SYN, b"")), "flow_land"),
    "no room for UDP inside": (frame(ipv4(CLIENT, SERVER, 17, bytes(7))), "flow_parse_l4_udp"),
    "inner UDP length": (changed(UDP_DATA, 106, b"\x00\x07"), "flow_parse_l4_udp"),
    "inner UDP length beyond": (changed(UDP_DATA, 106, b"\x00\xff"), "flow_parse_l4_udp"),
    "no room for ICMP": (frame(ipv4(CLIENT, SERVER, 1, bytes(7))), "flow_parse_l4_icmp"),
    "ICMP error that quotes too little": (icmp(3, rest=bytes(27)), "flow_parse_l4_icmp"),
    "ICMP error that quotes no IPv4": (icmp(11, rest=bytes(28)), "flow_parse_l4_icmp"),
}  # fmt: skip


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_frames_are_dropped_by_reason(name: str) -> None:
    sent, counter = MALFORMED[name]
    bench = Bench(tcp_reject_non_syn=False)
    assert not bench.send(sent)
    assert bench.count(counter) == 1
    assert not list(bench.engine.table)


@pytest.mark.parametrize("name", [name for name, (sent, _) in MALFORMED.items() if len(sent) == len(DATA)])
def test_malformed_frames_of_an_established_session_are_dropped_too(name: str) -> None:
    sent, counter = MALFORMED[name]
    bench = Bench()
    Connection(bench).ssh()
    assert bench.send(DATA)
    assert not bench.send(sent)
    assert bench.count(counter) == 1


def test_unusual_but_valid_frames_pass() -> None:
    bench = Bench()
    Connection(bench).ssh()
    with_options = bytearray(DATA)  # an outer IPv4 header of 24 bytes
    with_options[34:34] = b"\x01\x01\x01\x00"
    with_options[14] = 0x46
    with_options[16:18] = struct.pack("!H", len(with_options) - 14)
    padded = DATA + b"\0\0\0"
    inner_options = bytearray(DATA)
    inner_options[102:102] = b"\x01\x01\x01\x00"
    inner_options[82] = 0x46
    for offset, less in ((16, 14), (38, 34), (84, 82)):
        inner_options[offset : offset + 2] = struct.pack("!H", len(inner_options) - less)
    inner_padding = bytearray(DATA + b"\0\0\0")
    for offset, less in ((16, 14), (38, 34)):
        inner_padding[offset : offset + 2] = struct.pack("!H", len(inner_padding) - less)
    reserved = changed(DATA, 43, b"\x3f")
    tos = changed(changed(DATA, 15, b"\xb8"), 83, b"\xb8")
    for sent in (with_options, padded, inner_options, inner_padding, reserved, tos, changed(DATA, 66, b"attachme")):
        assert bench.send(sent)


def test_frame_may_lie_in_a_longer_buffer() -> None:
    bench = Bench()
    Connection(bench).ssh()
    buffer = bytearray(65536)
    buffer[: len(DATA)] = DATA
    assert bench.engine.process(buffer, len(DATA), bench.now)
    assert not bench.engine.process(buffer, len(DATA) - 1, bench.now)


MUTATIONS = st.lists(st.tuples(st.integers(0, 130), st.integers(0, 255)), max_size=6)
VALID = st.sampled_from([*benchmark._variety(), DATA])


@settings(max_examples=600)
@given(VALID, MUTATIONS, st.integers(-130, 60))
@example(DATA, [], 0)
def test_fast_path_takes_only_what_the_parsers_take(
    original: bytearray, mutations: list[tuple[int, int]], more: int
) -> None:
    """The same frame to an engine whose fast path may carry the session, and to one whose never may."""
    sent = bytearray(original)
    for offset, value in mutations:
        sent[offset % len(sent)] = value
    length = max(0, len(sent) + more)
    sent = (sent + bytes(60))[:length]
    fast, slow = Bench(), Bench()
    for bench in (fast, slow):
        Connection(bench, client_port=40000).ssh()
        for setup in benchmark.conversation(0):
            bench.send(setup)
    for session in slow.engine.table:
        session.cleared = None
    results = []
    for bench in (fast, slow):
        passed = bench.send(sent)
        assert bench.count("pkt_recv") == bench.count("pkt_forwarded") + dropped(bench)
        totals = sorted(
            (s.id, s.packets_sent, s.packets_received, s.bytes_sent, s.state.value) for s in bench.engine.table
        )
        results.append((passed, totals))
    assert results[0] == results[1]


@settings(max_examples=500)
@given(st.binary(max_size=200))
def test_parsers_raise_malformed_only(data: bytes) -> None:
    for parse in (
        lambda: parse_hostile_frame(bytearray(data), len(data)),
        lambda: parse_hostile_packet(bytearray(data), 0, len(data)),
        lambda: parse_hostile_packet(bytearray(b"E\0" + len(data).to_bytes(2, "big") + data[4:]), 0, len(data)),
    ):
        with contextlib.suppress(Malformed):
            parse()


def dropped(bench: Bench) -> int:
    return sum(value for name, value in bench.engine.counters.items() if MEANINGS[name].startswith("Packets dropped"))


def test_soak_visits_most_reasons_and_raises_nothing() -> None:
    counters = benchmark.soak(20_000, seed=7)
    visited = [name for name, value in counters.items() if value and MEANINGS[name].startswith("Packets dropped")]
    assert len(visited) >= 18, visited
    assert counters == benchmark.soak(20_000, seed=7)


def test_endpoint_ids_are_written_as_aws_does() -> None:
    assert endpoint_name(0x0E51CA41845D7E46D & (1 << 64) - 1) == "vpce-0e51ca41845d7e46d"
