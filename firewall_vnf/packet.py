"""The inner packet: IPv4 with TCP, UDP or ICMP, from hostile bytes.

:func:`parse_hostile_packet` reads only between the offsets that it is given, and raises
:class:`~firewall_vnf.geneve.Malformed` and nothing else. It also makes the keys by which sessions are found:

=========  =============================================================================
TCP        source, destination, source port, destination port: 12 bytes as in the packet
UDP        the same and the protocol's number: 13 bytes
ICMP       source, destination, identifier, type, 0, protocol; the answer's has its own type
other      source, destination, 0, protocol
=========  =============================================================================

Inner checksums are not verified. PAN-OS verifies them, in hardware; here it would cost more than all the rest
together, and the receiving host verifies them anyway: what a wrong one could get past the firewall, the host
throws away. Bytes behind the inner packet's total length (padding) are ignored, and leave as they came.
"""

from __future__ import annotations

import struct

from firewall_vnf.geneve import Malformed

ICMP, TCP, UDP = 1, 6, 17
FIN, SYN, RST, PSH, ACK = 0x01, 0x02, 0x04, 0x08, 0x10
#: Of these three flags, a segment has at most one.
_POSSIBLE = frozenset((0, FIN, SYN, RST))

#: ICMP types of requests and replies to what answers them (RFC 792, RFC 950).
ICMP_ANSWERS = {8: 0, 0: 8, 13: 14, 14: 13, 15: 16, 16: 15, 17: 18, 18: 17}
ICMP_REPLIES = frozenset((0, 14, 16, 18))
ICMP_ERRORS = frozenset((3, 4, 5, 11, 12))

_IPV4 = struct.Struct("!BxH2xHxB2x8s")
_TCP = struct.Struct("!4sIIHH4x")
_UDP = struct.Struct("!4sH2x")
_ICMP = struct.Struct("!B3x2s2x")


class Packet:
    """An inner packet, as far as the engine looks at it.

    ``frame`` is the buffer that it lies in, which the next one overwrites; ``start`` (IPv4 header), ``transport``,
    ``payload`` and ``end`` are offsets into it. ``key`` is the packet's session key. ``sequence`` to ``window`` are set
    for TCP only, ``icmp_type`` for ICMP only; ``quoted`` is the key of the packet that an ICMP error quotes.
    ``fragment`` is true for a fragment, of which nothing behind the IPv4 header was parsed.
    """

    __slots__ = (
        "acknowledgement",
        "end",
        "flags",
        "fragment",
        "frame",
        "icmp_type",
        "key",
        "payload",
        "protocol",
        "quoted",
        "sequence",
        "start",
        "transport",
        "window",
    )

    def __init__(self, frame: bytearray, protocol: int, start: int, transport: int, end: int) -> None:
        self.frame = frame
        self.protocol = protocol
        self.start = start
        self.transport = self.payload = transport
        self.end = end
        self.sequence = self.acknowledgement = self.flags = self.window = 0
        self.icmp_type = -1
        self.key = b""
        self.quoted: bytes | None = None
        self.fragment = False

    def set_segment(self, key: bytes, sequence: int, acknowledgement: int, offset_flags: int, window: int) -> None:
        """Take the fields of a TCP header. Raises :class:`Malformed` when its length or its flags are impossible."""
        self.payload = self.transport + (offset_flags >> 12) * 4
        if self.payload < self.transport + 20 or self.payload > self.end:
            raise Malformed("flow_parse_l4_tcp")
        if not offset_flags & (SYN | RST | ACK) or offset_flags & (SYN | FIN | RST) not in _POSSIBLE:
            raise Malformed("flow_parse_l4_tcpflags")
        self.key = key
        self.sequence = sequence
        self.acknowledgement = acknowledgement
        self.flags = offset_flags & 0x3F
        self.window = window


