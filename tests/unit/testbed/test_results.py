"""Results: the folder, result.json, the manifest."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from datetime import datetime, timezone
from pathlib import Path

import pytest

from testbed import manifest
from testbed.errors import RequestError
from testbed.results import Check, Measurement, Results, new_results

NOON = datetime(2026, 11, 22, 12, 0, 0, tzinfo=timezone.utc)


@pytest.fixture
def results(tmp_path: Path) -> Results:
    return new_results("east-west", "A story.", tmp_path / "results", NOON)


def test_the_folder_is_named_for_time_and_scenario_and_is_new(results: Results, tmp_path: Path) -> None:
    assert results.directory == tmp_path / "results/2026-11-22T12-00-00-east-west"
    assert not results.directory.exists()
    results.write()
    again = new_results("east-west", "", tmp_path / "results", NOON)
    assert again.directory.name == "2026-11-22T12-00-00-east-west-2"


def test_result_json(results: Results, tmp_path: Path) -> None:
    results.checks.append(Check("it held", True, "as seen"))
    results.measurements.append(Measurement("round trip", 0.5, "s", {"from": "web1"}))
    results.manifest = {"kernel": "6.1"}
    path = results.write(tmp_path / "copy.json")
    assert json.loads(path.read_text()) == {
        "scenario": "east-west",
        "status": "passed",
        "checks": [{"name": "it held", "passed": True, "detail": "as seen"}],
        "measurements": [{"name": "round trip", "value": 0.5, "unit": "s", "labels": {"from": "web1"}}],
        "manifest": {"kernel": "6.1"},
    }
    assert (tmp_path / "copy.json").read_text() == path.read_text()


def test_one_failed_check_fails_the_run(results: Results) -> None:
    results.checks += [Check("one", True), Check("two", False)]
    assert results.document()["status"] == "failed"


def test_a_copy_that_cannot_be_written_loses_nothing(results: Results) -> None:
    with pytest.raises(RequestError) as caught:
        results.write(Path("/no/such/folder/result.json"))
    kept = results.directory / "result.json"
    assert (
        str(caught.value) == f"--json /no/such/folder/result.json: No such file or directory; the result is in {kept}"
    )
    assert json.loads(kept.read_text())["scenario"] == "east-west"


def test_files_of_the_same_name_are_numbered(results: Results) -> None:
    names = [results.save("iperf3 web1 → app2.json", text).name for text in ("a", "b", "c")]
    assert names == ["iperf3-web1-app2.json", "iperf3-web1-app2-2.json", "iperf3-web1-app2-3.json"]
    assert [(results.directory / name).read_text() for name in names] == ["a", "b", "c"]


def test_logs_are_kept_without_sockets(results: Results, tmp_path: Path) -> None:
    logs = tmp_path / "fw1"
    logs.mkdir()
    (logs / "traffic.jsonl").write_text("{}\n")
    os.mkfifo(logs / "pipe")
    results.keep(logs, "policy: firewalls", "fw1")
    kept = results.directory / "policy-firewalls/fw1"
    assert [path.name for path in kept.iterdir()] == ["traffic.jsonl"]


# -- manifest --------------------------------------------------------------------------------------------------------


def test_the_manifest_has_what_a_repetition_needs() -> None:
    machine = manifest.machine()
    expected = {
        "bumpwire",
        "python",
        "openvswitch",
        "mininet",
        "os-ken",
        "iperf3",
        "kernel",
        "cpu",
        "cpus",
        "memory",
        "git",
    }
    assert expected <= machine.keys()
    assert machine["memory"] > 1 << 27
    json.dumps(machine)


def test_the_processors_name() -> None:
    assert manifest.cpu_model("processor\t: 0\nmodel name\t: Xeon 9\nmodel name\t: Other\n") == "Xeon 9"
    assert manifest.cpu_model("Hardware: Pi") is None


@pytest.mark.skipif(not shutil.which("git"), reason="needs git: install it with apt-get install git")
def test_the_git_revision_says_when_the_checkout_is_dirty(tmp_path: Path) -> None:
    assert manifest.git_revision(tmp_path) is None
    git = ["git", "-C", str(tmp_path), "-c", "user.name=n", "-c", "user.email=e"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "first"], check=True)
    clean = manifest.git_revision(tmp_path)
    assert clean is not None
    assert len(clean["revision"]) == 40
    assert not clean["dirty"]
    (tmp_path / "new").touch()
    assert manifest.git_revision(tmp_path) == clean | {"dirty": True}
