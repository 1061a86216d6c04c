"""Events and their file."""

from __future__ import annotations

import json
from itertools import count
from pathlib import Path

import pytest

from controllers.management import events
from controllers.management.events import Events


def test_events_are_numbered_and_asked_for_by_number(tmp_path: Path) -> None:
    clock = count(100.0)
    book = Events(tmp_path / "events", lambda: next(clock))
    for number in range(3):
        book.record("health", f"fw{number}", "a text")
    assert [event.number for event in book.since(0)] == [1, 2, 3]
    assert [(event.time, event.resource) for event in book.since(2)] == [(102.0, "fw2")]
    assert book.since(3) == []
    lines = (tmp_path / "events").read_text().splitlines()
    assert json.loads(lines[0]) == {
        "number": 1, "time": 100.0, "kind": "health", "resource": "fw0", "text": "a text"
    }  # fmt: skip


def test_a_later_process_continues_the_file_even_if_its_last_line_was_cut_off(tmp_path: Path) -> None:
    first = Events(tmp_path / "events")
    for text in ("one", "two"):
        first.record("service", "lab", text)
    first.close()
    whole = (tmp_path / "events").read_text()
    (tmp_path / "events").write_text(whole[:-10])
    second = Events(tmp_path / "events")
    assert [event.text for event in second.since(0)] == ["one"]
    second.record("service", "lab", "three")
    second.close()
    assert [(event.number, event.text) for event in Events(tmp_path / "events").since(0)] == [(1, "one"), (2, "three")]


def test_memory_holds_the_latest_and_the_file_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "KEPT", 2)
    book = Events(tmp_path / "events")
    for _ in range(4):
        book.record("service", "lab", "text")
    assert [event.number for event in book.since(0)] == [3, 4]
    assert len((tmp_path / "events").read_text().splitlines()) == 4
