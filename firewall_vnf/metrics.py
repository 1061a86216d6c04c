"""The metrics that VM-Series publishes to Amazon CloudWatch for auto scaling, by PAN's names.

("Custom PAN-OS Metrics Published for Monitoring" of the VM-Series deployment guide.) All are measured but those of
features that this firewall does not have, GlobalProtect and SSL proxy: they are 0, and their help says so. PAN's
plug-in publishes every 1 to 60 minutes; the lab's stories are shorter, so ``metrics_interval`` is in seconds.

Two forms: Prometheus's text and the arguments of CloudWatch's PutMetricData. No clock and no sockets in here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, NamedTuple

#: CloudWatch's namespace, as PAN's Terraform modules have it.
NAMESPACE = "VMseries_dimensions"


class Metric(NamedTuple):
    """*unit* is one of CloudWatch's (PutMetricData, MetricDatum)."""

    name: str
    unit: str
    help: str


METRICS = (
    Metric("DataPlaneCPUUtilizationPct", "Percent", "Processor time of the data path's thread, of one core's"),
    Metric("DataPlanePacketBufferUtilization", "Percent", "What waits in the receive buffer, of its size"),
    Metric("panGPGatewayUtilizationPct", "Percent", "GlobalProtect gateway utilization; 0: there is no GlobalProtect"),
    Metric("panGPGWUtilizationActiveTunnels", "Count", "GlobalProtect tunnels; 0: there is no GlobalProtect"),
    Metric("panSessionActive", "Count", "Sessions in the table"),
    Metric("panSessionConnectionsPerSecond", "Count/Second", "Sessions installed"),
    Metric("panSessionSslProxyUtilization", "Percent", "Sessions that are decrypted; 0: there is no SSL proxy"),
    Metric("panSessionThroughputKbps", "Kilobits/Second", "Inner IP packets forwarded, in kilobits (1,000 bits)"),
    Metric("panSessionThroughputPps", "Count/Second", "Packets forwarded"),
    Metric("panSessionUtilization", "Percent", "Sessions in the table, of its capacity"),
)  # fmt: skip


@dataclass(frozen=True)
class Reading:
    """A firewall's meters at a moment.

    ``time`` (s, monotonic), ``processor`` (s of the data path's thread), ``installed`` (sessions), ``packets`` and
    ``bytes`` (inner, forwarded) only grow; ``buffered`` (0 to 1), ``sessions`` and ``capacity`` are as of now.
    """

    time: float
    processor: float
    buffered: float
    sessions: int
    capacity: int
    installed: int
    packets: int
    bytes: int


def measure(before: Reading, after: Reading) -> dict[str, float]:
    """Return all :data:`METRICS` by name: rates between the two readings, the rest as of *after*."""
    seconds = after.time - before.time

    def rate(amount: float) -> float:
        return amount / seconds if seconds > 0 else 0.0

    return {
        "DataPlaneCPUUtilizationPct": min(100.0, 100 * rate(after.processor - before.processor)),
        "DataPlanePacketBufferUtilization": 100 * after.buffered,
        "panGPGatewayUtilizationPct": 0.0,
        "panGPGWUtilizationActiveTunnels": 0.0,
        "panSessionActive": float(after.sessions),
        "panSessionConnectionsPerSecond": rate(after.installed - before.installed),
        "panSessionSslProxyUtilization": 0.0,
        "panSessionThroughputKbps": rate((after.bytes - before.bytes) * 8 / 1000),
        "panSessionThroughputPps": rate(after.packets - before.packets),
        "panSessionUtilization": 100 * after.sessions / after.capacity,
    }


def prometheus(firewall: str, values: Mapping[str, float]) -> str:
    """Return *values* in Prometheus's text format (version 0.0.4), all gauges, labelled with the firewall's name."""
    label = firewall.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
    return "".join(
        f"# HELP {metric.name} {metric.help} ({metric.unit})\n"
        f"# TYPE {metric.name} gauge\n"
        f'{metric.name}{{firewall="{label}"}} {values[metric.name]:.10g}\n'
        for metric in METRICS
    )


def cloudwatch(firewall: str, values: Mapping[str, float], moment: float) -> dict[str, Any]:
    """Return *values* as the arguments of CloudWatch's PutMetricData, measured at *moment* (seconds since 1970)."""
    timestamp = datetime.fromtimestamp(moment, timezone.utc).isoformat(timespec="milliseconds")
    return {
        "Namespace": NAMESPACE,
        "MetricData": [
            {
                "MetricName": metric.name,
                "Dimensions": [{"Name": "InstanceId", "Value": firewall}],
                "Timestamp": timestamp.replace("+00:00", "Z"),
                "Value": values[metric.name],
                "Unit": metric.unit,
            }
            for metric in METRICS
        ],
    }
