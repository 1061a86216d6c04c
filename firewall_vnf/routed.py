"""A routed firewall: packets that a Linux router forwards, from zone to zone, judged one by one.

The kernel asks for each packet's verdict (:func:`queue_rules` are the rules that make it ask) and does the NAT: DNAT
before the engine, SNAT behind it, so that the engine sees the client's own address and the server's, as PAN-OS's
zones and rules do.

**Bypass** is how it offloads sessions (:mod:`firewall_vnf.offload`): one is marked with its last verdict. The kernel
keeps the mark in the connection and carries the rest alone, except SYN, FIN and RST. What it carried is read from its
connections every second. Session and connection end together. The lease is a ``recent`` list. With *fail_open* all
traffic passes a firewall that is not there, or whose queue is full.

**Active/passive.** One of a pair that is not active drops everything, and renews no lease.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import Enum
from typing import TYPE_CHECKING, Protocol

from firewall_vnf import tcp
from firewall_vnf.config import EngineConfig
from firewall_vnf.conntrack import Connection
from firewall_vnf.engine import Engine
from firewall_vnf.geneve import Malformed
from firewall_vnf.injection import readdressed
from firewall_vnf.offload import LEASE, Offload
from firewall_vnf.packet import ICMP, TCP, Packet, parse_hostile_packet
from firewall_vnf.session import ACTIVE, Endpoint, Session

if TYPE_CHECKING:
    from firewall_vnf.inspection import Inspection
    from firewall_vnf.log import Log
    from firewall_vnf.policy import Policy
    from firewall_vnf.session_store import SessionStore

#: The bit of packet and connection marks that says "needs no more inspection".
MARK = 0x10000
#: The bit of a packet's mark that says "refuse it, and tell the sender", and the arguments of the rule that does.
REFUSED = 0x20000
REFUSAL = f"-m mark --mark {REFUSED:#x}/{REFUSED:#x} -j REJECT --reject-with icmp-admin-prohibited".split()
#: Looks in which a session's connection may be missing: the kernel's list is no snapshot.
MISSES = 2


def lease_name(queue: int) -> str:
    """Return the name of the ``recent`` list, ``/proc/net/xt_recent/NAME``, in which the firewall renews 0.0.0.0."""
    return f"bumpwire-{queue}"


def queue_rules(queue: int, fail_open: bool, bypass: bool, unreachable: bool = False) -> list[list[str]]:
    """Return the arguments of the ``iptables`` calls that hand forwarded packets to *queue*, in order.

    *unreachable*: ICMP unreachable is the kernel's affair, because it alone knows the address that the client used of a
    connection that is translated and refused at its first packet.

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
    if unreachable:
        rules.append(["-t", "filter", "-I", "FORWARD", *REFUSAL])
    return rules


class Verdict(Enum):
    DROP = "drop"
    REFUSE = "refuse"
    ACCEPT = "accept"
    BYPASS = "bypass"


# As in firewall_vnf.session: a global is cheaper than a member.
DROP, REFUSE, ACCEPT, BYPASS = Verdict


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


