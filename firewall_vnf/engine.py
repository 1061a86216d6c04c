"""The firewall's engine: frames in, frames out; no sockets, no clock of its own.

    engine = Engine(config, policy, log)
    if engine.process(frame, length, now):
        send(frame[:length])
    for injected in engine.outbox: ...

A packet of an established TCP session whose application is known is carried by the *fast path*, at the top of
:meth:`Engine.process`: one unpacking of all headers at their usual offsets, one comparison for each rule that
the parsers have, two look-ups. Whatever does not fit goes to :meth:`Engine._slow`, where the parsers of
:mod:`firewall_vnf.geneve` and :mod:`firewall_vnf.packet` decide. The fast path never takes what they would
refuse; a test compares both.

What happens in special cases, as PAN-OS does unless said otherwise:

* Session table full: a packet that would need a new session is dropped and counted
  (``session_alloc_failure``), logged with the
  end reason ``resources-unavailable`` if its rule logs, and reported once in the system log. Existing
  sessions are untouched.
* A refused session stays as a DISCARD session, which drops the rest of its packets without asking the policy
  again.
* A TCP reset is sent only after the handshake ("Security Policy Actions"). ``deny`` means the application's
  own deny action.
* Until App-ID has decided, a TCP segment beyond a gap is dropped, so that App-ID sees the stream in order;
  TCP repeats it. (PAN-OS queues it.)
* A policy commit matches each session again with its next packet ("rematch sessions"); discarded ones start
  afresh.
* With a session store (:mod:`firewall_vnf.session_store`), a session that another firewall began is continued if the
  policy in force here allows it, and no inspection looks into it ("Session Resiliency": layer 4 only).
* With *offload* (:mod:`firewall_vnf.offload`) the kernel carries sessions that need no more inspection, and the engine
  sees of them what may end them. Until a session is worth it, its packets are not the fast path's.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from firewall_vnf import injection, tcp
from firewall_vnf.app_id import Identification
from firewall_vnf.applications import APPLICATIONS, NOT_IDENTIFIED, Action
from firewall_vnf.config import EngineConfig
from firewall_vnf.geneve import (
    BASE_AND_FIRST_OPTION,
    INNER,
    IPV6,
    PORT,
    SECOND_OPTION,
    THIRD_OPTION,
    Malformed,
    parse_hostile_frame,
    reply,
    turn_around,
)
from firewall_vnf.inspection import Inspection
from firewall_vnf.offload import Offload, inspection_over
from firewall_vnf.packet import (
    ACK,
    FIN,
    ICMP,
    ICMP_REPLIES,
    ICMPV6,
    RST,
    SYN,
    TCP,
    UDP,
    Packet,
    address_size,
    parse_hostile_ipv6,
    parse_hostile_packet,
    split_key,
)
from firewall_vnf.ranges import number
from firewall_vnf.session import ACTIVE, CLOSED, CLOSING, DISCARD, Endpoint, EndReason, Session, SessionTable

if TYPE_CHECKING:
    from firewall_vnf.log import Log
    from firewall_vnf.policy import Policy
    from firewall_vnf.session_store import SessionStore

#: All headers of a TCP packet in a GENEVE frame without IP options, from the outer Ethernet header to the TCP
#: window.
_HEADERS = struct.Struct("!6s6sHBxH2xI2x4s4s2xHH2x12sQI8xI4xBxH2xI2x12sIIHH")
_MACS = struct.Struct("!6s6s")
_ADDRESSES = struct.Struct("!4s4s")
_ENDS = struct.Struct("!IIHH")
_SHORTEST = 122  # _HEADERS and the TCP header's last 4 bytes
#: Fragment field (but "don't fragment") and protocol of the IPv4 header, with the TTL between them masked.
_UNFRAGMENTED = 0xBFFF00FF

_ENDING = (DISCARD, CLOSING)

_RESETS = {
    Action.RESET_CLIENT: (True, False),
    Action.RESET_SERVER: (False, True),
    Action.RESET_BOTH: (True, True),
}


class Engine:
    """One firewall. *now* is always seconds of a monotonic clock, *log* takes the records, *store* has the sessions
    of other firewalls, *offload* carries sessions without the engine.

    ``outbox`` holds frames that the firewall made (resets); whoever calls :meth:`process` sends and clears it.
    """

    def __init__(
        self,
        config: EngineConfig,
        policy: Policy,
        log: Log,
        inspections: Iterable[type[Inspection]] = (),
        store: SessionStore | None = None,
        offload: Offload | None = None,
    ) -> None:
        self.config = config
        self.policy = policy
        self.table = SessionTable(config.max_sessions)
        self.outbox: list[bytes] = []
        self._log = log
        self._counters = log.counters
        self._inspections = tuple(inspections)
        self._store = store
        self.offload = offload
        self._zones = {int(name[5:], 16): zone for name, zone in config.zones.items()}
        self._received = self._forwarded = 0
        self._sessions_made = 0
        self._full_reported = False

    @property
    def counters(self) -> dict[str, int]:
        """All global counters, by name; see :mod:`firewall_vnf.counters`."""
        self._counters["pkt_recv"] = self._received
        self._counters["pkt_forwarded"] = self._forwarded
        self._counters["pkt_offloaded"] = self.offload.packets if self.offload else 0
        return self._counters

    def process(self, frame: bytearray, length: int, now: float) -> bool:
        """Decide about the Ethernet frame ``frame[:length]``. True: it was turned around in place, send it
        back.

        Never raises for what the frame contains. ``frame`` may be longer than ``length``, never shorter.
        """
        self._received += 1
        if length >= _SHORTEST:
            (
                destination_mac, source_mac, ethertype, version, total, fragment, source, destination, port, udp_length,
                geneve, endpoint_id, second, third,
                inner_version, inner_total, inner_fragment, key, sequence, acknowledgement, offset_flags, window,
            ) = _HEADERS.unpack_from(frame)  # fmt: skip
            payload = inner_total - 20 - (offset_flags >> 10 & 0x3C)
            if (
                ethertype == 0x0800
                and version == 0x45
                and total == length - 14
                and fragment & _UNFRAGMENTED == UDP
                and port == PORT
                and udp_length == length - 34
                and geneve == BASE_AND_FIRST_OPTION
                and second == SECOND_OPTION
                and third == THIRD_OPTION
            ):
                if (
                    inner_version == 0x45
                    and inner_total == length - INNER
                    and inner_fragment & _UNFRAGMENTED == TCP
                    and payload >= 0
                    and offset_flags >= 0x5000
                ):
                    endpoint = self.table.endpoints.get(endpoint_id)
                    session = endpoint.flows.get(key) if endpoint is not None else None
                    if session is not None and session.cleared is self.policy and offset_flags & 0x17 == ACK:
                        session.last = now
                        if key == session.key:
                            session.packets_sent += 1
                            session.bytes_sent += inner_total
                            session.client_next = sequence + payload
                            session.client_ack = acknowledgement
                            session.client_window = window
                        else:
                            session.packets_received += 1
                            session.bytes_received += inner_total
                            session.server_next = sequence + payload
                            session.server_ack = acknowledgement
                            session.server_window = window
                        self._forwarded += 1
                        _MACS.pack_into(frame, 0, source_mac, destination_mac)
                        _ADDRESSES.pack_into(frame, 26, destination, source)
                        return True
                    packet = Packet(frame, TCP, INNER, INNER + 20, length)
                    try:
                        packet.set_segment(key, sequence, acknowledgement, offset_flags, window)
                    except Malformed as malformed:
                        return self._drop(malformed.args[0])
                    return self._take(packet, endpoint_id, now)
                return self._inner(frame, INNER, length, endpoint_id, now)
        return self._slow(frame, length, now)

    def expire(self, now: float) -> None:
        """End the sessions whose timer ran out. Call it about once a second; the cost is that of those sessions."""
        if self.offload is not None:
            for session in self.offload.turn(now):
                self._end(session, EndReason.AGED_OUT, now)
        for session in self.table.expired(now):
            if self._closing(session, now):
                self.table.postpone(session)
                continue
            self._counters["session_aged_out"] += 1
            self._end(session, EndReason.AGED_OUT, now)

    def look(self, now: float) -> None:
        """Give the sessions what was carried of them without the engine, before somebody asks."""
        if self.offload is not None:
            for session in self.offload.look(now):
                self._end(session, EndReason.AGED_OUT, now)

    def offloaded(self, session: Session) -> bool:
        """Whether the kernel carries the session."""
        return self.offload is not None and session in self.offload.sessions

    def commit(self, policy: Policy, now: float) -> None:
        """Put a new policy in force. Sessions live on; each is matched again with its next packet.

        When this returns, no packet passes that the new policy has not allowed.
        """
        if self.offload is not None:
            self.offload.take_all_back(now)
        self.policy = policy
        self._counters["policy_commit"] += 1
        self._log.system("policy-commit", "informational", "policy committed, sessions will be matched again", now)

    def clear(self, sessions: Sequence[Session], now: float) -> None:
        """End sessions by the operator's will; neither side is told, as by PAN-OS's ``clear session``."""
        if self.offload is not None:
            self.offload.take_back(sessions, now)
        for session in sessions:
            if session.state is not CLOSED:
                self._unshare(session)
                self._end(session, EndReason.UNKNOWN, now)

    def close(self, now: float) -> None:
        """End all sessions, and log them."""
        if self.offload is not None:
            self.offload.take_all_back(now)
        for session in self.table:
            self._end(session, EndReason.UNKNOWN, now)

    def _slow(self, frame: bytearray, length: int, now: float) -> bool:
        """Take a frame whose outer headers are not as usual."""
        try:
            envelope = parse_hostile_frame(frame, length)
        except Malformed as malformed:
            return self._drop(malformed.args[0])
        parse = parse_hostile_packet
        if envelope.protocol == IPV6:
            if self.config.ipv6 != "inspect":
                return self._uninspected(frame, "flow_ipv6", "flow_ipv6_disabled", self.config.ipv6)
            parse = parse_hostile_ipv6
        return self._inner(frame, envelope.inner, envelope.end, envelope.endpoint, now, parse)

    def _inner(
        self,
        frame: bytearray,
        start: int,
        end: int,
        endpoint_id: int,
        now: float,
        parse: Callable[[bytearray, int, int], Packet] = parse_hostile_packet,
    ) -> bool:
        """Take the inner packet in ``frame[start:end]``."""
        try:
            packet = parse(frame, start, end)
        except Malformed as malformed:
            return self._drop(malformed.args[0])
        if packet.fragment:
            return self._uninspected(frame, "flow_ipfrag", "flow_ipfrag_drop", self.config.fragments)
        return self._take(packet, endpoint_id, now)

    def _take(self, packet: Packet, endpoint_id: int, now: float) -> bool:
        """Take a packet that was parsed: its session decides."""
        endpoint = self.table.endpoints.get(endpoint_id)
        if endpoint is None:
            endpoint = Endpoint(endpoint_id, self._zones.get(endpoint_id, self.config.default_zone))
        refused = self._judge(packet, endpoint, now)
        if refused:
            return self._drop(refused)
        self._forwarded += 1
        turn_around(packet.frame)
        return True

    def _judge(self, packet: Packet, endpoint: Endpoint, now: float) -> str | None:
        """Return None if the packet may pass, else the name of the counter under which it is dropped."""
        if packet.quoted is not None:
            return self._icmp_error(packet, endpoint)
        session = endpoint.flows.get(packet.key)
        if session is None and self._store is not None:
            session = self._resume(self._store, endpoint, packet, now)
        if session is None or (session.state in _ENDING and self._outdated(session, packet, now)):
            return self._open(endpoint, packet, now)
        return self._continue(session, packet, packet.key == session.key, now)

    def _drop(self, counter: str) -> bool:
        self._counters[counter] += 1
        return False

    def _uninspected(self, frame: bytearray, passed: str, dropped: str, setting: str) -> bool:
        if setting == "drop":
            return self._drop(dropped)
        self._counters[passed] += 1
        self._forwarded += 1
        turn_around(frame)
        return True

    def _icmp_error(self, packet: Packet, endpoint: Endpoint) -> str | None:
        """An ICMP error belongs to the session of the packet that it quotes, and passes if that session may."""
        session = endpoint.flows.get(packet.quoted or b"")
        if session is None or session.state is DISCARD:
            return "flow_icmp_error_no_session"
        self._count(session, packet, packet.quoted == session.reverse)
        return None

    def _outdated(self, session: Session, packet: Packet, now: float) -> bool:
        """End a session in whose place the packet may open a new one."""
        if session.state is DISCARD and session.policy is not self.policy:
            self._end(session, EndReason.POLICY_DENY, now)
            return True
        if session.state is CLOSING and packet.flags & (SYN | ACK) == SYN:
            self._end(session, EndReason.TCP_REUSE, now)
            return True
        return False

    # A session's packets. These methods return the name of the counter under which the packet is dropped, or
    # None.

    def _open(self, endpoint: Endpoint, packet: Packet, now: float) -> str | None:
        """Set up the session of a first packet."""
        source, destination, rest = split_key(packet.key)
        if source == destination:
            return "flow_land"
        if packet.protocol in (TCP, UDP) and b"\0\0" in (rest[0:2], rest[2:4]):
            return "flow_parse_l4_port"
        if packet.protocol == TCP and packet.flags & (SYN | ACK) != SYN:
            if self.config.tcp_reject_non_syn or packet.flags & (SYN | RST):
                return "flow_tcp_non_syn_drop"
            self._counters["flow_tcp_non_syn"] += 1
        if packet.icmp_type in ICMP_REPLIES:
            return "flow_icmp_reply_no_session"
        self._sessions_made += 1
        session = Session(self._sessions_made, endpoint, packet, now)
        self._match(session)
        self._count(session, packet, True)
        if self.table.full:
            return self._no_room(session, now)
        timers = self.config.timers
        allowed = session.rule.action is Action.ALLOW
        if not allowed:
            session.timeout = timers.discard(packet.protocol)
        elif packet.protocol == TCP:
            session.timeout = tcp.open_session(session, packet, timers)
        else:
            session.timeout = timers.active(packet.protocol)
            session.state = ACTIVE
        self.table.install(session)
        self._counters["session_installed"] += 1
        if not allowed:
            return self._refuse(session, session.rule.action, packet, True, now, "flow_policy_deny")
        refused = self._look(session, packet, packet.payload, True, now)
        if not refused and session.rule.log_start:
            self._log.traffic(session, "start", "allow", now)
        return refused

    def _resume(self, store: SessionStore, endpoint: Endpoint, packet: Packet, now: float) -> Session | None:
        """Return the session of a packet in mid-stream that another firewall began, installed here."""
        if packet.protocol not in (TCP, UDP) or packet.flags & SYN or self.table.full:
            return None
        session = Session(self._sessions_made + 1, endpoint, packet, now)
        if not store.restore(session, now):
            return None
        self._match(session)
        if session.rule.action is not Action.ALLOW:
            return None
        session.inspections = ()
        session.timeout = self.config.timers.active(packet.protocol)
        if packet.protocol == TCP:
            tcp.resume_session(session, packet, packet.key == session.key)
        self._sessions_made += 1
        self.table.install(session)
        store.established(session)
        self._counters["session_installed"] += 1
        self._counters["session_shared_resumed"] += 1
        return session

    def _unshare(self, session: Session) -> None:
        if self._store is not None:
            self._store.ended(session)

    def _continue(self, session: Session, packet: Packet, forward: bool, now: float) -> str | None:
        """Take a packet of a session that is in the table."""
        if session.state is DISCARD:
            return "session_discard_drop"
        if session.policy is not self.policy:
            self._counters["session_rematch"] += 1
            self._match(session)
            if session.rule.action is not Action.ALLOW:
                return self._refuse(session, session.rule.action, packet, forward, now, "flow_rematch_deny")
        if packet.protocol != TCP:
            self._count(session, packet, forward)
            session.last = now
            return self._look(session, packet, packet.payload, forward, now)
        fresh = packet.payload
        data = fresh < packet.end
        if data and not session.identified:
            in_order = tcp.fresh_data(session, packet, forward)
            if in_order is None:
                return "tcp_drop_out_of_order"
            fresh = in_order
        if packet.flags & (SYN | FIN | RST):
            self._closing(session, now)
        closing = session.state is CLOSING
        timeout = tcp.track(session, packet, forward, self.config.timers)
        if isinstance(timeout, str):
            return timeout
        self._count(session, packet, forward)
        if closing:
            return None
        if session.state is CLOSING:
            self._unshare(session)
        self.table.set_timeout(session, timeout, now)
        return self._look(session, packet, fresh, forward, now) if data or session.identified else None

    def _look(self, session: Session, packet: Packet, fresh: int, forward: bool, now: float) -> str | None:
        """Look into the packet's data, of which App-ID does not yet know what is from offset *fresh* on."""
        if packet.payload < packet.end or packet.protocol != TCP:
            refused = None if session.identified else self._identify(session, packet, fresh, forward, now)
            refused = refused or (self._inspect(session, packet, forward, now) if session.inspections else None)
            if refused:
                return refused
        if session.identified and session.state is ACTIVE and packet.protocol in (TCP, UDP):
            if inspection_over(session):
                self._let_go(session, packet.protocol)
            if self._store is not None:
                self._store.established(session)
        return None

    def _let_go(self, session: Session, protocol: int) -> None:
        """Look no more into a session: have it carried, when it is worth it, or leave it to the fast path."""
        session.inspections = ()
        offload = self.offload
        if offload is not None and session.rule.offload_after is not None and not tcp.is_closing(session):
            if not offload.worthwhile(session):
                return
            offload.start(session)
        if protocol == TCP:
            session.cleared = self.policy

    def _closing(self, session: Session, now: float) -> bool:
        """Take a session back that may be ending. Whether it had been carried, and no longer is."""
        if self.offload is None or session not in self.offload.sessions or not self.offload.closing(session, now):
            return False
        session.cleared = None
        return True

    def _identify(self, session: Session, packet: Packet, fresh: int, forward: bool, now: float) -> str | None:
        identification = session.identification
        if identification is None:
            identification = session.identification = Identification(packet.protocol)
        start = packet.transport if packet.protocol in (ICMP, ICMPV6) else fresh
        identification.payload(0 if forward else 1, bytes(packet.frame[start : packet.end]))
        session.detail = identification.detail
        if identification.final:
            session.identified = True
            session.identification = None
        if identification.application == session.application:
            return None
        self._counters["appid_shift"] += 1
        session.application = identification.application
        self._match(session)
        if session.rule.action is not Action.ALLOW:
            return self._refuse(session, session.rule.action, packet, forward, now, "flow_app_deny")
        return None

    def _inspect(self, session: Session, packet: Packet, forward: bool, now: float) -> str | None:
        direction = 0 if forward else 1
        payload = bytes(packet.frame[packet.payload : packet.end])
        for inspection in session.inspections:
            try:
                finding = inspection.inspect(session, direction, payload)
            except Exception as error:  # somebody's inspection must not stop the firewall
                self._counters["inspection_errors"] += 1
                if self._counters["inspection_errors"] == 1:
                    text = f"{type(inspection).__name__}: {type(error).__name__}: {error}"
                    self._log.system("inspection-error", "high", text, now)
                continue
            if finding is not None:
                self._log.threat(session, finding, direction, now)
                if finding.action is not Action.ALLOW:
                    counter = "flow_inspection_drop"
                    return self._refuse(session, finding.action, packet, forward, now, counter, EndReason.THREAT)
        return None

    def _match(self, session: Session) -> None:
        """Set the session's rule by the policy in force, and the inspections that the rule asks for."""
        application, protocol = session.application, session.protocol
        if address_size(session.key) == 4:
            source, destination, source_port, destination_port = _ENDS.unpack_from(session.key)
        else:
            source, destination = number(session.source), number(session.destination)
            source_port, destination_port = session.source_port, session.destination_port
        if protocol not in (TCP, UDP):
            source_port = destination_port = 0
        session.policy = self.policy
        session.cleared = None
        session.rule = rule = self.policy.match(
            session.zone,
            session.zone_to,
            source,
            destination,
            protocol,
            source_port,
            destination_port,
            None if application in NOT_IDENTIFIED else application,
        )
        if self._inspections:
            wanted = [kind for kind in self._inspections if rule.inspect and application in kind.applications]
            if [type(inspection) for inspection in session.inspections] != wanted:
                session.inspections = tuple(kind() for kind in wanted)

    def _refuse(
        self,
        session: Session,
        action: Action,
        packet: Packet,
        forward: bool,
        now: float,
        counter: str,
        reason: EndReason = EndReason.POLICY_DENY,
    ) -> str:
        """Discard the session: log it, answer as *action* says. Returns *counter*."""
        handshake_done = session.state in (ACTIVE, CLOSING)
        identified = session.application not in NOT_IDENTIFIED
        session.state = DISCARD
        session.end_reason = reason
        session.cleared = session.identification = None
        session.inspections = ()
        self._counters["session_discard"] += 1
        self._unshare(session)
        if session.rule.log_end:
            if reason is EndReason.THREAT:
                self._log.traffic(session, "end", session.rule.action.value, now)
            else:
                self._log.traffic(session, "deny" if identified else "drop", action.value, now)
        if action is Action.DENY and identified:
            action = APPLICATIONS[session.application].deny
        tcp_reset = packet.protocol == TCP and action in _RESETS
        if tcp_reset and handshake_done:
            self._reset(action, packet, forward)
        elif self.config.icmp_unreachable and action is not Action.DENY and not tcp_reset and forward:
            self._inject(injection.unreachable(packet), packet)
        self.table.set_timeout(session, self.config.timers.discard(session.protocol), now)
        return counter

    def _reset(self, action: Action, packet: Packet, forward: bool) -> None:
        client, server = _RESETS[action]
        sender, receiver = (client, server) if forward else (server, client)
        if sender:
            self._inject(injection.reset_sender(packet), packet)
        if receiver:
            self._inject(injection.reset_receiver(packet), packet)
        self._counters["flow_action_close"] += 1

    def _inject(self, injected: bytes, packet: Packet) -> None:
        self._counters["pkt_injected"] += 1
        self.outbox.append(reply(packet.frame, packet.start, injected))

    def _count(self, session: Session, packet: Packet, forward: bool) -> None:
        if forward:
            session.packets_sent += 1
            session.bytes_sent += packet.end - packet.start
        else:
            session.packets_received += 1
            session.bytes_received += packet.end - packet.start

    def _no_room(self, session: Session, now: float) -> str:
        session.end_reason = EndReason.RESOURCES_UNAVAILABLE
        if session.rule.log_end:
            self._log.traffic(session, "drop", session.rule.action.value, now)
        if not self._full_reported:
            self._full_reported = True
            text = f"session table full: {self.table.capacity} sessions; new sessions are dropped"
            self._log.system("session-table-full", "critical", text, now)
        return "session_alloc_failure"

    def _end(self, session: Session, reason: EndReason, now: float) -> None:
        """Take the session out of the table and log it, unless that was done when it was refused."""
        discarded = session.state is DISCARD
        session.end_reason = session.end_reason or reason
        self.table.remove(session)
        if self.offload is not None:
            self.offload.ended(session, now)
        self._counters["session_freed"] += 1
        if session.rule.log_end and not discarded:
            self._log.traffic(session, "end", "allow", now)
        if self._full_reported and self.table.count < 0.9 * self.table.capacity:
            self._full_reported = False
