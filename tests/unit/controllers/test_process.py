"""Only the process that is meant gets a signal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from controllers.process import send_signal, started


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process
    process.kill()
    process.communicate()


def test_a_process_is_known_by_its_id_and_start(child: subprocess.Popen[bytes]) -> None:
    start = started(child.pid)
    assert start is not None
    assert start >= (started(os.getpid()) or 0) > 0
    assert send_signal(child.pid, start, signal.SIGTERM)
    assert child.wait(60) == -signal.SIGTERM


def test_another_process_with_the_id_is_left_alone(child: subprocess.Popen[bytes]) -> None:
    start = started(child.pid)
    assert start is not None
    assert not send_signal(child.pid, start - 1, signal.SIGKILL)
    child.communicate(b"\n", 60)
    assert child.returncode == 0, "it ended by itself"


def test_a_process_that_is_gone_gets_nothing(child: subprocess.Popen[bytes]) -> None:
    start = started(child.pid)
    assert start is not None
    child.kill()
    child.wait()
    assert started(child.pid) is None
    assert not send_signal(child.pid, start, signal.SIGTERM)
