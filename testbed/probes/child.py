"""A probe's process on a node: its output, its time-out, whether it listens, its end."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from ipaddress import IPv4Address
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Protocol

from testbed.errors import Error, MachineError

#: The directory that holds the packages: where a child ``python -m testbed…`` finds them.
ROOT = Path(__file__).resolve().parents[2]
#: Seconds that a server may take to listen, and a process to end when it is asked to; emulated machines are slow.
PATIENCE = 30.0
GRACE = 2.0

PACKAGES = {"iperf3": "iperf3", "ping": "iputils-ping", "ssh": "openssh-client", "sshd": "openssh-server"}
LISTEN = "0A"  # a socket's state in /proc/net/tcp


class ProbeError(Error):
    """A probe came to no result. One line: the probe, from where to where, and what the tool said."""


class Node(Protocol):
    """What a probe needs of a node: a :class:`testbed.nodes.Host`, or a stand-in for one."""

    @property
    def name(self) -> str: ...
    @property
    def pid(self) -> int: ...
    @property
    def address(self) -> IPv4Address: ...
    def popen(self, command: Sequence[str], **keywords: Any) -> subprocess.Popen[Any]: ...


def program(name: str) -> str:
    """Return the path of a program. Raises MachineError that says what to install."""
    path = shutil.which(name, path="/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/bin")
    if path is None:
        raise MachineError(f"{name} is not installed: apt-get install {PACKAGES.get(name, name)}")
    return path


class Child:
    """A process on *node*. Leaving the block ends it, if it runs still.

    *title* names it in errors. Output goes to files, so that a chatty process never blocks on a full pipe.
    """

    def __init__(self, node: Node, title: str, command: Sequence[str]) -> None:
        self.title = title
        self._node = node
        self._output = tempfile.TemporaryFile("w+")  # noqa: SIM115  closed in __exit__
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.process = node.popen(command, stdin=subprocess.DEVNULL, stdout=self._output, stderr=self._errors, cwd=ROOT)

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(GRACE)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._output.close()
        self._errors.close()

    @property
    def output(self) -> str:
        """What it has written to its standard output."""
        return _content(self._output)

    @property
    def errors(self) -> str:
        """What it has written to its standard error."""
        return _content(self._errors)

    def wait(self, timeout: float) -> int:
        """Wait for its end and return its exit code. Raises ProbeError after *timeout* seconds."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise ProbeError(f"{self.title}: no result within {timeout:g} s{self._last_words()}") from None

    def wait_listening(self, port: int, timeout: float = PATIENCE) -> None:
        """Wait until it listens on TCP *port*.

        Raises ProbeError when it ends before, or after *timeout* seconds.
        """
        deadline = time.monotonic() + timeout
        # Asked of the node: for a moment the new process is not there yet, and the machine may have a server itself.
        while port not in listening_ports(self._node.pid):
            try:
                code = self.process.wait(0.005)
            except subprocess.TimeoutExpired:
                if time.monotonic() > deadline:
                    raise ProbeError(
                        f"{self.title}: does not listen on port {port} after {timeout:g} s{self._last_words()}"
                    ) from None
            else:
                raise ProbeError(f"{self.title}: ended with {code} before it listened{self._last_words()}")

    def failure(self, code: int) -> ProbeError:
        """Return the error of a process that ended with *code*, with the last line that it wrote."""
        return ProbeError(f"{self.title}: exit code {code}{self._last_words()}")

    def _last_words(self) -> str:
        words = last_line(self.errors) or last_line(self.output)
        return f": {words}" if words else ""


def last_line(text: str) -> str:
    """Return the last line that is not blank, or an empty text."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


def listening_ports(pid: int) -> set[int]:
    """Return the TCP ports that are listened on in the network namespace of process *pid*; none when it is gone."""
    ports: set[int] = set()
    for table in ("tcp", "tcp6"):
        try:
            ports |= parse_listening(Path(f"/proc/{pid}/net/{table}").read_text())
        except OSError:
            continue
    return ports


def parse_listening(table: str) -> set[int]:
    """Return the listening ports of the text of ``/proc/net/tcp``."""
    rows = (line.split() for line in table.splitlines()[1:])
    return {int(row[1].rpartition(":")[2], 16) for row in rows if row[3] == LISTEN}


def _content(file: IO[str]) -> str:
    """Read a child's file without moving the offset that the child shares."""
    number = file.fileno()
    return os.pread(number, os.fstat(number).st_size, 0).decode(errors="replace")
