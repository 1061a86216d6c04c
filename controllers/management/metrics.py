"""Numbers about firewalls and load balancers: aggregated over periods, and written as Prometheus text.

Facts: PAN's Terraform modules name the ten metrics that VM-Series publishes in CloudWatch; AWS GWLB guide, CloudWatch
metrics: the names and dimensions of ``AWS/GatewayELB``; CloudWatch guide, statistics and alarm evaluation.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from controllers.statistics import Count, Statistics
from topologies.decision import decision
from topologies.fabric import zone_of
from topologies.model import Topology

Statistic = Literal["Average", "Maximum", "Minimum", "Sum"]

#: What a VM-Series publishes, and what it says.
VM_SERIES_METRICS = {
    "DataPlaneCPUUtilizationPct": "CPU time of the data plane, in percent",
    "DataPlanePacketBufferUtilization": "use of the packet buffers, in percent",
    "panGPGatewayUtilizationPct": "use of the GlobalProtect gateway, in percent",
    "panGPGWUtilizationActiveTunnels": "active GlobalProtect tunnels",
    "panSessionActive": "active sessions",
    "panSessionConnectionsPerSecond": "new connections per second",
    "panSessionSslProxyUtilization": "use of the sessions for SSL proxy, in percent",
    "panSessionThroughputKbps": "throughput in kbit/s",
    "panSessionThroughputPps": "throughput in packets per second",
    "panSessionUtilization": "use of the session table, in percent",
}

#: How many periods without data an alarm looks past: CloudWatch retrieves more data points than it evaluates.
MISSING_PERIODS = 2


@dataclass(frozen=True)
class DataPoint:
    """A metric in one period: the statistic over the instances, and how many these were."""

    period: int
    """The number of the period: Unix time divided by its length."""
    value: float
    instances: int


class Series:
    """A metric of a group: one data point a period, with the statistic over the group's instances.

    VM-Series publishes one value an interval, so the samples of an instance within a period are averaged first; how
    often it is asked changes nothing. ``length`` is that of a period in seconds of the clock that is passed in.
    """

    def __init__(self, statistic: Statistic, length: float, keep: int, state: Mapping[str, Any] | None = None) -> None:
        """``keep`` is the number of data points that are kept, ``state`` what :meth:`state` of a like series gave."""
        self.statistic = statistic
        self.length = length
        self.keep = keep
        if state is None or (state["statistic"], state["length"]) != (statistic, length):
            state = {}
        self._period: int | None = state.get("period")
        self._instances: int = state.get("instances", 0)
        self._sums: dict[str, tuple[float, int]] = {name: (s, n) for name, (s, n) in state.get("sums", {}).items()}
        self._points = [DataPoint(**point) for point in state.get("points", [])]

    def state(self) -> dict[str, Any]:
        """Return what a new series continues from, as plain JSON."""
        return {
            "statistic": self.statistic,
            "length": self.length,
            "period": self._period,
            "instances": self._instances,
            "sums": {name: list(pair) for name, pair in self._sums.items()},
            "points": [asdict(point) for point in self._points],
        }

    def begin(self, now: float) -> float:
        """Return when the period that ``now`` is in began."""
        return math.floor(now / self.length) * self.length

    def add(self, now: float, values: Mapping[str, float], instances: int) -> bool:
        """Add a sample of each instance in ``values``, out of ``instances``. Return whether that ended a period.

        A period without data ends silently: it makes no data point.
        """
        period = math.floor(now / self.length)
        ended = False
        if self._period is None or period > self._period:
            ended = self._close()
            self._period = period
        for name, value in values.items():
            total, count = self._sums.get(name, (0.0, 0))
            self._sums[name] = total + value, count + 1
        self._instances = instances
        return ended

    def forget(self, name: str) -> None:
        """Leave out an instance in the period that has not ended."""
        self._sums.pop(name, None)

    def _close(self) -> bool:
        if self._period is None or not self._sums:
            return False
        means = [total / count for total, count in self._sums.values()]
        self._points.append(DataPoint(self._period, aggregate(self.statistic, means), self._instances))
        del self._points[: -self.keep]
        self._sums = {}
        return True

    def latest(self, count: int) -> tuple[DataPoint, ...]:
        """Return the last ``count`` data points, oldest first; nothing if too many periods had no data."""
        points = self._points[-count:]
        if self._period is None or len(points) < count or points[0].period < self._period - count - MISSING_PERIODS:
            return ()
        return tuple(points)


def aggregate(statistic: Statistic, values: list[float]) -> float:
    """Return CloudWatch's statistic of some values, at least one."""
    if statistic == "Maximum":
        return max(values)
    if statistic == "Minimum":
        return min(values)
    return math.fsum(values) / (1 if statistic == "Sum" else len(values))


