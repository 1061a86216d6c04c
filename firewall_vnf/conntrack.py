"""The kernel's connections, over netlink: read with their counters, marked, deleted (linux/nfnetlink_conntrack.h).

A connection has two tuples: that of the first packet before its translation, and that of the answers. With NAT they
differ in more than direction. A firewall between DNAT (before it) and SNAT (behind it) sees the client as in the first
and the server as in the second: :attr:`Connection.key` is the session key of what it sees.

Linux counts per connection where ``net.netfilter.nf_conntrack_acct`` is 1, for connections that begin after that.
"""

from __future__ import annotations

import errno
import itertools
import socket
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from firewall_vnf.packet import TCP, UDP, reverse_key

# asm-generic/socket.h, linux/netlink.h, linux/netfilter/nfnetlink.h: constants that Python's socket module lacks.
SO_RCVBUFFORCE = 33
NETLINK_NETFILTER, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP = 12, 270, 1
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP = 1, 4, 0x300
NLMSG_ERROR, NLMSG_DONE = 2, 3
NFNL_SUBSYS_CTNETLINK, NFNLGRP_CONNTRACK_DESTROY = 1, 3
CT_NEW, CT_GET, CT_DELETE = 0, 1, 2
CTA_TUPLE_ORIG, CTA_TUPLE_REPLY, CTA_MARK, CTA_COUNTERS_ORIG, CTA_COUNTERS_REPLY = 1, 2, 8, 9, 10
CTA_ID, CTA_MARK_MASK, CTA_FILTER = 12, 21, 25
#: Which parts of the original tuple a dump is limited to: source address, protocol, source port.
CTA_FILTER_ORIG_FLAGS, SOURCE = 1, 1 | 8 | 16
NESTED = 0x8000

ACCOUNTING = Path("/proc/sys/net/netfilter/nf_conntrack_acct")
#: Bytes of changes in one call.
BATCH = 32768

_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
#: A tuple with ports, its nested attributes in the order in which Linux has always written them.
_TUPLE = struct.Struct("8x4s4x4s8xB7x2s6x2s2x")


class Connection(NamedTuple):
    """*original* and *reply* are tuples in the form of a TCP session's key, *name* the attribute that changes name it
    by. Counters are of both directions; 0 where the kernel does not count."""

    key: bytes
    original: bytes
    reply: bytes
    name: bytes
    id: bytes
    mark: int
    packets_sent: int
    bytes_sent: int
    packets_received: int
    bytes_received: int


class Conntrack:
    """The connections of this network namespace that have the bit *mark*. Raises OSError where it may not ask."""

    def __init__(self, mark: int) -> None:
        self._mark = struct.pack("!I", mark)
        self._sequence = itertools.count(1)
        self._socket = _open()
        self._events = _open()
        self._events.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, NFNLGRP_CONNTRACK_DESTROY)
        self._events.setblocking(False)
        if ACCOUNTING.read_text().strip() != "1":
            ACCOUNTING.write_text("1")

    def marked(self) -> Iterator[Connection]:
        """Yield the connections that have the mark."""
        return self._ask(NLM_F_DUMP, _attribute(CTA_MARK, self._mark) + _attribute(CTA_MARK_MASK, self._mark))

    def find(self, key: bytes) -> Connection | None:
        """Return the TCP connection of a session, marked or not. Only where both ends are translated it takes long."""
        for known in (key, reverse_key(key)):
            for connection in self._ask(0, _tuple(known[:4], known[4:8], known[8:10], known[10:12])):
                if connection.key == key:
                    return connection
        limits = _attribute(CTA_FILTER_ORIG_FLAGS, struct.pack("=I", SOURCE)) + _attribute(2, bytes(4))
        request = _tuple(key[:4], b"", key[8:10], b"") + _attribute(CTA_FILTER | NESTED, limits)
        found = [connection for connection in self._ask(NLM_F_DUMP, request) if connection.key == key]
        return found[0] if found else None

    def unmark(self, connections: Iterable[Connection]) -> None:
        """Take the mark from *connections*; it is gone when this returns."""
        change = _attribute(CTA_MARK, bytes(4)) + _attribute(CTA_MARK_MASK, self._mark)
        self._change(CT_NEW, (connection.name + change for connection in connections))

    def delete(self, connections: Iterable[Connection]) -> None:
        """End *connections*; one that has ended meanwhile is left out."""
        self._change(CT_DELETE, (connection.name + _attribute(CTA_ID, connection.id) for connection in connections))

    def ended(self) -> Iterator[Connection]:
        """Yield the connections, marked or not, that ended since the last call; some may be missing."""
        while True:
            try:
                data = self._events.recv(65536)
            except BlockingIOError:
                return
            except OSError:  # ENOBUFS: the kernel had more to tell than there was room for
                continue
            yield from (connection for _, _, body in _messages(data) if (connection := _connection(body)))

    def close(self) -> None:
        self._socket.close()
        self._events.close()

    def _ask(self, flags: int, attributes: bytes) -> Iterator[Connection]:
        sequence = next(self._sequence)
        self._socket.send(_message(CT_GET, NLM_F_REQUEST | NLM_F_ACK | flags, sequence, attributes))
        while True:
            for kind, number, body in _messages(self._socket.recv(262144)):
                if number != sequence:  # an error about an earlier change: the connection had ended
                    continue
                if kind == NLMSG_DONE:
                    return
                if kind == NLMSG_ERROR:
                    failure = -int(struct.unpack_from("=i", body)[0])
                    if failure in (0, errno.ENOENT):
                        return
                    raise OSError(failure, "asking for the kernel's connections failed")
                connection = _connection(body)
                if connection:
                    yield connection

    def _change(self, kind: int, bodies: Iterable[bytes]) -> None:
        batch = b""
        for body in bodies:
            batch += _message(kind, NLM_F_REQUEST, next(self._sequence), body)
            if len(batch) > BATCH:
                self._socket.send(batch)
                batch = b""
        if batch:
            self._socket.send(batch)


