"""The management port: it measures by itself, and says what is wrong with its address."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address
from itertools import count

import pytest
from prometheus_client.parser import text_string_to_metric_families

from firewall_vnf.management import ManagementError, ManagementPort
from firewall_vnf.metrics import METRICS, Reading

LOCAL = IPv4Address("127.0.0.1")


def busier(step: Iterator[int]) -> Reading:
    """With each look a second has passed, in which 10 packets and 2,500 bytes were carried, by half of a core."""
    looks = next(step)
    return Reading(looks, looks / 2, 0.25, 3, 10, looks * 4, looks * 10, looks * 2500)


@pytest.fixture
def management() -> Iterator[ManagementPort]:
    step = count()
    port = ManagementPort(LOCAL, 0, "fw1", lambda: busier(step), 0.01, 0.0)
    yield port
    port.close()


def get(management: ManagementPort, path: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{management.port}{path}", timeout=5) as answer:
        return str(answer.read().decode())


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


def test_metrics_are_measured_again_and_again(management: ManagementPort) -> None:
    def values() -> dict[str, float]:
        families = text_string_to_metric_families(get(management, "/metrics"))
        return {family.name: family.samples[0].value for family in families}

    wait_for(lambda: values()["panSessionThroughputPps"] == 10.0)
    assert values()["panSessionThroughputKbps"] == 20.0
    assert values()["panSessionConnectionsPerSecond"] == 4.0
    assert values()["DataPlaneCPUUtilizationPct"] == 50.0

    def timestamp() -> str:
        data = json.loads(get(management, "/cloudwatch"))["MetricData"]
        assert [datum["MetricName"] for datum in data] == [metric.name for metric in METRICS]
        return str(data[0]["Timestamp"])

    before = timestamp()
    wait_for(lambda: timestamp() > before)


def test_before_the_first_interval_is_over() -> None:
    step = count()
    management = ManagementPort(LOCAL, 0, "fw1", lambda: busier(step), 3600.0, 0.0)
    try:
        assert 'panSessionActive{firewall="fw1"} 3\n' in get(management, "/metrics")
        assert 'panSessionThroughputPps{firewall="fw1"} 0\n' in get(management, "/metrics")
    finally:
        management.close()


def test_unknown_path(management: ManagementPort) -> None:
    with pytest.raises(urllib.error.HTTPError) as error:
        get(management, "/")
    assert error.value.code == 404
    assert error.value.read() == b"not found; there are /metrics and /cloudwatch\n"


def test_closed_means_refused() -> None:
    step = count()
    management = ManagementPort(LOCAL, 0, "fw1", lambda: busier(step), 3600.0, 0.0)
    management.close()
    with pytest.raises(urllib.error.URLError, match=r"refused|ECONNREFUSED"):
        get(management, "/metrics")


@pytest.mark.parametrize(
    ("address", "problem"), [("127.0.0.1", "Address already in use"), ("192.0.2.1", "Cannot assign requested address")]
)
def test_a_port_that_cannot_be_opened(management: ManagementPort, address: str, problem: str) -> None:
    with pytest.raises(ManagementError) as error:
        ManagementPort(IPv4Address(address), management.port, "fw1", lambda: busier(count()), 1.0, 0.0)
    assert str(error.value) == (
        f"management port {address}:{management.port}: {problem};"
        " set 'management_address' to one of this machine's and 'management_port' to a free port"
    )
