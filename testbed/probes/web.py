"""HTTP between two nodes: a small real server that notes its clients, and a request that is timed.

Run as a program it is the server (``serve PORT``) or the client (``get URL TIMEOUT COUNT``).
"""

from __future__ import annotations

import http.client
import json
import sys
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import IPv4Address
from socketserver import TCPServer
from typing import Any
from urllib.parse import urlsplit

from testbed.probes.child import Child, Node, ProbeError, last_line

PORT = 80
TIMEOUT = 5.0


@dataclass(frozen=True)
class Response:
    """``status`` of HTTP; seconds from before the connection to its ``first_byte`` and to the ``end`` of the body.

    ``size`` is the body's, in bytes. ``peer`` is the client's address as the server saw it.
    """

    status: int
    first_byte: float
    end: float
    size: int
    peer: IPv4Address


def fetch(
    client: Node,
    server: Node,
    address: IPv4Address | None = None,
    *,
    path: str = "/",
    port: int = PORT,
    timeout: float = TIMEOUT,
    count: int = 1,
) -> Response:
    """Start a server, request *path* of it, and end it. ``/bytes/N`` is a body of N bytes, all else one line.

    Returns the last of *count* responses, one after the other. Raises ProbeError when one does not come within
    *timeout* seconds.
    """
    address = address or server.address
    title = f"http {client.name} → {server.name} ({address})"
    python = [sys.executable, "-m", __name__]
    with Child(server, f"{title}, server", [*python, "serve", str(port)]) as listener:
        listener.wait_listening(port)
        arguments = ["get", f"http://{address}:{port}{path}", str(timeout), str(count)]
        with Child(client, title, [*python, *arguments]) as request:
            code = request.wait(count * timeout + 20)
            if code:
                raise request.failure(code)
            return parse(request.output, listener.output, title)


def parse(request: str, log: str, title: str = "http") -> Response:
    """Return what the client printed and the last line of the server's log say. Raises ProbeError when malformed."""
    try:
        timing, seen = json.loads(last_line(request)), json.loads(last_line(log))
        return Response(
            int(timing["status"]),
            float(timing["first_byte"]),
            float(timing["end"]),
            int(timing["size"]),
            IPv4Address(seen["peer"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ProbeError(f"{title}: malformed result ({error!r})") from None


class Handler(BaseHTTPRequestHandler):
    """Answers every GET, and writes a JSON line for it before it answers."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        line = {"peer": self.client_address[0], "port": self.client_address[1], "path": self.path}
        print(json.dumps(line), flush=True)
        kind, _, size = self.path.strip("/").partition("/")
        body = bytes(int(size)) if kind == "bytes" and size.isdigit() else b"Hello from the other side.\n"
        self.send_response(200)
        self.send_header("Content-Type", "application/octet-stream" if kind == "bytes" else "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Errors too are in the JSON log only."""


class Server(ThreadingHTTPServer):
    def server_bind(self) -> None:
        """Bind without asking DNS for the address's name, which takes 10 s where no server answers."""
        TCPServer.server_bind(self)


def serve(port: int) -> None:
    Server(("0.0.0.0", port), Handler).serve_forever()


def get(url: str, timeout: float) -> dict[str, Any]:
    """Request *url* and return its status, size in bytes and times in seconds."""
    parts = urlsplit(url)
    start = time.monotonic()
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout)
    connection.request("GET", parts.path, headers={"User-Agent": "bumpwire"})
    response = connection.getresponse()
    first_byte = time.monotonic() - start
    size = len(response.read())
    return {"status": response.status, "first_byte": first_byte, "end": time.monotonic() - start, "size": size}


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["serve", port]:
            serve(int(port))
        case ["get", url, timeout, count]:
            try:
                for _ in range(int(count)):
                    print(json.dumps(get(url, float(timeout))))
            except (OSError, http.client.HTTPException) as error:
                sys.exit(f"{error or type(error).__name__}")