class ConnectionOffload(Offload):
    """Sessions carried as marked connections of the *kernel*, found by their keys in *flows*.

    A connection's counts include what the engine has seen of it. :meth:`start` marks nothing: the next verdict does.
    """

    def __init__(
        self, kernel: Kernel, flows: Mapping[bytes, Session], timer: Callable[[], float] = time.perf_counter
    ) -> None:
        super().__init__(timer)
        self._kernel, self._flows = kernel, flows
        self.sessions: dict[Session, Bypass] = {}
        #: What resumed sessions had carried before their connection began in this kernel.
        self._before: dict[Session, tuple[int, int, int, int]] = {}

    def start(self, session: Session) -> None:
        if session not in self.sessions:
            self.sessions[session] = Bypass()

    def resumed(self, session: Session) -> None:
        """The session had another connection up to now."""
        self._before[session] = (
            session.packets_sent,
            session.bytes_sent,
            session.packets_received,
            session.bytes_received,
        )

    def turn(self, now: float) -> Iterator[Session]:
        for connection in self._kernel.ended():
            session, bypass = self._carried(connection)
            if session and bypass and bypass.connection and bypass.connection.id == connection.id:
                self._count(session, bypass, connection, now)
                bypass.connection = None
                yield session
        yield from super().turn(now)

    def look(self, now: float) -> list[Session]:
        missing, unknown, ended = dict(self.sessions), [], []
        for connection in self._kernel.marked():
            session, bypass = self._carried(connection)
            if session and bypass:
                missing.pop(session, None)
                bypass.misses = 0
                self._count(session, bypass, connection, now)
            else:
                unknown.append(connection)
        self._kernel.unmark(unknown)
        for session, bypass in missing.items():
            bypass.misses += 1
            if bypass.misses > MISSES:
                bypass.connection = None
                ended.append(session)
        return ended

    def closing(self, session: Session, now: float) -> bool:
        """The engine sees its FIN and RST as it is, and its connection ends with it."""
        return False

    def take_back(self, sessions: Iterable[Session], now: float) -> None:
        """Their connections end with them."""
        self.look(now)

    def take_all_back(self, now: float) -> None:
        """Marks are only made by verdicts, of which there are none meanwhile."""
        while True:
            self.look(now)
            connections = list(self._kernel.marked())
            if not connections:
                break
            self._kernel.unmark(connections)
        self.sessions.clear()

    def ended(self, session: Session, now: float) -> None:
        bypass = self.sessions.pop(session, None)
        self._before.pop(session, None)
        if bypass and bypass.connection:
            self._kernel.delete([bypass.connection])

    def _carried(self, connection: Connection) -> tuple[Session | None, Bypass | None]:
        session = self._flows.get(connection.key)
        return session, self.sessions.get(session) if session else None

    def _count(self, session: Session, bypass: Bypass, connection: Connection, now: float) -> None:
        bypass.connection = connection
        sent, received = connection[6:8], connection[8:10]
        if connection.key != session.key:  # the first packet here came from the server
            sent, received = received, sent
        before = self._before.get(session, (0, 0, 0, 0))
        packets_sent, packets_received = (
            before[0] + sent[0] - session.packets_sent,
            before[2] + received[0] - session.packets_received,
        )
        if packets_sent + packets_received > 0:
            self.account(
                session,
                (packets_sent, before[1] + sent[1] - session.bytes_sent),
                (packets_received, before[3] + received[1] - session.bytes_received),
                now,
            )


class RoutedEngine(Engine):
    """An engine for bare IPv4 packets; ``outbox`` holds bare packets too, as they are before the kernel's NAT.

    *kernel* has the connections; *bypass* says whether it may carry sessions alone. *active* says whether this is the
    firewall of a pair that is at work; the other drops everything (PAN-OS: passive link state "auto"). *timer* measures
    how long a look at the kernel's connections takes, in seconds.
    """

    offload: ConnectionOffload | None

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
        active: Callable[[], bool] = lambda: True,
        timer: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._kernel = kernel
        self.active = active
        self._refusal = DROP
        self._flows: dict[bytes, Session] = {}
        self._ways: dict[tuple[str, str], Endpoint] = {}
        offload = ConnectionOffload(kernel, self._flows, timer) if bypass else None
        super().__init__(config, policy, log, inspections, store, offload)

    def judge(self, frame: bytearray, zone_from: str | None, zone_to: str | None, now: float) -> Verdict:
        """Decide about the IPv4 packet that *frame* begins with; it may be cut off behind its headers.

        A zone is None where the interface is in none. Never raises for what the packet contains.
        """
        self._received += 1
        if not self.active():
            self._drop("flow_ha_not_active")
            return DROP
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
            verdict, self._refusal = self._refusal, DROP
            return verdict
        self._forwarded += 1
        session = self._flows.get(packet.key)
        if session is None or session.state is not ACTIVE or not self.offloaded(session):
            return ACCEPT
        return BYPASS

    def _continue(self, session: Session, packet: Packet, forward: bool, now: float) -> str | None:
        if packet.protocol == TCP and session.identified and session.state is ACTIVE:
            tcp.follow_session(session, packet, forward)  # the kernel lets no FIN or RST outside the window get here
        return super()._continue(session, packet, forward, now)

    def _resume(self, store: SessionStore, endpoint: Endpoint, packet: Packet, now: float) -> Session | None:
        session = super()._resume(store, endpoint, packet, now)
        if session is not None and self.offload is not None:
            self.offload.resumed(session)
        return session

    def _inject(self, injected: bytes, packet: Packet) -> None:
        """Send a RST, in addresses by which the kernel knows its connection and does the NAT.

        Unless both ends are translated these are the engine's. ICMP unreachable is left to the kernel.
        """
        self._counters["pkt_injected"] += 1
        if injected[9] == ICMP:
            self._refusal = REFUSE
            return
        session = self._flows[packet.key]
        connection = self._kernel.find(session.key)
        if connection is not None:
            to_server = injected[12:20] == session.key[:8]
            injected = readdressed(injected, connection.original if to_server else connection.reply)
        self.outbox.append(injected)
