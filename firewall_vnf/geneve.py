"""AWS's GENEVE frame: a Gateway Load Balancer's header around an IP packet, parsed and turned around.

::

    outer Ethernet   0..14
    outer IPv4      14..34     never with options in practice; accepted with them
    outer UDP       34..42     source: the flow's entropy port; destination: 6081
    GENEVE base     42..50     version 0, option length 8 (x 4 bytes), IPv4 0x0800 or IPv6 0x86dd, VNI 0
    option 1        50..62     class 0x0108 type 1: id of the GWLB endpoint, 64 bits
    option 2        62..74     class 0x0108 type 2: attachment id, 64 bits
    option 3        74..82     class 0x0108 type 3: flow cookie, 32 bits
    inner packet    82..       no inner Ethernet

Facts: AWS GWLB guide, target groups ("Option Class 0x0108"); RFC 8926; aws-samples' gwlbtun
(GeneveStructs.h): all three options, in this order, of fixed length. An appliance returns the frame with
outer addresses swapped and ports *not* swapped.

Why parsing is awkward: whoever reaches port 6081 can send anything. :func:`parse_hostile_frame` reads only
inside the frame, and raises :class:`Malformed` and nothing else. The outer UDP checksum is not verified: the
load balancer sends 0, and RFC 8926 permits that.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

PORT = 6081
INNER = 82  # offset of the inner packet, when the outer IPv4 header has no options
IPV4, IPV6 = 0x0800, 0x86DD

#: Base header: version 0 and option length 8; control flag and reserved bits; protocol; VNI; reserved.
BASE_AND_FIRST_OPTION = bytes.fromhex("0800 0800 00000000 01080102")
SECOND_OPTION, THIRD_OPTION = 0x01080202, 0x01080301

_OUTER = struct.Struct("!12xHBxH2xHxB10x")
_UDP = struct.Struct("!2xHH2x")
_GENEVE = struct.Struct("!BBHI I8x I8x I4x")
_ENDPOINT = struct.Struct("!Q")
_MACS = struct.Struct("!6s6s")
_ADDRESSES = struct.Struct("!4s4s")
_IPV4 = struct.Struct("!BBHHHBBH4s4s")


class Malformed(Exception):
    """Hostile or broken bytes; ``args[0]`` is the name of the counter that says what is wrong with them."""


class Envelope(NamedTuple):
    """Where the inner packet lies in the frame (offsets in bytes), and what the GENEVE header says about it."""

    inner: int
    end: int
    protocol: int
    endpoint: int


def parse_hostile_frame(frame: bytearray, length: int) -> Envelope:
    """Parse the outer headers of ``frame[:length]``. Raises :class:`Malformed`, nothing else."""
    if length < 34:
        raise Malformed("geneve_outer_ip")
    ethertype, version, total, fragment, protocol = _OUTER.unpack_from(frame)
    header = (version & 0x0F) * 4
    end = 14 + total
    if ethertype != IPV4 or version >> 4 != 4 or header < 20 or fragment & 0xBFFF or protocol != 17 or end > length:
        raise Malformed("geneve_outer_ip")
    udp = 14 + header
    if end < udp + 8:
        raise Malformed("geneve_outer_udp")
    port, udp_length = _UDP.unpack_from(frame, udp)
    if port != PORT or udp_length != end - udp:
        raise Malformed("geneve_outer_udp")
    geneve = udp + 8
    inner = geneve + 40
    if end < inner:
        raise Malformed("geneve_header")
    version, flags, protocol, vni, first, second, third = _GENEVE.unpack_from(frame, geneve)
    if version != 8 or flags & 0x80 or vni >> 8:
        raise Malformed("geneve_header")
    # A packet with the critical flag must be understood whole (RFC 8926): it is, if the options are AWS's.
    if (first, second, third) != (0x01080102, SECOND_OPTION, THIRD_OPTION):
        raise Malformed("geneve_options")
    if protocol not in (IPV4, IPV6):
        raise Malformed("geneve_protocol")
    (endpoint,) = _ENDPOINT.unpack_from(frame, geneve + 12)
    return Envelope(inner, end, protocol, endpoint)


def turn_around(frame: bytearray) -> None:
    """Swap the outer MAC and IPv4 addresses in place. The outer header's checksum stays right: its sum is the same."""
    source, destination = _MACS.unpack_from(frame)
    _MACS.pack_into(frame, 0, destination, source)
    source, destination = _ADDRESSES.unpack_from(frame, 26)
    _ADDRESSES.pack_into(frame, 26, destination, source)


def reply(frame: bytearray, inner: int, packet: bytes) -> bytes:
    """Return a new frame that carries *packet* back in the header of *frame*, a frame as it was received.

    *inner* is the offset of the inner packet in *frame*; *packet* is of the same IP version. Ports, GENEVE header,
    options and cookie are the frame's; the UDP checksum is 0 (RFC 8926 permits it over IPv4).
    """
    payload = bytes(frame[inner - 40 : inner]) + packet
    source, destination = _ADDRESSES.unpack_from(frame, 26)
    total = 28 + len(payload)
    header = _IPV4.pack(0x45, frame[15], total, 0, 0x4000, 64, 17, 0, destination, source)
    header = _IPV4.pack(0x45, frame[15], total, 0, 0x4000, 64, 17, checksum(header), destination, source)
    ports = frame[inner - 48 : inner - 44]
    macs = frame[6:12] + frame[0:6]
    return b"".join((macs, b"\x08\x00", header, ports, struct.pack("!HH", total - 20, 0), payload))


def checksum(data: bytes) -> int:
    """Return the Internet checksum (RFC 1071) of *data*."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF


def endpoint_name(endpoint: int) -> str:
    """Return the id of an endpoint in AWS's form, ``vpce-`` and 17 hex digits (as gwlbtun prints it)."""
    return f"vpce-{endpoint:017x}"
