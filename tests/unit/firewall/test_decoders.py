"""Each protocol's decoder with what real programs say, in one piece and cut anywhere; hostile bytes for all."""

from __future__ import annotations

import ssl as tls

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.dns import DNS, DNSQR, DNSRR
from scapy.layers.ntp import NTPHeader

from firewall_vnf.decoders import (
    DATAGRAM_DECODERS,
    STREAM_DECODERS,
    Match,
    StreamDecoder,
    Undecided,
    dns,
    dns_over_tcp,
    ftp,
    iperf3,
    mysql,
    smtp,
    ssh,
    ssl,
    web_browsing,
)

MORE, NO = Undecided.MORE, Undecided.NO


def client_hello(name: str | None) -> bytes:
    """A ClientHello of the OpenSSL that Python is built with."""
    outgoing = tls.MemoryBIO()
    context = tls.create_default_context()
    context.check_hostname = False
    connection = context.wrap_bio(tls.MemoryBIO(), outgoing, server_hostname=name)
    with pytest.raises(tls.SSLWantReadError):
        connection.do_handshake()
    return outgoing.read()


HELLO = client_hello("www.example.com")
SERVER_HELLO = bytes.fromhex("160303007a0200007603")
COOKIE = b"xvkxpz6b5ywcbnpafuv7sehbqb7j45opeeo7\0"
QUERY = bytes(DNS(id=7, qd=DNSQR(qname="www.example.com")))
LENGTH = len(QUERY).to_bytes(2, "big")
MYSQL = b"\x4a\0\0\0\x0a8.0.36\0\x08\0\0\0abcdefgh\0\xff\xff\xff\x02\0\xff\xdf\x15"
MARIADB = b"\x6e\0\0\0\x0a5.5.5-10.11.6-MariaDB-0+deb12u1\0\x1e\0\0\0"
GET = b"GET /index.html HTTP/1.1\r\nUser-Agent: curl/7.88.1\r\nHost: www.example.com\r\nAccept: */*\r\n\r\n"

#: Decoder, what the client says, what the server says, application and detail once both have spoken.
CONVERSATIONS: list[tuple[StreamDecoder, bytes, bytes, str, str]] = [
    (ssh, b"SSH-2.0-OpenSSH_9.2p1\r\n", b"SSH-2.0-OpenSSH_9.6\r\n\0\0", "ssh", "SSH-2.0-OpenSSH_9.6"),
    (web_browsing, GET, b"HTTP/1.1 200 OK\r\n", "web-browsing", "www.example.com"),
    (web_browsing, b"HEAD / HTTP/1.0\r\n\r\n", b"HTTP/1.0 404 Not Found\r\n", "web-browsing", ""),
    (web_browsing, b"POST /a HTTP/1.1\nhost:\tb\n\n{}", b"HTTP/1.1 201 Created", "web-browsing", "b"),
    (ssl, HELLO, SERVER_HELLO, "ssl", "www.example.com"),
    (ssl, client_hello(None), SERVER_HELLO, "ssl", ""),
    (ssl, HELLO, b"\x15\x03\x03\x00\x02\x02\x28", "ssl", "www.example.com"),
    (iperf3, COOKIE, b"\x09", "iperf3", ""),
    (iperf3, COOKIE + b"\x8c\x57\x48\x4a", b"", "iperf3", ""),
    (dns_over_tcp, LENGTH + QUERY, b"", "dns", "www.example.com"),
    (smtp, b"EHLO mail.example.org\r\n", b"220 mx1 ESMTP Postfix (Debian)\r\n", "smtp", "mx1 ESMTP Postfix (Debian)"),
    (smtp, b"HELO me\r\n", b"220-wait\r\n220 ready\r\n", "smtp", "wait"),
    (ftp, b"USER anonymous\r\n", b"220 (vsFTPd 3.0.3)\r\n", "ftp", "(vsFTPd 3.0.3)"),
    (ftp, b"AUTH TLS\r\n", b"220 welcome\r\n", "ftp", "welcome"),
    (mysql, b"\x20\0\0\x01\x8d\xa6", MYSQL, "mysql", "8.0.36"),
    (mysql, b"\x20\0\0\x01\x8d\xa6", MARIADB, "mysql", "5.5.5-10.11.6-MariaDB-0+deb12u1"),
]


@pytest.mark.parametrize(("decode", "client", "server", "application", "detail"), CONVERSATIONS)
def test_a_conversation_is_its_protocols(
    decode: StreamDecoder, client: bytes, server: bytes, application: str, detail: str
) -> None:
    assert decode(client, server) == Match(application, detail, final=True)


