"""The GENEVE endpoint in namespaces of its own: what it sends and takes is AWS's frame."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from scapy.contrib.geneve import GENEVE, GeneveOptions
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_NOP
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoRequest,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
)
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Packet, Raw
from scapy.utils import wrpcap

from firewall_vnf import libbpf
from firewall_vnf.bpf_object import compile_program
from testbed.errors import MachineError
from testbed.geneve_endpoint import SOURCE, EndpointConfiguration, GeneveEndpoint, Target, TargetTraffic
from testbed.namespace import in_namespace, interface_address, interface_index

pytestmark = pytest.mark.lab

NODES = {1: IPv4Address("10.100.0.20"), 2: IPv4Address("10.100.1.20")}
ENDPOINTS = {3: 0x0123456789ABCDEF, 4: 0x0FEDCBA987654321}
ADDRESSES = {1: IPv4Address("10.100.0.21"), 258: IPv4Address("10.100.1.21")}
KEY = bytes(range(8))
DISSECTOR = Path(__file__).parents[2] / "docs" / "geneve-aws.lua"
UP = "ip link set lo up; echo up; exec sleep 600"
TCP_PACKET = IP(src="10.200.0.20", dst="10.250.0.52", id=7) / TCP(sport=40000, dport=80, flags="S", seq=9)
UDP6_PACKET = IPv6(src="2001:db8::1", dst="2001:db8:1::2") / UDP(sport=5000, dport=53) / Raw(b"query")


@dataclass
class Cloud:
    """Three namespaces: OVS's side, the load balancer's, and one for the two appliances ``eth1`` and ``eth258``."""

    ovs: int
    gwlb: int
    appliances: int
    endpoint: GeneveEndpoint
    sockets: dict[str, socket.socket]
    macs: dict[str, str]

    def send(self, frame: Packet | bytes, interface: str = "ovs") -> None:
        self.sockets[interface].send(bytes(frame))

    def receive(self, interface: str, patience: float = 20.0) -> bytes:
        self.sockets[interface].settimeout(patience)
        return self.sockets[interface].recv(65536)

    def silent(self, interface: str) -> bool:
        """Whether nothing has arrived; what was sent before has been through, since veth delivers in the sender."""
        with contextlib.suppress(socket.timeout):
            self.receive(interface, 0.02)
            return False
        return True

    def to_target(self, packet: Packet, endpoint: int = 3, target: int = 1, zone: int = 1) -> bytes:
        """Send *packet* as OVS does and return the frame that the appliance gets."""
        self.send(plain(packet, endpoint, target, zone))
        return self.receive(f"eth{target}")

    @contextlib.contextmanager
    def counts(self, **expected: int) -> Iterator[None]:
        """Check that these counters, and no others, go up by so much."""
        before = self.endpoint.counters()

        def difference() -> dict[str, int]:
            return {name: up for name, value in self.endpoint.counters().items() if (up := value - before[name])}

        yield
        deadline = time.monotonic() + 2
        while difference() != expected and time.monotonic() < deadline:
            time.sleep(0.005)
        assert difference() == expected


@contextlib.contextmanager
def process_of_namespace() -> Iterator[int]:
    """A process in a new network namespace, while the block lasts."""
    process = subprocess.Popen(["unshare", "--net", "sh", "-c", UP], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        yield process.pid
    finally:
        process.kill()
        process.communicate()


def run(pid: int, *commands: str) -> None:
    for command in commands:
        subprocess.run(["nsenter", "-t", str(pid), "--net", "sh", "-c", command], check=True, capture_output=True)


def packet_socket(pid: int, interface: str) -> socket.socket:
    def build() -> socket.socket:
        opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        opened.bind((interface, 3))
        return opened

    return in_namespace(pid, build)


@pytest.fixture(scope="module")
def cloud() -> Iterator[Cloud]:
    with contextlib.ExitStack() as stack:
        ovs, gwlb, appliances = (stack.enter_context(process_of_namespace()) for _ in range(3))
        quiet = (
            "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6; echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6"
        )
        links = [("plain", "ovs", ovs)] + [(f"fw{index}", f"eth{index}", appliances) for index in ADDRESSES]
        for pid in (ovs, gwlb, appliances):
            run(pid, quiet)
        for inner, outer, pid in links:
            run(gwlb, f"ip link add {inner} mtu 9001 type veth peer name {outer} mtu 9001 netns {pid}")
            run(gwlb, f"ip link set {inner} up; ethtool -K {inner} tx off")
            run(pid, f"ip link set {outer} up; ethtool -K {outer} tx off")
        run(gwlb, "ip link set plain arp off", *(f"ip address add {address}/32 dev lo" for address in NODES.values()))
        for index, address in ADDRESSES.items():
            run(gwlb, f"ip route add {address}/32 dev fw{index} src {NODES[1]}")
            run(appliances, f"ip address add {address}/32 dev eth{index}")
        ends = [(outer, pid) for _, outer, pid in links] + [(inner, gwlb) for inner, _, _ in links]
        macs = {name: in_namespace(pid, partial(interface_address, name)) for name, pid in ends}
        configuration = EndpointConfiguration(
            nodes=NODES,
            endpoints=ENDPOINTS,
            targets={index: Target(ADDRESSES[index], macs[f"eth{index}"], f"fw{index}") for index in ADDRESSES},
            key=KEY,
        )
        endpoint = stack.enter_context(GeneveEndpoint.load(gwlb, configuration))
        sockets = {outer: stack.enter_context(packet_socket(pid, outer)) for _, outer, pid in links}
        yield Cloud(ovs, gwlb, appliances, endpoint, sockets, macs)


@pytest.fixture(autouse=True)
def empty_sockets(cloud: Cloud) -> None:
    for interface in cloud.sockets:
        while not cloud.silent(interface):
            pass


# -- the reference: frames by scapy, cookies by HalfSipHash in Python --------------------


def plain(packet: Packet, endpoint: int = 3, target: int = 1, zone: int = 1) -> Packet:
    destination = f"02:47:00:00:{target >> 8:02x}:{target & 255:02x}"
    source = f"02:45:00:{zone:02x}:{endpoint >> 8:02x}:{endpoint & 255:02x}"
    return Ether(dst=destination, src=source) / packet


def plain_back(packet: Packet, endpoint: int = 3, target: int = 1) -> bytes:
    destination = f"02:45:00:00:{endpoint >> 8:02x}:{endpoint & 255:02x}"
    source = f"02:47:00:00:{target >> 8:02x}:{target & 255:02x}"
    return bytes(Ether(dst=destination, src=source) / packet)


def half_sip_hash(key: bytes, data: bytes) -> int:
    """HalfSipHash-2-4 with 32 bits of output, after the authors' reference code (Aumasson, Bernstein, 2012)."""
    k0, k1 = (int.from_bytes(half, "little") for half in (key[:4], key[4:]))
    v0, v1, v2, v3 = k0, k1, 0x6C796765 ^ k0, 0x74656462 ^ k1

    def rotate(x: int, bits: int) -> int:
        return (x << bits | x >> (32 - bits)) & 0xFFFFFFFF

    def sip_round() -> None:
        nonlocal v0, v1, v2, v3
        v0 = (v0 + v1) & 0xFFFFFFFF
        v1 = rotate(v1, 5) ^ v0
        v0 = rotate(v0, 16)
        v2 = (v2 + v3) & 0xFFFFFFFF
        v3 = rotate(v3, 8) ^ v2
        v0 = (v0 + v3) & 0xFFFFFFFF
        v3 = rotate(v3, 7) ^ v0
        v2 = (v2 + v1) & 0xFFFFFFFF
        v1 = rotate(v1, 13) ^ v2
        v2 = rotate(v2, 16)

    whole = len(data) // 4
    last = int.from_bytes(data[4 * whole :], "little") | (len(data) & 255) << 24
    words: tuple[int, ...] = struct.unpack(f"<{whole}I", data[: 4 * whole])
    for word in (*words, last):
        v3 ^= word
        sip_round()
        sip_round()
        v0 ^= word
    v2 ^= 0xFF
    for _ in range(4):
        sip_round()
    return v1 ^ v3


