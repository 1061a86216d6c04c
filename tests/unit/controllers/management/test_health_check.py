"""Health checks against real servers on loopback."""

from __future__ import annotations

import asyncio
import importlib
import socket
import ssl
import subprocess
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from controllers.management.health_check import LEAST_TIMEOUT, USER_AGENT, Node, matches, scaled_timeout
from controllers.management.namespace import Namespace
from topologies.model import HealthCheck

TARGET, NODE = "127.0.0.3", "127.0.0.2"
#: Longer than anything here takes that does answer; shorter than a test may wait for what does not.
LONG, SHORT = 20.0, 0.2
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def answering(answer: bytes, requests: list[str] | None = None) -> Handler:
    """Return a server's handler that reads a request and answers it."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        if requests is not None:
            requests.append(request.decode())
        writer.write(answer)
        await writer.drain()
        writer.close()

    return handle


def status(code: int, more: str = "") -> bytes:
    return f"HTTP/1.1 {code} Text\r\nContent-Length: 0\r\n{more}\r\n".encode()


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Accept and read, never answer."""
    await reader.read()
    writer.close()


def checked(
    handler: Handler | None, timeout: float = LONG, tls: ssl.SSLContext | None = None, **settings: Any
) -> str | None:
    """Return the result of one check against a server with *handler*; None is a port that refuses."""

    async def run() -> str | None:
        listening = socket.create_server((TARGET, 0))
        port = listening.getsockname()[1]
        server = None
        if handler is None:
            listening.close()
        else:
            server = await asyncio.start_server(handler, sock=listening, ssl=tls)
        node = Node(Namespace(), NODE)
        try:
            return await node.check(TARGET, HealthCheck(port=port, **settings), timeout)
        finally:
            await node.close()
            if server:
                server.close()

    return asyncio.run(run())


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate that nobody signed, and its key."""
    directory = tmp_path_factory.mktemp("tls")
    key, file = directory / "key.pem", directory / "certificate.pem"
    subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-subj",
            "/CN=nobody",
            "-keyout",
            key,
            "-out",
            file,
        ],
        check=True,
        capture_output=True,
    )
    return file, key


def server_tls(certificate: tuple[Path, Path], least: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    context.minimum_version = least
    return context


@pytest.mark.parametrize(
    ("matcher", "status", "passes"),
    [
        ("200", 200, True),
        ("200", 201, False),
        ("200,202", 202, True),
        ("200,202", 201, False),
        ("200-399", 399, True),
        ("200-399", 400, False),
        ("200,300-302", 301, True),
    ],
)
def test_a_matcher_is_codes_and_ranges(matcher: str, status: int, passes: bool) -> None:
    assert matches(matcher, status) is passes


def test_tcp_passes_when_the_connection_is_made_whatever_happens_then() -> None:
    assert checked(silent) is None


@pytest.mark.parametrize("protocol", ["TCP", "HTTP"])
def test_a_check_comes_from_the_nodes_address(protocol: Any) -> None:
    async def run() -> str:
        peer = asyncio.get_running_loop().create_future()

        async def remember(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if not peer.done():  # the library asks again when it gets no answer
                peer.set_result(writer.get_extra_info("peername")[0])
            writer.close()

        server = await asyncio.start_server(remember, TARGET, 0)
        node = Node(Namespace(), NODE)
        await node.check(TARGET, HealthCheck(protocol=protocol, port=server.sockets[0].getsockname()[1]), LONG)
        await node.close()
        server.close()
        found: str = await asyncio.wait_for(peer, LONG)
        return found

    assert asyncio.run(run()) == NODE


@pytest.mark.parametrize("protocol", ["TCP", "HTTP", "HTTPS"])
def test_a_port_that_refuses_fails(protocol: str) -> None:
    assert checked(None, protocol=protocol) == "Connection refused"


@pytest.mark.parametrize("protocol", ["HTTP", "HTTPS"])
def test_a_target_that_accepts_and_never_answers_fails_after_the_timeout(protocol: str) -> None:
    assert checked(silent, SHORT, protocol=protocol) == "timed out"


def test_a_time_out_is_divided_but_not_to_what_no_target_can_keep() -> None:
    check = HealthCheck(timeout_seconds=20)
    assert [scaled_timeout(check, scale) for scale in (1.0, 10.0, 60.0)] == [20, 2, LEAST_TIMEOUT]


def test_the_library_s_import_is_not_in_the_check_s_time(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.import_module

    def slow(name: str) -> ModuleType:
        time.sleep(6 * SHORT)
        return real(name)

    monkeypatch.setattr(importlib, "import_module", slow)
    assert checked(answering(status(503)), 5 * SHORT, protocol="HTTP") == "HTTP 503"


def test_a_node_without_its_address_fails_the_check() -> None:
    async def run(protocol: Any) -> str | None:
        node = Node(Namespace(), "203.0.113.200")
        try:
            return await node.check(TARGET, HealthCheck(protocol=protocol), LONG)
        finally:
            await node.close()

    assert asyncio.run(run("TCP")) == "Cannot assign requested address"
    assert asyncio.run(run("HTTP")) == "Cannot assign requested address"


def test_http_asks_for_the_path_as_aws_does() -> None:
    requests: list[str] = []
    assert checked(answering(status(200), requests), protocol="HTTP", path="/health?deep=1") is None
    lines = requests[0].split("\r\n")
    assert lines[0] == "GET /health?deep=1 HTTP/1.1"
    assert f"User-Agent: {USER_AGENT}" in lines


@pytest.mark.parametrize(("code", "matcher", "result"), [
    (200, "200-399", None), (404, "200-399", "HTTP 404"), (503, "200-399", "HTTP 503"), (204, "200", "HTTP 204")
])  # fmt: skip
def test_http_passes_with_a_code_of_the_matcher(code: int, matcher: str, result: str | None) -> None:
    assert checked(answering(status(code)), protocol="HTTP", matcher=matcher) == result


def test_redirects_are_not_followed() -> None:
    requests: list[str] = []
    moved = answering(status(302, "Location: /elsewhere\r\n"), requests)
    assert checked(moved, protocol="HTTP") is None
    assert checked(moved, protocol="HTTP", matcher="200") == "HTTP 302"
    assert [request.split()[1] for request in requests] == ["/", "/"]


@pytest.mark.parametrize("answer", [b"", b"SSH-2.0-nothing\r\n", b"HTTP/1.1 two Hundred\r\n\r\n", b"\x00" * 100])
def test_what_is_no_http_fails(answer: bytes) -> None:
    result = checked(answering(answer), protocol="HTTP")
    assert result is not None
    assert result.startswith("no HTTP: ")


def test_https_passes_with_a_certificate_that_nobody_signed(certificate: tuple[Path, Path]) -> None:
    assert checked(answering(status(200)), tls=server_tls(certificate), protocol="HTTPS") is None
    assert checked(answering(status(500)), tls=server_tls(certificate), protocol="HTTPS") == "HTTP 500"


def test_a_target_that_speaks_only_tls_1_3_fails(certificate: tuple[Path, Path]) -> None:
    tls = server_tls(certificate, ssl.TLSVersion.TLSv1_3)
    assert checked(answering(status(200)), tls=tls, protocol="HTTPS") == "TLS handshake failed"


def test_https_to_a_target_without_tls_fails() -> None:
    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(status(400))
        await writer.drain()
        writer.close()

    assert checked(plain, protocol="HTTPS") == "TLS handshake failed"
