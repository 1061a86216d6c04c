"""The scenarios pass on a real lab, and say so when a part of it dies."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from testbed.run import Run
from testbed.scenario import Scenario, execute, find, options_of, parse_options

pytestmark = pytest.mark.lab


def run(scenario: Scenario, directory: Path, *settings: str) -> tuple[bool, dict[str, Any]]:
    console = Console(file=io.StringIO(), width=160)
    passed = execute(scenario, parse_options(scenario, settings), console, directory)
    (result,) = directory.glob("*/result.json")
    return passed, json.loads(result.read_text())


def test_the_tour_and_the_stories_in_it(tmp_path: Path) -> None:
    passed, result = run(find("tour"), tmp_path, "seconds=1", "streams=2")
    assert passed, [check for check in result["checks"] if not check["passed"]]
    assert result["manifest"]["datapath"] in ("system", "netdev")
    (directory,) = tmp_path.iterdir()
    assert (directory / "report.html").stat().st_size > 10_000
    assert list(directory.glob("*firewalls/fw1/traffic.jsonl"))
    assert list(directory.glob("*.pcap"))
    assert list(directory.glob("*iperf3*client.json"))


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("failover", ["flows=16", "time_scale=20"]),
        ("drain", ["flows=16"]),
        ("zones", ["flows=16"]),
        ("idle-timeout", ["time_scale=115"]),
    ],
)
def test_scenario_of_the_managed_service(name: str, settings: list[str], tmp_path: Path) -> None:
    passed, result = run(find(name), tmp_path, *settings)
    assert passed, [check for check in result["checks"] if not check["passed"]]
    assert result["manifest"]["time_scale"] > 1
    (directory,) = tmp_path.iterdir()
    report = (directory / "report.html").read_text()
    assert ("long flows alive" in report) == (name != "idle-timeout")


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("active-passive", ["flows=16"]),
        ("sandwich", []),
        ("vpn-ecmp", ["requests=24", "flows=8"]),
    ],
)
def test_scenario_of_an_older_architecture(name: str, settings: list[str], tmp_path: Path) -> None:
    passed, result = run(find(name), tmp_path, *settings)
    assert passed, [check for check in result["checks"] if not check["passed"]]
    assert (result["manifest"]["rate_scale"] is None) == (name == "sandwich")
    (directory,) = tmp_path.iterdir()
    assert list(directory.glob("*firewalls/fw1/traffic.jsonl"))


def test_offload(tmp_path: Path) -> None:
    passed, result = run(find("offload"), tmp_path, "seconds=3", "requests=100")
    assert passed, [check for check in result["checks"] if not check["passed"]]


def test_a_soak_can_be_replayed(tmp_path: Path) -> None:
    passed, result = run(find("soak"), tmp_path / "first", "seed=7", "minutes=0.3", "flows=16")
    assert passed, [check for check in result["checks"] if not check["passed"]]
    (directory,) = (tmp_path / "first").iterdir()
    assert "long flows alive" in (directory / "report.html").read_text()
    schedule = directory / "faults.jsonl"
    passed, again = run(find("soak"), tmp_path / "second", f"replay={schedule}", "flows=16")
    assert passed, [check for check in again["checks"] if not check["passed"]]
    (other,) = (tmp_path / "second").iterdir()
    assert (other / "faults.jsonl").read_text() == schedule.read_text()


def test_a_firewall_that_is_killed_is_reported(tmp_path: Path) -> None:
    def story(run: Run) -> None:
        with run.lab("gwlb") as lab:
            lab.firewalls["fw2"].kill()

    passed, result = run(Scenario("killed", "A firewall dies.", story, options_of(story)), tmp_path)
    assert not passed
    (check,) = (check for check in result["checks"] if not check["passed"])
    assert check["name"] == "all firewalls and the controller lived"
    assert "fw2 ended with -9" in check["detail"]


def test_a_controller_that_is_killed_is_reported(tmp_path: Path) -> None:
    def story(run: Run) -> None:
        with run.lab("gwlb") as lab:
            lab.controller.kill()

    passed, result = run(Scenario("killed", "The controller dies.", story, options_of(story)), tmp_path)
    assert not passed
    (check,) = (check for check in result["checks"] if not check["passed"])
    assert check["detail"].startswith("the controller ended with -9")
