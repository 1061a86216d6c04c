"""What firewalls publish is read, aggregated over periods as CloudWatch does, and written again."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from controllers.management.metrics import (
    VM_SERIES_METRICS,
    Family,
    MetricsError,
    NodeMetrics,
    Series,
    exposition,
    gateway_elb,
    parse_vm_series,
    vm_series,
)
from firewall_vnf.metrics import METRICS, prometheus


def test_the_firewall_publishes_what_is_read() -> None:
    assert [metric.name for metric in METRICS] == list(VM_SERIES_METRICS)
    values = {name: number + 0.5 for number, name in enumerate(VM_SERIES_METRICS)}
    assert parse_vm_series(prometheus('fw"1', values)) == values


def test_other_metrics_and_values_that_are_no_number_are_left_out() -> None:
    text = "# TYPE up gauge\nup 1\npanSessionActive NaN\npanSessionUtilization +Inf\npanSessionThroughputPps 12\n"
    assert parse_vm_series(text) == {"panSessionThroughputPps": 12.0}


def test_a_text_that_is_none_is_one_line() -> None:
    with pytest.raises(
        MetricsError, match=r"^metrics: not Prometheus text: could not convert string to float: 'many'$"
    ):
        parse_vm_series("panSessionActive many\n")


@given(st.text())
def test_any_text_is_read_or_refused_in_one_line(text: str) -> None:
    lines = 1
    values: dict[str, float] = {}
    try:
        values = parse_vm_series(text)
    except MetricsError as error:
        lines = len(str(error).splitlines())
    assert lines == 1
    assert all(name in VM_SERIES_METRICS and math.isfinite(value) for name, value in values.items())


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


def test_the_load_balancers_metrics() -> None:
    node = NodeMetrics("gateway/gwlb/0a1b", "targetgroup/gwlb/2c3d", "a", 7, 100, 123456789, 2, 1, 3)
    labels = {
        "load_balancer": "gateway/gwlb/0a1b",
        "target_group": "targetgroup/gwlb/2c3d",
        "availability_zone": "a",
    }
    text = exposition(gateway_elb([node]))
    assert read_back(text) == [
        ("gauge", "aws_gatewayelb_active_flow_count", labels, 7),
        ("counter", "aws_gatewayelb_new_flow_count_total", labels, 100),
        ("counter", "aws_gatewayelb_processed_bytes_total", labels, 123456789),
        ("gauge", "aws_gatewayelb_healthy_host_count", labels, 2),
        ("gauge", "aws_gatewayelb_un_healthy_host_count", labels, 1),
        ("counter", "aws_gatewayelb_tcp_elb_reset_count_total", labels, 3),
    ]
    assert "# HELP aws_gatewayelb_tcp_elb_reset_count_total AWS/GatewayELB TCP_ELB_Reset_Count: " in text


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
