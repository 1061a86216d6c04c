"""A process that works for the lab: started, asked, killed, and what it says when it is gone."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from testbed.service import Service, last_line

#: A process that says how it is, and works until it is told to end; without a status file it fails.
PROCESS = """
import json, pathlib, signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))
if sys.argv[1] == "fail":
    sys.exit("no such thing\\n\\n")
unfinished = pathlib.Path(sys.argv[1] + ".new")
unfinished.write_text(json.dumps({"arguments": sys.argv[1:]}))
unfinished.replace(sys.argv[1])
while True:
    signal.pause()
"""


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Service]]:
    (tmp_path / "played_worker.py").write_text(PROCESS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    made: list[Service] = []

    def start(*arguments: str) -> Service:
        made.append(Service("worker", "played_worker", list(arguments), tmp_path))
        return made[-1]

    yield start
    for service in made:
        if service.process.poll() is None:
            service.kill()


def wait(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_it_says_how_it_is_and_ends_when_it_is_told_to(make: Callable[..., Service], tmp_path: Path) -> None:
    service = make(str(tmp_path / "worker.json"), "more")
    wait(service.status)
    assert service.status() == {"arguments": [str(tmp_path / "worker.json"), "more"]}
    assert service.problem() is None
    service.end()
    service.process.wait(60)
    service.wait()
    service.end()  # of one that is gone: nothing
    assert service.problem() == "the worker ended with 3: it logged nothing"


def test_a_killed_one_is_started_anew_and_its_last_words_are_forgotten(
    make: Callable[..., Service], tmp_path: Path
) -> None:
    service = make(str(tmp_path / "worker.json"))
    wait(service.status)
    service.kill()
    assert service.problem() == "the worker ended with -9: it logged nothing"
    assert service.status()
    (tmp_path / "worker.json").write_text(json.dumps({"arguments": "of the old one"}))
    first = service.process.pid
    service.start()
    assert service.status().get("arguments") != "of the old one"
    wait(service.status)
    assert service.process.pid != first
    assert service.problem() is None


def test_what_went_wrong_is_the_last_line_that_says_something(make: Callable[..., Service], tmp_path: Path) -> None:
    service = make("fail")
    service.process.wait(60)
    assert service.status() == {}
    assert service.problem() == "the worker ended with 1: no such thing"
    assert last_line(tmp_path / "no such file") == "it logged nothing"
