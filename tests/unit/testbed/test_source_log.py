"""Whom an application sees, on loopback."""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
from collections.abc import Sequence
from ipaddress import IPv4Address
from typing import Any

import pytest

from testbed.probes import source_log
from testbed.probes.child import ProbeError

LOOPBACK = IPv4Address("127.0.0.1")


class Loopback:
    name = "here"
    pid = os.getpid()
    address = LOOPBACK

    def popen(self, command: Sequence[str], **keywords: Any) -> subprocess.Popen[Any]:
        return subprocess.Popen(command, **keywords)


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.mark.parametrize("protocol", ["http", "tcp"])
def test_the_log_and_the_answers_say_the_same(port: int, protocol: source_log.Protocol) -> None:
    with source_log.application(Loopback(), port, protocol) as server:
        answers = source_log.request(Loopback(), LOOPBACK, port, count=3, protocol=protocol, label="mine")
        assert source_log.parse(server.output) == list(answers.seen)
    assert answers.failed == ()
    assert [(seen.server, seen.label, seen.peer) for seen in answers.seen] == [("here", "mine", LOOPBACK)] * 3
    assert len({seen.port for seen in answers.seen}) == 3


def test_forwarded_for_is_read_from_all_headers_and_health_checks_are_not_logged(port: int) -> None:
    with source_log.application(Loopback(), port) as server:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request("GET", "/", headers={"User-Agent": "ELB-HealthChecker/2.0"})
        assert connection.getresponse().read() == b"healthy\n"
        connection.putrequest("GET", "/label")
        connection.putheader("X-Forwarded-For", "198.51.100.2, 10.0.0.1")
        connection.putheader("X-Forwarded-For", "10.0.0.2")
        connection.endheaders()
        connection.getresponse().read()
        connection.close()
        (seen,) = source_log.parse(server.output)
    assert [str(address) for address in seen.forwarded_for] == ["198.51.100.2", "10.0.0.1", "10.0.0.2"]


def test_requests_that_fail_are_a_result(port: int) -> None:
    for protocol in ("http", "tcp"):
        answers = source_log.request(Loopback(), LOOPBACK, port, count=2, protocol=protocol)
        assert (answers.seen, answers.failed) == ((), ("[Errno 111] Connection refused",) * 2)


def test_a_malformed_log_is_an_error() -> None:
    with pytest.raises(ProbeError, match=r"^source log: malformed result \(KeyError\('server'\)\)$"):
        source_log.parse('{"peer": "10.0.0.1"}')
