"""The kernel's queue of forwarded packets (NFQUEUE): each waits in the kernel for the engine's verdict.

Packets of the firewall's own leave by a raw socket. They are the router's own output and are not forwarded, so they
do not come back into the queue; the kernel translates them as packets of their connection. What is refused with ICMP
unreachable is marked and goes on to the kernel's rule that does so.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from netfilterqueue import NetfilterQueue, Packet

from firewall_vnf.adapter import BATCH, AdapterError
from firewall_vnf.conntrack import Conntrack
from firewall_vnf.offload import LEASE
from firewall_vnf.routed import BYPASS, DROP, MARK, REFUSAL, REFUSE, REFUSED, RoutedEngine, lease_name

#: Bytes of a packet that come with it. The binding's buffer takes 4,096, headers of the message included.
COPIED = 3900
#: Packets that wait at most, and bytes of the socket's buffer for them.
LENGTH, BUFFER = 1024, 16 << 20

# linux/netfilter/nfnetlink_queue.h, which the binding does not cover.
NFQNL_MSG_CONFIG, NFQA_CFG_MASK, NFQA_CFG_FLAGS, NFQA_CFG_F_FAIL_OPEN = 0x0302, 4, 5, 1
STATISTICS = Path("/proc/net/netfilter/nfnetlink_queue")


class QueueInterface:
    """Queue number *queue*, and the kernel's ``connections``. *zones* maps interfaces to zones.

    *unreachable*: packets are refused by the rule of :func:`~firewall_vnf.routed.queue_rules`, which must be there.

    Raises :class:`AdapterError` if the kernel or the settings do not permit it.
    """

    def __init__(self, queue: int, zones: Mapping[str, str], fail_open: bool, unreachable: bool = False) -> None:
        self.send_errors = 0
        self._number, self._zones = queue, zones
        self._names: dict[int, str | None] = {}
        self._lease = Path("/proc/net/xt_recent", lease_name(queue))
        self._renewal = 0.0
        self._carried = self._budget = 0
        known = [name for _, name in socket.if_nameindex()]
        for name in zones:
            if name not in known:
                raise AdapterError(f"interface {name}: no such interface; name some of {', '.join(known)}")
        if unreachable and not _has_refusal():
            raise AdapterError(
                "icmp_unreachable: iptables has no rule for it; install those of queue_rules(unreachable)"
            )
        try:
            self._raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
            self._queue = NetfilterQueue()
            self._queue.bind(queue, self._take, max_len=LENGTH, range=COPIED, sock_len=BUFFER)
        except OSError as error:
            text = f"queue {queue}: {error}: run as root, with a queue that no other process serves"
            raise AdapterError(text) from error
        try:
            self.connections = Conntrack(MARK)
        except OSError as error:
            text = f"the kernel's connections: {error.strerror}: run as root, with the module nf_conntrack"
            raise AdapterError(text) from error
        self._socket = socket.socket(fileno=os.dup(self._queue.get_fd()))
        self._socket.setblocking(False)
        if fail_open:
            self._set_fail_open()

    def fileno(self) -> int:
        return self._socket.fileno()

    def serve(self, processor: RoutedEngine) -> int:
        """Judge the packets that wait, a batch at most; returns the bytes of those that were let through."""
        if (now := time.monotonic()) >= self._renewal:
            self._write_lease("+0.0.0.0" if processor.active() else "-0.0.0.0")
            self._renewal = now + LEASE / 8
        self._engine = processor
        self._carried, self._budget = 0, BATCH
        self._queue.run_socket(self)
        return self._carried

    def recv(self, size: int) -> bytes:
        """Give the binding the next message, and end its turn after a batch."""
        if not self._budget:
            raise BlockingIOError(errno.EAGAIN, "enough for one turn")
        self._budget -= 1
        return self._socket.recv(size)

    def lost(self) -> int:
        """Return the number of packets so far that the queue had no room for."""
        _, dropped, undelivered = self._statistics()
        return dropped + undelivered

    def buffered(self) -> float:
        """Return which part of the queue is in use, 0 to 1."""
        return min(1.0, self._statistics()[0] / LENGTH)

    def close(self) -> None:
        self._write_lease("-0.0.0.0")
        self._queue.unbind()
        self.connections.close()
        self._socket.close()
        self._raw.close()

    def _take(self, packet: Packet) -> None:
        payload = packet.get_payload()
        engine = self._engine
        verdict = engine.judge(
            bytearray(payload), self._zone(packet.indev), self._zone(packet.outdev), time.monotonic()
        )
        if verdict is DROP:
            packet.drop()
        elif verdict is REFUSE:
            packet.set_mark(packet.mark | REFUSED)
            packet.accept()
        else:
            if verdict is BYPASS:
                packet.set_mark(packet.mark | MARK)
            packet.accept()
            self._carried += payload[2] << 8 | payload[3]
        if engine.outbox:
            for injected in engine.outbox:
                self._inject(injected)
            engine.outbox.clear()

    def _inject(self, packet: bytes) -> None:
        try:
            self._raw.sendto(packet, (socket.inet_ntoa(packet[16:20]), 0))
        except OSError:
            self.send_errors += 1

    def _zone(self, index: int) -> str | None:
        if index not in self._names:
            try:
                self._names[index] = self._zones.get(socket.if_indextoname(index))
            except OSError:  # it was taken away while the packet waited
                return None
        return self._names[index]

    def _write_lease(self, text: str) -> None:
        """Tell the kernel that the firewall lives, or does not; without its rules nobody asks."""
        with contextlib.suppress(FileNotFoundError):
            self._lease.write_text(text)

    def _set_fail_open(self) -> None:
        """Have the kernel let packets through for which the queue has no room."""
        flag = struct.pack("!I", NFQA_CFG_F_FAIL_OPEN)
        attributes = b"".join(struct.pack("=HH", 8, kind) + flag for kind in (NFQA_CFG_FLAGS, NFQA_CFG_MASK))
        body = struct.pack("!BBH", socket.AF_UNSPEC, 0, self._number) + attributes
        self._socket.send(struct.pack("=IHHII", 16 + len(body), NFQNL_MSG_CONFIG, 1, 0, 0) + body)

    def _statistics(self) -> tuple[int, int, int]:
        """Return the packets that wait, those that had no room in the queue, and those with none in the socket."""
        for line in STATISTICS.read_text().splitlines():
            number, _, waiting, _, _, dropped, undelivered, *_ = map(int, line.split())
            if number == self._number:
                return waiting, dropped, undelivered
        return 0, 0, 0


def _has_refusal() -> bool:
    """Whether the kernel refuses what is marked so: without its rule that would pass."""
    command = ["iptables", "-w", "-t", "filter", "-C", "FORWARD", *REFUSAL]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False
