"""A routed firewall: packets that a Linux router forwards, from zone to zone, judged one by one.

The kernel asks for each packet's verdict (:func:`queue_rules` are the rules that make it ask) and does the NAT: DNAT
before the engine, SNAT behind it, so that the engine sees the client's own address and the server's, as PAN-OS's
zones and rules do.

**Bypass.** A session that needs no more inspection (the application is final, its rule asks for none) is marked with
its last verdict. The kernel keeps the mark in the connection and carries the rest alone, except SYN, FIN and RST,
which the engine must see. What the kernel carried is read from its connections every second, so that sessions live,
end and are logged with all their bytes. Session and connection end together. Before a policy commit the marks are
taken back, and each session is judged again with its next packet.

**Fail-closed.** The kernel honours the marks only while the firewall renews its lease, a ``recent`` list, so that
bypassed traffic stops with a killed process as other traffic does, :data:`LEASE` seconds later. With *fail_open* all
traffic passes a firewall that is not there, or whose queue is full.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from enum import Enum
from typing import TYPE_CHECKING, Protocol

from firewall_vnf import tcp
from firewall_vnf.config import EngineConfig
from firewall_vnf.conntrack import Connection
from firewall_vnf.engine import Engine
from firewall_vnf.geneve import Malformed
from firewall_vnf.injection import readdressed
from firewall_vnf.packet import TCP, UDP, Packet, parse_hostile_packet
from firewall_vnf.session import ACTIVE, Endpoint, EndReason, Session

if TYPE_CHECKING:
    from firewall_vnf.inspection import Inspection
    from firewall_vnf.log import Log
    from firewall_vnf.policy import Policy
    from firewall_vnf.session_store import SessionStore

#: The bit of packet and connection marks that says "needs no more inspection".
MARK = 0x10000
#: Seconds for which the kernel believes that the firewall lives.
LEASE = 2
#: Seconds between two looks at the kernel's connections, and the part of the time that these may take.
INTERVAL, SHARE = 1.0, 0.05
#: Looks in which a session's connection may be missing: the kernel's list is no snapshot.
MISSES = 2


def lease_name(queue: int) -> str:
    """Return the name of the ``recent`` list, ``/proc/net/xt_recent/NAME``, in which the firewall renews 0.0.0.0."""
    return f"bumpwire-{queue}"


def queue_rules(queue: int, fail_open: bool, bypass: bool) -> list[list[str]]:
    """Return the arguments of the ``iptables`` calls that hand forwarded packets to *queue*, in order.

    They fit beside rules for NAT. Segments that the kernel's connection tracking finds invalid are not translated,
    so they do not leave; those with FIN or RST do not even reach the engine.
    """
    mark, forward = f"{MARK:#x}/{MARK:#x}", ["-t", "mangle", "-A", "FORWARD"]
    invalid = ["-m", "conntrack", "--ctstate", "INVALID"]
    rules = []
    if bypass:
        lease = ["-m", "recent", "--name", lease_name(queue), "--rcheck", "--seconds", str(LEASE), "--mask", "0.0.0.0"]
        for traffic in (["-p", "tcp", "--tcp-flags", "FIN,SYN,RST", "NONE"], ["-p", "udp"]):
            honoured = ["-m", "connmark", "--mark", mark, *([] if fail_open else lease)]
            rules.append([*forward, *traffic, *honoured, "-j", "ACCEPT"])
        rules.append(
            ["-t", "mangle", "-A", "POSTROUTING", "-m", "mark", "--mark", mark, "-j", "CONNMARK", "--set-xmark", mark]
        )
    rules.append([*forward, "-p", "tcp", "!", "--tcp-flags", "FIN,RST", "NONE", *invalid, "-j", "DROP"])
    rules.append([*forward, "-j", "NFQUEUE", "--queue-num", str(queue), *(["--queue-bypass"] if fail_open else [])])
    rules.append(["-t", "filter", "-A", "FORWARD", *invalid, "-j", "DROP"])
    return rules


class Verdict(Enum):
    DROP = "drop"
    ACCEPT = "accept"
    BYPASS = "bypass"


# As in firewall_vnf.session: a global is cheaper than a member.
DROP, ACCEPT, BYPASS = Verdict


class Kernel(Protocol):
    """What the engine asks of :class:`~firewall_vnf.conntrack.Conntrack`."""

    def marked(self) -> Iterator[Connection]: ...

    def find(self, key: bytes) -> Connection | None: ...

    def unmark(self, connections: Iterable[Connection]) -> None: ...

    def delete(self, connections: Iterable[Connection]) -> None: ...

    def ended(self) -> Iterator[Connection]: ...


class Bypass:
    """A session that the kernel carries: its connection as last seen, and in how many looks since it was missing."""

    __slots__ = ("connection", "misses")

    def __init__(self) -> None:
        self.connection: Connection | None = None
        self.misses = 0


class RoutedEngine(Engine):
    """An engine for bare IPv4 packets; ``outbox`` holds bare packets too, as they are before the kernel's NAT.

    *kernel* has the connections; *bypass* says whether it may carry sessions alone. *timer* measures how long a look
    at its connections takes, in seconds.
    """

    def __init__(
        self,
        config: EngineConfig,
        policy: Policy,
        log: Log,
        inspections: Iterable[type[Inspection]] = (),
        store: SessionStore | None = None,
        *,
        kernel: Kernel,
        bypass: bool = True,
        timer: Callable[[], float] = time.perf_counter,
    ) -> None:
        super().__init__(config, policy, log, inspections, store)
        self._kernel, self._bypass, self._timer = kernel, bypass, timer
        self._flows: dict[bytes, Session] = {}
        self._ways: dict[tuple[str, str], Endpoint] = {}
        self._bypassed: dict[Session, Bypass] = {}
        #: What resumed sessions had carried before their connection began in this kernel.
        self._before: dict[Session, tuple[int, int, int, int]] = {}
        self._due = float("-inf")

    def judge(self, frame: bytearray, zone_from: str | None, zone_to: str | None, now: float) -> Verdict:
        """Decide about the IPv4 packet that *frame* begins with; it may be cut off behind its headers.

        A zone is None where the interface is in none. Never raises for what the packet contains.
        """
        self._received += 1
        if zone_from is None or zone_to is None:
            self._drop("flow_no_zone")
            return DROP
        try:
            packet = parse_hostile_packet(frame, 0, max(len(frame), int.from_bytes(frame[2:4], "big")))
        except Malformed as malformed:
            self._drop(malformed.args[0])
            return DROP
        if packet.fragment:
            passes = self.config.fragments == "pass"
            self._counters["flow_ipfrag" if passes else "flow_ipfrag_drop"] += 1
            self._forwarded += passes
            return ACCEPT if passes else DROP
        way = self._ways.get((zone_from, zone_to))
        if way is None:
            way = self._ways[zone_from, zone_to] = Endpoint(0, zone_from, zone_to, self._flows)
        refused = self._judge(packet, way, now)
        if refused:
            self._drop(refused)
            return DROP
        self._forwarded += 1
        session = self._flows.get(packet.key) if self._bypass else None
        if (
            session is None
            or not session.identified
            or session.inspections
            or session.state is not ACTIVE
            or packet.protocol not in (TCP, UDP)
        ):
            return ACCEPT
        if session not in self._bypassed:
            self._bypassed[session] = Bypass()
        return BYPASS

    def expire(self, now: float) -> None:
        for connection in self._kernel.ended():
            session = self._flows.get(connection.key)
            bypass = self._bypassed.get(session) if session else None
            if session and bypass and bypass.connection and bypass.connection.id == connection.id:
                self._account(session, bypass, connection, now)
                bypass.connection = None
                self._end(session, EndReason.AGED_OUT, now)
        if now >= self._due:
            start = self._timer()
            self._look_at_connections(now)
            self._due = now + max(INTERVAL, (self._timer() - start) / SHARE)
        super().expire(now)

    def commit(self, policy: Policy, now: float) -> None:
        """As :meth:`Engine.commit`. When it returns, no packet passes without the new policy's verdict."""
        self._take_back(now)
        super().commit(policy, now)

    def clear(self, session: Session, now: float) -> None:
        self._look_at_connections(now)
        super().clear(session, now)

    def close(self, now: float) -> None:
        self._take_back(now)
        super().close(now)

    def _look_at_connections(self, now: float) -> None:
        missing, unknown = dict(self._bypassed), []
        for connection in self._kernel.marked():
            session = self._flows.get(connection.key)
            bypass = self._bypassed.get(session) if session else None
            if session and bypass:
                missing.pop(session, None)
                bypass.misses = 0
                self._account(session, bypass, connection, now)
            else:
                unknown.append(connection)
        self._kernel.unmark(unknown)
        for session, bypass in missing.items():
            bypass.misses += 1
            if bypass.misses > MISSES:
                bypass.connection = None
                self._end(session, EndReason.AGED_OUT, now)

    def _take_back(self, now: float) -> None:
        """Have the kernel carry nothing alone. Marks are only made by verdicts, of which there are none meanwhile."""
        while True:
            self._look_at_connections(now)
            connections = list(self._kernel.marked())
            if not connections:
                break
            self._kernel.unmark(connections)
        self._bypassed.clear()

    def _account(self, session: Session, bypass: Bypass, connection: Connection, now: float) -> None:
        """Give *session* the connection's counts, which include what the engine has seen of it."""
        bypass.connection = connection
        sent, received = connection[6:8], connection[8:10]
        if connection.key != session.key:  # the first packet here came from the server
            sent, received = received, sent
        before = self._before.get(session, (0, 0, 0, 0))
        packets = before[0] + sent[0] - session.packets_sent + before[2] + received[0] - session.packets_received
        if packets <= 0:
            return
        self._counters["pkt_bypassed"] += packets
        carried = session.bytes_sent + session.bytes_received
        session.packets_sent, session.bytes_sent = before[0] + sent[0], before[1] + sent[1]
        session.packets_received, session.bytes_received = before[2] + received[0], before[3] + received[1]
        self.bypassed_bytes += session.bytes_sent + session.bytes_received - carried
        if session.state is ACTIVE:
            session.last = now

    def _continue(self, session: Session, packet: Packet, forward: bool, now: float) -> str | None:
        if packet.protocol == TCP and session.identified and session.state is ACTIVE:
            tcp.follow_session(session, packet, forward)  # the kernel lets no FIN or RST outside the window get here
        return super()._continue(session, packet, forward, now)

    def _resume(self, store: SessionStore, endpoint: Endpoint, packet: Packet, now: float) -> Session | None:
        session = super()._resume(store, endpoint, packet, now)
        if session is not None:
            self._before[session] = (
                session.packets_sent,
                session.bytes_sent,
                session.packets_received,
                session.bytes_received,
            )
        return session

    def _end(self, session: Session, reason: EndReason, now: float) -> None:
        bypass = self._bypassed.pop(session, None)
        self._before.pop(session, None)
        super()._end(session, reason, now)
        if bypass and bypass.connection:
            self._kernel.delete([bypass.connection])

    def _inject(self, injected: bytes, packet: Packet) -> None:
        """Send a packet of the firewall's own, in addresses by which the kernel knows its connection and does the NAT.

        Unless both ends are translated these are the engine's. An ICMP error carries the server's own address.
        """
        self._counters["pkt_injected"] += 1
        session = self._flows[packet.key]
        connection = self._kernel.find(session.key) if packet.protocol == TCP and injected[9] == TCP else None
        if connection is not None:
            to_server = injected[12:20] == session.key[:8]
            injected = readdressed(injected, connection.original if to_server else connection.reply)
        self.outbox.append(injected)