def parse_hostile_packet(frame: bytearray, start: int, end: int) -> Packet:
    """Parse the IPv4 packet in ``frame[start:end]``. Raises :class:`Malformed`, nothing else."""
    if end - start < 20:
        raise Malformed("flow_parse_ip")
    version, total, fragment, protocol, addresses = _IPV4.unpack_from(frame, start)
    header = (version & 0x0F) * 4
    if version >> 4 != 4 or header < 20 or total < header or total > end - start or fragment & 0x8000:
        raise Malformed("flow_parse_ip")
    packet = Packet(frame, protocol, start, start + header, start + total)
    if fragment & 0x3FFF:
        packet.fragment = True
        return packet
    if protocol == TCP:
        _parse_tcp(packet, addresses)
    elif protocol == UDP:
        _parse_udp(packet, addresses)
    elif protocol == ICMP:
        _parse_icmp(packet, addresses)
    else:
        packet.key = addresses + bytes((0, 0, 0, 0, protocol))
    return packet


def reverse_key(key: bytes) -> bytes:
    """Return the key of the answer to a packet with *key*."""
    addresses = key[4:8] + key[0:4]
    if len(key) == 12 or key[12] == UDP:
        return addresses + key[10:12] + key[8:10] + key[12:]
    if key[12] == ICMP:
        return addresses + key[8:10] + bytes((ICMP_ANSWERS.get(key[10], key[10]), 0, ICMP))
    return addresses + key[8:]


def _parse_tcp(packet: Packet, addresses: bytes) -> None:
    transport = packet.transport
    if packet.end - transport < 20:
        raise Malformed("flow_parse_l4_tcp")
    ports, sequence, acknowledgement, offset_flags, window = _TCP.unpack_from(packet.frame, transport)
    packet.set_segment(addresses + ports, sequence, acknowledgement, offset_flags, window)


def _parse_udp(packet: Packet, addresses: bytes) -> None:
    transport = packet.transport
    if packet.end - transport < 8:
        raise Malformed("flow_parse_l4_udp")
    ports, length = _UDP.unpack_from(packet.frame, transport)
    if length < 8 or length > packet.end - transport:
        raise Malformed("flow_parse_l4_udp")
    packet.payload = transport + 8
    packet.key = addresses + ports + b"\x11"


def _parse_icmp(packet: Packet, addresses: bytes) -> None:
    frame, transport = packet.frame, packet.transport
    if packet.end - transport < 8:
        raise Malformed("flow_parse_l4_icmp")
    packet.icmp_type, identifier = _ICMP.unpack_from(frame, transport)
    packet.payload = transport + 8
    packet.key = _icmp_key(addresses, packet.icmp_type, identifier)
    if packet.icmp_type in ICMP_ERRORS:
        packet.quoted = _parse_quoted(frame, packet.payload, packet.end)
        if packet.quoted[:4] != addresses[4:]:  # an error goes to the sender of what it quotes
            raise Malformed("flow_parse_l4_icmp")


def _icmp_key(addresses: bytes, icmp_type: int, identifier: bytes) -> bytes:
    # Types without an answer have no identifier, and one key for all.
    return addresses + (identifier if icmp_type in ICMP_ANSWERS else b"\0\0") + bytes((icmp_type, 0, ICMP))


def _parse_quoted(frame: bytearray, start: int, end: int) -> bytes:
    """Return the key of the packet that an ICMP error quotes: its IPv4 header and at least 8 bytes more (RFC 792)."""
    if end - start < 28:
        raise Malformed("flow_parse_l4_icmp")
    version, _, fragment, protocol, addresses = _IPV4.unpack_from(frame, start)
    transport = start + (version & 0x0F) * 4
    if version >> 4 != 4 or transport < start + 20 or transport + 8 > end or fragment & 0x1FFF:
        raise Malformed("flow_parse_l4_icmp")
    ports = bytes(frame[transport : transport + 4])
    if protocol == TCP:
        return bytes(addresses + ports)
    if protocol == ICMP:
        return _icmp_key(addresses, *_ICMP.unpack_from(frame, transport))
    return bytes(addresses + (ports if protocol == UDP else b"\0\0\0\0") + bytes((protocol,)))
