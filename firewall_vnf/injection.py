"""Packets that the firewall makes itself: TCP resets, and ICMP unreachable, in answer to a packet that it
refuses.

Each is an inner IPv4 packet; :func:`firewall_vnf.geneve.reply` puts it into the flow's GENEVE header. The
load balancer delivers a returned packet by its own destination (gwlbtun's flow key is symmetric), so that
both client and server can be reached.
"""

from __future__ import annotations

import struct

from firewall_vnf.geneve import checksum
from firewall_vnf.packet import ACK, FIN, ICMP, RST, SYN, TCP, Packet, reverse_key

_IPV4 = struct.Struct("!BBHHHBBH4s4s")
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
    """Return the RST *reset* with the addresses and ports of *key*."""
    return _reset(key, *struct.unpack_from("!II", reset, 24))


def unreachable(packet: Packet) -> bytes:
    """Return ICMP "communication administratively prohibited" (type 3, code 13; RFC 1812, 5.2.7.1) to the
    sender.

    It comes from the packet's destination, because the firewall has no address in the tenant's network.
    """
    quoted = bytes(packet.frame[packet.start : min(packet.end, packet.transport + 8)])
    message = struct.pack("!BBHI", 3, 13, 0, 0) + quoted
    message = struct.pack("!BBHI", 3, 13, checksum(message), 0) + quoted
    return _ipv4(reverse_key(packet.key), ICMP, message)


def _reset(key: bytes, sequence: int, acknowledgement: int) -> bytes:
    source, destination = struct.unpack_from("!HH", key, 8)
    header = (source, destination, sequence, acknowledgement, 0x50, RST | ACK, 0)
    pseudo = key[:8] + struct.pack("!HH", TCP, 20)
    return _ipv4(key, TCP, _TCP.pack(*header, checksum(pseudo + _TCP.pack(*header, 0, 0)), 0))


def _ipv4(key: bytes, protocol: int, payload: bytes) -> bytes:
    fields = (0x45, 0, 20 + len(payload), 0, 0x4000, 64, protocol)
    header = _IPV4.pack(*fields, 0, key[0:4], key[4:8])
    return _IPV4.pack(*fields, checksum(header), key[0:4], key[4:8]) + payload
