"""The processes of appliances: started by their argv, ended with their process group, found again after a restart.

A process is watched through its pidfd, which tells the end of one that an earlier management process started just as
it tells a child's. A process is known again by its id and the time when it started, so that nothing else is ever ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict

from controllers.process import started

#: How long a process may take to end after SIGTERM, in seconds.
GRACE = 5.0


class InstanceError(Exception):
    """A process that cannot be started: one line with the appliance, the file and what is wrong."""


class Record(TypedDict):
    """What a process is known by: its id and when it started, in clock ticks since the machine's boot."""

    pid: int
    started: int


@dataclass
class _Process:
    record: Record
    pidfd: int
    child: subprocess.Popen[bytes] | None
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    kill: asyncio.TimerHandle | None = None


class Instances:
    """The appliances' processes, by name. To be used in a running event loop.

    ``on_end`` is called with the name and the exit status when one has ended; the status is None for a process that is
    not a child of this one, negative for a signal.
    """

    def __init__(self, on_end: Callable[[str, int | None], None] | None = None, grace: float = GRACE) -> None:
        self._on_end = on_end
        self._grace = grace
        self._processes: dict[str, _Process] = {}

    def start(self, name: str, argv: Sequence[str], log: Path) -> None:
        """Start an appliance's process in a process group of its own, if it does not run; output is appended to *log*.

        The environment is this process's own, by which the lab finds its processes. Raises InstanceError.
        """
        if self.running(name):
            return
        try:
            with log.open("ab") as output:
                child = subprocess.Popen(
                    list(argv),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
        except OSError as error:
            raise InstanceError(f"{name}: cannot start {argv[0]}: {error.strerror} ({error.filename})") from None
        start = started(child.pid)
        assert start is not None  # a child is there until it has been waited for
        self._watch(name, {"pid": child.pid, "started": start}, child)

    def running(self, name: str) -> bool:
        """Return whether an appliance's process exists."""
        return name in self._processes

    def records(self) -> dict[str, Record]:
        """Return by what the processes can be found again, as plain JSON."""
        return {name: process.record for name, process in self._processes.items()}

    def adopt(self, records: Mapping[str, Record]) -> None:
        """Watch the processes of an earlier management process, as far as they still run."""
        for name, record in records.items():
            if not self.running(name) and started(record["pid"]) == record["started"]:
                self._watch(name, record, None)

    def end(self, name: str) -> None:
        """Begin to end an appliance's process: SIGTERM to its group, after the grace time SIGKILL."""
        process = self._processes.get(name)
        if process is not None and process.kill is None:
            loop = asyncio.get_running_loop()
            process.kill = loop.call_later(self._grace, _signal_group, process, signal.SIGKILL)
            _signal_group(process, signal.SIGTERM)

    async def ended(self, name: str) -> None:
        """Wait until an appliance's process has ended."""
        process = self._processes.get(name)
        if process is not None:
            await process.ended.wait()

    async def close(self) -> None:
        """End all processes and wait for that."""
        processes = dict(self._processes)
        for name in processes:
            self.end(name)
        for process in processes.values():
            await process.ended.wait()

    def _watch(self, name: str, record: Record, child: subprocess.Popen[bytes] | None) -> None:
        try:
            pidfd = os.pidfd_open(record["pid"])
        except ProcessLookupError:  # an adopted one that ended just now
            return
        self._processes[name] = _Process(record, pidfd, child)
        asyncio.get_running_loop().add_reader(pidfd, self._reap, name)

    def _reap(self, name: str) -> None:
        process = self._processes.pop(name)
        asyncio.get_running_loop().remove_reader(process.pidfd)
        if process.kill is not None:
            process.kill.cancel()
        status = None
        if process.child is not None:
            # Until it is waited for nobody else can have its id: what is left of its group can be ended safely.
            _signal_group(process, signal.SIGKILL)
            status = process.child.wait()
        os.close(process.pidfd)
        process.ended.set()
        if self._on_end is not None:
            self._on_end(name, status)


def _signal_group(process: _Process, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(process.pidfd, 0)  # one that is not a child may be gone, and its id another's
        os.killpg(process.record["pid"], number)
