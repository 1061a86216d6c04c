"""Decoders: one function a protocol that tells from the first bytes whether a session speaks it.

The bytes are hostile. Decoders are pure, look at a bounded prefix, pass through it once and never raise.

A *stream decoder* gets what client and server have said so far (prefixes, either may be empty) and answers

* :class:`Match`: it is mine; not ``final`` while the other side may refute it or more bytes may add to ``detail``,
* ``Undecided.MORE``: it could still be,
* ``Undecided.NO``: it cannot be, whatever follows.

More bytes may turn a ``Match`` into another ``Match`` or into ``NO``, never back into ``MORE``. The decoders of
protocols in which the server greets stay at ``MORE`` until it has spoken.

A *datagram decoder* judges one UDP datagram of either direction.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import Enum
from typing import NamedTuple


class Undecided(Enum):
    MORE = "could still be"
    NO = "cannot be"


MORE, NO = Undecided.MORE, Undecided.NO


class Match(NamedTuple):
    """``detail`` is printable ASCII of at most 255 characters."""

    application: str
    detail: str = ""
    final: bool = True


Answer = Match | Undecided
StreamDecoder = Callable[[bytes, bytes], Answer]
DatagramDecoder = Callable[[bytes], Match | None]

_PRINTABLE = bytes(code if 0x20 <= code <= 0x7E else ord("?") for code in range(256))


def _text(data: bytes) -> str:
    """Hostile bytes for a log line or a terminal."""
    return data[:255].translate(_PRINTABLE).decode("ascii")


def _begins(data: bytes, start: bytes) -> Undecided | None:
    """None when ``data`` begins with ``start``, MORE when it could yet, NO when it does not."""
    if data.startswith(start):
        return None
    return MORE if start.startswith(data) else NO


def ssh(client: bytes, server: bytes) -> Answer:
    """Both sides begin with ``SSH-``, in any order (RFC 4253, 4.2). The detail is the server's software."""
    sides = _begins(client, b"SSH-"), _begins(server, b"SSH-")
    if NO in sides:
        return NO
    if sides == (MORE, MORE):
        return MORE
    line, newline, _ = server.partition(b"\n")
    return Match("ssh", _text(line.rstrip(b"\r")) if newline else "", final=sides == (None, None))


_METHODS = (b"GET ", b"POST ", b"HEAD ", b"PUT ", b"DELETE ", b"OPTIONS ", b"PATCH ", b"CONNECT ", b"TRACE ")
_VERSIONS = (b" HTTP/1.1", b" HTTP/1.0")
# The value begins with a non-space, so that a run of spaces can be read in one way only.
_HOST = re.compile(rb"\n[Hh][Oo][Ss][Tt]:[ \t]*([^\s][^\r\n]{0,254})\r?\n")


def web_browsing(client: bytes, server: bytes) -> Answer:
    """An HTTP/1.x request line, answered by a status line (RFC 9112). The detail is the Host header."""
    answer = _begins(server, b"HTTP/1.")
    if answer is NO:
        return NO
    if not client:
        return MORE if answer is MORE else Match("web-browsing")  # e.g. 408 to a client that said nothing
    if not client.startswith(_METHODS):
        return MORE if any(method.startswith(client) for method in _METHODS) else NO
    line, newline, _ = client.partition(b"\n")
    if newline and not line.rstrip(b"\r").endswith(_VERSIONS):
        return NO
    host = _HOST.search(client)
    return Match("web-browsing", _text(host[1]) if host else "", final=answer is None)


def ssl(client: bytes, server: bytes) -> Answer:
    """A ClientHello, answered by a handshake or alert record of TLS (RFC 8446, 5.1). The detail is the server name."""
    if server and (server[0] not in (21, 22) or server[1:2] not in (b"", b"\x03")):
        return NO
    if not client:
        return NO if server else MORE  # the client speaks first
    if client[0] != 22 or client[1:2] not in (b"", b"\x03") or client[5:6] not in (b"", b"\x01"):
        return NO
    if len(client) < 6:
        return MORE
    return Match("ssl", _text(_server_name(_handshake(client))), final=bool(server))


def _handshake(stream: bytes) -> bytes:
    """The handshake messages in the leading TLS records: a ClientHello may be cut into several."""
    messages = b""
    for _ in range(16):
        if stream[:1] != b"\x16":
            break
        length = int.from_bytes(stream[3:5], "big")
        messages += stream[5 : 5 + length]
        stream = stream[5 + length :]
    return messages


def _server_name(hello: bytes) -> bytes:
    """The host name in a complete ClientHello's server_name extension, else nothing (RFC 8446, 4.1.2; RFC 6066, 3).

    Slices past the end are empty and count as zero, so lies about lengths end the search.
    """
    if len(hello) < 4 + int.from_bytes(hello[1:4], "big"):
        return b""
    at = 4 + 2 + 32  # header, version, random
    at += 1 + int.from_bytes(hello[at : at + 1], "big")  # session id
    at += 2 + int.from_bytes(hello[at : at + 2], "big")  # cipher suites
    at += 1 + int.from_bytes(hello[at : at + 1], "big")  # compression methods
    at += 2  # length of the extensions
    for _ in range(64):
        kind, body = hello[at : at + 2], hello[at + 4 :]
        length = int.from_bytes(hello[at + 2 : at + 4], "big")
        if kind == b"\0\0":  # a list of names; the first, of type host_name, is the only one in use
            return body[5 : 5 + int.from_bytes(body[3:5], "big")] if body[2:3] == b"\0" else b""
        at += 4 + length
    return b""


