"""Appliances' processes: started, ended with all their children, found again after a restart."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from controllers.management.instances import InstanceError, Instances

#: Says that it runs, and sleeps; ignores SIGTERM if it is told to.
CHILD = """
import os, signal, subprocess, sys
if "stubborn" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen(["sleep", "600"]) if "parent" in sys.argv else None
print(os.getpid(), child.pid if child else 0, os.environ.get("TOKEN"), flush=True)
signal.pause()
"""


def argv(*words: str) -> list[str]:
    return [sys.executable, "-c", CHILD, *words]


def run(story: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(story(), 30))


async def said(log: Path) -> list[str]:
    """Wait until the process has said what it is."""
    while not log.exists() or not log.read_text().endswith("\n"):
        await asyncio.sleep(0.01)
    return log.read_text().split()


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_process_runs_in_a_group_of_its_own_with_the_environment_until_it_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKEN", "of-this-lab")
    log = tmp_path / "fw1.log"
    ends: list[tuple[str, int | None]] = []

    async def story() -> None:
        instances = Instances(lambda name, status: ends.append((name, status)))
        assert not instances.running("fw1")
        instances.start("fw1", argv(), log)
        assert instances.running("fw1")
        pid, _, token = await said(log)
        assert instances.records()["fw1"]["pid"] == int(pid) == os.getpgid(int(pid))
        assert token == "of-this-lab"
        instances.end("fw1")
        await instances.ended("fw1")
        assert not instances.running("fw1")
        assert instances.records() == {}
        assert not alive(int(pid))

    run(story)
    assert ends == [("fw1", -signal.SIGTERM)]


def test_starting_again_does_nothing_while_it_runs_and_appends_to_the_log_afterwards(tmp_path: Path) -> None:
    log = tmp_path / "fw1.log"

    async def story() -> None:
        instances = Instances()
        instances.start("fw1", argv(), log)
        before = instances.records()
        instances.start("fw1", argv(), log)
        assert instances.records() == before
        first = await said(log)
        await instances.close()
        instances.start("fw1", argv(), log)
        while len(log.read_text().splitlines()) < 2:
            await asyncio.sleep(0.01)
        assert log.read_text().split()[:3] == first
        await instances.close()

    run(story)


def test_an_end_by_itself_is_told_and_takes_the_rest_of_the_group_along(tmp_path: Path) -> None:
    log = tmp_path / "fw1.log"
    ends: list[tuple[str, int | None]] = []

    async def story() -> None:
        instances = Instances(lambda name, status: ends.append((name, status)))
        instances.start("fw1", argv("parent"), log)
        pid, child, _ = await said(log)
        os.kill(int(pid), signal.SIGKILL)
        await instances.ended("fw1")
        while alive(int(child)):
            await asyncio.sleep(0.01)

    run(story)
    assert ends == [("fw1", -signal.SIGKILL)]


def test_one_that_does_not_end_is_killed_after_the_grace_time(tmp_path: Path) -> None:
    ends: list[tuple[str, int | None]] = []

    async def story() -> None:
        instances = Instances(lambda name, status: ends.append((name, status)), grace=0.05)
        instances.start("fw1", argv("stubborn"), tmp_path / "fw1.log")
        instances.start("fw2", argv(), tmp_path / "fw2.log")
        await said(tmp_path / "fw1.log")
        await said(tmp_path / "fw2.log")
        await instances.close()

    run(story)
    assert sorted(ends) == [("fw1", -signal.SIGKILL), ("fw2", -signal.SIGTERM)]


def test_what_an_earlier_process_started_is_found_again_and_ended(tmp_path: Path) -> None:
    """The earlier one is a process that starts an appliance and exits; the appliance is no child of this test."""
    log = tmp_path / "fw1.log"
    starter = (
        "import asyncio, json, sys; from pathlib import Path\n"
        "from controllers.management.instances import Instances\n"
        "async def main():\n"
        "    instances = Instances()\n"
        "    instances.start('fw1', json.loads(sys.argv[1]), Path(sys.argv[2]))\n"
        "    print(json.dumps(instances.records()))\n"
        "asyncio.run(main())\n"
    )
    command = [sys.executable, "-c", starter, json.dumps(argv()), str(log)]
    records = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    ends: list[tuple[str, int | None]] = []

    async def story() -> None:
        pid, _, _ = await said(log)
        instances = Instances(lambda name, status: ends.append((name, status)))
        instances.adopt(records)
        assert instances.records() == records
        instances.end("fw1")
        await instances.ended("fw1")
        assert not alive(int(pid))

    run(story)
    assert ends == [("fw1", None)]


def test_another_process_with_the_same_id_is_left_alone() -> None:
    async def story() -> None:
        instances = Instances()
        instances.adopt({"fw1": {"pid": os.getpid(), "started": 1}, "fw2": {"pid": 2**22 + 1, "started": 1}})
        assert not instances.running("fw1")
        assert not instances.running("fw2")
        await instances.close()

    run(story)


@pytest.mark.parametrize(
    ("command", "log", "text"),
    [
        ("/no/such", "fw1.log", "fw1: cannot start /no/such: No such file or directory (/no/such)"),
        ("true", "none/fw1.log", "fw1: cannot start true: No such file or directory ({}/none/fw1.log)"),
    ],
)
def test_a_process_that_cannot_be_started_is_one_line(tmp_path: Path, command: str, log: str, text: str) -> None:
    async def story() -> None:
        instances = Instances()
        with pytest.raises(InstanceError) as error:
            instances.start("fw1", [command], tmp_path / log)
        assert str(error.value) == text.format(tmp_path)
        assert not instances.running("fw1")

    run(story)
