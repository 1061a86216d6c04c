"""Asking a running firewall: its sessions and counters, by its control socket; and PAN-OS's form of the
answers.

The socket is a local stream socket. A request is one line of JSON, ``{"command": "sessions", "application":
"ssh"}``; the answer is one line of JSON, an object, with ``error`` in it if the request failed. Commands:

``info``
    ``name``, ``policy`` (its file), ``sessions``, ``capacity``, ``pid``, ``interface``, ``offload`` (``on``, ``off``,
    or why it cannot be); of one of a pair ``ha``, see
    :func:`firewall_vnf.control_server.describe_pair`
``counters``
    ``counters``: name to value, see :mod:`firewall_vnf.counters`
``sessions``
    ``sessions``: a list of objects, see :func:`firewall_vnf.control_server.describe`; fields of them as
    filters, and ``limit``
``clear``
    the same, and ends the sessions that it lists
``reload``
    loads the policy file again; a wrong one changes nothing, and ``error`` says why
``suspend``, ``functional``
    takes this firewall out of its pair, lets it take part again; ``ha``
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

COMMANDS = ("info", "counters", "sessions", "clear", "reload", "suspend", "functional")
FILTERS = (
    "id", "application", "state", "source", "source_port", "destination", "destination_port", "protocol", "zone",
    "endpoint", "rule", "offloaded",
)  # fmt: skip

_NUMBERS = {"icmp": "1", "tcp": "6", "udp": "17"}


class ControlError(Exception):
    """One line: the firewall does not answer, or refused the request and why."""


class Control:
    """A client of the control socket at *path*. Each call is a connection of its own; all raise
    :class:`ControlError`.

    *timeout*, in seconds, is how long the firewall may be silent.
    """

    def __init__(self, path: Path, timeout: float = 10.0) -> None:
        self._path = path
        self._timeout = timeout

    def answers(self) -> bool:
        """Whether a firewall answers on the socket now."""
        try:
            self.info()
        except ControlError:
            return False
        return True

    def info(self) -> dict[str, Any]:
        return self._ask({"command": "info"})

    def counters(self) -> dict[str, int]:
        """Return all global counters."""
        counters: dict[str, int] = self._ask({"command": "counters"})["counters"]
        return counters

    def sessions(self, **filters: object) -> list[dict[str, Any]]:
        """Return the sessions of which all *filters* (:data:`FILTERS`, ``limit``) are true, in no order."""
        sessions: list[dict[str, Any]] = self._ask({"command": "sessions"} | filters)["sessions"]
        return sessions

    def session(self, number: int) -> dict[str, Any]:
        """Return the session with that id."""
        found = self.sessions(id=number, limit=1)
        if not found:
            raise ControlError(f"session {number}: there is none, or it has ended; look into the traffic log")
        return found[0]

    def clear(self, **filters: object) -> int:
        """End sessions without telling their ends; returns how many."""
        return len(self._ask({"command": "clear"} | filters)["sessions"])

    def reload(self) -> None:
        """Load the policy file again, and match all sessions again with their next packet."""
        self._ask({"command": "reload"})

    def suspend(self) -> None:
        """Take the firewall out of its pair: the other becomes active."""
        self._ask({"command": "suspend"})

    def functional(self) -> None:
        """Let a suspended firewall take part in its pair again."""
        self._ask({"command": "functional"})

    def _ask(self, request: Mapping[str, object]) -> dict[str, Any]:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(self._timeout)
            try:
                connection.connect(os.fspath(self._path))
                connection.sendall(json.dumps(request).encode() + b"\n")
                with connection.makefile("rb") as answers:
                    line = answers.readline()
            except OSError as error:
                raise ControlError(f"{self._path}: no firewall answers ({error}); is it running?") from error
        if not line.endswith(b"\n"):
            raise ControlError(f"{self._path}: the firewall ended before it had answered")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise ControlError(answer["error"])
        return answer


def format_sessions(sessions: Iterable[Mapping[str, Any]]) -> str:
    """Return sessions as text, in the form of PAN-OS's ``show session all``, by id; flag O: offloaded."""
    rule = "-" * 100
    lines = [
        rule,
        f"{'ID':<12}{'Application':<18}{'State':<9}{'Type':<6}{'Flag':<6}Src[Sport]/Zone/Proto (translated IP[Port])",
        f"{'Vsys':<51}Dst[Dport]/Zone (translated IP[Port])",
        rule,
    ]
    for session in sorted(sessions, key=lambda session: session["id"]):
        source = f"{session['source']}[{session['source_port']}]"
        destination = f"{session['destination']}[{session['destination_port']}]"
        protocol = _NUMBERS.get(session["protocol"], session["protocol"])
        flag = "O" if session["offloaded"] else ""
        lines += [
            f"{session['id']:<12}{session['application']:<18}{session['state']:<9}{'FLOW':<6}{flag:<6}"
            f"{source}/{session['zone']}/{protocol}  ({source})",
            f"{'vsys1':<51}{destination}/{session['zone']}  ({destination})",
        ]
    return "\n".join(lines)


def format_session(session: Mapping[str, Any]) -> str:
    """Return one session as text, in the form of PAN-OS's ``show session id``."""
    source, destination = (
        (session["source"], session["source_port"]),
        (session["destination"], session["destination_port"]),
    )
    rows = {
        "start time": datetime.fromtimestamp(session["start_time"]).strftime("%a %b %e %H:%M:%S %Y"),
        "timeout": f"{session['timeout']} sec",
        "time to live": f"{session['time_to_live']} sec",
        "total byte count(c2s)": session["bytes_sent"],
        "total byte count(s2c)": session["bytes_received"],
        "layer7 packet count(c2s)": session["packets_sent"],
        "layer7 packet count(s2c)": session["packets_received"],
        "vsys": "vsys1",
        "application": session["application"],
        "application detail": session["detail"] or "none",
        "rule": session["rule"],
        "session to be logged at end": session["logged_at_end"],
        "session in session ager": True,
        "layer7 processing": "enabled" if session["layer7"] else "completed",
        "offloaded to the kernel": session["offloaded"],
        "session traverses tunnel": True,
        "ingress interface": session["endpoint"],
        "egress interface": session["endpoint"],
        "end-reason": session["end_reason"],
    }
    lines = [f"Session {session['id']:>15}", ""]
    for name, (sender, sport), (receiver, dport) in (("c2s", source, destination), ("s2c", destination, source)):
        lines += [
            f"        {name} flow:",
            f"                source:      {sender} [{session['zone']}]",
            f"                dst:         {receiver}",
            f"                proto:       {_NUMBERS.get(session['protocol'], session['protocol'])}",
            f"                sport:       {sport:<15} dport:      {dport}",
            f"                state:       {session['state']:<15} type:       FLOW",
            "",
        ]
    return "\n".join(lines + [f"        {name:<37}: {value}" for name, value in rows.items()])
