"""Whom an application sees: a server that logs the source of every request, and a client that makes some.

Run as a program it is the server (``serve PROTOCOL PORT``), which prints a JSON line for each request before it answers
with the same line, or the client (``request PROTOCOL ADDRESS PORT COUNT LABEL TIMEOUT``). The label is the request's
path in HTTP, its line in raw TCP. Load balancers' health checks are answered, not logged.
"""

from __future__ import annotations

import http.client
import json
import socket
import socketserver
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from ipaddress import IPv4Address
from typing import Any, Literal

from testbed.probes.child import Child, Node, ProbeError
from testbed.probes.web import Server

Protocol = Literal["http", "tcp"]

TIMEOUT = 5.0
#: How AWS's health checks, and those that play them, begin their ``User-Agent``.
HEALTH_CHECK = "ELB-HealthChecker"


@dataclass(frozen=True)
class Seen:
    """A request with a ``label`` as ``server`` saw it: the connection's ``peer`` and ``port``, and who is in
    ``X-Forwarded-For``, the first being the farthest."""

    server: str
    label: str
    peer: IPv4Address
    port: int
    forwarded_for: tuple[IPv4Address, ...]


@dataclass(frozen=True)
class Answers:
    """What the servers said of the requests that were answered, and why the others ``failed``."""

    seen: tuple[Seen, ...]
    failed: tuple[str, ...]


@contextmanager
def application(server: Node, port: int, protocol: Protocol = "http") -> Iterator[Child]:
    """Serve on *server*'s *port* while the block lasts; :func:`parse` reads the child's output.

    Raises ProbeError when it does not listen.
    """
    command = [sys.executable, "-m", __name__, "serve", protocol, str(port), server.name]
    with Child(server, f"source log {server.name}", command) as child:
        child.wait_listening(port)
        yield child


def request(
    client: Node,
    address: IPv4Address,
    port: int,
    *,
    count: int = 1,
    protocol: Protocol = "http",
    label: str = "request",
    timeout: float = TIMEOUT,
) -> Answers:
    """Make *count* requests, one after the other, each by a connection of its own; each may take *timeout* seconds.

    That requests fail is a result. Raises ProbeError when the client itself does.
    """
    title = f"source log {client.name} → {address}:{port}"
    words = [protocol, str(address), str(port), str(count), label, str(timeout)]
    with Child(client, title, [sys.executable, "-m", __name__, "request", *words]) as child:
        code = child.wait(count * timeout + 20)
        if code:
            raise child.failure(code)
        lines = child.output.splitlines()
        failed = tuple(line[1:] for line in lines if line.startswith("!"))
        return Answers(tuple(parse("\n".join(line for line in lines if not line.startswith("!")), title)), failed)


def parse(log: str, title: str = "source log") -> list[Seen]:
    """Return the requests of a server's log. Raises ProbeError when it is malformed."""
    try:
        return [
            Seen(
                line["server"],
                line["label"],
                IPv4Address(line["peer"]),
                int(line["port"]),
                tuple(IPv4Address(address) for address in line["forwarded_for"]),
            )
            for line in map(json.loads, log.splitlines())
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise ProbeError(f"{title}: malformed result ({error!r})") from None


def note(server: str, label: str, peer: Any, forwarded_for: list[str]) -> str:
    """Print what is seen of a request, and return the line."""
    addresses = [address.strip() for header in forwarded_for for address in header.split(",")]
    line = {"server": server, "label": label, "peer": peer[0], "port": peer[1], "forwarded_for": addresses}
    text = json.dumps(line) + "\n"
    sys.stdout.write(text)  # at once, or the lines of two threads mix
    sys.stdout.flush()
    return text


class HttpHandler(BaseHTTPRequestHandler):
    """Answers every GET with what it sees."""

    protocol_version = "HTTP/1.1"
    server_name: str

    def do_GET(self) -> None:
        body = b"healthy\n"
        if not self.headers.get("User-Agent", "").startswith(HEALTH_CHECK):
            forwarded_for = self.headers.get_all("X-Forwarded-For", [])
            body = note(self.server_name, self.path.strip("/"), self.client_address, forwarded_for).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Errors are not logged: only requests are."""


class TcpHandler(socketserver.StreamRequestHandler):
    """Answers every line with what it sees; a connection without one is a health check."""

    server_name: str

    def handle(self) -> None:
        for line in self.rfile:
            self.wfile.write(
                note(self.server_name, line.decode(errors="replace").strip(), self.client_address, []).encode()
            )


class TcpServer(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A peer that resets its connection is no error."""


def serve(protocol: str, port: int, name: str) -> None:
    handler: type[Any] = HttpHandler if protocol == "http" else TcpHandler
    handler.server_name = name
    server: type[Any] = Server if protocol == "http" else TcpServer
    server(("0.0.0.0", port), handler).serve_forever()


def ask(protocol: str, address: str, port: int, label: str, timeout: float) -> str:
    """Make one request and return the line that answers it. Raises OSError or http.client.HTTPException."""
    if protocol == "tcp":
        with socket.create_connection((address, port), timeout) as connection:
            connection.sendall(f"{label}\n".encode())
            line = connection.makefile().readline()
        if not line:
            raise ConnectionResetError("closed")
        return line
    connection_of_http = http.client.HTTPConnection(address, port, timeout=timeout)
    try:
        connection_of_http.request("GET", f"/{label}", headers={"Connection": "close"})
        response = connection_of_http.getresponse()
        if response.status != 200:
            raise http.client.HTTPException(f"status {response.status}")
        return response.read().decode()
    finally:
        connection_of_http.close()


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["serve", protocol, port, name]:
            serve(protocol, int(port), name)
        case ["request", protocol, address, port, count, label, timeout]:
            for _ in range(int(count)):
                try:
                    print(ask(protocol, address, int(port), label, float(timeout)).strip(), flush=True)
                except (OSError, http.client.HTTPException) as error:
                    print(f"!{error or type(error).__name__}", flush=True)
