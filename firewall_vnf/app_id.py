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

PAN-OS does not publish how much data it waits for. Ours: :data:`LIMIT` bytes of TCP a side, or
:data:`DATAGRAMS` datagrams; then an undecided session is unknown, and what is identified stays so.
"""

from __future__ import annotations

from firewall_vnf.applications import ICMP, INCOMPLETE, INSUFFICIENT_DATA, TCP, UDP
from firewall_vnf.decoders import DATAGRAM_DECODERS, STREAM_DECODERS, Match, StreamDecoder, Undecided

#: Bytes kept of each direction of a TCP session: a ClientHello with post-quantum keys is about 2,000.
LIMIT = 4096
#: Datagrams looked at in a UDP session that only one side speaks in.
DATAGRAMS = 8


class Identification:
    """The state of one session's identification. Drop it when :attr:`final` is true: nothing more can be learnt.

    ``application`` is what to match and to log now, also at the session's end; ``detail`` is what is known beyond it
    for the log, printable ASCII (the TLS server name, the HTTP host, the DNS name), or empty.
    """

    __slots__ = ("_candidates", "_client", "_datagrams", "_protocol", "_server", "application", "detail", "final")

    def __init__(self, protocol: int) -> None:
        """``protocol`` is the IP protocol's number. All but TCP, UDP and ICMP are final at once."""
        self._protocol = protocol
        self.detail = ""
        self.final = False
        if protocol == TCP:
            self.application = INCOMPLETE
            self._client = b""
            self._server = b""
            self._candidates: tuple[StreamDecoder, ...] = STREAM_DECODERS
        elif protocol in (UDP, ICMP):
            self.application = INSUFFICIENT_DATA
            self._datagrams = [0, 0]
        else:
            self.application = "unknown-ip"
            self.final = True

    def payload(self, direction: int, data: bytes | memoryview) -> bool:
        """Learn from one packet's data; true when :attr:`application` changed. Never raises, whatever the bytes.

        ``direction`` is 0 from client to server, 1 back. TCP: in sequence, each byte once. UDP: one datagram.
        ICMP: the message from its type on. ``data`` is copied as far as it is kept.
        """
        if self.final or not data:
            return False
        before = self.application
        if self._protocol == TCP:
            self._stream(direction, data)
        elif self._protocol == UDP:
            self._datagram(direction, bytes(data))
        else:
            self.application = "ping" if data[0] in (0, 8) else "icmp"  # echo reply and request (RFC 792)
            self.final = True
        return self.application != before

    def _stream(self, direction: int, data: bytes | memoryview) -> None:
        if direction == 0:
            self._client += bytes(data[: LIMIT - len(self._client)])
        else:
            self._server += bytes(data[: LIMIT - len(self._server)])
        remaining = []
        for decode in self._candidates:
            answer = decode(self._client, self._server)
            if isinstance(answer, Match):
                self._identified(answer)
                remaining = [decode]  # from here on only this decoder can refine or take back what it said
                break
            if answer is Undecided.MORE:
                remaining.append(decode)
        else:
            self.application = INSUFFICIENT_DATA if remaining else "unknown-tcp"
        self._candidates = tuple(remaining)
        if not remaining:
            self.final = True
        elif len(self._client) == LIMIT or len(self._server) == LIMIT:
            self.final = True
            if self.application == INSUFFICIENT_DATA:
                self.application = "unknown-tcp"
        if self.final:
            self._client = self._server = b""

    def _datagram(self, direction: int, datagram: bytes) -> None:
        for decode in DATAGRAM_DECODERS:
            match = decode(datagram)
            if match:
                self._identified(match)
                return
        self._datagrams[direction] += 1
        if min(self._datagrams) > 0 or sum(self._datagrams) == DATAGRAMS:
            self.application = "unknown-udp"
            self.final = True

    def _identified(self, match: Match) -> None:
        self.application = match.application
        self.detail = match.detail
        self.final = match.final
