"""The lab's OpenFlow controller process."""

from __future__ import annotations

from pathlib import Path

from testbed.service import STATE, TOPOLOGY, Service


class ControllerProcess(Service):
    """``python -m controllers``, see :mod:`controllers.__main__` for what its status says."""

    def __init__(self, directory: Path, datapath: str, time_scale: float = 1.0) -> None:
        self._port = 0
        files = ["--topology", str(directory / TOPOLOGY), "--state", str(directory / STATE)]
        super().__init__(
            "controller", "controllers", [*files, "--datapath", datapath, "--time-scale", str(time_scale)], directory
        )

    def arguments(self) -> list[str]:
        """After an earlier process, the same port."""
        return [*super().arguments(), "--port", str(self._port), "--status", str(self._status)]

    def port(self) -> int:
        """Return the port that it listens on; 0 until it does."""
        self._port = self.status().get("port", 0)
        return self._port

    def in_sync(self, switches: int) -> bool:
        """Whether that many switches are connected and have the desired tables."""
        return [state["in_sync"] for state in self.status().get("switches", {}).values()] == [True] * switches
