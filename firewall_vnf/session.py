"""Sessions: their states, timers and end reasons, and the table that holds them.

States and timers are PAN-OS's (administrator's guide, "Session Settings and Timeouts"; defaults are its
defaults):

========  ================================================  =========================================================
INIT      made, not in the table yet
OPENING   TCP handshake under way                           ``tcp_init`` 5 s, after the SYN-ACK ``tcp_handshake`` 10
ACTIVE    carries traffic                                   ``tcp`` 3600, ``udp`` 30, ``icmp`` 6, ``other`` 30;
                                                            after one FIN ``tcp_half_closed`` 120
DISCARD   denied: its packets are dropped without asking    ``discard_tcp`` 90, ``discard_udp`` 60,
          the policy again                                  ``discard_other`` 60; not prolonged by packets
CLOSING   both FINs or an RST seen                          ``tcp_time_wait`` 15, ``tcp_unverified_rst`` 30;
                                                            not prolonged by packets
CLOSED    out of the table
========  ================================================  =========================================================

Sessions are found by GWLB endpoint and packet key, so that two tenants may use the same addresses. Python's
cyclic garbage collector is not needed: session, endpoint and table form no cycle.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from enum import Enum
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

from firewall_vnf.applications import INCOMPLETE
from firewall_vnf.geneve import endpoint_name
from firewall_vnf.packet import ICMP, ICMPV6, TCP, UDP, Packet, protocol_of, reverse_key, split_key

if TYPE_CHECKING:
    from firewall_vnf.app_id import Identification
    from firewall_vnf.inspection import Inspection
    from firewall_vnf.policy import Policy, Rule

PROTOCOLS = {ICMP: "icmp", TCP: "tcp", UDP: "udp", ICMPV6: "ipv6-icmp"}


class State(Enum):
    INIT = "INIT"
    OPENING = "OPENING"
    ACTIVE = "ACTIVE"
    DISCARD = "DISCARD"
    CLOSING = "CLOSING"
    CLOSED = "CLOSED"


# Looking up a member of an enumeration costs several times as much as a global, before Python 3.12.
INIT, OPENING, ACTIVE, DISCARD, CLOSING, CLOSED = State


class EndReason(Enum):
    """Why a session ended, as the traffic log names it, highest priority first ("Traffic Log Fields")."""

    THREAT = "threat"
    POLICY_DENY = "policy-deny"
    TCP_RST_FROM_CLIENT = "tcp-rst-from-client"
    TCP_RST_FROM_SERVER = "tcp-rst-from-server"
    RESOURCES_UNAVAILABLE = "resources-unavailable"
    TCP_FIN = "tcp-fin"
    TCP_REUSE = "tcp-reuse"
    AGED_OUT = "aged-out"
    #: Cleared by the operator, or alive when the firewall stopped.
    UNKNOWN = "unknown"


class Timers(BaseModel):
    """Timeouts in seconds; the defaults are PAN-OS's."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tcp: int = Field(default=3600, ge=1)
    udp: int = Field(default=30, ge=1)
    icmp: int = Field(default=6, ge=1)
    other: int = Field(default=30, ge=1)
    tcp_init: int = Field(default=5, ge=1)
    tcp_handshake: int = Field(default=10, ge=1)
    tcp_half_closed: int = Field(default=120, ge=1)
    tcp_time_wait: int = Field(default=15, ge=1)
    tcp_unverified_rst: int = Field(default=30, ge=1)
    discard_tcp: int = Field(default=90, ge=1)
    discard_udp: int = Field(default=60, ge=1)
    discard_other: int = Field(default=60, ge=1)

    def active(self, protocol: int) -> int:
        return {TCP: self.tcp, UDP: self.udp, ICMP: self.icmp, ICMPV6: self.icmp}.get(protocol, self.other)

    def discard(self, protocol: int) -> int:
        return {TCP: self.discard_tcp, UDP: self.discard_udp}.get(protocol, self.discard_other)


class Endpoint:
    """A GWLB endpoint: its zone, and its sessions by packet key; each session is there twice, once a direction.

    What comes from a GWLB endpoint goes back to it. A routed firewall has an object for each way through it, from
    *zone* to *zone_to*; all of them have number 0 and share *flows*.
    """

    __slots__ = ("flows", "id", "name", "zone", "zone_to")

    def __init__(
        self, endpoint: int, zone: str, zone_to: str | None = None, flows: dict[bytes, Session] | None = None
    ) -> None:
        self.id = endpoint
        self.name = endpoint_name(endpoint) if endpoint else ""
        self.zone = zone
        self.zone_to = zone_to or zone
        self.flows: dict[bytes, Session] = {} if flows is None else flows