def cookie(ends: list[tuple[str, int]], protocol: int, endpoint: int = 3, target: int = 1, zone: int = 1) -> int:
    """The cookie of a flow between two *ends* (address, port; port 0 for a 3-tuple), in any order."""

    def packed(end: tuple[str, int]) -> bytes:
        address = socket.inet_pton(socket.AF_INET6 if ":" in end[0] else socket.AF_INET, end[0])
        return address.ljust(16, b"\0") + struct.pack(">H", end[1])

    words = [NODES[zone].packed, struct.pack("<2I", endpoint << 16 | target, protocol)]
    words += [end + b"\0\0" for end in sorted(map(packed, ends))]
    return half_sip_hash(KEY, b"".join(words))


def geneve(cloud: Cloud, packet: Packet, flow_cookie: int, endpoint: int = 3, target: int = 1, zone: int = 1) -> Packet:
    """AWS's frame around *packet*, on its way to the target."""
    options = [
        GeneveOptions(classid=0x0108, type=1, data=struct.pack(">Q", ENDPOINTS[endpoint])),
        GeneveOptions(classid=0x0108, type=2, data=bytes(8)),
        GeneveOptions(classid=0x0108, type=3, data=struct.pack(">I", flow_cookie)),
    ]
    return (
        Ether(src=cloud.macs[f"fw{target}"], dst=cloud.macs[f"eth{target}"])
        / IP(src=str(NODES[zone]), dst=str(ADDRESSES[target]), ttl=64, flags="DF", id=0)
        / UDP(sport=49152 | flow_cookie & 0x3FFF, dport=6081, chksum=0)
        / GENEVE(proto=0x86DD if packet.version == 6 else 0x0800, vni=0, options=options)
        / packet
    )


def turned_around(frame: bytes) -> Any:
    """What a firewall makes of it: Ethernet and IP addresses swapped, ports and all else as they came."""
    packet = Ether(frame)
    packet.src, packet.dst = packet.dst, packet.src
    packet[IP].src, packet[IP].dst = packet[IP].dst, packet[IP].src
    return packet


def test_the_reference_hash_is_half_sip_hash() -> None:
    # The first vectors of the authors' test, vectors.h: key 00 01 … 07, input of 0, 1, 2 and 8 bytes.
    expected = {0: "a9359f5b", 1: "27475ab8", 2: "fa62a603"}
    for length, digest in expected.items():
        assert half_sip_hash(bytes(range(8)), bytes(range(length))).to_bytes(4, "little").hex() == digest


# -- to the target --------------------

