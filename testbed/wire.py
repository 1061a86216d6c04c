"""GENEVE as it is on a firewall's link: captured there, and taken apart by scapy, which knows nothing of our code."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from types import TracebackType

from testbed.namespace import in_namespace

ETH_P_ALL = 0x0003
SOL_PACKET, PACKET_STATISTICS = 263, 6  # linux/if_packet.h
SO_RCVBUFFORCE, SO_TIMESTAMPNS = 33, 35  # asm-generic/socket.h; Python's socket module does not name them
#: What a tap holds until it is read, in bytes, and how much of a frame is kept: all headers, inner ones too.
CAPTURE_BUFFER = 32 << 20
SNAP_LENGTH = 256
AWS_CLASS = 0x0108


@dataclass(frozen=True)
class Option:
    """A GENEVE option (RFC 8926, section 3.5): ``length`` of ``data`` is in bytes."""

    option_class: int
    type: int
    data: bytes


@dataclass(frozen=True)
class Frame:
    """A captured GENEVE frame: outer addresses and ports, header, and whose packet it carries.

    ``inner_ports`` are (0, 0) where the inner packet has none.
    """

    source: IPv4Address
    destination: IPv4Address
    source_port: int
    destination_port: int
    vni: int
    protocol: int
    options: tuple[Option, ...]
    inner_source: IPv4Address
    inner_destination: IPv4Address
    inner_protocol: int
    inner_ports: tuple[int, int]

    @property
    def cookie(self) -> int | None:
        """The flow cookie, AWS's option of type 3; None where there is none."""
        return next((int.from_bytes(option.data, "big") for option in self.options if option.type == 3), None)

    @property
    def flow(self) -> frozenset[tuple[IPv4Address, int] | int]:
        """The inner packet's flow, the same for both directions."""
        ends = zip((self.inner_source, self.inner_destination), self.inner_ports, strict=True)
        return frozenset([*ends, self.inner_protocol])

    @property
    def endpoint(self) -> int | None:
        """The endpoint's id, AWS's option of type 1; None where there is none."""
        return next((int.from_bytes(option.data, "big") for option in self.options if option.type == 1), None)


def parse_frame(frame: bytes) -> Frame | None:
    """Return what scapy finds in an Ethernet frame; None where it is no GENEVE with an IPv4 packet inside."""
    from scapy.contrib.geneve import GENEVE, GeneveOptions
    from scapy.layers.inet import IP, UDP
    from scapy.layers.l2 import Ether

    packet = Ether(frame)
    if GENEVE not in packet or IP not in packet[GENEVE]:
        return None
    geneve = packet[GENEVE]
    inner = geneve[IP]
    return Frame(
        IPv4Address(packet[IP].src),
        IPv4Address(packet[IP].dst),
        packet[UDP].sport,
        packet[UDP].dport,
        geneve.vni,
        geneve.proto,
        tuple(
            Option(option.classid, option.type, bytes(option.data))
            for option in geneve.options
            if isinstance(option, GeneveOptions)
        ),
        IPv4Address(inner.src),
        IPv4Address(inner.dst),
        inner.proto,
        (inner.payload.sport, inner.payload.dport) if inner.proto in (6, 17) else (0, 0),
    )


class Tap:
    """Captures the frames, of both directions, of *interface* in the network namespace of process *pid*.

    The kernel holds the first frames until they are read; those beyond its buffer are not captured.
    """

    def __init__(self, pid: int, interface: str) -> None:
        self._socket = in_namespace(pid, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
        self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, CAPTURE_BUFFER)
        self._socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self._socket.bind((interface, ETH_P_ALL))
        self._socket.setblocking(False)

    def read(self) -> list[tuple[float, bytes]]:
        """Return (seconds since the epoch, first bytes) of each frame since the last call."""
        frames = []
        with contextlib.suppress(BlockingIOError):
            while True:
                data, ancillary, _, _ = self._socket.recvmsg(SNAP_LENGTH, 64)
                seconds, nanoseconds = struct.unpack_from("qq", ancillary[0][2])
                frames.append((seconds + nanoseconds / 1e9, data))
        return frames

    def lost(self) -> int:
        """Return the frames since the last call that the buffer had no room for."""
        return int(struct.unpack("II", self._socket.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))[1])

    def __enter__(self) -> Tap:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()


@dataclass
class Passed:
    """What passed of a flow in one direction; ``bytes`` of inner IP packets, ``last`` in seconds since the epoch."""

    packets: int = 0
    bytes: int = 0
    last: float = 0.0


class Meter:
    """Counts what each of *appliances* sends back on its link, for the block: the process id of the load balancer's
    namespace, the interface there, and the appliance's address.

    ``passed`` is by flow, (source, destination, source port, destination port), and is complete when the block ends.
    For AWS's frames with TCP or UDP over IPv4 without options; ``lost`` are frames that came too fast.
    """

    def __init__(self, appliances: Iterable[tuple[int, str, IPv4Address]]) -> None:
        self.passed: dict[tuple[IPv4Address, IPv4Address, int, int], Passed] = {}
        self.lost = 0
        self._taps = [(Tap(pid, interface), address.packed) for pid, interface, address in appliances]
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="meter", daemon=True)

    def __enter__(self) -> Meter:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        for tap, _ in self._taps:
            self.lost += tap.lost()
            tap.__exit__(kind, error, trace)

    def _run(self) -> None:
        flows: dict[bytes, Passed] = {}
        ending = False
        while not ending:
            ending = self._ended.wait(0.02)
            for tap, address in self._taps:
                for moment, frame in tap.read():
                    if len(frame) >= 106 and frame[26:30] == address and frame[36:38] == b"\x17\xc1":
                        flow = flows.setdefault(frame[94:106], Passed())
                        flow.packets += 1
                        flow.bytes += frame[84] << 8 | frame[85]
                        flow.last = moment
        for key, flow in flows.items():
            source, destination, *ports = struct.unpack("!4s4sHH", key)
            self.passed[IPv4Address(source), IPv4Address(destination), ports[0], ports[1]] = flow


def pcap(frames: Sequence[tuple[float, bytes]]) -> bytes:
    """Return a capture file of (seconds since the epoch, frame) that Wireshark opens (libpcap's format, Ethernet)."""
    records = [struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, SNAP_LENGTH, 1)]
    for moment, frame in sorted(frames):
        seconds, fraction = divmod(moment, 1)
        # The frame may have been cut short; its IP header knows how long it was.
        length = max(len(frame), 14 + int.from_bytes(frame[16:18], "big"))
        records += [struct.pack("<IIII", int(seconds), int(fraction * 1e6), len(frame), length), frame]
    return b"".join(records)
