"""Whatever happens to a lab, nothing of it stays on the machine."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from testbed.journal import read_journal
from tests.lab.machine import output, picture

pytestmark = pytest.mark.lab
BUMPWIRE = [sys.executable, "-m", "testbed"]
#: Seconds after the start of `up`: while Python starts, nodes, links, bridges, tables, firewalls; and when it is up.
MOMENTS = [0.3, 0.6, 0.8, 0.9, 1.0, 1.1, 1.2, 1.4, 1.7, 2.2, 3.0]


@pytest.fixture
def before() -> Iterator[dict[str, Any]]:
    """The machine as it was, with a bridge of somebody else's on it, which must be there at the end as well."""
    output("ovs-vsctl", "--may-exist", "add-br", "others", "--", "set", "bridge", "others", "datapath_type=netdev")
    yield picture()
    output("ovs-vsctl", "--if-exists", "del-br", "others")


def start_up() -> subprocess.Popen[str]:
    """Start ``bumpwire up`` with a prompt that waits for us."""
    return subprocess.Popen(
        [*BUMPWIRE, "up", "gwlb"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def wait_until_up(lab: subprocess.Popen[str]) -> None:
    """Wait for the prompt's greeting, and until it sleeps: while it greets, Python loses what a signal raises."""
    assert lab.stdout is not None
    if not any("NODE COMMAND" in line for line in lab.stdout):
        pytest.fail("the prompt never came")
    while lab.poll() is None and Path(f"/proc/{lab.pid}/stat").read_text().rpartition(")")[2].split()[0] != "S":
        time.sleep(0.01)


def settled(before: dict[str, Any]) -> dict[str, Any]:
    """Return the machine as it is; the kernel takes a moment to free a namespace and what was in it."""
    deadline = time.monotonic() + 5
    while (now := picture()) != before and time.monotonic() < deadline:
        time.sleep(0.05)
    return now


def down() -> subprocess.CompletedProcess[str]:
    return subprocess.run([*BUMPWIRE, "down"], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_at_any_moment_down_removes_everything(before: dict[str, Any], moment: float) -> None:
    lab = start_up()
    time.sleep(moment)  # the moment is what is tested
    lab.kill()
    lab.wait()
    answer = down()
    assert answer.returncode == 0, answer.stderr
    assert settled(before) == before


@pytest.mark.parametrize("moment", [0.5, 0.9, 1.3, 2.0])
def test_interrupted_at_any_moment_nothing_is_left(before: dict[str, Any], moment: float) -> None:
    lab = start_up()
    time.sleep(moment)
    lab.send_signal(signal.SIGINT)
    # At the prompt Ctrl-C ends the command, not the lab, as in Mininet; the end of input ends the lab.
    output_text, _ = lab.communicate(timeout=60)
    # On a busy machine Python itself may be starting still, which it says, and then there is nothing to leave.
    starting = "Python runtime state" in output_text
    assert lab.returncode in (130, 0, -signal.SIGINT) or starting, output_text
    assert settled(before) == before


def test_terminated_lab_is_taken_down(before: dict[str, Any]) -> None:
    lab = start_up()
    wait_until_up(lab)
    lab.terminate()
    lab.communicate(timeout=60)
    assert lab.returncode == 128 + signal.SIGTERM
    assert settled(before) == before


def test_a_second_lab_is_refused_and_down_ends_the_first(before: dict[str, Any]) -> None:
    lab = start_up()
    wait_until_up(lab)
    second = subprocess.run([*BUMPWIRE, "up", "gwlb"], capture_output=True, text=True, check=False, input="")
    assert second.returncode == 3
    assert second.stderr == (
        f"bumpwire: a lab is running already (gwlb, process {lab.pid}): "
        "leave it, or take it down with `bumpwire down`\n"
    )
    assert down().returncode == 0
    lab.communicate(timeout=60)
    assert settled(before) == before


def test_up_takes_down_what_an_earlier_lab_left(before: dict[str, Any]) -> None:
    first = start_up()
    wait_until_up(first)
    first.kill()
    first.wait()
    second = start_up()
    wait_until_up(second)
    assert second.stdin is not None
    second.communicate("exit\n", timeout=60)
    assert second.returncode == 0
    assert settled(before) == before


def abandon(name: str) -> None:
    """Make what a lab leaves when the machine's power fails: a bridge of a token that no journal knows."""
    command = ["ovs-vsctl", "--", "add-br", name, "--", "set", "bridge", name, "datapath_type=netdev"]
    subprocess.run([*command, "external_ids:bumpwire=long-ago"], check=True)


def test_up_and_down_remove_what_was_left_when_the_power_failed(before: dict[str, Any]) -> None:
    abandon("bw-gwlb")
    lab = start_up()
    wait_until_up(lab)
    lab.communicate("exit\n", timeout=60)
    assert lab.returncode == 0
    abandon("bw-gwlb")
    assert down().stdout == "removed what a lab left in Open vSwitch\n"
    assert settled(before) == before


def test_down_without_a_lab_says_so(before: dict[str, Any]) -> None:
    assert read_journal() is None
    assert down().stdout == "nothing is left\n"
