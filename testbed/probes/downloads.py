"""Downloads over HTTP: the same traffic through every architecture, its proxies and application rules as well.

Run as a program it is the server (``serve PORT``) or a client: ``load ADDRESS PORT PATH FLOWS SECONDS ATTEMPTS`` or
``trips ADDRESS PORT SECONDS``. The server streams ``/bulk`` as fast as it can and ``/paced`` in small pieces; any
other path is answered as by :mod:`testbed.probes.source_log`, with whom it sees. Each is one thread, so that what it
takes of a CPU can be seen from outside.

A flow that breaks, or is silent for :data:`SILENCE` seconds, is lost and made anew, as an application would.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Any

from testbed.probes.child import Child, Node, ProbeError

PORT = 80
#: TCP doubles its retransmission timer: a flow that survives an outage of 3 s may be silent for twice that.
SILENCE = 7.0
#: Seconds between two samples of the rate, two pieces of a paced flow, two round trips of a connection, two attempts.
SAMPLE, PACE, TRIP, ATTEMPT = 0.2, 0.05, 0.1, 0.05
#: Seconds that a new connection and its answer may take: one lost SYN, which TCP repeats after a second, is a failure.
ATTEMPT_TIMEOUT = 0.9
#: Connections that make round trips at the same time: a hash spreads them over firewalls and tunnels.
TRIPPING = 8
#: Seconds that flows have to begin, and after that until they are counted.
BEGIN, RAMP = 15.0, 1.0
#: What the client prints when its flows have begun.
BEGUN = "begun"


@dataclass(frozen=True)
class Downloads:
    """What flows received. *rates* are (monotonic seconds, bit/s of payload since the one before).

    *lost* are the flows that broke at least once. *attempts* are new connections: (monotonic seconds, answered).
    """

    flows: int
    lost: int
    rates: tuple[tuple[float, float], ...]
    attempts: tuple[tuple[float, bool], ...] = ()

    def between(self, start: float, end: float) -> float:
        """Return the mean rate between two times, in bit/s; 0 where there is no sample."""
        counted = [rate for moment, rate in self.rates if start + SAMPLE <= moment <= end]
        return sum(counted) / len(counted) if counted else 0.0


@contextmanager
def serving(server: Node, port: int = PORT) -> Iterator[None]:
    """Serve while the block lasts. Raises ProbeError when it does not listen."""
    with Child(server, f"downloads {server.name}", [sys.executable, "-m", __name__, "serve", str(port)]) as child:
        child.wait_listening(port)
        yield


@contextmanager
def loading(
    client: Node, address: IPv4Address, seconds: float, flows: int, path: str = "/bulk", attempts: bool = False
) -> Iterator[list[Downloads]]:
    """Download for so many seconds while the block runs; the list holds the result behind it.

    All flows have begun when the block starts. With *attempts*, new connections are made all the while. Raises
    ProbeError.
    """
    title = f"downloads {client.name} from {address}"
    words = [str(address), str(PORT), path, str(flows), str(seconds), str(int(attempts))]
    found: list[Downloads] = []
    with Child(client, title, [sys.executable, "-m", __name__, "load", *words]) as child:
        deadline = time.monotonic() + 2 * BEGIN
        while BEGUN not in child.output:
            if child.process.poll() is not None:
                raise child.failure(child.process.returncode)
            if time.monotonic() > deadline:
                raise ProbeError(f"{title}: no flow began within {2 * BEGIN:g} s")
            time.sleep(0.005)
        yield found
        found.append(parse(_result(child, seconds), title))


def trips(client: Node, address: IPv4Address, seconds: float) -> list[float]:
    """Return the round trips of small requests on :data:`TRIPPING` connections, in seconds. Raises ProbeError.

    A request that is not answered within :data:`SILENCE` counts as one that took that long.
    """
    title = f"round trips {client.name} to {address}"
    command = [sys.executable, "-m", __name__, "trips", str(address), str(PORT), str(seconds)]
    with Child(client, title, command) as child:
        try:
            return [float(trip) for trip in json.loads(_result(child, seconds))]
        except (TypeError, ValueError) as error:
            raise ProbeError(f"{title}: malformed result ({error!r})") from None


def _result(child: Child, seconds: float) -> str:
    if code := child.wait(seconds + 30):
        raise child.failure(code)
    return child.output.removeprefix(BEGUN)


def parse(text: str, title: str = "downloads") -> Downloads:
    """Return what the client printed. Raises ProbeError when it is malformed."""
    try:
        found = json.loads(text)
        rates = tuple((moment, rate) for moment, rate in found["rates"])
        attempts = tuple((moment, answered) for moment, answered in found["attempts"])
        return Downloads(found["flows"], found["lost"], rates, attempts)
    except (KeyError, TypeError, ValueError) as error:
        raise ProbeError(f"{title}: malformed result ({error!r})") from None


# -- the server ----------------------------------------------------------------------------------------------------


async def serve(port: int) -> None:
    server = await asyncio.start_server(answer, "0.0.0.0", port, backlog=256)
    await server.serve_forever()


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer the GETs of one connection."""
    with suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            path = head.split(" ", 2)[1]
            if path in ("/bulk", "/paced"):
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nConnection: close\r\n\r\n")
                while True:
                    writer.write(bytes(256 if path == "/paced" else 65536))
                    await writer.drain()
                    if path == "/paced":
                        await asyncio.sleep(PACE)
            body = json.dumps(seen(path, head, writer.get_extra_info("peername"))).encode()
            # In one piece: of two, the second would wait for the first one's acknowledgement.
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
            await writer.drain()
    writer.close()


