"""Packets that the firewall makes itself: TCP resets, and ICMP unreachable, in answer to a packet that it refuses.

Each is an inner IP packet, of the version of what it answers; :func:`firewall_vnf.geneve.reply` puts it into the flow's
GENEVE header. The load balancer delivers a returned packet by its own destination (gwlbtun's flow key is symmetric), so
that both client and server can be reached.
"""

from __future__ import annotations

import struct

from firewall_vnf.geneve import checksum
from firewall_vnf.packet import ACK, FIN, ICMP, ICMPV6, RST, SYN, TCP, Packet, address_size, reverse_key, split_key

HOP_LIMIT = 64
#: Bytes that every IPv6 link carries: an ICMPv6 error is no longer (RFC 4443, 2.4).
LEAST_MTU = 1280

_IPV4 = struct.Struct("!BBHHHBBH4s4s")
_IPV6 = struct.Struct("!IHBB")
_TCP = struct.Struct("!HHIIBBHHH")


def reset_sender(packet: Packet) -> bytes:
    """Return the RST that answers *packet* in the name of its receiver (RFC 9293, 3.5.2)."""
    length = packet.end - packet.payload
    following = packet.sequence + length + bool(packet.flags & SYN) + bool(packet.flags & FIN)
    return _reset(reverse_key(packet.key), packet.acknowledgement if packet.flags & ACK else 0, following & 0xFFFFFFFF)


def reset_receiver(packet: Packet) -> bytes:
    """Return the RST that takes the place of *packet*, which its receiver does not get."""
    return _reset(packet.key, packet.sequence, packet.acknowledgement)


def readdressed(reset: bytes, key: bytes) -> bytes:
    """Return the RST *reset*, of IPv4, with the addresses and ports of *key*."""
    return _reset(key, *struct.unpack_from("!II", reset, 24))


def unreachable(packet: Packet) -> bytes:
    """Return ICMP "communication administratively prohibited" to the sender: type 3, code 13 (RFC 1812, 5.2.7.1), for
    IPv6 type 1, code 1 (RFC 4443, 3.1).

    It comes from the packet's destination, because the firewall has no address in the tenant's network.
    """
    key = reverse_key(packet.key)
    if address_size(key) == 4:
        quoted = bytes(packet.frame[packet.start : min(packet.end, packet.transport + 8)])
        return _packet(key, ICMP, struct.pack("!BBHI", 3, 13, 0, 0) + quoted, checksum_at=2, pseudo=False)
    quoted = bytes(packet.frame[packet.start : min(packet.end, packet.start + LEAST_MTU - 48)])
    return _packet(key, ICMPV6, struct.pack("!BBHI", 1, 1, 0, 0) + quoted, checksum_at=2)


def _reset(key: bytes, sequence: int, acknowledgement: int) -> bytes:
    source, destination = struct.unpack_from("!HH", split_key(key)[2])
    segment = _TCP.pack(source, destination, sequence, acknowledgement, 0x50, RST | ACK, 0, 0, 0)
    return _packet(key, TCP, segment, checksum_at=16)


def _packet(key: bytes, protocol: int, payload: bytes, checksum_at: int, pseudo: bool = True) -> bytes:
    """Return the IP packet with *payload*, whose checksum is filled in; of IPv4's ICMP it has no *pseudo* header."""
    source, destination, _ = split_key(key)
    covered = (source + destination + struct.pack("!II", len(payload), protocol) if pseudo else b"") + payload
    payload = payload[:checksum_at] + struct.pack("!H", checksum(covered)) + payload[checksum_at + 2 :]
    if len(source) == 16:
        return _IPV6.pack(6 << 28, len(payload), protocol, HOP_LIMIT) + source + destination + payload
    fields = (0x45, 0, 20 + len(payload), 0, 0x4000, HOP_LIMIT, protocol)
    header = _IPV4.pack(*fields, 0, source, destination)
    return _IPV4.pack(*fields, checksum(header), source, destination) + payload
