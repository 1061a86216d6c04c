"""Connection tracking: what a TCP segment does to its session.

:func:`open_session` takes the first segment, :func:`track` all others that the engine's fast path does not
carry. Both are pure but for the session. Sequence numbers are looked at where they decide about a state: the
handshake, FIN and RST, so that nobody outside the path can end a session; data is left to the receiver, who
knows better.

A RST counts as verified if its sequence number is the one that the receiver expects: behind the sender's last
segment, or what the receiver acknowledged last. One that is elsewhere in the receiver's window closes the
session too, but later (``tcp_unverified_rst``), and one outside is dropped. (PAN-OS administrator's guide,
"TCP": time-wait, half-closed and unverified RST timers.)
"""

from __future__ import annotations

from firewall_vnf.packet import ACK, FIN, RST, SYN, Packet
from firewall_vnf.session import ACTIVE, CLOSING, OPENING, EndReason, Session, Timers

# What was seen of a connection, in Session.seen.
SYN_ACK_SEEN, CLIENT_FIN, SERVER_FIN = 1, 2, 4

_MASK = 0xFFFFFFFF
_HALF = 0x80000000
_LARGEST_SCALE = 14  # RFC 7323, 2.3


def open_session(session: Session, packet: Packet, timers: Timers) -> int:
    """Take the first segment: a SYN, or one in mid-stream where that is permitted. Returns the timeout."""
    session.client_next = _next(packet)
    session.client_window = packet.window
    if packet.flags & SYN:
        session.client_scale = _window_scale(packet)
        session.state = OPENING
        return timers.tcp_init
    session.seen = SYN_ACK_SEEN
    session.client_ack = session.server_next = packet.acknowledgement
    session.server_ack = packet.sequence
    session.client_scale = session.server_scale = _LARGEST_SCALE
    session.server_window = 0xFFFF
    session.state = ACTIVE
    return timers.tcp


def resume_session(session: Session, packet: Packet, forward: bool) -> None:
    """Catch up with a connection that somebody else followed up to now, by the first packet that comes here.

    A RST proves nothing of itself: it is left to be judged by the older numbers.
    """
    if packet.flags & RST:
        return
    following = _next(packet)
    if forward:
        session.client_next, session.server_next = following, packet.acknowledgement
        session.client_ack, session.server_ack = packet.acknowledgement, packet.sequence
        session.client_window = packet.window
    else:
        session.server_next, session.client_next = following, packet.acknowledgement
        session.server_ack, session.client_ack = packet.acknowledgement, packet.sequence
        session.server_window = packet.window


def follow_session(session: Session, packet: Packet, forward: bool) -> None:
    """Catch up with the sender, whose segments were not all seen; somebody else checks that they are in the window."""
    if forward:
        session.client_next = session.server_ack = packet.sequence
    else:
        session.server_next = session.client_ack = packet.sequence


def is_closing(session: Session) -> bool:
    """Whether one of the sides has sent a FIN."""
    return bool(session.seen & (CLIENT_FIN | SERVER_FIN))


def fresh_data(session: Session, packet: Packet, forward: bool) -> int | None:
    """Return the offset of the data that was not there before: the packet's end if all is old, None behind a gap."""
    expected = session.client_next if forward else session.server_next
    length = packet.end - packet.payload
    old = (expected - packet.sequence - bool(packet.flags & SYN)) & _MASK
    if old == 0 or (not expected and not forward):
        return packet.payload
    if old >= _HALF:
        return None
    return packet.payload + min(old, length)


def track(session: Session, packet: Packet, forward: bool, timers: Timers) -> int | str:
    """Move *session* on. Returns its timeout, or the name of the counter under which the segment must be dropped."""
    if packet.flags & (RST | FIN) and not _in_window(session, packet, forward):
        return "tcp_drop_out_of_wnd"
    if packet.flags & RST:
        return _reset(session, packet, forward, timers)
    if session.state is OPENING:
        dropped = _handshake(session, packet, forward)
        if dropped:
            return dropped
    elif packet.flags & SYN or session.state is CLOSING:  # sent again, or strange: its receiver knows
        return session.timeout
    _remember(session, packet, forward)
    if session.state is OPENING:
        return timers.tcp_handshake if session.seen & SYN_ACK_SEEN else timers.tcp_init
    if packet.flags & FIN:
        session.seen |= CLIENT_FIN if forward else SERVER_FIN
        session.end_reason = EndReason.TCP_FIN
    if not session.seen & (CLIENT_FIN | SERVER_FIN):
        return timers.tcp
    if session.seen & CLIENT_FIN and session.seen & SERVER_FIN:
        session.state = CLOSING
        return timers.tcp_time_wait
    return timers.tcp_half_closed