_COOKIE = re.compile(rb"[a-z2-7]{36}\0")
_COOKIE_START = re.compile(rb"[a-z2-7]{0,36}")


def iperf3(client: bytes, server: bytes) -> Answer:
    """The cookie that the client sends first on control and data connections: 36 characters and NUL (make_cookie)."""
    if _COOKIE.match(client):
        return Match("iperf3")
    return MORE if _COOKIE_START.fullmatch(client) else NO


def dns_over_tcp(client: bytes, server: bytes) -> Answer:
    """A query after its length in two bytes (RFC 1035, 4.2.2). Longer queries than 767 bytes are not believed."""
    if client[0:1] > b"\x02" or (server and not client):
        return NO
    length = int.from_bytes(client[:2], "big")
    if len(client) < 2 + length or len(client) < 2:
        return MORE
    return dns(client[2 : 2 + length]) or NO


def _greeted(client: bytes, server: bytes, application: str, word: bytes, commands: re.Pattern[bytes]) -> Answer:
    """Greeting 220, then a command. The greeting's own words decide while the client is silent."""
    if (greeting := _begins(server, b"220")) is not None:
        return greeting
    if server[3:4] not in (b"", b" ", b"-"):
        return NO
    line, newline, _ = server.partition(b"\n")
    detail = _text(line[4:].rstrip(b"\r")) if newline else ""
    command = re.match(rb"\s*[A-Za-z]+\s", client)
    if command:
        return Match(application, detail) if commands.match(command[0]) else NO
    if len(client) > 16:
        return NO
    return Match(application, detail, final=False) if newline and word in line.upper() else MORE


_SMTP_COMMANDS = re.compile(rb"(?i)(EHLO|HELO|LHLO|QUIT|NOOP)\s")
_FTP_COMMANDS = re.compile(rb"(?i)(USER|AUTH|FEAT|SYST|OPTS|CLNT|HOST|HELP|QUIT|NOOP)\s")


def smtp(client: bytes, server: bytes) -> Answer:
    """Greeting 220, then EHLO or HELO (RFC 5321, 4.3). The detail is the greeting."""
    return _greeted(client, server, "smtp", b"SMTP", _SMTP_COMMANDS)


def ftp(client: bytes, server: bytes) -> Answer:
    """The control connection: greeting 220, then USER or one of the commands before it (RFC 959, RFC 4217)."""
    return _greeted(client, server, "ftp", b"FTP", _FTP_COMMANDS)


_MYSQL_GREETING = re.compile(rb"...\x00\x0a([0-9][^\x00]{0,62})\x00", re.DOTALL)


def mysql(client: bytes, server: bytes) -> Answer:
    """Packet 0 from the server: protocol 10 and a version; packet 1 from the client (MySQL's "Connection Phase").

    The detail is the server's version.
    """
    greeting = _MYSQL_GREETING.match(server)
    if greeting:
        if client[3:4] not in (b"", b"\x01"):
            return NO
        return Match("mysql", _text(greeting[1]), final=len(client) > 3)
    return NO if server[3:5] not in (b"", b"\x00", b"\x00\x0a") or len(server) > 68 else MORE


#: In the order in which they are asked. SMTP before FTP: a mail host may be named ftp.
STREAM_DECODERS: tuple[StreamDecoder, ...] = (ssl, web_browsing, ssh, iperf3, dns_over_tcp, smtp, ftp, mysql)


def dns(datagram: bytes) -> Match | None:
    """One question, a known opcode and class, labels within bounds (RFC 1035, 4.1). The detail is the name asked."""
    if not 17 <= len(datagram) <= 4096 or datagram[4:6] != b"\0\1":
        return None
    is_query, opcode = datagram[2] < 0x80, datagram[2] >> 3 & 15
    if opcode > 5 or datagram[3] & 0x40 or (is_query and datagram[6:8] != b"\0\0"):
        return None
    labels, at = [], 12
    while at < len(datagram) and datagram[at]:
        if datagram[at] > 63 or at > 12 + 255:
            return None
        labels.append(datagram[at + 1 : at + 1 + datagram[at]])
        at += 1 + datagram[at]
    question_class = int.from_bytes(datagram[at + 3 : at + 5], "big") & 0x7FFF  # the top bit is multicast DNS's
    if len(datagram) < at + 5 or question_class not in (1, 3, 4, 254, 255):
        return None
    return Match("dns", _text(b".".join(labels)))


def ntp(datagram: bytes) -> Match | None:
    """Versions 1 to 4, modes 1 to 4, 48 bytes and extension fields (RFC 5905, 7.3)."""
    if not 48 <= len(datagram) <= 1400 or len(datagram) % 4:
        return None
    version, mode, stratum = datagram[0] >> 3 & 7, datagram[0] & 7, datagram[1]
    return Match("ntp") if 1 <= version <= 4 and 1 <= mode <= 4 and stratum <= 16 else None


# iperf3 writes UDP_CONNECT_MSG and its reply in the host's byte order; releases before 3.10 other numbers.
_IPERF3_HELLOS = frozenset({b"9876", b"6789"}) | {
    number.to_bytes(4, order) for number in (123456789, 987654321) for order in ("little", "big")
}


def iperf3_over_udp(datagram: bytes) -> Match | None:
    """The four bytes with which client and server open each UDP stream (iperf_udp_connect, iperf_udp_accept)."""
    return Match("iperf3") if datagram in _IPERF3_HELLOS else None


DATAGRAM_DECODERS: tuple[DatagramDecoder, ...] = (dns, ntp, iperf3_over_udp)