TCP_ENDS = [("10.200.0.20", 40000), ("10.250.0.52", 80)]
UDP6_ENDS = [("2001:db8::1", 5000), ("2001:db8:1::2", 53)]
PAIR = [("10.200.0.20", 0), ("10.250.0.52", 0)]
PAIR6 = [("2001:db8::1", 0), ("2001:db8:1::2", 0)]
ICMP_ERROR = IP(src="10.9.9.9", dst="10.200.0.20") / ICMP(type=3, code=1) / TCP_PACKET
ICMP6_ERROR = IPv6(src="2001:db8:9::9", dst="2001:db8::1") / ICMPv6DestUnreach() / UDP6_PACKET

OUT, BACK = IP(src="10.200.0.20", dst="10.250.0.52"), IP(src="10.250.0.52", dst="10.200.0.20")
OUT6, BACK6 = IPv6(src="2001:db8::1", dst="2001:db8:1::2"), IPv6(src="2001:db8:1::2", dst="2001:db8::1")
FLOWS: dict[str, tuple[Packet, list[tuple[str, int]], int]] = {
    "tcp": (TCP_PACKET, TCP_ENDS, 6),
    "tcp, reverse": (BACK / TCP(sport=80, dport=40000, flags="SA"), TCP_ENDS, 6),
    "udp": (BACK / UDP(sport=53, dport=5000), [("10.200.0.20", 5000), ("10.250.0.52", 53)], 17),
    "ip options": (IP(src=OUT.src, dst=OUT.dst, options=[IPOption_NOP()] * 4) / TCP_PACKET[TCP], TCP_ENDS, 6),
    "icmp echo": (OUT / ICMP(id=5) / Raw(b"x" * 56), PAIR, 1),
    "icmp error": (ICMP_ERROR, TCP_ENDS, 6),
    "icmp error that quotes too little": (OUT / ICMP(type=11) / Raw(b"x"), PAIR, 1),
    "first fragment": (IP(src=OUT.src, dst=OUT.dst, flags="MF") / UDP(sport=1, dport=2) / Raw(bytes(64)), PAIR, 17),
    "later fragment": (IP(src=OUT.src, dst=OUT.dst, frag=9, proto=17) / Raw(bytes(64)), PAIR, 17),
    "gre": (IP(src=OUT.src, dst=OUT.dst, proto=47) / Raw(bytes(8)), PAIR, 47),
    "tcp without ports": (IP(src=OUT.src, dst=OUT.dst, proto=6) / Raw(b"xy"), PAIR, 6),
    "header only": (IP(src=OUT.src, dst=OUT.dst, proto=6), PAIR, 6),
    "ipv6 udp": (UDP6_PACKET, UDP6_ENDS, 17),
    "ipv6 behind extensions": (OUT6 / IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() / UDP6_PACKET[UDP], UDP6_ENDS, 17),
    "ipv6 fragment": (OUT6 / IPv6ExtHdrFragment(m=1, nh=17) / Raw(bytes(64)), PAIR6, 17),
    "icmpv6 echo": (OUT6 / ICMPv6EchoRequest(id=5), PAIR6, 58),
    "icmpv6 error": (ICMP6_ERROR, UDP6_ENDS, 17),
}


@pytest.mark.parametrize("name", FLOWS)
def test_frames_are_aws_frames_byte_by_byte_and_come_back_whole(cloud: Cloud, name: str) -> None:
    packet, ends, protocol = FLOWS[name]
    with cloud.counts(encapsulated=1, decapsulated=1):
        frame = cloud.to_target(packet)
        assert frame == bytes(geneve(cloud, packet, cookie(ends, protocol)))
        cloud.send(turned_around(frame), "eth1")
        assert cloud.receive("ovs") == plain_back(packet)


def test_zone_endpoint_and_target_are_those_of_the_plain_frame(cloud: Cloud) -> None:
    frame = cloud.to_target(TCP_PACKET, endpoint=4, target=258, zone=2)
    expected = cookie(TCP_ENDS, 6, endpoint=4, target=258, zone=2)
    assert frame == bytes(geneve(cloud, TCP_PACKET, expected, endpoint=4, target=258, zone=2))
    assert len({expected, cookie(TCP_ENDS, 6), cookie(TCP_ENDS, 6, zone=2), cookie(TCP_ENDS, 6, endpoint=4)}) == 4
    cloud.send(turned_around(frame), "eth258")
    assert cloud.receive("ovs") == plain_back(TCP_PACKET, endpoint=4, target=258)


def test_ethernet_padding_is_taken_off(cloud: Cloud) -> None:
    cloud.send(bytes(plain(TCP_PACKET)) + bytes(6))
    frame = cloud.receive("eth1")
    assert frame == bytes(geneve(cloud, TCP_PACKET, cookie(TCP_ENDS, 6)))
    cloud.send(bytes(turned_around(frame)) + bytes(6), "eth1")
    assert cloud.receive("ovs") == plain_back(TCP_PACKET)


@pytest.mark.parametrize("size", [1500, 4096, 8500])
def test_jumbo_frames_pass_both_ways(cloud: Cloud, size: int) -> None:
    packet = TCP_PACKET / Raw((bytes(range(256)) * 40)[: size - 40])
    assert len(packet) == size
    with cloud.counts(encapsulated=1, decapsulated=1):
        frame = cloud.to_target(packet)
        assert frame == bytes(geneve(cloud, packet, cookie(TCP_ENDS, 6)))
        cloud.send(turned_around(frame), "eth1")
        assert cloud.receive("ovs") == plain_back(packet)


