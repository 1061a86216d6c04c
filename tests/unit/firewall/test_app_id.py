"""Identification over a session's life."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firewall_vnf.app_id import LIMIT, PACKETS, Identification
from firewall_vnf.applications import APPLICATIONS, NOT_IDENTIFIED
from firewall_vnf.packet import ICMP, TCP, UDP

CLIENT, SERVER = 0, 1
GET = b"GET / HTTP/1.1\r\nHost: web1\r\n\r\n"


def develop(protocol: int, *packets: tuple[int, bytes]) -> tuple[list[str], Identification]:
    """All applications that a session had, and its identification at the end."""
    identification = Identification(protocol)
    applications = [identification.application]
    for direction, data in packets:
        if identification.payload(direction, data):
            applications.append(identification.application)
        assert identification.application == applications[-1]
    return applications, identification


@pytest.mark.parametrize(
    ("protocol", "packets", "applications"),
    [
        (TCP, [], ["incomplete"]),
        (TCP, [(CLIENT, b"")], ["incomplete"]),
        (TCP, [(CLIENT, b"GE")], ["incomplete", "insufficient-data"]),
        (TCP, [(CLIENT, b"GE"), (CLIENT, GET[2:])], ["incomplete", "insufficient-data", "web-browsing"]),
        (TCP, [(CLIENT, GET)], ["incomplete", "web-browsing"]),
        (TCP, [(CLIENT, GET), (SERVER, b"HTTP/1.1 200 OK\r\n")], ["incomplete", "web-browsing"]),
        (TCP, [(CLIENT, GET), (SERVER, b"SSH-2.0-x\r\n")], ["incomplete", "web-browsing", "unknown-tcp"]),
        (TCP, [(SERVER, b"SSH-2.0-x\r\n"), (CLIENT, b"SSH-2.0-y\r\n")], ["incomplete", "ssh"]),
        (TCP, [(CLIENT, b"?")], ["incomplete", "insufficient-data"]),
        (TCP, [(CLIENT, b"?"), (SERVER, b"!")], ["incomplete", "insufficient-data"]),
        (TCP, [(CLIENT, b"?"), (SERVER, b"hello")], ["incomplete", "insufficient-data", "unknown-tcp"]),
        (TCP, [(SERVER, b"hello"), (CLIENT, b"?")], ["incomplete", "insufficient-data", "unknown-tcp"]),
        (TCP, [(CLIENT, bytes(LIMIT))], ["incomplete", "unknown-tcp"]),
        (TCP, [(SERVER, b"220 hi\r\n"), (CLIENT, b"EHLO x\r\n")], ["incomplete", "insufficient-data", "smtp"]),
        (UDP, [], ["insufficient-data"]),
        (UDP, [(CLIENT, b"9876"), (SERVER, b"6789")], ["insufficient-data", "iperf3"]),
        (UDP, [(CLIENT, b"?"), (CLIENT, b"9876")], ["insufficient-data", "iperf3"]),
        (UDP, [(CLIENT, b"?")] * (PACKETS - 1), ["insufficient-data"]),
        (UDP, [(CLIENT, b"?")] * PACKETS, ["insufficient-data", "unknown-udp"]),
        (UDP, [(CLIENT, b"?"), (SERVER, b"!")], ["insufficient-data", "unknown-udp"]),
        (ICMP, [(CLIENT, b"\x08\0")], ["insufficient-data", "ping"]),
        (ICMP, [(CLIENT, b"\x0d\0")], ["insufficient-data", "icmp"]),
        (47, [], ["unknown-ip"]),
    ],
)
def test_development(protocol: int, packets: list[tuple[int, bytes]], applications: list[str]) -> None:
    assert develop(protocol, *packets)[0] == applications


@pytest.mark.parametrize(
    ("protocol", "packets", "final"),
    [
        (TCP, [(CLIENT, GET)], False),  # the server may still turn out to be none of HTTP's
        (TCP, [(CLIENT, GET), (SERVER, b"HTTP/1.1 200 OK\r\n")], True),
        (TCP, [(CLIENT, b"POST / HTTP/1.1\r\n\r\n"), (CLIENT, bytes(LIMIT))], True),  # an upload is not followed on
        (TCP, [(CLIENT, b"?")], False),
        (TCP, [(CLIENT, b"?"), (SERVER, b"hello")], True),
        (UDP, [(CLIENT, b"9876")], True),
        (ICMP, [(CLIENT, b"\x08\0")], True),
        (47, [], True),
    ],
)
def test_when_nothing_more_can_be_learnt(protocol: int, packets: list[tuple[int, bytes]], final: bool) -> None:
    identification = develop(protocol, *packets)[1]
    assert identification.final is final
    if final:
        before = identification.application
        assert not identification.payload(CLIENT, b"SSH-2.0-x\r\n")
        assert identification.application == before


def test_an_application_stays_when_the_limit_is_reached() -> None:
    assert develop(TCP, (CLIENT, GET), (CLIENT, bytes(LIMIT)))[1].application == "web-browsing"


def test_ports_are_not_even_asked_for() -> None:
    applications, identification = develop(TCP, (CLIENT, GET[:20]), (CLIENT, GET[20:]))
    assert applications[-1] == "web-browsing"
    assert identification.detail == "web1"


def test_a_view_of_a_buffer_that_is_used_again() -> None:
    buffer = bytearray(b"GET / HTTP/1.1\r\nHo")
    identification = Identification(TCP)
    identification.payload(CLIENT, memoryview(buffer))
    buffer[:] = bytes(len(buffer))
    identification.payload(CLIENT, b"st: web1\r\n\r\n")
    assert identification.detail == "web1"


@given(
    st.sampled_from([ICMP, TCP, UDP, 47]),
    st.lists(
        st.tuples(
            st.sampled_from([CLIENT, SERVER]),
            st.one_of(
                st.binary(max_size=50),
                st.sampled_from([GET, b"SSH-2.0-", b"220 ", b"EHLO x\r\n", b"\x16\x03\x01", b"9876", bytes(5000)]),
            ),
        ),
        max_size=50,
    ),
)
def test_hostile_sessions(protocol: int, packets: list[tuple[int, bytes]]) -> None:
    identification = Identification(protocol)
    changes = looked_at = 0
    for direction, data in packets:
        looked_at += bool(data) and not identification.final
        before = identification.application
        changed = identification.payload(direction, data)
        assert changed == (identification.application != before)
        changes += changed
    assert changes <= 3  # insufficient-data, the application, refuted
    assert looked_at <= PACKETS
    assert identification.application in APPLICATIONS.keys() | NOT_IDENTIFIED