@dataclass(frozen=True)
class Family:
    """A metric as Prometheus has it: samples are labels and a value, ``time`` when they were taken (Unix time)."""

    name: str
    type: Literal["gauge", "counter"]
    help: str
    samples: tuple[tuple[Mapping[str, str], float], ...]
    time: float | None = None


#: Name in CloudWatch, attribute, type, meaning.
GATEWAY_ELB: tuple[tuple[str, str, Literal["gauge", "counter"], str], ...] = (
    ("HealthyHostCount", "healthy_host_count", "gauge", "targets that are healthy"),
    ("UnHealthyHostCount", "un_healthy_host_count", "gauge", "targets that are unhealthy"),
    ("ActiveFlowCount", "active_flow_count", "gauge", "flows that are known, idle ones too"),
    ("NewFlowCount", "new_flow_count", "counter", "flows that began"),
    ("ProcessedBytes", "processed_bytes", "counter", "bytes from endpoints and back to them, in Ethernet frames"),
    ("TCP_ELB_Reset_Count", "tcp_elb_reset_count", "counter", "TCP resets that the load balancer made"),
)

#: A load balancer and an AZ; None is all of them.
Node = tuple[str, str | None]


def gateway_elb(
    topology: Topology, states: Mapping[str, Iterable[tuple[str, str]]], statistics: Statistics | None
) -> list[Family]:
    """Return the families of ``AWS/GatewayELB``, named as the CloudWatch exporter does, totals ``_total``.

    *states* are (AZ, state) of each load balancer's targets. Counts that AWS gives a minute are totals here. What comes
    of the *statistics* carries their time.
    """
    values: dict[str, Counter[Node]] = {attribute: Counter() for _, attribute, _, _ in GATEWAY_ELB}
    for gwlb, found in states.items():
        for az, state in found:
            values["healthy_host_count"][gwlb, az] += state == "healthy"
            values["un_healthy_host_count"][gwlb, az] += state == "unhealthy"
    if statistics:
        for name, node, value in carried(topology, statistics):
            values[name][node] += value
    return [
        Family(
            f"aws_gatewayelb_{attribute}{'_total' if kind == 'counter' else ''}",
            kind,
            f"AWS/GatewayELB {name}: {meaning}",
            tuple((dimensions(*node), float(value)) for node, value in sorted(values[attribute].items())),
            statistics.time if statistics and not attribute.endswith("host_count") else None,
        )
        for name, attribute, kind, meaning in GATEWAY_ELB
    ]


def carried(topology: Topology, statistics: Statistics) -> Iterator[tuple[str, Node, int]]:
    """Yield what the load balancers' decisions say: an attribute, where, and how much more of it."""

    def count(gwlb: str, table: str, destination: str) -> Count:
        return statistics.decisions.get(decision(gwlb, table, destination), Count())

    for gwlb in topology.gateway_load_balancers:
        yield "tcp_elb_reset_count", (gwlb, None), count(gwlb, "targets", "reset").packets
    nodes = set[tuple[str, str]]()
    for vpc in topology.vpcs.values():
        for name, endpoint in vpc.endpoints.items():
            node = endpoint.service, zone_of(vpc, endpoint.subnet)
            nodes.add(node)
            for table in ("endpoints", "returned"):
                yield "processed_bytes", node, count(endpoint.service, table, name).bytes
            if name in statistics.flows:
                yield "active_flow_count", node, statistics.flows[name]
    for gwlb, az in nodes:
        yield "new_flow_count", (gwlb, az), count(gwlb, "connections", f"new in {az}").packets


def dimensions(gwlb: str, az: str | None) -> dict[str, str]:
    return {"load_balancer": gwlb} | ({"availability_zone": az} if az else {})


def vm_series(firewalls: Mapping[str, Mapping[str, float]]) -> list[Family]:
    """Return the families of the firewalls' metrics, as they publish them, from metrics by name of the firewall."""
    return [
        Family(
            name,
            "gauge",
            f"VM-Series {name}: {meaning}",
            tuple(({"firewall": fw}, values[name]) for fw, values in firewalls.items() if name in values),
        )
        for name, meaning in VM_SERIES_METRICS.items()
    ]


def _escape(text: str) -> str:
    return re.sub(r'[\\"\n]', lambda found: {"\\": "\\\\", '"': '\\"', "\n": "\\n"}[found[0]], text)


def exposition(families: Iterable[Family]) -> str:
    """Return Prometheus text (format 0.0.4) of families; those without a sample are left out."""
    lines = []
    for family in families:
        time = "" if family.time is None else f" {round(family.time * 1000)}"
        if family.samples:
            lines += [f"# HELP {family.name} {family.help}", f"# TYPE {family.name} {family.type}"]
        for labels, value in family.samples:
            inner = ",".join(f'{name}="{_escape(text)}"' for name, text in labels.items())
            lines.append(f"{family.name}{{{inner}}} {value}{time}")
    return "".join(f"{line}\n" for line in lines)
