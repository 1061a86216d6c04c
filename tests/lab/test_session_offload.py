"""Session offload: the program takes no frame that the engine would refuse."""

from __future__ import annotations

import time
from collections.abc import Iterator
from ipaddress import IPv4Address
from struct import pack

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from firewall_vnf import benchmark, libbpf
from firewall_vnf.benchmark import ENDPOINT, frame, ipv4, tcp
from firewall_vnf.bpf_object import counter_meanings
from firewall_vnf.bpf_offload import SESSION, SOURCE, BpfProgram, flow_key
from firewall_vnf.geneve import INNER
from firewall_vnf.packet import ACK, FIN, PSH, RST, SYN, TCP, UDP
from tests.lab.test_firewall_process import turned
from tests.unit.firewall import traffic
from tests.unit.firewall.test_hostile_frames import DATA, MALFORMED, MUTATIONS, UDP_DATA, VALID
from tests.unit.firewall.traffic import CLIENT6, SERVER6, frame6, ipv6

pytestmark = pytest.mark.lab

TO_ENGINE, REDIRECT = 0, 7  # linux/pkt_cls.h
SO_TIMESTAMPNS = 35  # asm-generic/socket.h
#: A frame with IPv4 that is shorter cannot be run once.
SHORTEST = 34
SEGMENT6 = pack("!HHIIBBHHH", 40000, 22, 122, 522, 0x50, ACK, 65535, 0, 0) + b"data"
DATAGRAM6 = pack("!HHHH", 5000, 53, 13, 0) + b"query"
DATA6, UDP_DATA6 = frame6(ipv6(CLIENT6, SERVER6, TCP, SEGMENT6)), frame6(ipv6(CLIENT6, SERVER6, UDP, DATAGRAM6))
DATAGRAMS = [UDP_DATA, traffic.udp(b"answer", back=True)]


class Program:
    """The program with one session's flows, in no interface: :meth:`run` gives it a frame."""

    def __init__(self, address: IPv4Address | None = None) -> None:
        self.bpf = BpfProgram(8, address)
        self.bpf.renew(time.monotonic() + 3600)

    def carry(self, index: int, *keys: bytes, timeout: float = 3600.0) -> None:
        """Have a session whose client's flow is the first of *keys*, its server's the second."""
        times = int(time.monotonic() * 1e9), int(timeout * 1e9)
        SESSION.pack_into(self.bpf.memory, SESSION.size * index, *times, *bytes(10))
        for way, key in enumerate(keys):
            self.bpf.flows.update(key, pack("=I", index << 1 | way))

    def run(self, sent: bytes) -> tuple[bool, bytes]:
        """Whether the frame is carried, and what the program made of it."""
        result, made = libbpf.run_once(self.bpf.descriptor, to_loopback(sent))
        assert result in (TO_ENGINE, REDIRECT)
        return result == REDIRECT, made

    def carries(self, sent: bytes) -> bool:
        """Whether the frame is carried; then it must be turned around, and else be as it was."""
        before = to_loopback(sent)
        carried, made = self.run(sent)
        assert made == (turned(before) if carried else before)
        return carried

    def session(self, index: int) -> tuple[int, ...]:
        return SESSION.unpack_from(self.bpf.memory, SESSION.size * index)


def to_loopback(sent: bytes) -> bytes:
    """Return the frame as sent to the loopback interface, on which programs are run once."""
    return bytes(6) + bytes(sent[6:])


def both(ports: tuple[int, int], protocol: int, client: bytes, server: bytes) -> tuple[bytes, bytes]:
    there, back = pack("!HH", *ports), pack("!HH", *ports[::-1])
    return flow_key(ENDPOINT, client, server, there, protocol), flow_key(ENDPOINT, server, client, back, protocol)


def address(number: int) -> bytes:
    return number.to_bytes(4, "big")