def corrupt(packet: Packet, **fields: int) -> Packet:
    """A copy of *packet* with other values in its IP header."""
    changed = packet.copy()
    for name, value in fields.items():
        setattr(changed[IP], name, value)
    return changed


TO_TARGET_DROPS: dict[str, list[Packet | bytes]] = {
    "plain_addresses": [
        Ether(dst="02:00:00:00:00:01", src="02:45:00:01:00:03") / TCP_PACKET,
        Ether(dst="02:47:00:00:00:01", src="02:00:00:00:00:02") / TCP_PACKET,
        Ether(dst="02:47:00:00:00:01", src="02:45:00:01:00:03") / Dot1Q(vlan=5) / TCP_PACKET,
    ],
    "plain_node": [plain(TCP_PACKET, zone=3), plain(TCP_PACKET, zone=0), plain(TCP_PACKET, zone=200)],
    "plain_endpoint": [plain(TCP_PACKET, endpoint=5), plain(TCP_PACKET, endpoint=65535)],
    "plain_target": [plain(TCP_PACKET, target=2), plain(TCP_PACKET, target=65534)],
    "plain_malformed": [
        bytes(plain(TCP_PACKET))[:-1],
        bytes(plain(TCP_PACKET))[:20],
        plain(corrupt(TCP_PACKET, version=5)),
        plain(corrupt(TCP_PACKET, ihl=4)),
        plain(corrupt(TCP_PACKET, len=19)),
        plain(ARP()),
        bytes(plain(UDP6_PACKET))[:-1],
    ],
    "plain_too_large": [plain(TCP_PACKET / Raw(bytes(8501 - 40))), plain(UDP6_PACKET / Raw(bytes(8448)))],
}


@pytest.mark.parametrize("reason", TO_TARGET_DROPS)
def test_what_cannot_go_to_a_target_is_dropped_and_counted(cloud: Cloud, reason: str) -> None:
    frames = TO_TARGET_DROPS[reason]
    with cloud.counts(**{reason: len(frames)}):
        for frame in frames:
            cloud.send(frame)
    assert all(cloud.silent(interface) for interface in cloud.sockets)


def test_packets_not_yet_segmented_are_dropped_and_counted(cloud: Cloud) -> None:
    """A sender with TSO hands over one packet of several segments, by a virtio header (linux/virtio_net.h)."""

    def build() -> socket.socket:
        opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        opened.setsockopt(263, 15, 1)  # SOL_PACKET, PACKET_VNET_HDR
        opened.bind(("ovs", 0))
        return opened

    packet = TCP_PACKET / Raw(bytes(4000))
    needs_checksum, tcp_v4, header_length, segment = 1, 1, 54, 1000
    virtio = struct.pack("=2B4H", needs_checksum, tcp_v4, header_length, segment, 34, 16)
    run(cloud.ovs, "ethtool -K ovs tx on tso on gso on")
    try:
        with in_namespace(cloud.ovs, build) as sender, cloud.counts(plain_segments=1):
            sender.send(virtio + bytes(plain(packet)))
    finally:
        run(cloud.ovs, "ethtool -K ovs tx off")
    assert cloud.silent("eth1")


# -- the resetter --------------------

RESETTER = 0xFFFF
TCP4, TCP6 = {"sport": 40000, "dport": 80}, {"sport": 5000, "dport": 53}
SEGMENTS: dict[str, tuple[Packet, Packet]] = {
    "data of a connection": (
        OUT / TCP(**TCP4, flags="PA", seq=9, ack=0xFEDCBA98) / Raw(b"GET /"),
        BACK / TCP(sport=80, dport=40000, flags="R", seq=0xFEDCBA98),
    ),
    "the acknowledgement of number 0": (
        OUT / TCP(**TCP4, flags="A", seq=9, ack=0),
        BACK / TCP(sport=80, dport=40000, flags="R", seq=0),
    ),
    "SYN": (TCP_PACKET, BACK / TCP(sport=80, dport=40000, flags="RA", ack=10)),
    "SYN and ACK": (
        BACK / TCP(sport=80, dport=40000, flags="SA", seq=5, ack=10),
        OUT / TCP(**TCP4, flags="R", seq=10),
    ),
    "SYN with data, before the numbers begin anew": (
        OUT / TCP(**TCP4, flags="S", seq=0xFFFFFFFE, options=[("MSS", 1460)]) / Raw(b"odd"),
        BACK / TCP(sport=80, dport=40000, flags="RA", ack=2),
    ),
    "FIN without ACK": (
        OUT / TCP(**TCP4, flags="F", seq=9) / Raw(b"x"),
        BACK / TCP(sport=80, dport=40000, flags="RA", ack=11),
    ),
    "neither flag": (OUT / TCP(**TCP4, flags="", seq=9), BACK / TCP(sport=80, dport=40000, flags="RA", ack=9)),
    "all other fields": (
        IP(src=OUT.src, dst=OUT.dst, tos=0xB8, ttl=3, id=77, options=[IPOption_NOP()] * 40)
        / TCP(**TCP4, flags="PAUEC", seq=9, ack=5, window=99, urgptr=1, options=[("NOP", None)] * 40)
        / Raw(b"x"),
        BACK / TCP(sport=80, dport=40000, flags="R", seq=5),
    ),
    "as large as can be": (
        OUT / TCP(**TCP4, flags="A", seq=9, ack=5) / Raw(bytes(8460)),
        BACK / TCP(sport=80, dport=40000, flags="R", seq=5),
    ),
    "ipv6": (OUT6 / TCP(**TCP6, flags="S", seq=9) / Raw(b"x"), BACK6 / TCP(sport=53, dport=5000, flags="RA", ack=11)),
    "ipv6 behind extensions": (
        OUT6 / IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() / TCP(**TCP6, flags="A", seq=9, ack=5) / Raw(bytes(4000)),
        BACK6 / TCP(sport=53, dport=5000, flags="R", seq=5),
    ),
}


