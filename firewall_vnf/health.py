"""The health port: HTTP 200 while the data path is alive, 503 when it is stuck.

A Gateway Load Balancer probes its targets outside GENEVE (AWS GWLB guide, health checks; any status from 200
to 399 is healthy). The port has a thread of its own, so that it can still answer when the data path cannot.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class HealthError(Exception):
    """The port cannot be opened; one line."""


class HealthPort:
    """Answers ``/`` and ``/healthz`` on *port* of every address. *age* returns the seconds since the last heartbeat."""

    def __init__(self, port: int, age: Callable[[], float], limit: float) -> None:
        class Handler(BaseHTTPRequestHandler):
            timeout = 5

            def do_GET(self) -> None:
                if self.path not in ("/", "/healthz"):
                    self._answer(404, "not found")
                elif age() > limit:
                    self._answer(503, f"unhealthy: data path stuck for {age():.1f} s")
                else:
                    self._answer(200, "healthy")

            do_HEAD = do_GET

            def _answer(self, status: int, text: str) -> None:
                body = f"{text}\n".encode()
                self.send_response(status)
                self.send_header("Content-Type", "text/plain")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            def log_message(self, format: str, *arguments: object) -> None:
                """Probes come every few seconds: they are not logged."""

        try:
            self._server = ThreadingHTTPServer(("", port), Handler)
        except OSError as error:
            raise HealthError(
                f"health port {port}: {error.strerror}; stop what uses it or set 'health_port'"
            ) from error
        self.port = self._server.server_port
        self._server.daemon_threads = True
        serve = partial(self._server.serve_forever, poll_interval=0.05)  # how long closing may wait, in seconds
        self._thread = threading.Thread(target=serve, name="health", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