@pytest.fixture(scope="module")
def program() -> Iterator[Program]:
    """With the sessions of the hostile frames' tests: SSH, SSH of the benchmark, datagrams, IPv6."""
    made = Program()
    ends = address(traffic.CLIENT), address(traffic.SERVER)
    made.carry(0, *both((40000, 22), TCP, *ends))
    made.carry(1, *both((1024, 22), TCP, address(benchmark.CLIENT), address(benchmark.SERVER)))
    made.carry(2, *both((40000, 9999), UDP, *ends))
    made.carry(3, *both((40000, 22), TCP, CLIENT6, SERVER6))
    for each in both((5000, 53), UDP, CLIENT6, SERVER6):
        made.bpf.flows.update(each, pack("=I", 3 << 1))
    yield made
    made.bpf.close()


def test_what_is_carried_is_turned_around_and_counted() -> None:
    program = Program()
    program.carry(1, *both((40000, 22), TCP, address(traffic.CLIENT), address(traffic.SERVER)))
    assert program.carries(DATA)
    back = frame(tcp(traffic.SERVER, traffic.CLIENT, (22, 40000), (522, 162), PSH | ACK, b"answer"))
    assert program.carries(back)
    assert program.carries(back)
    last, _, *ways = program.session(1)
    assert abs(last / 1e9 - time.monotonic()) < 60
    assert ways == [1, 80, 162, 522, 65535, 2, 92, 528, 162, 65535]
    assert (program.bpf.counter("carried"), program.bpf.counter("bytes")) == (3, 172)
    program.bpf.close()


@pytest.mark.parametrize("name", [name for name, (sent, _) in MALFORMED.items() if len(sent) >= SHORTEST])
def test_what_the_engine_refuses_the_program_leaves_to_it(program: Program, name: str) -> None:
    sent, _ = MALFORMED[name]
    assert not program.carries(sent)


@settings(max_examples=3000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(VALID, st.sampled_from([*DATAGRAMS, DATA6, UDP_DATA6])), MUTATIONS, st.integers(-130, 60))
@example(DATA, [], 0)
@example(UDP_DATA, [], 0)
@example(DATA6, [], 0)
@example(UDP_DATA6, [], 0)
def test_the_program_carries_only_what_the_engine_passes(
    program: Program, original: bytearray, mutations: list[tuple[int, int]], more: int
) -> None:
    """The same frame to the program and to the engine, both with these sessions."""
    sent = bytearray(original)
    for offset, value in mutations:
        sent[offset % len(sent)] = value
    sent = (sent + bytes(60))[: max(SHORTEST, len(sent) + more)]
    if not program.carries(sent):
        return
    bench = traffic.Bench()
    traffic.Connection(bench, client_port=40000).ssh()
    for setup in benchmark.conversation(0):
        assert bench.send(setup)
    assert bench.send(traffic.udp(b"query"))
    assert all(bench.send(opening) for opening in (*traffic.ssh6(), UDP_DATA6))
    before = bench.engine.counters["session_installed"]
    assert bench.send(sent)
    assert bench.engine.counters["session_installed"] == before
    assert all(session.state.value == "ACTIVE" for session in bench.engine.table)


def test_what_the_engine_must_see(program: Program) -> None:
    """SYN, FIN, RST, ICMP, fragments, options, padding, another flow."""
    ends = traffic.CLIENT, traffic.SERVER
    for flags in (SYN, SYN | ACK, FIN | ACK, RST, RST | ACK, 0):
        assert not program.carries(frame(tcp(*ends, (40000, 22), (122, 522), flags, b"")))
    assert program.carries(frame(tcp(*ends, (40000, 22), (122, 522), ACK | PSH, b"")))
    assert not program.carries(frame(tcp(*ends, (40001, 22), (122, 522), ACK, b"")))
    assert not program.carries(frame(tcp(*ends, (40000, 22), (122, 522), ACK, b""), endpoint=ENDPOINT + 1))
    assert not program.carries(traffic.icmp(8))
    assert not program.carries(frame(ipv4(*ends, 50, bytes(40))))
    assert not program.carries(DATA + b"\0")
    unknown = program.bpf.counter("unknown")
    assert not program.carries(traffic.udp(b"query", (40000, 9998)))
    assert program.bpf.counter("unknown") == unknown + 1


