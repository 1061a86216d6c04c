"""Long flows and a stream of new connections between two nodes, for as long as a block lasts.

::

    with flows.keep(web1, app2, settings=Settings(tcp=100)) as traffic:
        traffic.wait_established()
        ...                                  # something fails meanwhile
    dead = [flow for flow in traffic.report.flows if flow.died]

Each flow exchanges small numbered records with an echo server, so both directions are proved. Times are seconds of the
machine's monotonic clock (``time.monotonic()``), which is one for all processes. The two ends are processes on the
nodes: :mod:`testbed.probes.flow_ends`.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from testbed.probes.child import PATIENCE, Child, Node, ProbeError

PORT = 8080
#: Of every record, in bytes.
RECORD_SIZE = 64
#: What a flow dies of, or a new connection fails with; any other error of the system is named as in errno(3).
RESET, TIME_OUT, CLOSED, REFUSED, WRONG_ECHO = "reset", "time-out", "closed", "refused", "wrong echo"


@dataclass(frozen=True)
class Settings:
    """What traffic there is; times in seconds.

    ``tcp`` and ``udp`` are numbers of long flows, each of which sends a record every ``interval``. A silence of more
    than ``gap`` is noted; a flow whose record stays unanswered for ``dead_after`` is dead. A new TCP connection is
    tried every ``connect_every`` (None: never), exchanges one record, and has failed after ``connect_timeout``.

    Raises ValueError for a combination that measures nothing.
    """

    tcp: int = 50
    udp: int = 0
    interval: float = 0.1
    gap: float = 0.3
    dead_after: float = 30.0
    connect_every: float | None = 0.05
    connect_timeout: float = 2.0

    def __post_init__(self) -> None:
        if self.interval <= 0 or (self.connect_every is not None and self.connect_every <= 0):
            raise ValueError("interval and connect_every are more than 0 seconds")
        if not self.interval < self.gap < self.dead_after:
            raise ValueError(
                f"interval < gap < dead_after does not hold: {self.interval:g}, {self.gap:g}, {self.dead_after:g} s"
            )


@dataclass(frozen=True)
class Flow:
    """A long flow: when it ``started``, was ``established`` (UDP: first answered) and ``died``, and of what ``cause``.

    ``sent`` and ``received`` are records. ``gaps`` are (last answer before, next answer after) or, where none came
    after, the end of the flow.
    """

    protocol: str
    local_port: int
    started: float
    established: float | None
    died: float | None
    cause: str | None
    sent: int
    received: int
    gaps: tuple[tuple[float, float], ...]

    @property
    def bytes_sent(self) -> int:
        return self.sent * RECORD_SIZE

    @property
    def bytes_received(self) -> int:
        return self.received * RECORD_SIZE

    @property
    def longest_gap(self) -> float:
        """In seconds; 0 when it never was silent for long."""
        return max((end - start for start, end in self.gaps), default=0.0)


@dataclass(frozen=True)
class Connection:
    """A new connection that ``started`` and was answered, or failed with ``error``, at ``ended``."""

    local_port: int
    started: float
    ended: float
    error: str | None


@dataclass(frozen=True)
class Status:
    """The traffic at a ``time``: of ``wanted`` long flows, those that were ever ``established`` and those ``alive``.

    New connections so far are ``connected`` or ``failed``; ``received`` is bytes so far. Of the flows that are alive,
    ``silent`` ones have had no answer for longer than the settings' ``gap``.
    """

    time: float
    wanted: int
    established: int
    alive: int
    connected: int
    failed: int
    received: int
    silent: int = 0


@dataclass(frozen=True)
class Report:
    """What became of the traffic between ``start`` and ``end``; ``samples`` every 0.1 s.

    New connections that were still under way at the end are left out.
    """

    start: float
    end: float
    flows: tuple[Flow, ...]
    connections: tuple[Connection, ...]
    samples: tuple[Status, ...]


class Traffic:
    """Traffic that runs; :attr:`report` is there when its block has ended."""

    report: Report

    def __init__(self, child: Child, status: Path) -> None:
        self._child = child
        self._status = status

    def status(self) -> Status:
        """Return how it is now. Raises ProbeError when the client has ended."""
        code = self._child.process.poll()
        if code is not None:
            raise self._child.failure(code)
        return read_status(self._status, self._child.title)

    def wait(self, condition: Callable[[Status], bool], what: str, timeout: float = PATIENCE) -> Status:
        """Poll the status until *condition* holds of it, and return it. Raises ProbeError after *timeout* seconds."""
        deadline = time.monotonic() + timeout
        while not condition(status := self.status()):
            if time.monotonic() > deadline:
                raise ProbeError(
                    f"{self._child.title}: waited {timeout:g} s for {what} in vain: {status.established} of "
                    f"{status.wanted} flows were established, {status.alive} are alive"
                )
            time.sleep(0.02)
        return status

    def wait_established(self, timeout: float = PATIENCE) -> Status:
        """Wait until all long flows are alive at once. Raises ProbeError after *timeout* seconds."""
        return self.wait(lambda status: status.alive == status.wanted, "all flows", timeout)

    def _finish(self) -> None:
        self._child.process.terminate()
        code = self._child.wait(PATIENCE)
        if code:
            raise self._child.failure(code)
        self.report = parse(self._child.output, self._child.title)


@contextmanager
def keep(
    client: Node,
    server: Node,
    address: IPv4Address | None = None,
    *,
    settings: Settings = Settings(),
    port: int = PORT,
    status: Path | None = None,
) -> Iterator[Traffic]:
    """Keep traffic going from *client* to *server*, to *address* where it is not the server's own.

    What happens to flows and connections is a result. *status* is the file that says how they are while it lasts, for
    other processes (:func:`read_status`). Raises ProbeError when the processes themselves fail.
    """
    address = address or server.address
    title = f"flows {client.name} → {server.name} ({address})"
    python = [sys.executable, "-m", "testbed.probes.flow_ends"]
    with (
        Child(server, f"{title}, server", [*python, "serve", str(port)]) as listener,
        tempfile.TemporaryDirectory() as directory,
    ):
        listener.wait_listening(port)
        file = status or Path(directory, "status.json")
        arguments = ["keep", str(address), str(port), json.dumps(asdict(settings)), str(file)]
        try:
            with Child(client, title, [*python, *arguments]) as child:
                traffic = Traffic(child, file)
                _wait_started(child, file)
                yield traffic
                traffic._finish()
        finally:
            file.unlink(missing_ok=True)


def _wait_started(child: Child, status: Path) -> None:
    """Wait until the client has written its status: from then on it answers a signal with its report."""
    deadline = time.monotonic() + PATIENCE
    while not status.exists():
        if (code := child.process.poll()) is not None:
            raise child.failure(code)
        if time.monotonic() > deadline:
            raise ProbeError(f"{child.title}: has not started after {PATIENCE:g} s")
        time.sleep(0.005)


def read_status(file: Path, title: str = "flows") -> Status:
    """Return the content of a status file. Raises ProbeError when it is gone or malformed."""
    try:
        return Status(**json.loads(file.read_text()))
    except FileNotFoundError:
        raise ProbeError(f"{title}: has ended") from None
    except (TypeError, ValueError) as error:
        raise ProbeError(f"{title}: malformed status ({error})") from None


def parse(output: str, title: str = "flows") -> Report:
    """Return what the client printed. Raises ProbeError when it is malformed."""
    try:
        document: dict[str, Any] = json.loads(output)
        return Report(
            start=float(document["start"]),
            end=float(document["end"]),
            flows=tuple(
                Flow(**(flow | {"gaps": tuple((start, end) for start, end in flow["gaps"])}))
                for flow in document["flows"]
            ),
            connections=tuple(Connection(**connection) for connection in document["connections"]),
            samples=tuple(Status(**sample) for sample in document["samples"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ProbeError(f"{title}: malformed result ({error!r})") from None
