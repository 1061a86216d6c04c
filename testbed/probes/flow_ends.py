"""The two ends of :mod:`testbed.probes.flows`, each one process around an asyncio loop.

Run as a program it is the echo server, TCP and UDP (``serve PORT``), or the client (``keep ADDRESS PORT SETTINGS
STATUS``), which prints its report in JSON when it is told to end by SIGTERM. SETTINGS is JSON, STATUS a file that is
rewritten every 0.1 s.
"""

from __future__ import annotations

import asyncio
import errno
import json
import math
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from testbed.probes import flows
from testbed.probes.flows import RECORD_SIZE, Connection, Flow, Report, Settings, Status

#: A record: a mark that is seen in captures, its number, and zeros.
RECORD = struct.Struct(f"!8sQ{RECORD_SIZE - 16}x")
MARK = b"bumpwire"
#: Seconds between two samples.
SAMPLE = 0.1


class WrongEchoError(Exception):
    """What came back is not what was sent."""


class Exchange:
    """One long flow's records, without its socket; *now* is always the monotonic clock, in seconds."""

    def __init__(self, protocol: str, settings: Settings, now: float) -> None:
        self.protocol = protocol
        self.local_port = 0
        self.started = now
        self.established: float | None = None
        self.died: float | None = None
        self.sent = self.received = 0
        #: When the flow will be dead unless an answer comes.
        self.deadline = math.inf
        self._cause: str | None = None
        self._settings = settings
        self._heard = now
        self._gaps: list[tuple[float, float]] = []
        self._buffer = b""

    @property
    def alive(self) -> bool:
        return self.established is not None and self.died is None

    def silent(self, now: float) -> bool:
        """Whether it is alive, and has had no answer for long."""
        return self.alive and now - self._heard > self._settings.gap

    def establish(self, now: float) -> None:
        self.established = self._heard = now

    def send(self, now: float) -> bytes:
        """Return the next record."""
        self.sent += 1
        self.deadline = min(self.deadline, now + self._settings.dead_after)
        return RECORD.pack(MARK, self.sent)

    def receive(self, data: bytes, now: float) -> None:
        """Take what came: part of a stream, or a datagram. Raises WrongEchoError."""
        if self.established is None:
            self.establish(now)
        self._buffer += data
        whole = len(self._buffer) - len(self._buffer) % RECORD_SIZE
        for mark, number in RECORD.iter_unpack(self._buffer[:whole]):
            # A stream repeats and loses nothing; a datagram may be lost.
            expected = number == self.received + 1 if self.protocol == "tcp" else 0 < number <= self.sent
            if mark != MARK or not expected:
                raise WrongEchoError
            self.received += 1
            newest = number
        if whole:
            self._note_gap(now)
            self._heard = now
            self.deadline = math.inf if newest == self.sent else now + self._settings.dead_after
        self._buffer = self._buffer[whole:]

    def end(self, now: float, cause: str | None = None) -> None:
        """The traffic is over; with a *cause*, this flow has died of it."""
        if self.died is not None:
            return
        if self.established is not None:
            self._note_gap(now)
        if cause:
            self.died, self._cause = now, cause

    def flow(self) -> Flow:
        """Return what became of it."""
        return Flow(
            protocol=self.protocol,
            local_port=self.local_port,
            started=self.started,
            established=self.established,
            died=self.died,
            cause=self._cause,
            sent=self.sent,
            received=self.received,
            gaps=tuple(self._gaps),
        )

    def _note_gap(self, now: float) -> None:
        if now - self._heard > self._settings.gap:
            self._gaps.append((self._heard, now))