def as_sent_by_the_resetter(answer: Packet) -> Packet:
    """The whole packet, with scapy's checksums: an atomic datagram with a full time to live and an empty window."""
    whole = answer.copy()
    whole[TCP].window = 0
    if whole.version == 4:
        whole.flags, whole.id, whole.ttl = "DF", 0, 64
    else:
        whole.hlim = 64
    return whole


@pytest.mark.parametrize("name", SEGMENTS)
def test_the_resetter_answers_a_segment_with_its_reset_byte_by_byte(cloud: Cloud, name: str) -> None:
    segment, answer = SEGMENTS[name]
    before = cloud.endpoint.target_counters()
    with cloud.counts(reset=1):
        cloud.send(plain(segment, endpoint=4, target=RESETTER, zone=2))
        assert cloud.receive("ovs") == plain_back(as_sent_by_the_resetter(answer), endpoint=4, target=RESETTER)
    assert cloud.silent("ovs")
    assert cloud.endpoint.target_counters() == before


def test_the_resetter_does_not_answer_ethernet_padding(cloud: Cloud) -> None:
    segment, answer = SEGMENTS["neither flag"]
    cloud.send(bytes(plain(segment, target=RESETTER)) + bytes(6))
    assert cloud.receive("ovs") == plain_back(as_sent_by_the_resetter(answer), target=RESETTER)


NO_RESET: dict[str, dict[str, Packet]] = {
    "reset_of_reset": {
        "IPv4": OUT / TCP(**TCP4, flags="R", seq=9),
        "with ACK": OUT / TCP(**TCP4, flags="RA", seq=9, ack=5),
        "IPv6": OUT6 / TCP(**TCP6, flags="R", seq=9),
    },
    "reset_not_tcp": {
        "UDP": OUT / UDP(sport=1, dport=2),
        "an ICMP error about TCP": ICMP_ERROR,
        "first fragment": IP(src=OUT.src, dst=OUT.dst, flags="MF") / TCP(**TCP4) / Raw(bytes(64)),
        "later fragment": IP(src=OUT.src, dst=OUT.dst, frag=9, proto=6) / Raw(bytes(64)),
        "header cut short": IP(src=OUT.src, dst=OUT.dst, proto=6) / Raw(bytes(TCP(**TCP4))[:19]),
        "options cut short": OUT / TCP(**TCP4, dataofs=6),
        "offset within the header": OUT / TCP(**TCP4, dataofs=4),
        "IPv6 UDP": UDP6_PACKET,
        "IPv6 fragment": OUT6 / IPv6ExtHdrFragment(m=1, nh=6) / Raw(bytes(64)),
    },
    "plain_malformed": {"longer than the frame": corrupt(TCP_PACKET, len=41)},
    "plain_too_large": {"by a byte": TCP_PACKET / Raw(bytes(8461))},
}


@pytest.mark.parametrize(("reason", "case"), [(reason, case) for reason, cases in NO_RESET.items() for case in cases])
def test_what_has_no_reset_is_dropped_and_counted(cloud: Cloud, reason: str, case: str) -> None:
    with cloud.counts(**{reason: 1}):
        cloud.send(plain(NO_RESET[reason][case], target=RESETTER))
    assert all(cloud.silent(interface) for interface in cloud.sockets)


def test_the_resetter_serves_known_endpoints_and_nodes_only(cloud: Cloud) -> None:
    with cloud.counts(plain_endpoint=1, plain_node=1):
        cloud.send(plain(TCP_PACKET, endpoint=5, target=RESETTER))
        cloud.send(plain(TCP_PACKET, zone=3, target=RESETTER))
    assert cloud.silent("ovs")


# -- back from the target --------------------

Change = Callable[[Any], Any]


def set_outer(**fields: Any) -> Change:
    def change(frame: Any) -> Any:
        for name, value in fields.items():
            setattr(frame[IP], name, value)
        del frame[IP].chksum
        return frame

    return change


def set_bytes(offset: int, value: bytes) -> Change:
    """Overwrite bytes of the frame. GENEVE's header begins at 42, its options at 50, the inner packet at 82."""

    def change(frame: Any) -> bytes:
        data = bytearray(bytes(frame))
        data[offset : offset + len(value)] = value
        return bytes(data)

    return change


def swap_options(frame: Any) -> bytes:
    data = bytes(frame)
    return data[:50] + data[62:74] + data[50:62] + data[74:]


def inner_longer(frame: Any) -> Any:
    frame[IP].len = frame[UDP].len = frame[IP].chksum = None
    return frame / Raw(b"more")


def too_large(frame: Any) -> bytes:
    """The packet grown beyond the MTU by the appliance, all lengths right."""
    inner = TCP_PACKET / Raw(bytes(8501 - 40))
    frame[IP].len = frame[UDP].len = frame[IP].chksum = None
    frame[GENEVE].remove_payload()
    return bytes(frame / inner)


