"""Settings of the machine: noted before they are changed, put back, and left alone where they cannot be changed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from testbed import journal
from testbed.journal import Journal


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Journal:
    monkeypatch.setattr(journal, "RUN_DIRECTORY", tmp_path)
    return Journal("token", 1, "gwlb", "netdev")


def test_a_setting_is_noted_changed_and_put_back(record: Journal, tmp_path: Path) -> None:
    setting = tmp_path / "setting"
    setting.write_text("212992\n")
    record.change_setting(str(setting), "1")
    record.change_setting(str(setting), "2")
    assert setting.read_text() == "2"
    assert json.loads((tmp_path / "lab.json").read_text())["settings"] == {str(setting): "212992"}
    record.restore_settings()
    assert setting.read_text() == "212992"
    assert json.loads((tmp_path / "lab.json").read_text())["settings"] == {}


def test_a_setting_that_cannot_be_written_is_left_as_it_is(record: Journal) -> None:
    record.change_setting("/proc/sys/kernel/ostype", "1")  # nor can root
    assert record.settings == {}
    record.restore_settings()
