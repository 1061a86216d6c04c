"""The inner packet: IPv4 or IPv6 with TCP, UDP or ICMP, from hostile bytes.

:func:`parse_hostile_packet` and :func:`parse_hostile_ipv6` read only between the offsets that they are given, and raise
:class:`~firewall_vnf.geneve.Malformed` and nothing else. They also make the keys by which sessions are found:

=========  ====================================================================================
TCP        source, destination, source port, destination port: 12 bytes as in the packet (IPv6: 36)
UDP        the same and the protocol's number: 13 bytes (IPv6: 37)
ICMP       source, destination, identifier, type, 0, protocol; the answer's has its own type
other      source, destination, 0, protocol
=========  ====================================================================================

Inner checksums are not verified. PAN-OS verifies them, in hardware; here it would cost more than all the rest
together, and the receiving host verifies them anyway: what a wrong one could get past the firewall, the host
throws away. Bytes behind the inner packet's total length (padding) are ignored, and leave as they came.
"""

from __future__ import annotations

import struct

from firewall_vnf.geneve import Malformed

ICMP, TCP, UDP, ICMPV6 = 1, 6, 17, 58
#: By the bytes of an address. The other version's is a protocol like any other.
ICMP_OF = {4: ICMP, 16: ICMPV6}
FIN, SYN, RST, PSH, ACK = 0x01, 0x02, 0x04, 0x08, 0x10
#: Of these three flags, a segment has at most one.
_POSSIBLE = frozenset((0, FIN, SYN, RST))

#: ICMP types of requests and replies to what answers them (RFC 792, RFC 950, RFC 4443), those of replies, and those of
#: errors, which quote a packet. The first two have ICMP's and ICMPv6's: none is in both.
ICMP_ANSWERS = {8: 0, 0: 8, 13: 14, 14: 13, 15: 16, 16: 15, 17: 18, 18: 17, 128: 129, 129: 128}
ICMP_REPLIES = frozenset((0, 14, 16, 18, 129))
ICMP_ERRORS = frozenset((3, 4, 5, 11, 12))
ICMPV6_ERRORS = frozenset((1, 2, 3, 4))
#: IPv6's extension headers that are skipped (RFC 8200): hop-by-hop options, routing, destination options. A chain of
#: more bytes than that is malformed.
HOP_BY_HOP, ROUTING, DESTINATION_OPTIONS, FRAGMENT = 0, 43, 60, 44
LONGEST_CHAIN = 256

_IPV4 = struct.Struct("!BxH2xHxB2x8s")
_IPV6 = struct.Struct("!B3xHBx32s")
_TCP = struct.Struct("!4sIIHH4x")
_UDP = struct.Struct("!4sH2x")
_ICMP = struct.Struct("!B3x2s2x")


class Packet:
    """An inner packet, as far as the engine looks at it.

    ``frame`` is the buffer that it lies in, which the next one overwrites; ``start`` (IP header), ``transport``,
    ``payload`` and ``end`` are offsets into it. ``key`` is the packet's session key. ``sequence`` to ``window`` are set
    for TCP only, ``icmp_type`` for ICMP only; ``quoted`` is the key of the packet that an ICMP error quotes.
    ``fragment`` is true for a fragment, of which nothing behind the IP header was parsed.
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
    else:
        _parse_transport(packet, addresses)
    return packet


def parse_hostile_ipv6(frame: bytearray, start: int, end: int) -> Packet:
    """Parse the IPv6 packet in ``frame[start:end]``. Raises :class:`Malformed`, nothing else."""
    if end - start < 40:
        raise Malformed("flow_parse_ip")
    version, length, following, addresses = _IPV6.unpack_from(frame, start)
    if version >> 4 != 6 or length > end - start - 40:
        raise Malformed("flow_parse_ip")
    end = start + 40 + length
    protocol, transport = _skip_extensions(frame, following, start + 40, end)
    packet = Packet(frame, protocol, start, transport, end)
    if protocol == FRAGMENT:
        packet.fragment = True
    else:
        _parse_transport(packet, addresses)
    return packet


def address_size(key: bytes) -> int:
    """Return the bytes of each address in *key*: 4 or 16."""
    return 4 if len(key) < 36 else 16


def split_key(key: bytes) -> tuple[bytes, bytes, bytes]:
    """Return source address, destination address and the rest, which begins with the ports where there are any."""
    size = address_size(key)
    return key[:size], key[size : 2 * size], key[2 * size :]


def protocol_of(key: bytes) -> int:
    """Return the IP protocol's number."""
    return TCP if len(key) in (12, 36) else key[-1]


