"""A small HTTP server in a thread of its own: what the health port and the management port have in common."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # a kernel goes on accepting for a process that hangs, as a firewall's does

    def server_bind(self) -> None:
        """Bind without asking DNS for the address's name, which takes 10 s where no server answers."""
        TCPServer.server_bind(self)
        self.server_port = self.socket.getsockname()[1]


#: Status, content type and text of the answer for a path.
Answer = Callable[[str], tuple[int, str, str]]


class HttpPort:
    """Answers GET and HEAD on *port* of *address* (empty: every one); 0 takes a free port, see ``port``.

    *answer* is called in a thread of the request's. *name* is the threads'. Raises OSError if the port cannot be
    opened.
    """

    def __init__(self, address: str, port: int, name: str, answer: Answer) -> None:
        class Handler(BaseHTTPRequestHandler):
            timeout = 5

            def do_GET(self) -> None:
                status, kind, text = answer(self.path)
                body = text.encode()
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            do_HEAD = do_GET

            def log_message(self, format: str, *arguments: object) -> None:
                """Probes come every few seconds: they are not logged."""

        self._server = Server((address, port), Handler)
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, name=name, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Refuse connections from now on."""
        self._server.socket.shutdown(socket.SHUT_RDWR)  # wakes the thread, which looks only twice a second else
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
