"""The running lab at a glance: firewalls, load balancers, traffic that is kept going, and the last events.

:class:`Watch` reads, :func:`render` draws what was read. The numbers are those of the management's ``/metrics``: the
firewalls' own, named as VM-Series publishes them to CloudWatch, and AWS/GatewayELB's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from controllers.management.client import Management, ManagementError
from testbed.probes.child import ProbeError
from testbed.probes.flows import Status, read_status
from topologies.fabric import zone_of
from topologies.model import Topology

#: What the status file of :func:`testbed.probes.flows.keep` is called, in the lab's directory, to be shown here.
TRAFFIC = "*.traffic.json"
#: How many events are kept.
EVENTS = 200
#: How a target's state is shown.
STYLES = {"healthy": "green", "unhealthy": "bold red", "initial": "yellow", "draining": "yellow", "unused": "dim"}
#: A column and the firewall's metric in it.
METRICS = {
    "sessions": "panSessionActive",
    "connections/s": "panSessionConnectionsPerSecond",
    "kbit/s": "panSessionThroughputKbps",
    "CPU %": "DataPlaneCPUUtilizationPct",
}


@dataclass(frozen=True)
class Sample:
    """One value of Prometheus's text, ``time`` when it was taken (Unix time) where that is known."""

    name: str
    labels: Mapping[str, str]
    value: float
    time: float | None


@dataclass(frozen=True)
class FirewallRow:
    """``states`` are (AZ of the node that checks, state); ``values`` by the columns of :data:`METRICS`, if known."""

    name: str
    az: str
    states: tuple[tuple[str, str], ...]
    values: Mapping[str, float]


@dataclass(frozen=True)
class BalancerRow:
    """A load balancer in one AZ. Flows and rates, a second, are None while they are not known."""

    name: str
    az: str
    healthy: int
    targets: int
    flows: float | None
    new_flows: float | None
    bits: float | None


@dataclass(frozen=True)
class Snapshot:
    """What there was to see at a moment; ``problem`` says why it is older than it should be."""

    topology: str = ""
    firewalls: tuple[FirewallRow, ...] = ()
    balancers: tuple[BalancerRow, ...] = ()
    traffic: Mapping[str, Status] = field(default_factory=dict)
    events: tuple[Mapping[str, Any], ...] = ()
    problem: str = ""


class Watch:
    """Reads a running lab whose files are in *directory*, again and again; rates are between two counts of switches.

    *connect* returns a client of the management process, which may have been restarted since; what it raises is
    raised here.
    """

    def __init__(self, connect: Callable[[], Management], directory: Path) -> None:
        self._connect = connect
        self._client = connect()
        self._directory = directory
        self._counters: Counters = {}
        self._counted = 0.0
        self._rates: Counters = {}
        self._last_event = 0
        self._events: deque[Mapping[str, Any]] = deque(maxlen=EVENTS)
        self._snapshot = Snapshot()

    def read(self) -> Snapshot:
        """Return what there is now; what was read before, with the problem, while the service does not answer."""
        try:
            self._snapshot = self._read()
        except ManagementError as error:
            self._snapshot = replace(self._snapshot, traffic=dict(self._traffic()), problem=str(error))
            self._client = self._connect()
        return self._snapshot

    def _read(self) -> Snapshot:
        client = self._client
        topology = Topology.model_validate(client.topology())
        samples = tuple(parse(client.metrics_text()))
        health = {name: client.health(name) for name in topology.gateway_load_balancers}
        events = client.events(self._last_event)
        if events:
            self._last_event = events[-1]["number"]
            self._events.extend(events)
        self._measure(samples)
        return Snapshot(
            topology=topology.name,
            firewalls=tuple(firewall_rows(topology, health, samples)),
            balancers=tuple(balancer_rows(health, samples, self._rates)),
            traffic=dict(self._traffic()),
            events=tuple(self._events),
        )

    @property
    def measuring(self) -> bool:
        """Whether the switches were counted once: with the next count there are rates."""
        return bool(self._counters) and not self._rates

    def _measure(self, samples: Iterable[Sample]) -> None:
        """Bring the rates up to date if the switches have been asked again since."""
        counted = max((sample.time for sample in samples if sample.time is not None), default=self._counted)
        if counted != self._counted:
            now = counters(samples)
            self._rates = rates(self._counters, now, counted - self._counted)
            self._counters, self._counted = now, counted

    def _traffic(self) -> Iterator[tuple[str, Status]]:
        for file in sorted(self._directory.glob(TRAFFIC)):
            try:
                yield file.name.split(".")[0], read_status(file)
            except ProbeError:  # it has ended meanwhile
                continue


def parse(text: str) -> Iterator[Sample]:
    """Yield the values of Prometheus's text. Raises ManagementError when it is malformed."""
    try:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                taken = None if sample.timestamp is None else float(sample.timestamp)
                yield Sample(sample.name, sample.labels, float(sample.value), taken)
    except ValueError as error:
        raise ManagementError(f"the management's metrics are malformed: {error}") from None


# -- rows ------------------------------------------------------------------------------------------------------------