@pytest.mark.parametrize("server_first", [False, True])
@pytest.mark.parametrize(("decode", "client", "server", "application", "detail"), CONVERSATIONS)
def test_nothing_is_refused_or_taken_back_byte_by_byte(
    decode: StreamDecoder, client: bytes, server: bytes, application: str, detail: str, server_first: bool
) -> None:
    greets = decode in (ssh, smtp, ftp, mysql)
    if server_first and not greets:
        return
    steps = [(client[:n], b"") for n in range(len(client))] + [(client, server[:n]) for n in range(len(server) + 1)]
    if server_first:
        steps = [(b"", server[:n]) for n in range(len(server))] + [(client[:n], server) for n in range(len(client) + 1)]
    matched = False
    for step in steps:
        answer = decode(*step)
        assert answer is not NO
        assert not matched or isinstance(answer, Match)
        if isinstance(answer, Match):
            matched = True
            if answer.final and decode is not ssh:
                break
    assert matched


@pytest.mark.parametrize(("decode", "client", "server", "application", "detail"), CONVERSATIONS)
def test_a_conversation_is_no_other_protocols(
    decode: StreamDecoder, client: bytes, server: bytes, application: str, detail: str
) -> None:
    answers = {other: other(client, server) for other in STREAM_DECODERS if other is not decode}
    assert not any(isinstance(answer, Match) for answer in answers.values())


@pytest.mark.parametrize(
    ("decode", "client", "server"),
    [
        (ssh, b"SSH-2.0-x\r\n", b"HTTP/1.1 400 Bad Request\r\n"),
        (ssh, b"GET / HTTP/1.1\r\n", b"SSH-2.0-OpenSSH_9.2\r\n"),
        (web_browsing, GET, b"SSH-2.0-OpenSSH_9.2\r\n"),
        (web_browsing, b"GET my data\r\n", b""),
        (web_browsing, b"GETS / HTTP/1.1\r\n", b""),
        (ssl, HELLO, b"HTTP/1.1 400 Bad Request\r\n"),
        (ssl, b"\x16\x03\x01\x02\x00\x02", b""),
        (ssl, b"\x17\x03\x03", b""),
        (ssl, b"", SERVER_HELLO),
        (iperf3, COOKIE.replace(b"x", b"1"), b""),
        (iperf3, COOKIE[:36] + b"a", b""),
        (dns_over_tcp, b"\x03\0", b""),
        (dns_over_tcp, b"", b"\0"),
        (dns_over_tcp, LENGTH + b"\0" * len(QUERY), b""),
        (smtp, b"USER x\r\n", b"220 ready\r\n"),
        (smtp, b"", b"554 go away\r\n"),
        (smtp, b"\0" * 20, b"220 ESMTP\r\n"),
        (ftp, b"EHLO x\r\n", b"220 ready\r\n"),
        (ftp, b"", b"2200\r\n"),
        (mysql, b"\x20\0\0\x02\x8d", MYSQL),
        (mysql, b"", b"\x4a\0\0\0\x09"),
        (mysql, b"", b"\x4a\0\0\0\x0a8" + b"." * 70),
    ],
)
def test_what_does_not_fit_is_refused(decode: StreamDecoder, client: bytes, server: bytes) -> None:
    assert decode(client, server) is NO


def test_an_http_server_may_speak_to_a_silent_client() -> None:
    assert web_browsing(b"", b"HTTP/1.1 408 Request Timeout\r\n") == Match("web-browsing")


def test_a_client_hello_cut_into_records() -> None:
    body = HELLO[5:]
    records = b"".join(
        b"\x16\x03\x01" + len(part).to_bytes(2, "big") + part for part in (body[:100], body[100:101], body[101:])
    )
    assert ssl(records, b"") == Match("ssl", "www.example.com", final=False)


def test_details_are_printable() -> None:
    name = b"evil\x1b[2J\r.example"
    assert web_browsing(GET.replace(b"www.example.com", name.replace(b"\r", b"\xff")), b"") == Match(
        "web-browsing", "evil?[2J?.example", final=False
    )
    hello = HELLO.replace(b"www.example.com", b"www\x1bexample\ncom")
    assert ssl(hello, b"") == Match("ssl", "www?example?com", final=False)
    assert dns(QUERY.replace(b"example", b"ex\0\0\0le")) == Match("dns", "www.ex???le.com")


# --- datagrams ------------------------------------------------------------------------------------------------------

