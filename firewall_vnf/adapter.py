"""The data interface: a raw AF_PACKET socket that turns frames around in the buffer in which they arrived.

A filter in the kernel lets only UDP to port 6081 (to our address, where one is configured) reach the socket.
The kernel's own stack sees the same packets; a UDP socket bound to the port, which a filter keeps empty,
stops it from answering "port unreachable". The appliance's other traffic (ARP, health checks) is the kernel's
as usual.
"""

from __future__ import annotations

import ctypes
import errno
import select
import signal
import socket
import struct
import time
from collections import deque
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address
from typing import Generic, Protocol, TypeVar

from firewall_vnf.geneve import INNER, PORT, turn_around

# linux/if_ether.h, linux/if_packet.h, asm-generic/socket.h: constants that Python's socket module lacks.
ETH_P_IP = 0x0800
SO_MEMINFO, SK_MEMINFO_VARS = 55, 9
SO_ATTACH_FILTER, SO_RCVBUFFORCE, SO_SNDBUFFORCE = 26, 33, 32
PACKET_STATISTICS, SOL_PACKET = 6, 263

RECEIVE_BUFFER = 64 << 20
SEND_BUFFER = 16 << 20
#: Frames handled before the loop looks at anything else.
BATCH = 256
#: Longest wait in seconds, so that timers, signals and the heartbeat go on without traffic.
TICK = 0.1
#: The same for what has no timers. Signals wake the loop by themselves.
IDLE_TICK = 5.0


class AdapterError(Exception):
    """The machine or its settings do not permit the data interface; one line that says what to do."""


class Expiring(Protocol):
    """What has timers."""

    def expire(self, now: float) -> None: ...


class Processor(Expiring, Protocol):
    """What the adapter drives: an engine, or :class:`Turnaround`."""

    outbox: list[bytes]

    def process(self, frame: bytearray, length: int, now: float) -> bool: ...


class Service(Protocol):
    """What is served between packets: file descriptors that it registers, when they are ready."""

    def register(self, poll: select.poll) -> None: ...

    def serve(self, descriptors: Sequence[int], now: float) -> None: ...


class DataInterface:
    """The raw socket on *interface*. Raises :class:`AdapterError` if it cannot be opened."""

    def __init__(self, interface: str, address: IPv4Address | None = None) -> None:
        try:
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        except PermissionError as error:
            raise AdapterError("opening a raw socket needs root (CAP_NET_RAW): run as root") from error
        try:
            _attach(self._socket, _accept_geneve(address))
            _grow(self._socket)
            self._socket.bind((interface, ETH_P_IP))
            self._socket.setblocking(False)
            self._quiet = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            _attach(self._quiet, [(0x06, 0, 0, 0)])
            self._quiet.bind((str(address or ""), PORT))
        except OSError as error:
            raise AdapterError(_explain(error, interface, address)) from error
        self.frame = bytearray(65536)
        self._view = memoryview(self.frame)
        self.fileno = self._socket.fileno
        self.send_errors = 0
        self._lost = 0

    def receive(self) -> int:
        """Read a frame into ``frame``; returns its length in bytes, 0 if there is none."""
        try:
            return self._socket.recv_into(self.frame)
        except BlockingIOError:
            return 0
        except OSError as error:
            if error.errno == errno.ENETDOWN:  # said once when the link goes down; it may come back
                return 0
            raise

    def send(self, length: int) -> None:
        """Send ``frame[:length]``."""
        self.inject(self._view[:length])

    def inject(self, frame: bytes | memoryview) -> None:
        """Send a frame of any origin. One that the interface does not take is counted, as a network card would."""
        try:
            self._socket.send(frame)
        except OSError:
            self.send_errors += 1

    def serve(self, processor: Processor) -> int:
        """Handle the frames that are there, a batch at most; returns the bytes of the packets that were sent back."""
        frame, receive, send, process, clock = self.frame, self.receive, self.send, processor.process, time.monotonic
        carried = 0
        for _ in range(BATCH):
            length = receive()
            if not length:
                break
            if process(frame, length, clock()):
                send(length)
                carried += length - INNER
            if processor.outbox:
                for injected in processor.outbox:
                    self.inject(injected)
                processor.outbox.clear()
        return carried

    def lost(self) -> int:
        """Return the number of frames so far that the socket's buffer had no room for."""
        statistics = self._socket.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8)
        self._lost += struct.unpack("II", statistics)[1]  # the kernel counts from the last call
        return self._lost

    def buffered(self) -> float:
        """Return which part of the receive buffer is in use, 0 to 1."""
        memory = self._socket.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 4 * SK_MEMINFO_VARS)
        used, size = struct.unpack_from("II", memory)
        return float(min(1.0, used / size))

    def close(self) -> None:
        self._socket.close()
        self._quiet.close()


