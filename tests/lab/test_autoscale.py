"""An auto scaling group on a real lab: its instances come, go and end with the lab, and commands cope with that."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from scripts.autoscale import fitting
from testbed.lab import Lab
from testbed.scenario import find
from testbed.teardown import lab_processes
from tests.lab.test_scenarios import run
from topologies.loader import load_topology

pytestmark = pytest.mark.lab


def bumpwire(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "testbed", *arguments], capture_output=True, text=True)


def instances(lab: Lab) -> dict[str, int]:
    """Return the firewalls' processes, by the firewall's name."""
    found = {}
    for pid in lab_processes(lab.journal.token, set()):
        try:
            command = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
        except OSError:  # it has ended just now
            continue
        if "firewall_vnf" in command:
            found[Path(command[-2]).stem] = pid
    return found


def test_the_story(tmp_path: Path) -> None:
    passed, result = run(find("autoscale"), tmp_path, "flows=16")
    assert passed, [check for check in result["checks"] if not check["passed"]]
    (directory,) = tmp_path.iterdir()
    assert "throughput of each firewall" in (directory / "report.html").read_text()
    # Also of those that were terminated, and of those that ended with the group.
    assert len(list(directory.glob("firewalls/fw*/traffic.jsonl"))) >= 3


def test_a_group_is_resized_by_hand_and_heals() -> None:
    with Lab(load_topology("autoscale"), time_scale=fitting()) as lab:
        assert sorted(instances(lab)) == ["fw1", "fw2"]
        refused = bumpwire("set", "gwlb-asg", "DesiredCapacity=7")
        assert (refused.returncode, len(refused.stderr.strip().splitlines())) == (2, 1), refused.stderr
        assert "max size:6" in refused.stderr

        resized = bumpwire("set", "gwlb-asg", "DesiredCapacity=4", "MinSize=4")
        assert resized.returncode == 0, resized.stderr
        for name in ("fw3", "fw4"):
            lab.wait_target(name, "healthy")
        assert sorted(instances(lab)) == ["fw1", "fw2", "fw3", "fw4"]

        lab.firewalls["fw3"].kill()
        seen = bumpwire("sessions")  # the socket of the one that was killed is still there
        assert seen.returncode == 0, seen.stderr
        assert all(f"{name}\n" in seen.stdout for name in ("fw1", "fw2", "fw4"))
        # Its name is not free before it is terminated, so the zone's other free name is taken.
        lab.wait(lambda: sorted(instances(lab)) == ["fw1", "fw2", "fw4", "fw5"], "another firewall")
        lab.wait_target("fw5", "healthy")
        watched = bumpwire("watch", "--once")
        assert watched.returncode == 0, watched.stderr
        assert all(name in watched.stdout for name in ("fw1", "fw2", "fw4", "fw5"))

        shrunk = bumpwire("set", "gwlb-asg", "MinSize=2", "DesiredCapacity=2")
        assert shrunk.returncode == 0, shrunk.stderr
        lab.wait(lambda: len(instances(lab)) == 2, "two instances to be terminated")


def test_instances_end_with_the_lab_even_without_their_group() -> None:
    with Lab(load_topology("autoscale"), time_scale=fitting()) as lab:
        token = lab.journal.token
        assert lab.management is not None
        lab.management.kill()
        assert sorted(instances(lab)) == ["fw1", "fw2"]
    assert lab_processes(token, set()) == []