def reverse_key(key: bytes) -> bytes:
    """Return the key of the answer to a packet with *key*."""
    if len(key) == 12:  # the usual one, TCP over IPv4, without detours
        return key[4:8] + key[0:4] + key[10:12] + key[8:10]
    source, destination, rest = split_key(key)
    addresses, protocol = destination + source, protocol_of(key)
    if protocol in (TCP, UDP):
        return addresses + rest[2:4] + rest[0:2] + rest[4:]
    if protocol == ICMP_OF[len(source)]:
        return addresses + rest[0:2] + bytes((ICMP_ANSWERS.get(rest[2], rest[2]), 0, protocol))
    return addresses + rest


def _skip_extensions(frame: bytearray, protocol: int, first: int, end: int) -> tuple[int, int]:
    """Return the protocol behind the extension headers from *first* on, :data:`FRAGMENT` with these, and its offset.

    A routing header that has not led to its end is malformed: the packet's destination is not yet its own (RFC 5095).
    """
    at = first
    while protocol in (HOP_BY_HOP, ROUTING, DESTINATION_OPTIONS):
        if at + 8 > end or (protocol == ROUTING and frame[at + 3]) or (protocol == HOP_BY_HOP and at != first):
            raise Malformed("flow_parse_ip")
        protocol, at = frame[at], at + 8 * (frame[at + 1] + 1)
        if at > end or at > first + LONGEST_CHAIN:
            raise Malformed("flow_parse_ip")
    return protocol, at


def _parse_transport(packet: Packet, addresses: bytes) -> None:
    """Parse what is behind the IP header, and set the packet's key."""
    protocol = packet.protocol
    if protocol == TCP:
        _parse_tcp(packet, addresses)
    elif protocol == UDP:
        _parse_udp(packet, addresses)
    elif protocol == ICMP_OF[len(addresses) // 2]:
        _parse_icmp(packet, addresses)
    else:
        packet.key = addresses + bytes((0, 0, 0, 0, protocol))


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
    frame, transport, protocol = packet.frame, packet.transport, packet.protocol
    if packet.end - transport < 8:
        raise Malformed("flow_parse_l4_icmp")
    packet.icmp_type, identifier = _ICMP.unpack_from(frame, transport)
    packet.payload = transport + 8
    packet.key = _icmp_key(addresses, packet.icmp_type, identifier, protocol)
    if packet.icmp_type in (ICMP_ERRORS if protocol == ICMP else ICMPV6_ERRORS):
        quoted = _parse_quoted if protocol == ICMP else _parse_quoted_ipv6
        packet.quoted = quoted(frame, packet.payload, packet.end)
        size = len(addresses) // 2
        if packet.quoted[:size] != addresses[size:]:  # an error goes to the sender of what it quotes
            raise Malformed("flow_parse_l4_icmp")


def _icmp_key(addresses: bytes, icmp_type: int, identifier: bytes, protocol: int) -> bytes:
    # Types without an answer have no identifier, and one key for all.
    return addresses + (identifier if icmp_type in ICMP_ANSWERS else b"\0\0") + bytes((icmp_type, 0, protocol))


def _parse_quoted(frame: bytearray, start: int, end: int) -> bytes:
    """Return the key of the packet that an ICMP error quotes: its IPv4 header and at least 8 bytes more (RFC 792)."""
    if end - start < 28:
        raise Malformed("flow_parse_l4_icmp")
    version, _, fragment, protocol, addresses = _IPV4.unpack_from(frame, start)
    transport = start + (version & 0x0F) * 4
    if version >> 4 != 4 or transport < start + 20 or transport + 8 > end or fragment & 0x1FFF:
        raise Malformed("flow_parse_l4_icmp")
    return _quoted_key(frame, transport, addresses, protocol)


def _parse_quoted_ipv6(frame: bytearray, start: int, end: int) -> bytes:
    """Return the key of the packet that an ICMPv6 error quotes, as much of it as fits (RFC 4443)."""
    if end - start < 48:
        raise Malformed("flow_parse_l4_icmp")
    version, _, following, addresses = _IPV6.unpack_from(frame, start)
    if version >> 4 != 6:
        raise Malformed("flow_parse_l4_icmp")
    protocol, transport = _skip_extensions(frame, following, start + 40, end)
    if transport + 8 > end:
        raise Malformed("flow_parse_l4_icmp")
    return _quoted_key(frame, transport, addresses, protocol)


def _quoted_key(frame: bytearray, transport: int, addresses: bytes, protocol: int) -> bytes:
    ports = bytes(frame[transport : transport + 4])
    if protocol == TCP:
        return bytes(addresses + ports)
    if protocol == ICMP_OF[len(addresses) // 2]:
        icmp_type, identifier = _ICMP.unpack_from(frame, transport)
        return _icmp_key(addresses, icmp_type, identifier, protocol)
    return bytes(addresses + (ports if protocol == UDP else b"\0\0\0\0") + bytes((protocol,)))
