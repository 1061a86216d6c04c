"""A played firewall for the managed service: a health port and a management port, whose answers a file says.

``python fake_firewall.py ADDRESS HEALTH_PORT MANAGEMENT_PORT FILE``; the file is JSON, ``{"health": status,
"metrics": {name: value}}``, read for each request.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from datetime import datetime, timezone
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class Port(ThreadingHTTPServer):
    """Answers with what *answer* returns for what the file says: a status and a body."""

    daemon_threads = True

    def __init__(self, address: str, port: int, file: Path, answer: Any) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, body = answer(json.loads(file.read_text()), self.path)
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *arguments: object) -> None:
                pass

        super().__init__((address, port), Handler)
        threading.Thread(target=partial(self.serve_forever, poll_interval=0.02), daemon=True).start()

    def close(self) -> None:
        self.shutdown()
        self.server_close()


def health(said: dict[str, Any], path: str) -> tuple[int, bytes]:
    return said["health"], b""


def metrics(said: dict[str, Any], path: str) -> tuple[int, bytes]:
    if path != "/cloudwatch":
        return 404, b""
    now = datetime.fromtimestamp(time.time(), timezone.utc).isoformat().replace("+00:00", "Z")
    data = [{"MetricName": name, "Timestamp": now, "Value": value} for name, value in said["metrics"].items()]
    return 200, json.dumps({"Namespace": "VMseries_dimensions", "MetricData": data}).encode()


if __name__ == "__main__":
    address, health_port, management_port, file = sys.argv[1:]
    Port(address, int(health_port), Path(file), health)
    Port(address, int(management_port), Path(file), metrics)
    threading.Event().wait()