def firewall_rows(
    topology: Topology, health: Mapping[str, Iterable[Mapping[str, Any]]], samples: Iterable[Sample]
) -> Iterator[FirewallRow]:
    """Yield a row for each firewall that runs or is a target, in the topology's order."""
    columns = {metric: column for column, metric in METRICS.items()}
    values: dict[str, dict[str, float]] = {}
    for sample in samples:
        if sample.name in columns:
            values.setdefault(sample.labels.get("firewall", ""), {})[columns[sample.name]] = sample.value
    for gwlb_name, gwlb in topology.gateway_load_balancers.items():
        for name, appliance in gwlb.appliances.items():
            states = tuple((row["az"], row["state"]) for row in health[gwlb_name] if row["target"] == name)
            if states or name in values:
                az = zone_of(topology.vpcs[gwlb.vpc], appliance.subnet)
                yield FirewallRow(name, az, states, values.get(name, {}))


#: A load balancer, an AZ and the name of a metric; and its value.
Counters = Mapping[tuple[str, str, str], float]


def counters(samples: Iterable[Sample]) -> Counters:
    """Return AWS/GatewayELB's metrics."""
    found: dict[tuple[str, str, str], float] = {}
    for sample in samples:
        if sample.name.startswith("aws_gatewayelb_"):
            gwlb, az = (sample.labels.get(name, "") for name in ("load_balancer", "availability_zone"))
            found[gwlb, az, sample.name] = sample.value
    return found


def rates(before: Counters, now: Counters, seconds: float) -> Counters:
    """Return the growth a second of what was there before; a counter that began anew is left out."""
    return {
        place: (value - before[place]) / seconds
        for place, value in now.items()
        if seconds > 0 and place in before and value >= before[place]
    }


def balancer_rows(
    health: Mapping[str, Iterable[Mapping[str, Any]]], samples: Iterable[Sample], growth: Counters
) -> Iterator[BalancerRow]:
    """Yield a row for each load balancer and AZ."""
    values = counters(samples)
    for name, targets in health.items():
        targets = tuple(targets)
        for az in sorted({row["az"] for row in targets}):
            states = [row["state"] for row in targets if row["az"] == az and row["state"] != "unused"]
            processed = growth.get((name, az, "aws_gatewayelb_processed_bytes_total"))
            yield BalancerRow(
                name,
                az,
                healthy=states.count("healthy"),
                targets=len(states),
                flows=values.get((name, az, "aws_gatewayelb_active_flow_count")),
                new_flows=growth.get((name, az, "aws_gatewayelb_new_flow_count_total")),
                bits=None if processed is None else processed * 8,
            )


# -- drawing -------------------------------------------------------------------------------------------------------


def render(snapshot: Snapshot, events: int = 8) -> RenderableType:
    """Return a frame, with so many of the last events."""
    parts: list[RenderableType] = [Text(f"{snapshot.topology}", "bold")]
    if snapshot.problem:
        parts.append(Text(snapshot.problem, "bold red"))
    parts += [_firewalls(snapshot.firewalls), _balancers(snapshot.balancers)]
    for name, status in snapshot.traffic.items():
        line = (
            f"{status.alive} of {status.wanted} flows alive, {status.connected} new connections, {status.failed} failed"
        )
        bad = status.failed or status.alive < status.established
        parts.append(Text.assemble((name, "bold"), "  ", (line, "red" if bad else "green")))
    shown = snapshot.events[-events:] if events else ()
    if shown:
        parts.append(_events(shown))
    return Group(*parts)


def number(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"


def _grid(left: Iterable[str], right: Iterable[str]) -> Table:
    """Return an empty table; the columns on the right hold numbers."""
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in left:
        grid.add_column(column)
    for column in right:
        grid.add_column(column, justify="right", min_width=7)
    return grid


def _firewalls(rows: Iterable[FirewallRow]) -> Table:
    rows = tuple(rows)
    grid = _grid(("firewall", "AZ", "target"), METRICS)
    for row in rows:
        values = (number(row.values.get(column)) for column in METRICS)
        grid.add_row(row.name, row.az, _states(row.states), *values)
    grid.add_section()
    summed = list(METRICS)[:-1]
    totals = (number(sum(row.values.get(column, 0.0) for row in rows)) for column in summed)
    grid.add_row("all", "", "", *totals, style="bold")
    return grid


def _states(states: tuple[tuple[str, str], ...]) -> Text:
    """Return a target's state, of each AZ where they differ."""
    if not states:
        return Text("not registered", "dim")
    if len({state for _, state in states}) == 1:
        return Text(states[0][1], STYLES.get(states[0][1], ""))
    parts = [Text(f"{az} {state}", STYLES.get(state, "")) for az, state in states]
    return Text(", ").join(parts)


def _balancers(rows: Iterable[BalancerRow]) -> Table:
    grid = _grid(("load balancer", "AZ"), ("healthy", "flows", "new flows/s", "kbit/s"))
    for row in rows:
        healthy = Text(f"{row.healthy} of {row.targets}", "bold red" if row.healthy < row.targets else "green")
        bits = None if row.bits is None else row.bits / 1000
        grid.add_row(row.name, row.az, healthy, number(row.flows), number(row.new_flows), number(bits))
    return grid


def _events(events: Iterable[Mapping[str, Any]]) -> Table:
    grid = Table("time", "", "event", box=box.SIMPLE_HEAD, pad_edge=False)
    for event in events:
        clock = datetime.fromtimestamp(event["time"]).strftime("%H:%M:%S.%f")[:-5]
        grid.add_row(clock, event["resource"], Text(event["text"]))
    return grid