def seen(path: str, head: str, peer: tuple[str, int]) -> dict[str, Any]:
    """Return whom the server sees, in the form of :mod:`testbed.probes.source_log`."""
    lines = (line.partition(":") for line in head.splitlines()[1:])
    headers = ",".join(value for name, _, value in lines if name.lower() == "x-forwarded-for")
    forwarded = [name.strip() for name in headers.split(",") if name.strip()]
    return {"server": "", "label": path.strip("/"), "peer": peer[0], "port": peer[1], "forwarded_for": forwarded}


# -- the clients ---------------------------------------------------------------------------------------------------


class Flow(asyncio.Protocol):
    """One download."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.last: float | None = None  # of its data
        self.closed = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(request(self.load.path))

    def data_received(self, data: bytes) -> None:
        self.last = time.monotonic()
        self.load.received += len(data)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.closed.done():
            self.closed.set_result(None)


class Load:
    """The client's flows, and the new connections that it makes beside them."""

    def __init__(self, address: str, port: int, path: str) -> None:
        self.target, self.path = (address, port), path
        self.received = 0
        self.begun: set[int] = set()
        self.lost: set[int] = set()
        self.attempts: list[tuple[float, bool]] = []

    async def flow(self, index: int) -> None:
        loop = asyncio.get_running_loop()
        while True:
            start = time.monotonic()
            try:
                transport, flow = await asyncio.wait_for(
                    loop.create_connection(lambda: Flow(self), *self.target), SILENCE
                )
            except (OSError, asyncio.TimeoutError):
                self.lost |= {index} & self.begun
                await asyncio.sleep(0.1)  # what is refused is not asked for again at once
                continue
            while not flow.closed.done() and (quiet := time.monotonic() - (flow.last or start)) < SILENCE:
                await asyncio.wait([flow.closed], timeout=0.05 if flow.last is None else max(0.05, SILENCE - quiet))
                if flow.last is not None:
                    self.begun.add(index)
            self.lost.add(index)
            transport.abort()

    async def attempt(self) -> None:
        start = time.monotonic()
        try:
            await asyncio.wait_for(self.connect_and_ask(), ATTEMPT_TIMEOUT)
            self.attempts.append((start, True))
        except (OSError, EOFError, asyncio.TimeoutError):
            self.attempts.append((start, False))

    async def connect_and_ask(self) -> None:
        reader, writer = await asyncio.open_connection(*self.target)
        try:
            await ask(reader, writer)
        finally:
            writer.transport.abort()

    async def attempt_often(self) -> None:
        running = set()
        while True:
            task = asyncio.ensure_future(self.attempt())
            running.add(task)
            task.add_done_callback(running.discard)
            await asyncio.sleep(ATTEMPT)


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Make one small request on a connection and wait for all of its answer."""
    writer.write(request("/trip"))
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    await reader.readexactly(int(head.split(b"content-length:")[1].split(b"\r\n")[0]))


def request(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: lab\r\n\r\n".encode()


async def load(address: str, port: int, path: str, flows: int, seconds: float, attempts: bool) -> dict[str, Any]:
    """Run the flows, say when all have begun, and return what they received in so many seconds after that."""
    running = Load(address, port, path)
    tasks = [asyncio.ensure_future(running.flow(index)) for index in range(flows)]
    deadline = time.monotonic() + BEGIN
    while len(running.begun) < flows and time.monotonic() < deadline:
        await asyncio.sleep(0.02)
    running.lost.clear()
    print(BEGUN, flush=True)
    if attempts:
        tasks.append(asyncio.ensure_future(running.attempt_often()))
    rates, before, moment = [], running.received, time.monotonic()
    end = moment + seconds
    while moment < end:
        await asyncio.sleep(SAMPLE)
        now, total = time.monotonic(), running.received
        rates.append((now, (total - before) * 8 / (now - moment)))
        before, moment = total, now
    lost = len(running.lost)
    for task in tasks:
        task.cancel()
    return {"flows": flows, "lost": lost, "rates": rates, "attempts": sorted(running.attempts)}


async def trip_often(address: str, port: int, seconds: float) -> list[float]:
    """Make round trips on all connections for so many seconds; return what each took."""
    found: list[float] = []
    end = time.monotonic() + seconds

    async def one() -> None:
        while time.monotonic() < end:
            with suppress(OSError, EOFError, asyncio.TimeoutError):
                reader, writer = await asyncio.wait_for(asyncio.open_connection(address, port), SILENCE)
                while True:  # at least one, also where connecting took all the time
                    start = time.monotonic()
                    try:
                        await asyncio.wait_for(ask(reader, writer), SILENCE)
                    finally:
                        found.append(time.monotonic() - start)
                    await asyncio.sleep(TRIP)
                    if time.monotonic() >= end:
                        break
                writer.close()

    await asyncio.gather(*(one() for _ in range(TRIPPING)))
    return found


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["serve", port]:
            asyncio.run(serve(int(port)))
        case ["load", address, port, path, flows, seconds, attempts]:
            found = asyncio.run(load(address, int(port), path, int(flows), float(seconds), attempts == "1"))
            print(json.dumps(found))
        case ["trips", address, port, seconds]:
            print(json.dumps(asyncio.run(trip_often(address, int(port), float(seconds)))))
