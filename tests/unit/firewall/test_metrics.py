"""The metrics: what two readings give, and both forms in which they are published."""

from __future__ import annotations

from dataclasses import replace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from firewall_vnf.metrics import METRICS, Reading, cloudwatch, measure, prometheus

BEFORE = Reading(
    time=100.0, processor=7.0, buffered=0.5, sessions=9, capacity=200, installed=1000, packets=5000, bytes=10**6
)
AFTER = Reading(
    time=104.0, processor=8.0, buffered=0.125, sessions=50, capacity=200, installed=1100, packets=9000, bytes=5 * 10**6
)
VALUES = {
    "DataPlaneCPUUtilizationPct": 25.0,
    "DataPlanePacketBufferUtilization": 12.5,
    "panGPGatewayUtilizationPct": 0.0,
    "panGPGWUtilizationActiveTunnels": 0.0,
    "panSessionActive": 50.0,
    "panSessionConnectionsPerSecond": 25.0,
    "panSessionSslProxyUtilization": 0.0,
    "panSessionThroughputKbps": 8000.0,
    "panSessionThroughputPps": 1000.0,
    "panSessionUtilization": 25.0,
}


def test_rates_are_of_the_time_between_and_levels_of_its_end() -> None:
    assert measure(BEFORE, AFTER) == VALUES
    assert [metric.name for metric in METRICS] == list(VALUES)


def test_without_time_there_are_no_rates() -> None:
    values = measure(AFTER, AFTER)
    assert values == VALUES | {name: 0.0 for name in VALUES if "PerSecond" in name or "Throughput" in name} | {
        "DataPlaneCPUUtilizationPct": 0.0
    }


def test_clocks_that_disagree_a_little_give_no_more_than_all_of_the_processor() -> None:
    assert measure(BEFORE, replace(AFTER, processor=11.01))["DataPlaneCPUUtilizationPct"] == 100.0


def test_prometheus() -> None:
    families = list(text_string_to_metric_families(prometheus('fw"1', VALUES)))
    assert {family.name: family.samples[0].value for family in families} == VALUES
    assert {family.type for family in families} == {"gauge"}
    assert families[0].samples[0].labels == {"firewall": 'fw"1'}
    assert families[0].documentation == "Processor time of the data path's thread, of one core's (Percent)"


@pytest.mark.parametrize("value", [123456789.25, 0.001])
def test_prometheus_has_enough_digits(value: float) -> None:
    [family, *_] = text_string_to_metric_families(prometheus("fw1", VALUES | {"DataPlaneCPUUtilizationPct": value}))
    assert family.samples[0].value == pytest.approx(value, rel=1e-9)


def test_cloudwatch() -> None:
    document = cloudwatch("fw1", VALUES, 1.5)
    assert document["Namespace"] == "VMseries_dimensions"
    assert document["MetricData"][4] == {
        "MetricName": "panSessionActive",
        "Dimensions": [{"Name": "InstanceId", "Value": "fw1"}],
        "Timestamp": "1970-01-01T00:00:01.500Z",
        "Value": 50.0,
        "Unit": "Count",
    }
    assert {datum["MetricName"]: datum["Value"] for datum in document["MetricData"]} == VALUES