class Wakeup:
    """Lets a signal end the loop's waiting: Python's own handling of signals would wait on."""

    def register(self, poll: select.poll) -> None:
        self._reader, writer = socket.socketpair()
        self._reader.setblocking(False)
        writer.setblocking(False)
        signal.set_wakeup_fd(writer.detach(), warn_on_full_buffer=False)
        poll.register(self._reader, select.POLLIN)

    def serve(self, descriptors: Sequence[int], now: float) -> None:
        if self._reader.fileno() in descriptors:
            self._reader.recv(4096)


ProcessorT = TypeVar("ProcessorT", bound=Expiring, contravariant=True)


class Interface(Protocol[ProcessorT]):
    """Where packets come from: :class:`DataInterface`, or a kernel's queue."""

    def fileno(self) -> int: ...

    def serve(self, processor: ProcessorT) -> int:
        """Handle the packets that are there, a batch at most; returns the bytes of those that were sent on."""


class Loop(Generic[ProcessorT]):
    """The data path's thread, the main thread: frames first, then timers and *services*, every *tick* seconds at least.

    ``heartbeat`` is the time (monotonic clock) of its last round, ``carried`` the bytes of the packets that were sent
    on. ``running`` set to False by a signal's handler ends :meth:`run`.
    """

    def __init__(
        self, interface: Interface[ProcessorT], processor: ProcessorT, *services: Service, tick: float = TICK
    ) -> None:
        self.running = True
        self._tick = tick
        self._soon: deque[Callable[[float], None]] = deque()
        self.heartbeat = time.monotonic()
        self.carried = 0
        self._interface = interface
        self._processor = processor
        self._services = (Wakeup(), *services)

    def soon(self, function: Callable[[float], None]) -> None:
        """Call ``function(now)`` between two packets; for signal handlers."""
        self._soon.append(function)

    def run(self) -> None:
        """Serve until ``running`` is False."""
        clock = time.monotonic
        interface, processor, services = self._interface, self._processor, self._services
        poll = select.poll()
        poll.register(interface.fileno(), select.POLLIN)
        for service in services:
            service.register(poll)
        patience = max(1, int(1000 * self._tick))
        expiry = 0.0
        while self.running:
            events = poll.poll(patience)
            self.carried += interface.serve(processor)
            now = self.heartbeat = clock()
            if now >= expiry:
                processor.expire(now)
                expiry = now + 0.25
            while self._soon:
                self._soon.popleft()(now)
            descriptors = [descriptor for descriptor, _ in events]
            for service in services:
                service.serve(descriptors, now)


class Turnaround:
    """The bare appliance, for comparison: turns every frame around and looks into none."""

    def __init__(self) -> None:
        self.outbox: list[bytes] = []

    def process(self, frame: bytearray, length: int, now: float) -> bool:
        turn_around(frame)
        return True

    def expire(self, now: float) -> None:
        """There is nothing to expire."""


def _accept_geneve(address: IPv4Address | None) -> list[tuple[int, int, int, int]]:
    """Classic BPF: take UDP to port 6081 that came for us, and nothing that this machine sent."""
    to_us = [(0x20, 0, 0, 30), (0x15, 0, 6, int(address))] if address else [(0x20, 0, 0, 30), (0x15, 0, 0, 0)]
    return [
        (0x28, 0, 0, 0xFFFFF004),  # ldh [packet type]
        (0x15, 0, 10, 0),  # jeq PACKET_HOST, else drop
        (0x30, 0, 0, 23),  # ldb [23]: protocol
        (0x15, 0, 8, 17),
        *to_us,
        (0x28, 0, 0, 20),  # ldh [20]: fragment offset; a later fragment has no ports
        (0x45, 4, 0, 0x1FFF),
        (0xB1, 0, 0, 14),  # ldxb 4 * ([14] & 0xf)
        (0x48, 0, 0, 16),  # ldh [x + 16]: destination port
        (0x15, 0, 1, PORT),
        (0x06, 0, 0, 0xFFFFFFFF),
        (0x06, 0, 0, 0),
    ]


def _attach(sock: socket.socket, program: list[tuple[int, int, int, int]]) -> None:
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *instruction) for instruction in program))
    sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HP", len(program), ctypes.addressof(code)))


def _grow(sock: socket.socket) -> None:
    """Ask for large buffers; without CAP_NET_ADMIN the system's limits apply."""
    for forced, usual, size in (
        (SO_RCVBUFFORCE, socket.SO_RCVBUF, RECEIVE_BUFFER),
        (SO_SNDBUFFORCE, socket.SO_SNDBUF, SEND_BUFFER),
    ):
        try:
            sock.setsockopt(socket.SOL_SOCKET, forced, size)
        except PermissionError:
            sock.setsockopt(socket.SOL_SOCKET, usual, size)


def _explain(error: OSError, interface: str, address: IPv4Address | None) -> str:
    if error.errno == errno.ENODEV:
        return f"interface {interface}: no such interface; name one of {', '.join(n for _, n in socket.if_nameindex())}"
    if error.errno == errno.EADDRINUSE:
        return f"UDP port {PORT} is in use: another appliance runs here; stop it"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"address {address} is not on this machine: correct 'address' or leave it out"
    return f"interface {interface}: {error.strerror}"
