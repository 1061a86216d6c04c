"""The health port: HTTP 200 while the data path is alive, 503 when it is stuck.

A Gateway Load Balancer probes its targets outside GENEVE (AWS GWLB guide, health checks; any status from 200
to 399 is healthy). The port has a thread of its own, so that it can still answer when the data path cannot.
"""

from __future__ import annotations

from collections.abc import Callable

from firewall_vnf.http_port import HttpPort


class HealthError(Exception):
    """The port cannot be opened; one line."""


class HealthPort:
    """Answers ``/`` and ``/healthz`` on *port* of every address. *age* returns the seconds since the last heartbeat."""

    def __init__(self, port: int, age: Callable[[], float], limit: float) -> None:
        def answer(path: str) -> tuple[int, str, str]:
            if path not in ("/", "/healthz"):
                return 404, "text/plain", "not found\n"
            if age() > limit:
                return 503, "text/plain", f"unhealthy: data path stuck for {age():.1f} s\n"
            return 200, "text/plain", "healthy\n"

        try:
            self._http = HttpPort("", port, "health", answer)
        except OSError as error:
            raise HealthError(
                f"health port {port}: {error.strerror}; stop what uses it or set 'health_port'"
            ) from error
        self.port = self._http.port

    def close(self) -> None:
        self._http.close()
