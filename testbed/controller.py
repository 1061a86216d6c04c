"""The lab's controller process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any


class ControllerProcess:
    """``python -m controllers`` with its status file and its log in *directory*."""

    def __init__(self, topology: Path, directory: Path) -> None:
        self._topology = topology
        self._status = directory / "controller.json"
        self._log = directory / "controller.log"
        self._port = 0
        self.start()

    def start(self) -> None:
        """Start the process; after an earlier one, on the same port."""
        self._status.unlink(missing_ok=True)
        with self._log.open("a") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "controllers"),
                    *(
                        "--topology",
                        str(self._topology),
                        "--port",
                        str(self._port),
                        "--status",
                        str(self._status),
                    ),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def kill(self) -> None:
        """Kill the process as an accident would, and wait until it is gone."""
        self.process.kill()
        self.process.wait()

    def status(self) -> dict[str, Any]:
        """Return the status file's content, see :mod:`controllers.__main__`; empty until it is written."""
        try:
            status: dict[str, Any] = json.loads(self._status.read_text())
        except FileNotFoundError:
            return {}
        return status

    def port(self) -> int:
        """Return the port that it listens on; 0 until it does."""
        self._port = self.status().get("port", 0)
        return self._port

    def in_sync(self, switches: int) -> bool:
        """Whether that many switches are connected and have the desired tables."""
        return [state["in_sync"] for state in self.status().get("switches", {}).values()] == [True] * switches

    def problem(self) -> str | None:
        """Return a line when the process is gone, with the last line of its log."""
        code = self.process.poll()
        if code is None:
            return None
        return f"the controller ended with {code}: {last_line(self._log)}"


def last_line(log: Path) -> str:
    """Return the last line of a log that says something, or a remark that there is none."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()] if log.exists() else []
    return lines[-1] if lines else "it logged nothing"
