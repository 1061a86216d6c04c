"""New TCP connections per second between two nodes.

Each connection is opened, carries one byte there and one back, and is closed by the client with FIN: what netperf
calls TCP_CRR. Client and server are child processes, each one thread around a selector; run as a program this is the
server (``serve PORT``) or the client (``connect ADDRESS PORT SECONDS CONCURRENCY``).
"""

from __future__ import annotations

import contextlib
import json
import selectors
import socket
import sys
import time
from collections import deque
from dataclasses import dataclass
from ipaddress import IPv4Address

from testbed.probes.child import Child, Node, ProbeError

PORT = 8080
#: Seconds after which a connection that makes no progress counts as failed.
CONNECTION_TIMEOUT = 3.0


@dataclass(frozen=True)
class ConnectionRate:
    """``completed`` connections in ``seconds``, and those that ``failed`` (refused, reset, or stuck for 3 s).

    ``latency`` is the median from the SYN to the last byte, ``latency_99`` the 99th percentile, in seconds; None
    when no connection was completed.
    """

    completed: int
    failed: int
    seconds: float
    latency: float | None
    latency_99: float | None

    @property
    def per_second(self) -> float:
        return self.completed / self.seconds


def measure(
    client: Node,
    server: Node,
    address: IPv4Address | None = None,
    *,
    seconds: float = 3,
    concurrency: int = 16,
    port: int = PORT,
) -> ConnectionRate:
    """Open and close connections for so many seconds, *concurrency* at a time.

    That connections fail is a result. Raises ProbeError when the processes themselves do.
    """
    address = address or server.address
    title = f"connections {client.name} → {server.name} ({address})"
    python = [sys.executable, "-m", __name__]
    with Child(server, f"{title}, server", [*python, "serve", str(port)]) as listener:
        listener.wait_listening(port)
        arguments = ["connect", str(address), str(port), str(seconds), str(concurrency)]
        with Child(client, title, [*python, *arguments]) as child:
            code = child.wait(seconds + CONNECTION_TIMEOUT + 20)
            if code:
                raise child.failure(code)
            return parse(child.output, title)


def parse(output: str, title: str = "connections") -> ConnectionRate:
    """Return what the client printed. Raises ProbeError when it is malformed."""
    try:
        result = json.loads(output)
        rate = ConnectionRate(**result)
        if rate.seconds <= 0:
            raise ValueError(f"{rate.seconds} seconds")
        return rate
    except (TypeError, ValueError) as error:
        raise ProbeError(f"{title}: malformed result ({error})") from None


def serve(port: int) -> None:
    """Send back what comes, until the client closes."""
    selector = selectors.DefaultSelector()
    with socket.create_server(("0.0.0.0", port), backlog=1024) as listener:
        listener.setblocking(False)
        selector.register(listener, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                connection = key.fileobj
                assert isinstance(connection, socket.socket)
                if connection is listener:
                    with contextlib.suppress(BlockingIOError):
                        while True:
                            accepted, _ = listener.accept()
                            accepted.setblocking(False)
                            selector.register(accepted, selectors.EVENT_READ)
                    continue
                try:
                    data = connection.recv(64)
                    if data:
                        connection.send(data)
                        continue
                except OSError:
                    pass
                selector.unregister(connection)
                connection.close()


def connect(address: str, port: int, seconds: float, concurrency: int) -> ConnectionRate:
    """Keep *concurrency* connections going for so many seconds."""
    selector = selectors.DefaultSelector()
    latencies: list[float] = []
    failed = 0
    order: deque[tuple[float, socket.socket]] = deque()  # by age, to find the stuck ones
    start = now = time.monotonic()
    end = start + seconds

    def close(connection: socket.socket) -> None:
        selector.unregister(connection)
        connection.close()

    while now < end or selector.get_map():
        while now < end and len(selector.get_map()) < concurrency:
            connection = socket.socket()
            connection.setblocking(False)
            connection.connect_ex((address, port))
            selector.register(connection, selectors.EVENT_WRITE, now)
            order.append((now, connection))
        for key, events in selector.select(0.1):
            connection = key.fileobj  # type: ignore[assignment]
            try:
                if events & selectors.EVENT_WRITE:
                    connection.send(b"?")  # raises what the connection failed with
                    selector.modify(connection, selectors.EVENT_READ, key.data)
                elif connection.recv(1):
                    latencies.append(time.monotonic() - key.data)
                    close(connection)
                else:
                    raise ConnectionResetError
            except OSError:
                failed += 1
                close(connection)
        now = time.monotonic()
        while order and (order[0][1].fileno() < 0 or order[0][0] < now - CONNECTION_TIMEOUT):
            _, connection = order.popleft()
            if connection.fileno() >= 0:
                failed += 1
                close(connection)
    latencies.sort()
    return ConnectionRate(
        completed=len(latencies),
        failed=failed,
        seconds=now - start,
        latency=latencies[len(latencies) // 2] if latencies else None,
        latency_99=latencies[len(latencies) * 99 // 100] if latencies else None,
    )


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["serve", port]:
            serve(int(port))
        case ["connect", address, port, seconds, concurrency]:
            print(json.dumps(vars(connect(address, int(port), float(seconds), int(concurrency)))))
