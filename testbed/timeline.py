"""What happened when: traffic that was kept going (:mod:`testbed.probes.flows`) beside the events of the same time.

::

    timeline = Timeline((traffic.report,), (Event(killed, Kind.FAILURE, "fw1 killed"), *service_events(events, offset)))
    run.check("no flow died", not timeline.died(), ...)
    run.measure("outage of new connections", timeline.outage(killed), "s")
    run.results.drawings["fw1 fails"] = figures.timeline(timeline)

Everything in here is pure. Times are seconds of the monotonic clock, as the probe's; a figure's are since the start.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from itertools import accumulate, pairwise
from typing import Any

from testbed.probes.flows import Connection, Flow, Report, Status
from testbed.results import Series

#: Seconds that one bar of new connections covers.
BAR = 0.5


class Kind(str, Enum):
    """What an event is: something broke, something was found out, or somebody changed something."""

    FAILURE = "failure"
    DETECTION = "detection"
    CHANGE = "change"


class Form(str, Enum):
    """How a panel is drawn: values that hold until the next one, a line through values, or bars upon each other."""

    STEPS = "steps"
    LINE = "line"
    BARS = "bars"


@dataclass(frozen=True)
class Event:
    """What happened at a ``time``; ``text`` is a few words."""

    time: float
    kind: Kind
    text: str


@dataclass(frozen=True)
class Gap:
    """A silence of a long flow between two answers."""

    flow: Flow
    start: float
    end: float

    @property
    def seconds(self) -> float:
        return self.end - self.start


@dataclass(frozen=True)
class Panel:
    """One small diagram; all panels of a figure share the time, in seconds since the start."""

    title: str
    form: Form
    series: tuple[Series, ...]


@dataclass(frozen=True)
class Timeline:
    """The ``reports`` of the traffic, at least one, the ``events``, and values that held from a time on (``gauges``).

    ``measured`` is what else was measured meanwhile, several series in a panel. Raises ValueError without a report.
    """

    reports: tuple[Report, ...]
    events: tuple[Event, ...] = ()
    gauges: tuple[Series, ...] = ()
    measured: tuple[Panel, ...] = ()

    def __post_init__(self) -> None:
        if not self.reports:
            raise ValueError("a timeline needs the report of some traffic")

    @property
    def start(self) -> float:
        return min(report.start for report in self.reports)

    @property
    def end(self) -> float:
        return max(report.end for report in self.reports)

    @property
    def flows(self) -> tuple[Flow, ...]:
        return tuple(flow for report in self.reports for flow in report.flows)

    @property
    def connections(self) -> tuple[Connection, ...]:
        """All new connections, by the time that they started."""
        found = (connection for report in self.reports for connection in report.connections)
        return tuple(sorted(found, key=lambda connection: connection.started))

    # -- what scenarios ask ----------------------------------------------------------------------------------------

    def died(self, since: float = -math.inf) -> tuple[Flow, ...]:
        """Return the long flows that died, or could not be established, after *since*, in the order of their deaths."""
        dead = [(flow.died, flow) for flow in self.flows if flow.died is not None and flow.died >= since]
        return tuple(flow for _, flow in sorted(dead, key=lambda pair: pair[0]))

    def silent(self, seconds: float = 1.0) -> tuple[Flow, ...]:
        """Return the long flows that had not died when their traffic ended, but waited for an answer that long."""
        return tuple(
            flow
            for report in self.reports
            for flow in report.flows
            if flow.died is None and flow.gaps and flow.gaps[-1][1] >= report.end > flow.gaps[-1][0] + seconds
        )

    def failed(self, since: float = -math.inf) -> tuple[Connection, ...]:
        """Return the new connections that failed after *since*, also those that had started before it."""
        return tuple(one for one in self.connections if one.error and one.ended >= since)

    def started(self, since: float) -> tuple[Connection, ...]:
        """Return the new connections that were started after *since*."""
        return tuple(one for one in self.connections if one.started > since)

    def first_success(self, since: float) -> float | None:
        """Return the seconds from *since* to the first answer of a connection that started after it; None: no answer.

        Where a load balancer chooses between firewalls, some connections succeed all the time: see :meth:`outage`.
        """
        answered = [one.ended for one in self.connections if one.started >= since and not one.error]
        return min(answered) - since if answered else None

    def outage(self, since: float) -> float | None:
        """Return the seconds after *since* from which on every new connection succeeded; 0.0 when none failed.

        None when none has succeeded after the last one that failed.
        """
        failed = self.failed(since)
        if not failed:
            return 0.0
        last = max(one.started for one in failed)
        again = next((one.started for one in self.connections if one.started > last), None)
        return None if again is None else max(again - since, 0.0)

    def longest_gap(self, since: float = -math.inf) -> Gap | None:
        """Return the longest silence of a long flow that ended after *since*; None when none was noted."""
        gaps = (Gap(flow, start, end) for flow in self.flows for start, end in flow.gaps if end >= since)
        return max(gaps, key=lambda gap: gap.seconds, default=None)

    # -- what figures show -----------------------------------------------------------------------------------------

    def flows_alive(self) -> Series:
        """Return the long flows that are alive, from each change on."""
        alive = [flow for flow in self.flows if flow.established is not None]
        changes = [(self.start, 0)]
        changes += [(flow.established, 1) for flow in alive if flow.established is not None]
        changes += [(flow.died, -1) for flow in alive if flow.died is not None]
        return self._series("alive", "flows", [*_sums(changes), (self.end, sum(change for _, change in changes))])

    def new_connections(self, bar: float = BAR) -> tuple[Series, Series]:
        """Return the new connections per second that succeeded and that failed, of those that started in each bar."""
        bars = int((self.end - self.start) / bar) + 1
        counts = {False: [0] * bars, True: [0] * bars}
        for one in self.connections:
            counts[bool(one.error)][int((one.started - self.start) / bar)] += 1
        succeeded, failed = (
            Series(title, "1/s", tuple((number * bar, count / bar) for number, count in enumerate(counts[error])))
            for title, error in (("succeeded", False), ("failed", True))
        )
        return succeeded, failed

    def throughput(self, bar: float = BAR) -> Series:
        """Return what the long flows got back, in bit/s of payload, from samples at least *bar* apart on."""
        changes: list[tuple[float, float]] = []
        for report in self.reports:
            rate = 0.0
            for before, after in pairwise(_thinned(report.samples, bar)):
                now = 8 * (after.received - before.received) / (after.time - before.time)
                changes.append((before.time, now - rate))
                rate = now
        return self._series("received", "bit/s", _sums(changes))

    def panels(self, bar: float = BAR) -> tuple[Panel, ...]:
        """Return the diagrams that have something to show."""
        measured = [*(Panel(gauge.title, Form.STEPS, (gauge,)) for gauge in self.gauges), *self.measured]
        panels = [replace(panel, series=tuple(map(self._hold, panel.series))) for panel in measured]
        if self.flows:
            panels.append(Panel("long flows alive", Form.STEPS, (self.flows_alive(),)))
        if self.connections:
            panels.append(Panel("new connections", Form.BARS, self.new_connections(bar)))
        if self.flows:
            panels.append(Panel("throughput of the long flows", Form.LINE, (self.throughput(bar),)))
        return tuple(panels)

    def _hold(self, gauge: Series) -> Series:
        """Return a gauge from the start to the end of the traffic: its value at the start is the last one before."""
        earlier = [value for time, value in gauge.points if time <= self.start][-1:]
        inside = [(time, value) for time, value in gauge.points if self.start < time < self.end]
        points = [*((self.start, value) for value in earlier), *inside]
        points += [(self.end, value) for _, value in points[-1:]]
        return self._series(gauge.title, gauge.unit, points)

    def _series(self, title: str, unit: str, points: Iterable[tuple[float, float]]) -> Series:
        return Series(title, unit, tuple((time - self.start, value) for time, value in points))


def failures(connections: Sequence[Connection]) -> str:
    """Return how many of new *connections* failed, and of what: ``2 of 120 failed (time-out)``."""
    errors = [one.error for one in connections if one.error]
    causes = f" ({', '.join(sorted(set(errors)))})" if errors else ""
    return f"{len(errors)} of {len(connections)} failed{causes}"


def _sums(changes: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return what changes at times add up to."""
    ordered = sorted(changes)
    return list(zip((time for time, _ in ordered), accumulate(change for _, change in ordered), strict=True))