def _open() -> socket.socket:
    opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)
    opened.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 8 << 20)
    opened.bind((0, 0))
    return opened


def _attribute(kind: int, value: bytes) -> bytes:
    return _ATTRIBUTE.pack(4 + len(value), kind) + value + bytes(-len(value) % 4)


def _tuple(source: bytes, destination: bytes, source_port: bytes, destination_port: bytes) -> bytes:
    """Return the attribute of a TCP connection's original tuple, without the parts that are empty."""
    addresses = b"".join(_attribute(kind, value) for kind, value in enumerate((source, destination), 1) if value)
    numbers = enumerate((bytes([TCP]), source_port, destination_port), 1)
    ports = b"".join(_attribute(kind, value) for kind, value in numbers if value)
    return _attribute(CTA_TUPLE_ORIG | NESTED, _attribute(1 | NESTED, addresses) + _attribute(2 | NESTED, ports))


def _message(kind: int, flags: int, sequence: int, attributes: bytes) -> bytes:
    header = _HEADER.pack(20 + len(attributes), NFNL_SUBSYS_CTNETLINK << 8 | kind, flags, sequence, 0)
    return header + struct.pack("=BBH", socket.AF_INET, 0, 0) + attributes


def _messages(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yield type, sequence number and body of each."""
    offset = 0
    while offset < len(data):
        length, kind, _, sequence, _ = _HEADER.unpack_from(data, offset)
        yield kind, sequence, data[offset + 16 : offset + length]
        offset += length + -length % 4


def _attributes(data: bytes, start: int = 0) -> dict[int, bytes]:
    found = {}
    while start < len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, start)
        found[kind & 0x3FFF] = data[start + 4 : start + length]
        start += length + -length % 4
    return found


def _connection(body: bytes) -> Connection | None:
    """Return the connection that a message tells of; None if it is not IPv4 with ports."""
    if body[0] != socket.AF_INET:
        return None
    attributes = _attributes(body, 4)
    name = attributes[CTA_TUPLE_ORIG]
    if len(name) != _TUPLE.size:
        return None
    client, destination, protocol, client_port, destination_port = _TUPLE.unpack(name)
    server, answered, _, server_port, answered_port = _TUPLE.unpack(attributes[CTA_TUPLE_REPLY])
    return Connection(
        client + server + client_port + server_port + (b"\x11" if protocol == UDP else b""),
        client + destination + client_port + destination_port,
        server + answered + server_port + answered_port,
        _attribute(CTA_TUPLE_ORIG | NESTED, name),
        attributes[CTA_ID],
        int.from_bytes(attributes.get(CTA_MARK, b""), "big"),
        *_counters(attributes.get(CTA_COUNTERS_ORIG)),
        *_counters(attributes.get(CTA_COUNTERS_REPLY)),
    )


def _counters(data: bytes | None) -> tuple[int, int]:
    if data is None:
        return 0, 0
    values = _attributes(data)
    return int.from_bytes(values[1], "big"), int.from_bytes(values[2], "big")
