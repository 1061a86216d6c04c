"""The log writer: lines reach the files, nothing waits, what is lost is counted."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest

from firewall_vnf.log import Log, LogError, LogWriter


def test_lines_reach_their_files_by_time_and_at_the_end(tmp_path: Path) -> None:
    writer = LogWriter(tmp_path / "logs", interval=0.05)
    log = Log("fw1", writer.write, 0.0)
    log.system("general", "informational", "started", 1.0)
    deadline = time.monotonic() + 5
    while not (tmp_path / "logs" / "system.jsonl").stat().st_size:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    log.system("general", "informational", "ended", 2.5)
    writer.close()
    records = [json.loads(line) for line in (tmp_path / "logs" / "system.jsonl").read_text().splitlines()]
    assert [record["opaque"] for record in records] == ["started", "ended"]
    assert records[1]["high_res_timestamp"].startswith("1970-01-0")
    assert ".500" in records[1]["high_res_timestamp"]
    assert log.counters["log_system_cnt"] == 2
    assert (tmp_path / "logs" / "traffic.jsonl").read_text() == ""


def test_a_full_buffer_loses_lines_and_counts_them(tmp_path: Path) -> None:
    writer = LogWriter(tmp_path, capacity=3, interval=60)
    for number in range(5):
        writer.write("traffic", str(number))
    writer.close()
    assert writer.lost == 2
    assert (tmp_path / "traffic.jsonl").read_text() == "0\n1\n2\n"


def test_writers_in_two_threads_lose_nothing(tmp_path: Path) -> None:
    writer = LogWriter(tmp_path, interval=0.001)
    threads = [threading.Thread(target=lambda: [writer.write("threat", "x") for _ in range(5000)]) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writer.close()
    assert (tmp_path / "threat.jsonl").read_text().count("\n") == 10_000


def test_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LogError) as error:
        LogWriter(tmp_path / "file" / "logs")
    assert str(error.value) == f"log directory {tmp_path}/file/logs: Not a directory; name one that can be written"


def test_serial_is_15_digits_and_the_firewalls_own() -> None:
    lines: list[str] = []
    for name in ("fw1", "fw1", "fw2"):
        Log(name, lambda _, line: lines.append(line), 0.0).system("general", "low", "", 0.0)
    serials = [json.loads(line)["serial"] for line in lines]
    assert serials[0] == serials[1] != serials[2]
    assert all(len(serial) == 15 and serial.isdigit() for serial in serials)
