"""Downloads over HTTP: the same traffic through every architecture, its proxies and application rules as well.

Run as a program it is the server (``serve PORT``) or the client (``load ADDRESS PORT PATH FLOWS SECONDS TRIPS``). The
server streams ``/bulk`` as fast as it can and ``/paced`` in small pieces; any other path is answered as by
:mod:`testbed.probes.source_log`, with whom it sees.
A client's flow that breaks, or is silent for :data:`SILENCE` seconds, is lost and made anew.
"""

from __future__ import annotations

import http.client
import json
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from ipaddress import IPv4Address
from typing import Any

from testbed.probes import web
from testbed.probes.child import Child, Node, ProbeError

PORT = 80
SILENCE = 3.0
#: Seconds between two samples of the rate, two pieces of a paced flow, and two round trips.
SAMPLE, PACE, TRIP = 0.2, 0.05, 0.05
#: Seconds after the flows' start that are not counted.
RAMP = 1.0


@dataclass(frozen=True)
class Downloads:
    """What the flows received: ``rates`` are (monotonic seconds, bit/s of payload); ``trips`` are seconds.

    ``lost`` flows broke at least once. ``gaps`` are the silences of each flow of over half a second, with the time to
    its next data; None where none came.
    """

    flows: int
    lost: int
    rates: tuple[tuple[float, float], ...]
    gaps: tuple[tuple[float, float | None], ...]
    trips: tuple[float, ...]

    @property
    def rate(self) -> float:
        """The mean rate after the ramp, in bit/s."""
        counted = [rate for moment, rate in self.rates if moment >= self.rates[0][0] + RAMP]
        return sum(counted) / len(counted) if counted else 0.0


@contextmanager
def serving(server: Node, port: int = PORT) -> Iterator[None]:
    """Serve while the block lasts. Raises ProbeError when it does not listen."""
    with Child(server, f"downloads {server.name}", [sys.executable, "-m", __name__, "serve", str(port)]) as child:
        child.wait_listening(port)
        yield


@contextmanager
def loading(
    client: Node, address: IPv4Address, seconds: float, flows: int, path: str = "/bulk", trips: bool = False
) -> Iterator[list[Downloads]]:
    """Download for so many seconds while the block runs; the list holds the result behind it. Raises ProbeError."""
    title = f"downloads {client.name} from {address}"
    words = [str(address), str(PORT), path, str(flows), str(seconds), str(int(trips))]
    found: list[Downloads] = []
    with Child(client, title, [sys.executable, "-m", __name__, "load", *words]) as child:
        yield found
        code = child.wait(seconds + 30)
        if code:
            raise child.failure(code)
        found.append(parse(child.output, title))


def parse(text: str, title: str = "downloads") -> Downloads:
    """Return what the client printed. Raises ProbeError when it is malformed."""
    try:
        found = json.loads(text)
        rates, gaps = (tuple((one, other) for one, other in found[key]) for key in ("rates", "gaps"))
        return Downloads(found["flows"], found["lost"], rates, gaps, tuple(found["trips"]))
    except (KeyError, TypeError, ValueError) as error:
        raise ProbeError(f"{title}: malformed result ({error!r})") from None


class Handler(BaseHTTPRequestHandler):
    """Answers every GET."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path in ("/bulk", "/paced"):
            self.send_response(200)
            self.send_header("Content-Type", "application/octet-stream")
            self.send_header("Connection", "close")
            self.end_headers()
            self.close_connection = True
            try:
                while True:
                    self.wfile.write(bytes(256 if self.path == "/paced" else 65536))
                    if self.path == "/paced":
                        time.sleep(PACE)
            except OSError:
                return
        forwarded = [name.strip() for name in self.headers.get("X-Forwarded-For", "").split(",") if name.strip()]
        peer, port = self.client_address[:2]
        seen = {"server": "", "label": self.path.strip("/"), "peer": peer, "port": port, "forwarded_for": forwarded}
        body = json.dumps(seen).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing is logged."""


class Server(web.Server):
    request_queue_size = 256
    daemon_threads = True


class Load:
    """The client's flows, a thread each."""

    def __init__(self, address: str, port: int, path: str, end: float) -> None:
        self.target, self.path, self.end = (address, port), path, end
        self.received: list[int] = []
        self.lost: set[int] = set()
        self.gaps: list[tuple[float, float | None]] = []
        self.trips: list[float] = []

    def flow(self, index: int) -> None:
        last = time.monotonic()
        while time.monotonic() < self.end:
            try:
                with socket.create_connection(self.target, SILENCE) as connection:
                    connection.settimeout(SILENCE)
                    connection.sendall(f"GET {self.path} HTTP/1.1\r\nHost: lab\r\n\r\n".encode())
                    while time.monotonic() < self.end:
                        size = len(connection.recv(65536))
                        if not size:
                            raise ConnectionResetError("closed")
                        now = time.monotonic()
                        if now - last > 0.5:
                            self.gaps.append((last, now))
                        last = now
                        self.received[index] += size
            except OSError:
                self.lost.add(index)
                time.sleep(0.1)  # what is refused is not asked for again at once
        if time.monotonic() - last > 0.5:
            self.gaps.append((last, None))

    def trip(self) -> None:
        connection = http.client.HTTPConnection(*self.target, timeout=SILENCE)
        while time.monotonic() < self.end:
            start = time.monotonic()
            try:
                connection.request("GET", "/trip")
                connection.getresponse().read()
                self.trips.append(time.monotonic() - start)
            except (OSError, http.client.HTTPException):
                connection.close()
            time.sleep(TRIP)


def load(address: str, port: int, path: str, flows: int, seconds: float, trips: bool) -> dict[str, Any]:
    """Run the flows and return what they received."""
    running = Load(address, port, path, time.monotonic() + seconds)
    running.received = [0] * flows
    threads = [threading.Thread(target=running.flow, args=(index,)) for index in range(flows)]
    threads += [threading.Thread(target=running.trip)] if trips else []
    for thread in threads:
        thread.start()
    rates, before, moment = [], 0, time.monotonic()
    while moment < running.end:
        time.sleep(SAMPLE)
        now, total = time.monotonic(), sum(running.received)
        rates.append((now, (total - before) * 8 / (now - moment)))
        before, moment = total, now
    for thread in threads:
        thread.join()
    lost, gaps = len(running.lost), running.gaps
    return {"flows": flows, "lost": lost, "rates": rates, "gaps": gaps, "trips": running.trips}


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["serve", port]:
            Server(("0.0.0.0", int(port)), Handler).serve_forever()
        case ["load", address, port, path, flows, seconds, trips]:
            print(json.dumps(load(address, int(port), path, int(flows), float(seconds), trips == "1")))