def with_options(frame: Any) -> Any:
    frame[IP].options = [IPOption_NOP()] * 4
    frame[IP].ihl = frame[IP].len = frame[IP].chksum = None
    return frame


def fragment(frame: Any) -> Any:
    frame[IP].flags = "MF"
    del frame[IP].chksum
    return frame


RETURN_DROPS: dict[str, dict[str, Change]] = {
    "return_malformed": {
        "cut in the header": lambda frame: bytes(frame)[:60],
        "cut in the inner packet": lambda frame: bytes(frame)[:-1],
        "inner packet shorter than the frame": inner_longer,
        "UDP length": set_bytes(38, b"\x00\x51"),
        "IP length": set_outer(len=107),
    },
    "return_fragment": {"more follow": fragment, "a later one": set_outer(frag=8, flags=0)},
    "return_options": {"no-ops": with_options},
    "return_checksum": {"wrong": set_bytes(24, b"\xff\xff")},
    "return_ttl": {"zero": set_outer(ttl=0)},
    "return_target": {"nobody's address": set_outer(src="10.100.0.99"), "another's": set_outer(src="10.100.1.21")},
    "return_node": {"no node": set_outer(dst="10.100.0.99")},
    "return_header": {
        "version 1": set_bytes(42, b"\x48"),
        "option length 7": set_bytes(42, b"\x07"),
        "no options": set_bytes(42, b"\x00"),
        "control packet": set_bytes(43, b"\x80"),
        "critical options": set_bytes(43, b"\x40"),
        "VNI 1": set_bytes(48, b"\x01"),
        "reserved byte": set_bytes(49, b"\x01"),
    },
    "return_protocol": {
        "IPv6 for IPv4": set_bytes(44, b"\x86\xdd"),
        "Ethernet": set_bytes(44, b"\x65\x58"),
        "inner version": set_bytes(82, b"\x65"),
    },
    "return_tlv": {
        "class": set_bytes(51, b"\x09"),
        "type": set_bytes(52, b"\x04"),
        "length": set_bytes(53, b"\x01"),
        "reserved bits": set_bytes(53, b"\x22"),
        "critical cookie": set_bytes(76, b"\x83"),
        "order": swap_options,
        "attachment": set_bytes(73, b"\x01"),
        "cookie's length": set_bytes(77, b"\x02"),
    },
    "return_endpoint": {"unknown": set_bytes(61, b"\x00")},
    "return_too_large": {"grown": too_large},
    "return_port": {"another of the range": set_bytes(34, b"\xff\xff"), "6081": set_bytes(34, b"\x17\xc1")},
    "return_cookie": {
        "forged": set_bytes(78, b"\x00\x00\x00\x00"),
        "another endpoint's": set_bytes(54, struct.pack(">Q", ENDPOINTS[4])),
        "another node's": set_outer(dst=str(NODES[2])),
        "another flow's": set_bytes(102, b"\x00\x01"),
    },
}
CASES = [(reason, case) for reason, cases in RETURN_DROPS.items() for case in cases]


@pytest.mark.parametrize(("reason", "case"), CASES)
def test_what_was_not_sent_like_this_is_dropped_and_counted(cloud: Cloud, reason: str, case: str) -> None:
    frame = turned_around(cloud.to_target(TCP_PACKET))
    with cloud.counts(**{reason: 1}):
        cloud.send(RETURN_DROPS[reason][case](frame), "eth1")
    assert cloud.silent("ovs")


def test_a_target_cannot_return_what_another_was_given(cloud: Cloud) -> None:
    frame = turned_around(cloud.to_target(TCP_PACKET, target=258))
    frame[IP].src = str(ADDRESSES[1])
    del frame[IP].chksum
    with cloud.counts(return_cookie=1):
        cloud.send(frame, "eth1")
    assert cloud.silent("ovs")


@pytest.mark.parametrize(
    "change",
    [set_outer(ttl=1), set_outer(ttl=255, id=77, flags=0, tos=0xB8), set_bytes(40, b"\xde\xad")],
    ids=["TTL 1", "other outer fields", "a wrong UDP checksum"],
)
def test_what_appliances_may_change_is_accepted(cloud: Cloud, change: Change) -> None:
    frame = turned_around(cloud.to_target(TCP_PACKET))
    with cloud.counts(decapsulated=1):
        cloud.send(change(frame), "eth1")
        assert cloud.receive("ovs") == plain_back(TCP_PACKET)


def test_an_appliance_may_answer_in_the_reverse_direction(cloud: Cloud) -> None:
    """gwlbtun's flow key is symmetric: an appliance that resets or blocks sends its own packet to the sender."""
    frame = turned_around(cloud.to_target(TCP_PACKET))
    reset = IP(src="10.250.0.52", dst="10.200.0.20") / TCP(sport=80, dport=40000, flags="RA")
    answer = Ether(bytes(frame)[:82] + bytes(reset))
    answer[IP].len = answer[UDP].len = answer[IP].chksum = None
    cloud.send(answer, "eth1")
    assert cloud.receive("ovs") == plain_back(reset)


def test_another_process_finds_the_running_endpoint(cloud: Cloud) -> None:
    cloud.to_target(TCP_PACKET)
    with GeneveEndpoint.find(cloud.gwlb) as found:
        assert found.counters() == cloud.endpoint.counters()
        assert found.target_counters() == cloud.endpoint.target_counters()


