"""The server of the control socket (:mod:`firewall_vnf.control` has the protocol and the client).

It works in turns between packets, in the data path's own thread: it never waits, and one turn looks at no
more than :data:`TURN` sessions, so that the listing of a full table does not hold packets up.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from firewall_vnf.control import COMMANDS, FILTERS, Control, ControlError
from firewall_vnf.engine import Engine
from firewall_vnf.ha_link import HaService
from firewall_vnf.high_availability import HaLink
from firewall_vnf.session import PROTOCOLS, Session

#: Sessions looked at in one turn.
TURN = 64
#: A longer request is refused, in bytes.
LONGEST_REQUEST = 65536
#: Answer that may wait for its reader, in bytes, before more of it is made.
ENOUGH = 262144


def describe(session: Session, now: float, epoch: float, offloaded: bool) -> dict[str, Any]:
    """Return what is known about a session. Times in seconds, ``start_time`` since 1970; bytes are of IP packets.

    *offloaded*: whether the kernel carries it.
    """
    return {
        "id": session.id,
        "application": session.application,
        "state": session.state.value,
        "source": str(session.source),
        "source_port": session.source_port,
        "destination": str(session.destination),
        "destination_port": session.destination_port,
        "protocol": PROTOCOLS.get(session.protocol, str(session.protocol)),
        "zone": session.zone,
        "zone_to": session.zone_to,
        "endpoint": session.endpoint.name,
        "rule": session.rule.name,
        "start_time": session.start + epoch,
        "timeout": session.timeout,
        "time_to_live": max(0, round(session.last + session.timeout - now)),
        "packets_sent": session.packets_sent,
        "packets_received": session.packets_received,
        "bytes_sent": session.bytes_sent,
        "bytes_received": session.bytes_received,
        "logged_at_end": session.rule.log_end,
        "offloaded": offloaded,
        "layer7": not session.identified or bool(session.inspections),
        "detail": session.detail,
        "end_reason": session.end_reason.value if session.end_reason else "unknown",
    }


def describe_pair(pair: HaService) -> dict[str, Any]:
    """Return the firewall's state in its pair, and the peer's as it is heard."""
    machine = pair.machine
    return {
        "state": machine.state.value,
        "reason": machine.reason,
        "priority": machine.settings.priority,
        "peer": machine.peer.state.value if machine.peer else "unknown",
        "links": {link.value: "up" if machine.hears(link) else "down" for link in HaLink},
        "synchronized": pair.sync.count,
        "unsent": pair.sync.unsent,
    }


class ControlServer:
    """Answers requests on *path* about *engine*: a service of :class:`firewall_vnf.adapter.Loop`.

    *epoch* is the wall time at 0 of the engine's clock. *counters* returns all counters. *reload* loads the
    policy; it raises ValueError with the reason why not. *info* is added to the answer of ``info``; *pair* is the
    firewall's half of an active/passive pair. Raises :class:`ControlError` if the socket cannot be made.
    """

    def __init__(
        self,
        path: Path,
        engine: Engine,
        epoch: float,
        counters: Callable[[], dict[str, int]],
        reload: Callable[[float], None],
        info: Mapping[str, Any],
        pair: HaService | None = None,
    ) -> None:
        self._path, self._engine, self._epoch = path, engine, epoch
        self._counters, self._reload, self._info, self._pair = counters, reload, info, pair
        self._clients: dict[int, _Client] = {}
        if path.is_socket():
            if Control(path).answers():
                raise ControlError(f"control socket {path}: a firewall answers there already; stop it")
            path.unlink()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        mask = os.umask(0o177)
        try:
            self._socket.bind(os.fspath(path))
            self._socket.listen()
        except OSError as error:
            raise ControlError(f"control socket {path}: {error.strerror or error}") from error
        finally:
            os.umask(mask)
        self._socket.setblocking(False)

    def register(self, poll: select.poll) -> None:
        self._poll = poll
        poll.register(self._socket, select.POLLIN)

    def serve(self, descriptors: Sequence[int], now: float) -> None:
        """Take a turn for each of the ready *descriptors* that is ours."""
        for descriptor in descriptors:
            if descriptor == self._socket.fileno():
                self._accept()
            elif descriptor in self._clients:
                client = self._clients[descriptor]
                try:
                    self._turn(client, now)
                except OSError:  # the reader went away
                    self._close(client)

    def close(self) -> None:
        for client in list(self._clients.values()):
            self._close(client)
        self._socket.close()
        self._path.unlink(missing_ok=True)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            connection, _ = self._socket.accept()
            connection.setblocking(False)
            self._clients[connection.fileno()] = _Client(connection)
            self._poll.register(connection, select.POLLIN)

    def _turn(self, client: _Client, now: float) -> None:
        if client.answer is None and b"\n" not in client.received:
            data = client.socket.recv(LONGEST_REQUEST)
            client.received += data
            if not data or len(client.received) > LONGEST_REQUEST:
                self._close(client)
                return
        if client.answer is None and b"\n" in client.received:
            line, client.received = client.received.split(b"\n", 1)
            client.answer = self._answer(line, now)
        if client.answer is not None:
            client.go_on()
        # No request is read before the one before it is answered.
        answering = client.answer is not None or b"\n" in client.received
        self._poll.modify(client.socket, select.POLLOUT if answering else select.POLLIN)

    def _close(self, client: _Client) -> None:
        del self._clients[client.socket.fileno()]
        self._poll.unregister(client.socket)
        client.socket.close()

    def _answer(self, line: bytes, now: float) -> Iterator[str]:
        """The answer, piece by piece; each step is a session looked at, some of them give no text."""
        try:
            request = json.loads(line)
            if not isinstance(request, dict):
                raise ValueError('a request is a JSON object, such as {"command": "info"}')
            yield from self._run(request.pop("command", None), request, now)
        except (ValueError, RecursionError) as error:
            yield json.dumps({"error": str(error)})
        yield "\n"

    def _run(self, command: object, request: dict[str, Any], now: float) -> Iterator[str]:
        limit = request.pop("limit", None)
        if limit is not None and not isinstance(limit, int):
            raise ValueError(f"limit is a number, not {limit!r}")
        unknown = sorted(set(request) - set(FILTERS))
        if unknown:
            raise ValueError(f"unknown filter {unknown[0]!r}; known are {', '.join(FILTERS)}")
        if command == "info":
            table = self._engine.table
            answer = dict(self._info) | {"sessions": table.count, "capacity": table.capacity}
            yield json.dumps(answer | ({"ha": describe_pair(self._pair)} if self._pair else {}))
        elif command in ("suspend", "functional"):
            if self._pair is None:
                raise ValueError(f"{command}: this firewall is not one of a pair; give it high_availability")
            (self._pair.suspend if command == "suspend" else self._pair.functional)(now)
            yield json.dumps({"ha": describe_pair(self._pair)})
        elif command == "counters":
            self._engine.look(now)
            yield json.dumps({"counters": self._counters()})
        elif command == "reload":
            self._reload(now)
            yield json.dumps({"reloaded": True})
        elif command in ("sessions", "clear"):
            self._engine.look(now)
            yield '{"sessions": ['
            count, doomed = 0, []
            for session in self._engine.table:
                if count == limit:
                    break
                description = describe(session, now, self._epoch, self._engine.offloaded(session))
                if any(str(description[name]).lower() != str(value).lower() for name, value in request.items()):
                    yield ""
                    continue
                yield ("," if count else "") + json.dumps(description)
                count += 1
                if command == "clear":
                    doomed.append(session)
                    if len(doomed) == TURN:
                        self._engine.clear(doomed, now)
                        doomed = []
            self._engine.clear(doomed, now)
            yield "]}"
        else:
            raise ValueError(f"unknown command {command!r}; known are {', '.join(COMMANDS)}")


class _Client:
    """A connection: what it sent, and the answer that it is being given."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.received = b""
        self.answer: Iterator[str] | None = None
        self.unsent = bytearray()

    def go_on(self) -> None:
        """Make some of the answer and send what the socket takes; ``answer`` is None when all of it is sent."""
        assert self.answer is not None
        complete = False
        for _ in range(TURN):
            if complete or len(self.unsent) >= ENOUGH:
                break
            piece = next(self.answer, None)
            complete = piece is None
            self.unsent += (piece or "").encode()
        with contextlib.suppress(BlockingIOError):
            del self.unsent[: self.socket.send(self.unsent)]
        if complete and not self.unsent:
            self.answer = None