RESPONSE = bytes(
    DNS(id=7, qr=1, qd=DNSQR(qname="www.example.com"), an=DNSRR(rrname="www.example.com", rdata="1.2.3.4"))
)


@pytest.mark.parametrize(
    ("datagram", "match"),
    [
        (QUERY, Match("dns", "www.example.com")),
        (RESPONSE, Match("dns", "www.example.com")),
        (bytes(DNS(qd=DNSQR(qname=".", qtype="NS"))), Match("dns", "")),
        (bytes(NTPHeader(mode=3, version=4)), Match("ntp")),
        (bytes(NTPHeader(mode=4, version=3, stratum=2)), Match("ntp")),
        (b"9876", Match("iperf3")),  # as captured from iperf3 3.12
        (b"6789", Match("iperf3")),
        ((123456789).to_bytes(4, "little"), Match("iperf3")),
    ],
)
def test_datagrams(datagram: bytes, match: Match) -> None:
    assert [found for decode in DATAGRAM_DECODERS if (found := decode(datagram))] == [match]


@pytest.mark.parametrize(
    "datagram",
    [
        b"",
        QUERY[:-1],
        QUERY[:12],
        QUERY[:4] + b"\0\2" + QUERY[6:],
        QUERY[:2] + b"\x30\0" + QUERY[4:],  # opcode 6
        QUERY[:-1] + b"\x09",  # class
        QUERY.replace(b"\x03www", b"\x7fwww"),
        QUERY[:12] + b"\x3f" * 300 + b"\0\0\1\0\1",
        bytes(NTPHeader(mode=6)),
        bytes(NTPHeader(mode=3)) + b"x",
        bytes(NTPHeader(mode=4, stratum=17)),
        b"98765",
        b"\x16\xfe\xfd" + bytes(60),  # DTLS
        b"\xc3\0\0\0\1" + bytes(1195),  # QUIC
        b"\1\0\0\0" + bytes(144),  # WireGuard
    ],
)
def test_other_datagrams(datagram: bytes) -> None:
    assert [found for decode in DATAGRAM_DECODERS if (found := decode(datagram))] == []


# --- hostile bytes --------------------------------------------------------------------------------------------------

WORDS = sorted({word for _, client, server, _, _ in CONVERSATIONS for word in (client, server)})
hostile = st.one_of(
    st.binary(max_size=600),
    st.builds(
        lambda word, cut, rest: word[:cut] + rest, st.sampled_from(WORDS), st.integers(0, 600), st.binary(max_size=80)
    ),
    st.builds(
        lambda word, at, byte: word[:at] + bytes([byte]) + word[at + 1 :],
        st.sampled_from(WORDS),
        st.integers(0, 600),
        st.integers(0, 255),
    ),
)


@given(hostile, hostile)
def test_hostile_streams_never_raise_and_answers_only_grow(client: bytes, server: bytes) -> None:
    for decode in STREAM_DECODERS:
        matched = refused = False
        for step in range(0, max(len(client), len(server)) + 8, 7):
            answer = decode(client[:step], server[: max(step - 20, 0)])
            if isinstance(answer, Match):
                assert not refused
                assert answer.detail.isascii()
                assert answer.detail.isprintable() or not answer.detail
                assert len(answer.detail) <= 255
                matched = True
                if answer.final:
                    break
            else:
                assert not (matched and answer is MORE)
                assert not (refused and answer is MORE)
                refused = refused or answer is NO


@given(hostile)
def test_hostile_datagrams_never_raise(datagram: bytes) -> None:
    for decode in DATAGRAM_DECODERS:
        match = decode(datagram)
        assert match is None or match.detail.isascii()


@pytest.mark.parametrize(
    "client",
    [
        b"GET / HTTP/1.1\r\nHost:" + b" " * 4000,
        b"GET / HTTP/1.1\r\n" + b"\nHost:" * 680,
        HELLO[:43] + b"\0\0\0\0\0" + b"\0\1\0\0" * 1000,
        (b"\x16\x03\x01\0\0" + b"\x16\x03\x01\0\1\1") * 370,
        b"\x16\x03\x01\x0f\xff\x01\x00\x0f\x00" + b"\0" * 4087,
        b" " * 4096,
        b"a" * 4096,
    ],
)
def test_hostile_prefixes_end(client: bytes) -> None:
    """What is made to be expensive grows with its length only: with its square, 256 times as much would not end."""
    server = b"220 " + b"\n" * 4092 * 256
    for decode in STREAM_DECODERS:
        for prefix in (client, client * 256):
            decode(prefix, b"")
            decode(prefix, server)