def test_traffic_is_counted_by_target_and_direction(cloud: Cloud) -> None:
    before = cloud.endpoint.target_counters()[258]
    frame = cloud.to_target(TCP_PACKET, target=258)
    cloud.to_target(UDP6_PACKET, target=258)
    cloud.send(turned_around(frame), "eth258")
    cloud.receive("ovs")
    after = cloud.endpoint.target_counters()[258]
    grown = TargetTraffic(
        *(getattr(after, name) - getattr(before, name) for name in TargetTraffic.__dataclass_fields__)
    )
    assert grown == TargetTraffic(2, len(TCP_PACKET) + len(UDP6_PACKET), 1, len(TCP_PACKET))


# -- with the kernel and other programs --------------------


def test_health_checks_and_arp_are_the_kernels(cloud: Cloud) -> None:
    def connect() -> tuple[str, int]:
        with socket.create_connection((str(ADDRESSES[1]), 80), timeout=5) as connection:
            address: tuple[str, int] = connection.getsockname()
            return address

    run(cloud.appliances, f"ip route add {NODES[1]}/32 dev eth1")
    before = cloud.endpoint.counters()
    server = in_namespace(cloud.appliances, lambda: socket.create_server((str(ADDRESSES[1]), 80)))
    try:
        with server:
            assert in_namespace(cloud.gwlb, connect)[0] == str(NODES[1])
    finally:
        run(cloud.appliances, f"ip route del {NODES[1]}/32 dev eth1")
    after = cloud.endpoint.counters()
    assert after.pop("passed") - before.pop("passed") >= 2  # the answers to ARP and SYN, at least
    assert after == before


