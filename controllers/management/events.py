"""What happened to the managed service, numbered from 1: in a file, a JSON object a line, and the latest in memory."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

#: The events that a process can still be asked for; the file has them all.
KEPT = 10_000


@dataclass(frozen=True)
class Event:
    """``time`` is Unix time in seconds. ``text`` is one line about ``resource``, a name of the topology.

    Kinds: ``registration`` (a target was registered, deregistered), ``health`` (another state in a zone),
    ``attribute``, ``endpoint`` (accepted, rejected), ``scaling`` (an activity of an auto scaling group),
    ``failover`` (an address, an interface or a route moved), ``service`` (it started).
    """

    number: int
    time: float
    kind: str
    resource: str
    text: str


class Events:
    """The events of a file, which is continued; *clock* gives Unix time. Raises OSError when it cannot be written."""

    def __init__(self, file: Path, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._events: deque[Event] = deque(read(file), maxlen=KEPT)
        self._file = file.open("a+", buffering=1)
        if file.stat().st_size and not file.read_bytes().endswith(b"\n"):
            self._file.write("\n")  # the last line was cut off by the end of an earlier process

    def record(self, kind: str, resource: str, text: str) -> Event:
        """Add an event, now."""
        event = Event(self.last + 1, self._clock(), kind, resource, text)
        self._events.append(event)
        self._file.write(json.dumps(asdict(event)) + "\n")
        return event

    @property
    def last(self) -> int:
        """The number of the latest event, 0 when there is none."""
        return self._events[-1].number if self._events else 0

    def since(self, number: int) -> list[Event]:
        """Return the events after number *number*, in order."""
        return [event for event in self._events if event.number > number]

    def close(self) -> None:
        self._file.close()


def read(file: Path) -> list[Event]:
    """Return a file's events, those of the lines that are whole; none where there is no file."""
    events = []
    for line in file.read_text(errors="replace").splitlines() if file.exists() else ():
        try:
            events.append(Event(**json.loads(line)))
        except (ValueError, TypeError):
            continue
    return events
