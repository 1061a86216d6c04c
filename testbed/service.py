"""The lab's processes: how one ends, and one that works in the background and says in a status file how it is."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

#: The files in the lab's directory that say what the cloud shall be: the model, and the state of its targets.
TOPOLOGY, STATE = "topology.yaml", "state.json"
#: How long a part may take to end, and to write its logs, when it is told to, in seconds.
GRACE = 5.0


class Part:
    """A part of the lab that is a process."""

    process: subprocess.Popen[bytes]

    def problem(self) -> str | None:
        """Return a line when the process is gone that should not be."""
        raise NotImplementedError

    def kill(self) -> None:
        """Kill the process as an accident would, and wait until it is gone."""
        self.process.kill()
        self.process.wait()

    def end(self) -> None:
        """Ask the process to end; :meth:`wait` gives it the time that it needs."""
        if self.process.poll() is None:
            self.process.terminate()

    def wait(self) -> None:
        """Wait until the process has ended, but not for long."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(GRACE)


class Service(Part):
    """``python -m MODULE`` with *arguments*; ``NAME.json`` in *directory* is its status file, ``NAME.log`` its log."""

    def __init__(self, name: str, module: str, arguments: list[str], directory: Path) -> None:
        self.name = name
        self.log = directory / f"{name}.log"
        self._module = module
        self._arguments = arguments
        self._status = directory / f"{name}.json"
        self.start()

    def start(self) -> None:
        """Start the process; what an earlier one said of itself is forgotten."""
        self._status.unlink(missing_ok=True)
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", self._module, *self.arguments()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def arguments(self) -> list[str]:
        """Return the command's arguments for the next start."""
        return self._arguments

    def status(self) -> dict[str, Any]:
        """Return the status file's content; empty until it is written."""
        try:
            status: dict[str, Any] = json.loads(self._status.read_text())
        except FileNotFoundError:
            return {}
        return status

    def problem(self) -> str | None:
        """Return a line when the process is gone, with the last line of its log."""
        code = self.process.poll()
        if code is None:
            return None
        return f"the {self.name} ended with {code}: {last_line(self.log)}"


def last_line(log: Path) -> str:
    """Return the last line of a log that says something, or a remark that there is none."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()] if log.exists() else []
    return lines[-1] if lines else "it logged nothing"
