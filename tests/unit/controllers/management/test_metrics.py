"""What firewalls publish is read, aggregated over periods as CloudWatch does, and written again."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from controllers.management.metrics import (
    VM_SERIES_METRICS,
    Family,
    Series,
    exposition,
    gateway_elb,
    vm_series,
)
from controllers.statistics import Count, Statistics
from firewall_vnf.metrics import METRICS
from topologies.loader import load_topology


def test_the_firewall_publishes_what_is_read() -> None:
    assert [metric.name for metric in METRICS] == list(VM_SERIES_METRICS)


@pytest.mark.parametrize(("statistic", "value"), [("Average", 40), ("Maximum", 60), ("Minimum", 20), ("Sum", 80)])
def test_the_statistic_is_over_instances_however_often_they_are_asked(statistic: str, value: float) -> None:
    series = Series(statistic, 60, 5)  # type: ignore[arg-type]
    for moment in range(0, 60, 5):
        assert not series.add(moment, {"fw1": 20} if moment % 20 else {"fw1": 20, "fw2": 60}, 2)
    assert series.add(60, {}, 2)
    (point,) = series.latest(1)
    assert (point.period, point.value, point.instances) == (0, value, 2)


def test_an_instance_that_leaves_is_left_out_of_the_period() -> None:
    series = Series("Average", 60, 5)
    series.add(0, {"fw1": 20, "fw2": 60}, 2)
    series.forget("fw2")
    series.add(30, {"fw1": 20}, 1)
    series.add(60, {}, 1)
    assert [(point.value, point.instances) for point in series.latest(1)] == [(20, 1)]


def test_few_periods_without_data_are_looked_past_and_more_are_insufficient_data() -> None:
    series = Series("Average", 60, 5)
    for period in (0, 1, 4):
        series.add(period * 60, {"fw1": 1}, 1)
    assert series.add(5 * 60, {}, 1)
    assert [point.period for point in series.latest(3)] == [0, 1, 4]
    assert not series.add(6 * 60, {}, 1), "a period without data ends silently"
    assert series.latest(3) == ()
    assert [point.period for point in series.latest(1)] == [4]
    assert series.latest(4) == ()


def test_only_so_many_points_are_kept() -> None:
    series = Series("Average", 60, 2)
    for period in range(10):
        series.add(period * 60, {"fw1": period}, 1)
    assert [point["value"] for point in series.state()["points"]] == [7, 8]


@given(st.lists(st.tuples(st.floats(0, 40), st.dictionaries(st.sampled_from(["fw1", "fw2"]), st.floats(0, 100)))))
def test_a_series_goes_on_from_its_state(samples: list[tuple[float, dict[str, float]]]) -> None:
    one = Series("Average", 60, 5)
    now = 0.0
    for pause, values in samples:
        now += pause
        other = Series("Average", 60, 5, json.loads(json.dumps(one.state())))
        assert one.add(now, values, 2) == other.add(now, values, 2)
        assert one.state() == other.state()


def test_the_state_of_another_statistic_or_period_is_no_state() -> None:
    series = Series("Average", 60, 5)
    series.add(0, {"fw1": 1}, 1)
    series.add(60, {"fw1": 1}, 1)
    assert Series("Average", 60, 5, series.state()).latest(1) == series.latest(1) != ()
    assert Series("Maximum", 60, 5, series.state()).latest(1) == ()
    assert Series("Average", 30, 5, series.state()).latest(1) == ()


def read_back(text: str) -> list[tuple[str, str, dict[str, str], float]]:
    families = text_string_to_metric_families(text)
    return [(f.type, s.name, s.labels, s.value) for f in families for s in f.samples]


STATES = {"gwlb": [("a", "healthy"), ("a", "draining"), ("b", "unhealthy"), ("b", "healthy"), ("b", "healthy")]}
COUNTED = Statistics(
    time=1700000000.25,
    decisions={
        "gwlb/connections new in a": Count(5, 300),
        "gwlb/endpoints gwlbe1-a": Count(10, 1000),
        "gwlb/returned gwlbe1-a": Count(9, 900),
        "gwlb/endpoints gwlbe3-a": Count(1, 60),
        "gwlb/endpoints gwlbe1-b": Count(2, 120),
        "gwlb/endpoints from GENEVE": Count(9, 900),
        "gwlb/targets reset": Count(3, 180),
    },
    flows={"gwlbe1-a": 4, "gwlbe3-a": 2, "gwlbe1-b": 1},
)


def test_the_load_balancers_metrics_by_zone() -> None:
    text = exposition(gateway_elb(load_topology("gwlb"), STATES, COUNTED))
    a, b = ({"load_balancer": "gwlb", "availability_zone": az} for az in "ab")
    assert read_back(text) == [
        ("gauge", "aws_gatewayelb_healthy_host_count", a, 1),
        ("gauge", "aws_gatewayelb_healthy_host_count", b, 2),
        ("gauge", "aws_gatewayelb_un_healthy_host_count", a, 0),
        ("gauge", "aws_gatewayelb_un_healthy_host_count", b, 1),
        ("gauge", "aws_gatewayelb_active_flow_count", a, 6),
        ("gauge", "aws_gatewayelb_active_flow_count", b, 1),
        ("counter", "aws_gatewayelb_new_flow_count_total", a, 5),
        ("counter", "aws_gatewayelb_new_flow_count_total", b, 0),
        ("counter", "aws_gatewayelb_processed_bytes_total", a, 1960),
        ("counter", "aws_gatewayelb_processed_bytes_total", b, 120),
        ("counter", "aws_gatewayelb_tcp_elb_reset_count_total", {"load_balancer": "gwlb"}, 3),
    ]
    assert "# HELP aws_gatewayelb_tcp_elb_reset_count_total AWS/GatewayELB TCP_ELB_Reset_Count: " in text


def test_what_switches_counted_carries_the_time_of_that() -> None:
    text = exposition(gateway_elb(load_topology("gwlb"), STATES, COUNTED))
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    times = {sample.name: sample.timestamp for sample in samples}
    assert times["aws_gatewayelb_active_flow_count"] == times["aws_gatewayelb_new_flow_count_total"] == COUNTED.time
    assert times["aws_gatewayelb_healthy_host_count"] is None


def test_before_the_switches_were_counted_there_are_hosts_only() -> None:
    text = exposition(gateway_elb(load_topology("gwlb"), STATES, None))
    assert {name for _, name, _, _ in read_back(text)} == {
        "aws_gatewayelb_healthy_host_count",
        "aws_gatewayelb_un_healthy_host_count",
    }


def test_the_firewalls_metrics_are_written_once_each_with_all_firewalls() -> None:
    text = exposition(vm_series({"fw1": {"panSessionActive": 3}, "fw2": {"panSessionActive": 5}}))
    assert read_back(text) == [
        ("gauge", "panSessionActive", {"firewall": "fw1"}, 3),
        ("gauge", "panSessionActive", {"firewall": "fw2"}, 5),
    ]
    assert text.count("# TYPE") == 1


@given(st.text(), st.floats(allow_nan=False))
def test_any_label_and_number_is_read_back(label: str, value: float) -> None:
    text = exposition([Family("m", "gauge", "help", (({"label": label}, value),))])
    assert read_back(text) == [("gauge", "m", {"label": label}, value)]