class Session:
    """A conversation. The client is whoever sent the first packet; "sent" and "forward" are from client to
    server.

    ``cleared`` is the policy under which the engine's fast path may carry the session, None when each packet
    needs a look. ``start`` and ``last`` (seconds of the engine's clock) are its first and its last packet
    that prolonged it; it ends at ``last + timeout``. ``client_next`` is the sequence number behind the
    client's last segment, ``client_ack`` what it acknowledged last, ``client_window`` and ``client_scale``
    the window that it announced; ``server_…`` alike.
    """

    __slots__ = (
        "application",
        "bytes_received",
        "bytes_sent",
        "cleared",
        "client_ack",
        "client_next",
        "client_scale",
        "client_window",
        "detail",
        "due",
        "end_reason",
        "endpoint",
        "id",
        "identification",
        "identified",
        "inspections",
        "key",
        "last",
        "packets_received",
        "packets_sent",
        "policy",
        "reverse",
        "rule",
        "seen",
        "server_ack",
        "server_next",
        "server_scale",
        "server_window",
        "start",
        "state",
        "timeout",
    )

    #: The policy that was asked last and the rule that it gave; set before the session is installed.
    policy: Policy
    rule: Rule

    def __init__(self, number: int, endpoint: Endpoint, packet: Packet, now: float) -> None:
        self.id = number
        self.endpoint = endpoint
        self.key = packet.key
        self.reverse = reverse_key(packet.key)
        self.state = INIT
        self.cleared: Policy | None = None
        self.start = self.last = now
        self.timeout = 0
        self.due = 0
        self.application = INCOMPLETE
        self.identification: Identification | None = None
        self.identified = False
        self.inspections: tuple[Inspection, ...] = ()
        self.detail = ""
        self.end_reason: EndReason | None = None
        self.packets_sent = self.packets_received = self.bytes_sent = self.bytes_received = 0
        self.seen = 0
        self.client_next = self.client_ack = self.client_window = self.client_scale = 0
        self.server_next = self.server_ack = self.server_window = self.server_scale = 0

    @property
    def protocol(self) -> int:
        return protocol_of(self.key)

    @property
    def source(self) -> IPv4Address | IPv6Address:
        return ip_address(split_key(self.key)[0])

    @property
    def destination(self) -> IPv4Address | IPv6Address:
        return ip_address(split_key(self.key)[1])

    @property
    def source_port(self) -> int:
        """The port; of an ICMP dialogue the identifier, of all else 0."""
        return int.from_bytes(split_key(self.key)[2][0:2], "big")

    @property
    def destination_port(self) -> int:
        return int.from_bytes(split_key(self.key)[2][2:4], "big") if self.protocol in (TCP, UDP) else 0

    @property
    def zone(self) -> str:
        """The client's zone."""
        return self.endpoint.zone

    @property
    def zone_to(self) -> str:
        """The server's zone, which is the client's behind a GWLB."""
        return self.endpoint.zone_to


class SessionTable:
    """All sessions: by endpoint and key, and by the time at which their timer must be looked at.

    Timers are lazy: a packet only sets ``session.last``. Each session is in one bucket of ``_buckets``, that
    of the second in which it could end at the earliest; when that second has passed, it ends or moves on. The
    cost is that of the sessions whose second has come, never of all.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.count = 0
        self.endpoints: dict[int, Endpoint] = {}
        self._buckets: dict[int, set[Session]] = {}
        self._second: int | None = None

    def __iter__(self) -> Iterator[Session]:
        """Iterate over a snapshot; sessions that end meanwhile turn CLOSED and are left out."""
        for endpoint in list(self.endpoints.values()):
            for key, session in list(endpoint.flows.items()):
                if session.key == key and session.state is not CLOSED:
                    yield session

    @property
    def full(self) -> bool:
        return self.count >= self.capacity

    def install(self, session: Session) -> None:
        endpoint = self.endpoints.setdefault(session.endpoint.id, session.endpoint)
        endpoint.flows[session.key] = endpoint.flows[session.reverse] = session
        self.count += 1
        self._schedule(session)

    def remove(self, session: Session) -> None:
        endpoint = session.endpoint
        del endpoint.flows[session.key], endpoint.flows[session.reverse]
        if not endpoint.flows:
            del self.endpoints[endpoint.id]
        self.count -= 1
        session.state = CLOSED
        self._unschedule(session)

    def set_timeout(self, session: Session, timeout: int, now: float) -> None:
        """Let *session* end *timeout* seconds after *now*, or after the last packet that prolongs it."""
        session.last = now
        if timeout != session.timeout:
            longer = timeout > session.timeout
            session.timeout = timeout
            if not longer:  # a longer one is found when the old one runs out
                self._unschedule(session)
                self._schedule(session)

    def postpone(self, session: Session) -> None:
        """Have a session that :meth:`expired` yields looked at again, a second later."""
        self._schedule(session)

    def expired(self, now: float) -> Iterator[Session]:
        """Yield the sessions whose timer ran out up to *now*; the caller removes or postpones each before the next."""
        if self._second is None:
            self._second = min(self._buckets, default=math.floor(now))
        while self._second < now:
            bucket = self._buckets.pop(self._second, None)
            self._second += 1
            for session in bucket or ():
                if session.last + session.timeout <= now:
                    yield session
                else:
                    self._schedule(session)

    def _schedule(self, session: Session) -> None:
        due = math.ceil(session.last + session.timeout)
        if self._second is not None and due < self._second:
            due = self._second
        session.due = due
        bucket = self._buckets.get(due)
        if bucket is None:
            self._buckets[due] = {session}
        else:
            bucket.add(session)

    def _unschedule(self, session: Session) -> None:
        bucket = self._buckets.get(session.due)
        if bucket is not None:
            bucket.discard(session)
