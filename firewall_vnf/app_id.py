"""App-ID: what application a session carries, told from its payload and never from its port.

One :class:`Identification` accompanies a session until it is final. The engine calls :meth:`Identification.payload`
for each packet with data and looks the policy up again whenever that returns true.

How the answer develops (PAN-OS knowledge base, "Not-applicable, incomplete, insufficient data in the application
field"):

* TCP begins as ``incomplete``: no handshake, or nothing said after it.
* Data that does not tell yet makes it ``insufficient-data``; a UDP session begins so.
* A known application, as soon as the first bytes of one side show it. The other side's first bytes can still refute
  it: ``web-browsing`` becomes ``unknown-tcp`` when an SSH server answers the HTTP request.
* ``unknown-tcp`` or ``unknown-udp``: both sides have spoken and no decoder fits.
* A session refused before it could say anything is logged as ``not-applicable``; that is the engine's to say.

PAN-OS does not publish how much it waits for. Ours: :data:`LIMIT` bytes of TCP from one side or :data:`PACKETS`
packets; then an undecided session is unknown, and what is identified stays so. This bounds memory and work.
"""

from __future__ import annotations

from firewall_vnf.applications import INCOMPLETE, INSUFFICIENT_DATA
from firewall_vnf.decoders import DATAGRAM_DECODERS, STREAM_DECODERS, Match, StreamDecoder, Undecided
from firewall_vnf.packet import ICMP, ICMPV6, TCP, UDP

#: Bytes kept of each direction of a TCP session: a ClientHello with post-quantum keys is about 2,000.
LIMIT = 4096
#: Packets with data looked at in a session.
PACKETS = 32


_FIRST = {TCP: INCOMPLETE, UDP: INSUFFICIENT_DATA, ICMP: INSUFFICIENT_DATA, ICMPV6: INSUFFICIENT_DATA}
#: Types of echo requests and replies (RFC 792, RFC 4443), what these are called, and what all else is.
_ICMP_NAMES = {ICMP: ((0, 8), "ping", "icmp"), ICMPV6: ((128, 129), "ping6", "ipv6-icmp")}
_UNKNOWN = {TCP: "unknown-tcp", UDP: "unknown-udp"}


class Identification:
    """The state of one session's identification. Drop it when :attr:`final` is true: nothing more can be learnt.

    ``application`` is what to match and to log now, also at the session's end; ``detail`` is what is known beyond it
    for the log, printable ASCII (the TLS server name, the HTTP host, the DNS name), or empty.
    """

    __slots__ = ("_candidates", "_client", "_packets", "_protocol", "_server", "application", "detail", "final")

    def __init__(self, protocol: int) -> None:
        """``protocol`` is the IP protocol's number. All but TCP, UDP, ICMP and ICMPv6 are final at once."""
        self._protocol = protocol
        self._packets = 0
        self._client = self._server = b""
        self._candidates = STREAM_DECODERS
        self.application = _FIRST.get(protocol, "unknown-ip")
        self.detail = ""
        self.final = protocol not in _FIRST

    def payload(self, direction: int, data: bytes | memoryview) -> bool:
        """Learn from one packet's data; true when :attr:`application` changed. Never raises, whatever the bytes.

        ``direction`` is 0 from client to server, 1 back. TCP: in sequence, each byte once. UDP: one datagram.
        ICMP: the message from its type on. ``data`` is copied as far as it is kept.
        """
        if self.final or not data:
            return False
        before = self.application
        if self._protocol in _ICMP_NAMES:
            echoes, echo, other = _ICMP_NAMES[self._protocol]
            self.application = echo if data[0] in echoes else other
            self.final = True
            return True
        self._packets += 1
        if direction == 0:
            self._client += bytes(data[: LIMIT - len(self._client)])
        else:
            self._server += bytes(data[: LIMIT - len(self._server)])
        if self._protocol == TCP:
            self._stream()
        else:
            self._datagram(bytes(data[:LIMIT]))
        if not self.final and (self._packets == PACKETS or len(self._client) == LIMIT or len(self._server) == LIMIT):
            self.final = True
            if self.application == INSUFFICIENT_DATA:
                self.application = _UNKNOWN[self._protocol]
        if self.final:
            self._client = self._server = b""
        return self.application != before

    def _stream(self) -> None:
        remaining: list[StreamDecoder] = []
        for decode in self._candidates:
            answer = decode(self._client, self._server)
            if isinstance(answer, Match):
                self.application, self.detail, self.final = answer
                self._candidates = (decode,)  # only it can add to what it said, or take it back
                return
            if answer is Undecided.MORE:
                remaining.append(decode)
        self._candidates = tuple(remaining)
        self.application = INSUFFICIENT_DATA if remaining else _UNKNOWN[TCP]
        self.final = not remaining

    def _datagram(self, datagram: bytes) -> None:
        for decode in DATAGRAM_DECODERS:
            match = decode(datagram)
            if match:
                self.application, self.detail, self.final = match
                return
        if self._client and self._server:
            self.application, self.final = _UNKNOWN[UDP], True