@pytest.fixture
def public_directory() -> Iterator[Path]:
    """A directory that everybody may read."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


def test_tshark_reads_what_the_endpoint_sends(cloud: Cloud, public_directory: Path) -> None:
    """With our dissector of AWS's options, and Wireshark's own of all else."""
    frames = [Ether(cloud.to_target(packet)) for packet, _, _ in FLOWS.values()]
    capture, dissector = public_directory / "geneve.pcap", public_directory / DISSECTOR.name
    wrpcap(str(capture), frames)
    shutil.copyfile(DISSECTOR, dissector)
    fields = ["ip.checksum.status", "geneve.vni", "geneve.option.class", "geneve.option.type", "geneve.proto_type"]
    fields += ["gwlb.endpoint", "gwlb.attachment", "gwlb.cookie", "_ws.malformed"]
    command = ["tshark", "-r", str(capture), "-o", "ip.check_checksum:TRUE", "-T", "fields"]
    command += ["-X", f"lua_script:{dissector}", *(argument for field in fields for argument in ("-e", field))]
    # Wireshark 4.4 runs no scripts for root.
    nobody = {
        "user": "nobody",
        "group": "nogroup",
        "extra_groups": (),
        "env": os.environ | {"HOME": str(public_directory)},
    }
    result = subprocess.run(command, capture_output=True, text=True, cwd=public_directory, **nobody)  # type: ignore[call-overload]
    assert result.returncode == 0, result.stderr
    lines = [line.split("\t") for line in result.stdout.splitlines()]
    assert len(lines) == len(frames)
    for line, (packet, ends, ip_protocol) in zip(lines, FLOWS.values(), strict=True):
        status, vni, classes, types, protocol, endpoint, attachment, flow_cookie, malformed = line
        assert status.split(",")[0] == "1"  # good
        assert int(vni, 0) == 0
        assert [int(number, 0) for number in classes.split(",")] == [0x0108] * 3
        assert [int(number, 0) & 0x7F for number in types.split(",")] == [1, 2, 3]
        assert int(protocol, 0) == (0x86DD if packet.version == 6 else 0x0800)
        assert endpoint == f"vpce-{ENDPOINTS[3]:017x}"
        assert int(attachment, 0) == 0
        assert int(flow_cookie, 0) == cookie(ends, ip_protocol)
        assert "GENEVE" not in malformed  # some inner packets are cut on purpose


@pytest.fixture
def hairpin(cloud: Cloud) -> Iterator[Cloud]:
    """Appliance 1 is Linux with iptables (aws-samples/aws-gateway-load-balancer-code-samples' walk-through)."""
    me, node = ADDRESSES[1], NODES[1]
    tried = subprocess.run(
        ["nsenter", "-t", str(cloud.appliances), "--net", "iptables", "-t", "nat", "-L"], capture_output=True, text=True
    )
    if tried.returncode:
        pytest.skip(f"iptables cannot do NAT here: {tried.stderr.strip()}")
    run(
        cloud.appliances,
        "echo 1 > /proc/sys/net/ipv4/ip_forward",
        f"ip route add {node}/32 dev eth1",
        f"iptables -t nat -A PREROUTING -p udp -s {node} -d {me} -j DNAT --to-destination {node}:6081",
        f"iptables -t nat -A POSTROUTING -p udp --dport 6081 -s {node} -d {node} -j MASQUERADE",
    )
    yield cloud
    run(
        cloud.appliances,
        "iptables -t nat -F",
        f"ip route del {node}/32 dev eth1",
        "echo 0 > /proc/sys/net/ipv4/ip_forward",
    )


#: Flows that no test before has sent: iptables translates no flow that conntrack knew before the rules.
SEGMENT = IP(src="10.200.0.20", dst="10.250.0.52") / TCP(sport=41000, dport=80, flags="S")
ANSWER = IP(src="10.250.0.52", dst="10.200.0.20") / TCP(sport=80, dport=41000, flags="SA")
DATAGRAM6 = IPv6(src="2001:db8::1", dst="2001:db8:1::2") / UDP(sport=5001, dport=53) / Raw(b"query")


@pytest.mark.parametrize("size", [40, 8500])
def test_the_iptables_hairpin_is_an_appliance(hairpin: Cloud, size: int) -> None:
    packet = SEGMENT / Raw(bytes(size - 40)) if size > 40 else SEGMENT
    for each in (packet, ANSWER, DATAGRAM6):
        hairpin.send(plain(each))
        assert hairpin.receive("ovs") == plain_back(each)


SECOND_INSPECTION = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

/* What comes back to endpoint 3 goes on to endpoint 4, as a route would send it. */
SEC("classifier") int onward(struct __sk_buff *skb)
{
	__u8 addresses[12] = {0x02, 0x47, 0, 0, 0, 1, 0x02, 0x45, 0, 1, 0, 4}, endpoint;

	if (bpf_skb_load_bytes(skb, 5, &endpoint, 1) || endpoint != 3)
		return 0;
	bpf_skb_store_bytes(skb, 0, addresses, sizeof(addresses), 0);
	return bpf_redirect(skb->ifindex, 0);
}
char LICENSE[] SEC("license") = "GPL";
"""


def compile_c(source: str, folder: Path) -> Path:
    (folder / "program.c").write_text(source)
    command = ["clang", "-target", "bpf", "-O2", "-g", f"-I/usr/include/{platform.machine()}-linux-gnu"]
    subprocess.run([*command, "-c", folder / "program.c", "-o", folder / "program.o"], check=True)
    return folder / "program.o"


def test_a_packet_that_never_leaves_the_kernel_is_inspected_twice(hairpin: Cloud, tmp_path: Path) -> None:
    """As on OVS's kernel datapath: what the first encapsulation marked on the packet must not forbid the second."""
    compiled = compile_c(SECOND_INSPECTION, tmp_path)

    def attach() -> None:
        with libbpf.Object(compiled) as loaded:
            libbpf.attach(loaded.program("onward"), interface_index("ovs"))

    in_namespace(hairpin.ovs, attach)
    try:
        with hairpin.counts(encapsulated=2, decapsulated=2):
            hairpin.send(plain(SEGMENT))
            # The socket sees the steps before it as well; without the last one this waits in vain.
            while hairpin.receive("ovs") != plain_back(SEGMENT, endpoint=4):
                pass
    finally:
        run(hairpin.ovs, "tc qdisc del dev ovs clsact")


def test_the_program_goes_with_the_namespace() -> None:
    with process_of_namespace() as pid:
        run(pid, "ip link add plain type veth peer name ovs")
        with GeneveEndpoint.load(pid, EndpointConfiguration({}, {}, {})) as endpoint:
            number = in_namespace(pid, lambda: program_id("plain"))
            assert endpoint.counters()["encapsulated"] == 0
        assert program_exists(number)
    deadline = time.monotonic() + 10
    while program_exists(number):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def program_id(interface: str) -> int:
    """The id of the program on an interface of this thread's namespace."""
    program = libbpf.attached_program(interface_index(interface))
    info = libbpf.ProgramInfo()
    libbpf.query(program, info)
    os.close(program)
    number: int = info.id
    return number


def program_exists(number: int) -> bool:
    descriptor = libbpf.library().bpf_prog_get_fd_by_id(number)
    if descriptor < 0:
        return False
    os.close(descriptor)
    return True


OUT_OF_BOUNDS = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

SEC("classifier") int out_of_bounds(struct __sk_buff *skb)
{
	return *(volatile char *)(long)skb->data;
}
char LICENSE[] SEC("license") = "GPL";
"""


def test_what_the_kernel_refuses_says_why(tmp_path: Path) -> None:
    refused = compile_c(OUT_OF_BOUNDS, tmp_path)
    with pytest.raises(libbpf.BpfError) as raised:
        libbpf.Object(refused)
    assert str(raised.value).startswith(f"BPF: load {refused}: Permission denied | invalid access to packet")
    with pytest.raises(libbpf.BpfError) as raised:
        libbpf.Object(tmp_path / "none.o")
    assert str(raised.value).startswith(f"BPF: open {tmp_path}/none.o: No such file or directory")
    with libbpf.Object(compile_program(SOURCE)) as loaded, pytest.raises(libbpf.BpfError) as raised:
        loaded.program("none")
    assert str(raised.value) == "BPF: program none: No such file or directory"


def test_errors_say_what_and_where(cloud: Cloud) -> None:
    address, mac = IPv4Address("10.100.0.9"), "02:00:00:00:00:09"
    with pytest.raises(MachineError, match=r"^interface fw9: there is none in this network namespace$"):
        cloud.endpoint.set_target(9, Target(address, mac, "fw9"))
    with pytest.raises(MachineError, match=r"^target 4000: the GENEVE endpoint holds 512$"):
        cloud.endpoint.set_target(4000, Target(address, mac, "fw1"))
    with pytest.raises(MachineError, match=r"^interface plain: there is none in this network namespace$"):
        GeneveEndpoint.find(cloud.ovs)
