"""GENEVE as it is on a firewall's link: captured there, and taken apart by scapy, which knows nothing of our code."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from types import TracebackType

from testbed.namespace import in_namespace

ETH_P_ALL = 0x0003
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

    def __enter__(self) -> Tap:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()


def pcap(frames: Sequence[tuple[float, bytes]]) -> bytes:
    """Return a capture file of (seconds since the epoch, frame) that Wireshark opens (libpcap's format, Ethernet)."""
    records = [struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, SNAP_LENGTH, 1)]
    for moment, frame in sorted(frames):
        seconds, fraction = divmod(moment, 1)
        # The frame may have been cut short; its IP header knows how long it was.
        length = max(len(frame), 14 + int.from_bytes(frame[16:18], "big"))
        records += [struct.pack("<IIII", int(seconds), int(fraction * 1e6), len(frame), length), frame]
    return b"".join(records)