def test_ipv6_is_carried(program: Program) -> None:
    before = program.session(3)[2]
    assert program.carries(DATA6)
    assert program.carries(UDP_DATA6)
    assert program.session(3)[2] == before + 2
    assert program.session(3)[4] == 126


@pytest.mark.parametrize(
    "sent",
    [
        frame6(ipv6(SERVER6, CLIENT6, TCP, SEGMENT6)),
        frame6(ipv6(CLIENT6, SERVER6, TCP, SEGMENT6[:19])),
        frame6(ipv6(CLIENT6, SERVER6, TCP, SEGMENT6) + b"padding"),
        frame6(ipv6(CLIENT6, SERVER6, TCP, SEGMENT6)[:-1]),
        frame6(ipv6(CLIENT6, SERVER6, TCP, SEGMENT6[:13] + bytes([SYN]) + SEGMENT6[14:])),
        frame6(ipv6(CLIENT6, SERVER6, TCP, SEGMENT6[:12] + b"\x70" + SEGMENT6[13:])),
        frame6(ipv6(CLIENT6, SERVER6, UDP, DATAGRAM6[:-1])),
        frame6(ipv6(CLIENT6, SERVER6, UDP, DATAGRAM6[:7])),
        frame6(ipv6(CLIENT6, SERVER6, 0, bytes([TCP, 0, 1, 4, 0, 0, 0, 0]) + SEGMENT6)),
        frame6(ipv6(CLIENT6, SERVER6, 44, bytes([TCP, 0, 0, 1, 0, 0, 0, 0]) + SEGMENT6)),
        frame6(ipv6(CLIENT6, SERVER6, 58, b"\x80\0\0\0\0\7\0\1")),
        frame6(b"\x50" + ipv6(CLIENT6, SERVER6, TCP, SEGMENT6)[1:]),
        frame6(ipv6(CLIENT6, SERVER6, TCP, SEGMENT6)[:39]),
        frame(ipv6(CLIENT6, SERVER6, TCP, SEGMENT6)),
        frame6(bytes(DATA[INNER:])),
    ],
    ids=[
        *("the other way", "short segment", "padding", "cut off", "SYN", "TCP header beyond", "UDP length"),
        *("short datagram", "hop by hop", "fragment", "ICMPv6", "version", "short header", "said to be IPv4"),
        "said to be IPv6",
    ],
)
def test_unusual_ipv6_is_not(program: Program, sent: bytearray) -> None:
    assert not program.carries(sent)


def test_a_frame_for_another_address_is_not_carried() -> None:
    program = Program(IPv4Address("10.100.0.21"))
    program.carry(0, *both((40000, 22), TCP, address(traffic.CLIENT), address(traffic.SERVER)))
    assert program.carries(DATA)
    other = DATA[:30] + IPv4Address("10.100.0.22").packed + DATA[34:]
    assert not program.carries(other)
    program.bpf.close()


def test_nothing_is_carried_without_a_lease_or_beyond_the_time_out() -> None:
    program = Program()
    keys = both((40000, 22), TCP, address(traffic.CLIENT), address(traffic.SERVER))
    program.carry(0, *keys)
    program.bpf.renew(time.monotonic() - 0.001)
    assert not program.carries(DATA)
    program.bpf.renew(time.monotonic() + 3600)
    assert program.carries(DATA)
    program.carry(0, *keys, timeout=0)
    while program.carries(DATA):  # for as long as the clock has not moved on
        pass
    assert (program.bpf.counter("stale"), program.bpf.counter("idle")) == (1, 1)
    program.bpf.close()


def test_every_counter_has_a_meaning() -> None:
    assert list(counter_meanings(SOURCE)) == ["carried", "bytes", "unknown", "unusual", "idle", "stale"]