def _thinned(samples: Iterable[Status], apart: float) -> Iterator[Status]:
    due = -math.inf
    for sample in samples:
        if sample.time >= due:
            yield sample
            due = sample.time + apart


# -- the managed service's events ----------------------------------------------------------------------------------

#: The text of a health event: ``gwlb in a: healthy → unhealthy (Target.FailedHealthChecks)``.
HEALTH = re.compile(r"(?P<gwlb>\S+) in (?P<az>\S+): (?:\S+ → )?(?P<state>\w+)")
#: How the text of an auto scaling group's event ends when its size shall be another.
CAPACITY = re.compile(r"desired capacity from (\d+) to (\d+)")


def health_changes(events: Iterable[Mapping[str, Any]]) -> Iterator[tuple[float, str, str, str]]:
    """Yield (Unix time, target, AZ, state) of the health events among the management's *events*."""
    for event in events:
        if event["kind"] == "health" and (match := HEALTH.match(event["text"])):
            yield event["time"], event["resource"], match["az"], match["state"]


def service_events(events: Iterable[Mapping[str, Any]], offset: float) -> tuple[Event, ...]:
    """Return the management's *events* for a timeline.

    *offset* is the wall clock less the monotonic clock (``time.time() - time.monotonic()``). Of the health, only that a
    target is healthy or unhealthy now is told, and once when several zones find it out; of an instance's life, not that
    it waits for a lifecycle hook or goes on.
    """
    events = tuple(events)
    found: list[Event] = []
    known: dict[str, str] = {}
    for time, target, _, state in health_changes(events):
        if state in ("healthy", "unhealthy") and known.get(target) != state:
            found.append(Event(time - offset, Kind.DETECTION, f"{target} {state}"))
        known[target] = state
    for event in events:
        if event["kind"] not in ("health", "service") and (words := _few_words(event)):
            found.append(Event(event["time"] - offset, Kind.CHANGE, f"{event['resource']} {words}"))
    return tuple(sorted(found, key=lambda event: event.time))


def _few_words(event: Mapping[str, Any]) -> str:
    """Return an event's text without what a figure has no room for."""
    text: str = event["text"]
    if event["kind"] == "registration":  # gwlb: deregistered
        return text.rpartition(": ")[2]
    if event["kind"] == "attribute":  # tcp.idle_timeout.seconds: 350 → 60
        return re.sub(": .* → ", " = ", text)
    if event["kind"] == "scaling":
        state, _, _ = text.partition(": ")  # Pending: At … an instance was started in response to …
        if re.fullmatch(r"\w+(:\w+)?", state):
            return "" if ":" in state else state  # Pending:Wait
        if match := CAPACITY.search(text):
            return f"capacity {match[1]} → {match[2]}"
    return text


def healthy_targets(events: Iterable[Mapping[str, Any]], offset: float) -> Series:
    """Return how many targets are healthy in a zone at least, after each health event; times as the timeline's."""
    healthy: set[tuple[str, str]] = set()
    points = []
    for time, target, az, state in health_changes(events):
        (healthy.add if state == "healthy" else healthy.discard)((target, az))
        points.append((time - offset, float(len({name for name, _ in healthy}))))
    return Series("healthy firewalls", "firewalls", tuple(points))
