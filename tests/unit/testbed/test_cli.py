"""The command's exit codes and the one line that goes with each."""

from __future__ import annotations

import sys

import pytest

from testbed import cli, doctor, journal, scenario


def run(*words: str, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["bumpwire", *words])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return int(end.value.code or 0)


@pytest.fixture
def no_lab(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.setattr(journal, "RUN_DIRECTORY", tmp_path)


def without(monkeypatch: pytest.MonkeyPatch, *missing: str) -> None:
    """Make the doctor see a machine without these programs."""
    there = doctor.Machine.program
    monkeypatch.setattr(doctor.Machine, "root", lambda self: True)
    monkeypatch.setattr(doctor.Machine, "program", lambda self, name: name not in missing and there(self, name))
    monkeypatch.setattr(doctor.Machine, "open_vswitch_answers", lambda self: False)
    monkeypatch.setattr(doctor.Machine, "succeeds", lambda self, *command: True)
    monkeypatch.setattr(doctor.Machine, "loads_bpf", lambda self: True)
    monkeypatch.setattr(doctor.Machine, "offload_problem", lambda self: None)


@pytest.mark.parametrize("words", [("run", "tour"), ("up", "gwlb"), ("down",)])
def test_not_root_is_exit_3(
    words: tuple[str, ...], no_lab: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor.Machine, "root", lambda self: False)
    assert run(*words, monkeypatch=monkeypatch) == 3
    assert capsys.readouterr().err.endswith("bumpwire: needs root: run it with sudo\n")


@pytest.mark.parametrize(
    ("program", "name", "package"),
    [
        ("ovs-vsctl", "Open vSwitch", "openvswitch-switch"),
        ("iperf3", "iperf3", "iperf3"),
        ("ethtool", "ethtool", "ethtool"),
    ],
)
def test_what_is_missing_is_exit_3_and_what_to_install(
    program: str,
    name: str,
    package: str,
    no_lab: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    without(monkeypatch, program)
    assert run("run", "tour", monkeypatch=monkeypatch) == 3
    error = capsys.readouterr().err
    assert error == f"bumpwire: needs {name}: install it with apt-get install {package}\n"


def test_an_unknown_scenario_is_exit_2_with_a_suggestion(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("run", "est-west", monkeypatch=monkeypatch) == 2
    assert capsys.readouterr().err == "bumpwire: no scenario 'est-west'; did you mean east-west?\n"


def test_the_long_form_of_a_scenario(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    given: list[object] = []
    monkeypatch.setattr(doctor, "require", lambda *needs: None)
    monkeypatch.setattr(scenario, "execute", lambda found, options, *_, **__: given.append(options["full"]) or True)
    assert run("run", "compare", "--full", monkeypatch=monkeypatch) == 0
    assert run("run", "compare", monkeypatch=monkeypatch) == 0
    assert given == [True, False]
    assert run("run", "policy", "--full", monkeypatch=monkeypatch) == 2
    assert capsys.readouterr().err == "bumpwire: --set full=true: policy has no option 'full'; it has none\n"


def test_an_unknown_topology_is_exit_2(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("show", "gwbl", monkeypatch=monkeypatch) == 2
    assert "did you mean gwlb" in capsys.readouterr().err


def test_sessions_without_a_lab_is_exit_3(
    no_lab: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("sessions", monkeypatch=monkeypatch) == 3
    assert capsys.readouterr().err == "bumpwire: no lab is running: start one with `bumpwire up`\n"
