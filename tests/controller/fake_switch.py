"""An OpenFlow 1.5 switch over TCP, byte by byte, without any library: keeps flows and groups, and can misbehave."""

from __future__ import annotations

import socket
import struct
import threading
from dataclasses import dataclass, field

VERSION = 6
HELLO, ERROR, ECHO_REQUEST, ECHO_REPLY, FEATURES_REQUEST, FEATURES_REPLY = 0, 1, 2, 3, 5, 6
PACKET_IN, FLOW_MOD, GROUP_MOD, MULTIPART_REQUEST, MULTIPART_REPLY = 10, 14, 15, 18, 19
BARRIER_REQUEST, BARRIER_REPLY, BUNDLE_CONTROL, BUNDLE_ADD = 20, 21, 33, 34
FLOW_DESC, AGGREGATE, GROUP_DESC, PORT_DESC = 1, 2, 7, 13
DELETE, DELETE_STRICT = 3, 4
BUNDLE_FAILED, MESSAGE_FAILED = 17, 13
REPLY_MORE = 1
PART = 20

FlowKey = tuple[int, int, bytes]


@dataclass
class FakeSwitch:
    """Connects at once. ``changes`` are the modifications committed, ``requests`` the types of all messages.

    Those that count are left out: they come when it is time for them.
    """

    port: int
    dpid: int
    flows: dict[FlowKey, bytes] = field(default_factory=dict)
    groups: dict[int, bytes] = field(default_factory=dict)
    #: The flow modification of this number in a bundle is refused, with (type, code).
    refuse: tuple[int, int, int] | None = None
    silent: bool = False
    changes: list[bytes] = field(default_factory=list)
    requests: list[int] = field(default_factory=list)
    closed: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.bundle: list[bytes] = []
        self.socket = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        self.socket.settimeout(None)
        self.send(HELLO, 1, b"")
        threading.Thread(target=self.serve, daemon=True).start()

    def close(self) -> None:
        self.socket.shutdown(socket.SHUT_RDWR)
        self.closed.wait(10)

    def send(self, kind: int, xid: int, body: bytes) -> None:
        self.socket.sendall(struct.pack("!BBHI", VERSION, kind, 8 + len(body), xid) + body)

    def packet_in(self) -> None:
        match = struct.pack("!HH4x", 1, 4)
        body = struct.pack("!IHBBQ", 0xFFFFFFFF, 60, 0, 0, 0) + match + bytes(2) + bytes(60)
        self.send(PACKET_IN, 0, body)

    def serve(self) -> None:
        try:
            while head := self.socket.recv(8, socket.MSG_WAITALL):
                _, kind, length, xid = struct.unpack("!BBHI", head)
                body = self.socket.recv(length - 8, socket.MSG_WAITALL) if length > 8 else b""
                if kind != MULTIPART_REQUEST or multipart_type(body) != AGGREGATE:
                    self.requests.append(kind)
                self.handle(kind, xid, body)
        except OSError:
            pass
        self.socket.close()
        self.closed.set()

    def handle(self, kind: int, xid: int, body: bytes) -> None:
        if kind == FEATURES_REQUEST:
            self.send(FEATURES_REPLY, xid, struct.pack("!QIBB2xII", self.dpid, 0, 254, 0, 0, 0))
        elif kind == ECHO_REQUEST:
            self.send(ECHO_REPLY, xid, body)
        elif kind == MULTIPART_REQUEST:
            self.multipart(xid, multipart_type(body))
        elif kind == BARRIER_REQUEST and not self.silent:
            self.send(BARRIER_REPLY, xid, b"")
        elif kind == BUNDLE_CONTROL:
            self.bundle_control(xid, body)
        elif kind == BUNDLE_ADD:
            self.bundle.append(body[8:])

    def multipart(self, xid: int, kind: int) -> None:
        entries: list[bytes] = []
        if kind == FLOW_DESC:
            entries = [flow_description(key, mod) for key, mod in self.flows.items()]
        elif kind == GROUP_DESC:
            entries = [group_description(mod) for mod in self.groups.values()]
        parts = [b"".join(entries[n : n + PART]) for n in range(0, len(entries), PART)] or [b""]
        for number, part in enumerate(parts, start=1):
            flags = REPLY_MORE if number < len(parts) else 0
            self.send(MULTIPART_REPLY, xid, struct.pack("!HH4x", kind, flags) + part)

    def bundle_control(self, xid: int, body: bytes) -> None:
        identifier, kind, flags = struct.unpack_from("!IHH", body)
        assert flags == 3, "atomic and ordered"
        if kind == 0:
            self.bundle = []
        elif kind == 4:
            if self.refuse is not None:
                number, type_, code = self.refuse
                message = self.bundle[number]
                self.send(
                    ERROR, struct.unpack_from("!I", message, 4)[0], struct.pack("!HH", type_, code) + message[:64]
                )
                self.send(ERROR, xid, struct.pack("!HH", BUNDLE_FAILED, MESSAGE_FAILED))
                return
            for message in self.bundle:
                self.modify(message)
        self.send(BUNDLE_CONTROL, xid, struct.pack("!IHH", identifier, kind + 1, flags))

    def modify(self, message: bytes) -> None:
        self.changes.append(message)
        kind, body = message[1], message[8:]
        if kind == GROUP_MOD:
            command, _, identifier = struct.unpack_from("!HBxI", body)
            if command == 2:
                del self.groups[identifier]
            else:
                self.groups[identifier] = body
            return
        assert kind == FLOW_MOD
        table, command = body[16], body[17]
        (priority,) = struct.unpack_from("!H", body, 22)
        key = table, priority, body[40 : 40 + match_length(body)]
        if command == DELETE_STRICT:
            del self.flows[key]
        else:
            assert command == 0
            self.flows[key] = body


def multipart_type(body: bytes) -> int:
    return int.from_bytes(body[:2], "big")


def match_length(flow_mod: bytes) -> int:
    """Return the length of a flow modification's match with its padding."""
    (length,) = struct.unpack_from("!H", flow_mod, 42)
    return int((length + 7) // 8 * 8)


def flow_description(key: FlowKey, flow_mod: bytes) -> bytes:
    table, priority, match = key
    no_statistics = struct.pack("!HH4x", 0, 4)
    tail = match + no_statistics + flow_mod[40 + len(match) :]
    idle, hard = struct.unpack_from("!HH", flow_mod, 18)
    head = struct.pack("!H2xBxHHHHH", 24 + len(tail), table, priority, idle, hard, 0, 0)
    return head + flow_mod[:8] + tail


def group_description(group_mod: bytes) -> bytes:
    _, kind, identifier, buckets = struct.unpack_from("!HBxIH", group_mod)
    tail = group_mod[16:]
    return struct.pack("!HBxIH6x", 16 + len(tail), kind, identifier, buckets) + tail