def _handshake(session: Session, packet: Packet, forward: bool) -> str | None:
    """Take a segment of the handshake. Returns the name of a counter, if it must be dropped."""
    flags, answered = packet.flags, session.seen & SYN_ACK_SEEN
    if forward and flags & SYN:  # the client tries again, perhaps with another number
        if flags & ACK or (answered and _next(packet) != session.client_next):
            return "tcp_drop_handshake"
        session.client_scale = _window_scale(packet)
    elif forward:
        if not answered or not flags & ACK or packet.acknowledgement != session.server_next:
            return "tcp_drop_handshake"
        session.state = ACTIVE
    elif flags & SYN:
        if not flags & ACK or packet.acknowledgement != session.client_next:
            return "tcp_drop_handshake"
        session.seen |= SYN_ACK_SEEN
        session.server_scale = _window_scale(packet)
    elif answered:
        return "tcp_drop_handshake"
    # else: a server that still knows an older connection; its ACK makes the client reset that (RFC 9293,
    # 3.5.1).
    return None


def _remember(session: Session, packet: Packet, forward: bool) -> None:
    """Note the segment's numbers, unless it is an old one sent again."""
    following = _next(packet)
    if forward:
        if packet.flags & SYN or not _before(following, session.client_next):
            session.client_next = following
            session.client_ack = packet.acknowledgement
            session.client_window = packet.window
    elif packet.flags & SYN or not session.server_next or not _before(following, session.server_next):
        session.server_next = following
        session.server_ack = packet.acknowledgement
        session.server_window = packet.window


def _reset(session: Session, packet: Packet, forward: bool, timers: Timers) -> int:
    opening = session.state is OPENING
    if opening and forward and packet.sequence != session.client_next:  # ends an older connection, not this one
        return session.timeout
    if session.state is not CLOSING:
        session.end_reason = EndReason.TCP_RST_FROM_CLIENT if forward else EndReason.TCP_RST_FROM_SERVER
    session.state = CLOSING
    if forward:
        verified = packet.sequence in (session.client_next & _MASK, session.server_ack)
    else:
        verified = packet.sequence in (session.server_next & _MASK, session.client_ack)
    return timers.tcp_time_wait if opening or verified else timers.tcp_unverified_rst


def _in_window(session: Session, packet: Packet, forward: bool) -> bool:
    """Whether a FIN or RST is one that its receiver could take."""
    if not session.seen & SYN_ACK_SEEN:
        if forward:
            return packet.sequence in (session.client_next, session.server_ack)
        # A refusal counts if it acknowledges the SYN (RFC 9293, 3.10.7.3).
        return bool(packet.flags & ACK) and packet.acknowledgement == session.client_next
    if forward:
        following, first = session.client_next, session.server_ack
        window = session.server_window << _scale(session, session.server_scale)
    else:
        following, first = session.server_next, session.client_ack or session.server_next
        window = session.client_window << _scale(session, session.client_scale)
    # What is sent again lies before the window, by no more than what is in flight.
    flight = (following - first) & _MASK
    reach = max(window, flight if flight < _HALF else 0)
    return (packet.sequence - first + reach) & _MASK <= 2 * reach


def _scale(session: Session, announced: int) -> int:
    """Both sides must have offered window scaling, or neither scales (RFC 7323, 1.3)."""
    return announced if session.client_scale >= 0 and session.server_scale >= 0 else 0


def _next(packet: Packet) -> int:
    """The sequence number that follows the segment."""
    # FIN and SYN, bits 0 and 1, each take a sequence number.
    return (packet.sequence + packet.end - packet.payload + (packet.flags & FIN) + (packet.flags >> 1 & 1)) & _MASK


def _before(one: int, other: int) -> bool:
    return bool((one - other) & _HALF)


def _window_scale(packet: Packet) -> int:
    """Return the window scale option of a SYN, -1 where there is none (RFC 7323). Never reads behind the header."""
    frame = packet.frame
    offset = packet.transport + 20
    while offset < packet.payload:
        kind = frame[offset]
        if kind == 0:
            break
        if kind == 1:
            offset += 1
            continue
        if offset + 1 >= packet.payload or frame[offset + 1] < 2:
            break
        if kind == 3 and frame[offset + 1] == 3 and offset + 2 < packet.payload:
            return min(frame[offset + 2], _LARGEST_SCALE)
        offset += frame[offset + 1]
    return -1