class Client:
    """All traffic to the server at *address* and *port*."""

    def __init__(self, address: str, port: int, settings: Settings) -> None:
        self._server = (address, port)
        self._settings = settings
        self._exchanges: list[Exchange] = []
        self._connections: list[Connection] = []
        self._failed = 0
        self._samples: list[Status] = []

    async def run(self, stop: asyncio.Event, publish: Callable[[Status], None]) -> Report:
        """Keep the traffic going until *stop* is set; *publish* is called with every sample."""
        start = time.monotonic()
        settings = self._settings
        kinds = ["tcp"] * settings.tcp + ["udp"] * settings.udp
        # Spread over one interval, so that records do not come in bursts.
        tasks = [
            asyncio.create_task(self._flow(kind, settings.interval * number / len(kinds)))
            for number, kind in enumerate(kinds)
        ]
        if settings.connect_every is not None:
            tasks.append(asyncio.create_task(self._connect(settings.connect_every)))
        try:
            while not stop.is_set():
                self._samples.append(self._status())
                publish(self._samples[-1])
                for task in tasks:
                    if task.done() and not task.cancelled():
                        task.result()  # an error of ours ends the probe
                await _first(stop, SAMPLE)
        finally:
            end = time.monotonic()
            for exchange in self._exchanges:
                exchange.end(end)
            await _cancel(tasks)
        self._samples.append(self._status())
        flows = tuple(exchange.flow() for exchange in self._exchanges)
        return Report(start, end, flows, tuple(self._connections), tuple(self._samples))

    def _status(self) -> Status:
        now = time.monotonic()
        return Status(
            time=now,
            wanted=self._settings.tcp + self._settings.udp,
            established=sum(exchange.established is not None for exchange in self._exchanges),
            alive=sum(exchange.alive for exchange in self._exchanges),
            connected=len(self._connections) - self._failed,
            failed=self._failed,
            received=sum(exchange.received for exchange in self._exchanges) * RECORD_SIZE,
            silent=sum(exchange.silent(now) for exchange in self._exchanges),
        )

    # -- long flows ------------------------------------------------------------------------------------------------

    async def _flow(self, protocol: str, delay: float) -> None:
        await asyncio.sleep(delay)
        exchange = Exchange(protocol, self._settings, time.monotonic())
        self._exchanges.append(exchange)
        kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
        with socket.socket(socket.AF_INET, kind) as connection:
            try:
                if protocol == "tcp":
                    # The kernel gives up when we do, instead of after a quarter of an hour (tcp(7)).
                    patience = math.ceil(self._settings.dead_after * 1000)
                    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, patience)
                exchange.local_port = _start(connection, self._server)
                connecting = asyncio.get_running_loop().sock_connect(connection, self._server)
                await asyncio.wait_for(connecting, self._settings.dead_after)
                if protocol == "tcp":
                    exchange.establish(time.monotonic())
                await self._exchange(exchange, connection)
            except (OSError, EOFError, WrongEchoError, asyncio.TimeoutError) as error:
                exchange.end(time.monotonic(), cause(error))

    async def _exchange(self, exchange: Exchange, connection: socket.socket) -> None:
        """Send and receive until one of them fails."""
        halves = [
            asyncio.create_task(self._send(exchange, connection)),
            asyncio.create_task(_receive(exchange, connection)),
        ]
        try:
            await asyncio.gather(*halves)
        finally:
            for half in halves:
                half.cancel()

    async def _send(self, exchange: Exchange, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        due = time.monotonic()
        while True:
            now = time.monotonic()
            if now >= exchange.deadline:
                raise TimeoutError
            if now >= due:
                await loop.sock_sendall(connection, exchange.send(now))
                due = max(due + self._settings.interval, now)
            await asyncio.sleep(min(due, exchange.deadline) - time.monotonic())

    # -- new connections -------------------------------------------------------------------------------------------

    async def _connect(self, every: float) -> None:
        """Start a connection every so many seconds; the time-out bounds how many are under way."""
        due = time.monotonic()
        under_way: set[asyncio.Task[None]] = set()
        try:
            while True:
                attempt = asyncio.create_task(self._attempt())
                under_way.add(attempt)
                attempt.add_done_callback(under_way.discard)
                due = max(due + every, time.monotonic())
                await asyncio.sleep(due - time.monotonic())
        finally:
            for attempt in list(under_way):
                attempt.cancel()

    async def _attempt(self) -> None:
        started, port, error = time.monotonic(), 0, None
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as connection:
            try:
                port = _start(connection, self._server)
                await asyncio.wait_for(self._one_exchange(connection), self._settings.connect_timeout)
            except (OSError, EOFError, WrongEchoError, asyncio.TimeoutError) as failure:
                error = cause(failure)
                self._failed += 1
        self._connections.append(Connection(port, started, time.monotonic(), error))

    async def _one_exchange(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        await loop.sock_connect(connection, self._server)
        exchange = Exchange("tcp", self._settings, time.monotonic())
        await loop.sock_sendall(connection, exchange.send(time.monotonic()))
        while not exchange.received:
            exchange.receive(await _read(connection), time.monotonic())


def cause(error: BaseException) -> str:
    """Return the word for what a flow died of."""
    match error:
        case TimeoutError() | asyncio.TimeoutError():
            return flows.TIME_OUT
        case ConnectionRefusedError():
            return flows.REFUSED
        case ConnectionResetError() | BrokenPipeError():  # a reset that came while we were sending
            return flows.RESET
        case EOFError():
            return flows.CLOSED
        case WrongEchoError():
            return flows.WRONG_ECHO
        case OSError():
            return errno.errorcode.get(error.errno or 0, str(error))
        case _:
            raise error


async def _receive(exchange: Exchange, connection: socket.socket) -> None:
    while True:
        exchange.receive(await _read(connection), time.monotonic())


async def _read(connection: socket.socket) -> bytes:
    data = await asyncio.get_running_loop().sock_recv(connection, 4096)
    if not data:
        raise EOFError
    return data


async def _cancel(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel tasks until they have ended: before Python 3.12, ``wait_for`` can swallow a cancellation."""
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=SAMPLE)


async def _first(event: asyncio.Event, seconds: float) -> None:
    """Wait for *event*, but not longer than so many seconds."""
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except asyncio.TimeoutError:
        return


def _start(connection: socket.socket, server: tuple[str, int]) -> int:
    """Begin to connect a socket, for asyncio to go on with, and return its port, known even if the connection fails.

    The kernel takes the ports for a server one after the other, so none is used again soon: a flow table may still
    know it. bind() would draw lots.
    """
    connection.setblocking(False)
    if connection.type == socket.SOCK_STREAM:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.connect_ex(server)
    port: int = connection.getsockname()[1]
    return port


class Echo(asyncio.Protocol, asyncio.DatagramProtocol):
    """The server of both protocols: sends back what comes."""

    _transport: Any  # a stream's or a datagram's

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._transport.write(data)

    def datagram_received(self, data: bytes, address: tuple[str | int, ...]) -> None:
        self._transport.sendto(data, address)


async def serve(port: int) -> None:
    """Send back what comes on *port*, by TCP and UDP, until it is cancelled."""
    loop = asyncio.get_running_loop()
    datagrams, _ = await loop.create_datagram_endpoint(Echo, ("0.0.0.0", port))
    try:
        server = await loop.create_server(Echo, "0.0.0.0", port, backlog=1024)
        async with server:
            await server.serve_forever()
    finally:
        datagrams.close()


async def keep(address: str, port: int, settings: Settings, status: Path) -> Report:
    """Be the client until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    new = status.with_name(status.name + ".new")

    def publish(sample: Status) -> None:
        new.write_text(json.dumps(asdict(sample)))
        new.replace(status)

    return await Client(address, port, settings).run(stop, publish)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["serve", port]:
            asyncio.run(serve(int(port)))
        case ["keep", address, port, settings, status]:
            report = asyncio.run(keep(address, int(port), Settings(**json.loads(settings)), Path(status)))
            print(json.dumps(asdict(report)))
