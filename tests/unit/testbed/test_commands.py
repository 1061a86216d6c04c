"""``target``, ``set`` and ``watch``: their texts and exit codes, with the managed service faked."""

from __future__ import annotations

import json
import os
import pty
import re
import sys
import threading
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from controllers.management import client
from controllers.management.client import ManagementError
from testbed import cli, journal
from testbed.commands import watch as watch_command
from testbed.errors import MachineError
from testbed.journal import Journal
from testbed.probes.flows import Status
from testbed.watch import Watch, render
from topologies.loader import load_topology

PORT = 4711
NO_LAB = "bumpwire: no lab is running: start one with `bumpwire up`\n"


class Service:
    """What the API answers, and what it was asked for."""

    def __init__(self) -> None:
        self.topology = load_topology("gwlb").model_dump(mode="json")
        self.targets = {"fw1": "healthy", "fw3": "unhealthy"}
        self.values = {"tcp.idle_timeout.seconds": "350", "stickiness.enabled": "false"}
        self.events: list[dict[str, Any]] = [
            {"number": 1, "time": 1.7e9, "kind": "health", "resource": "fw1", "text": "gwlb in a: initial → healthy"}
        ]
        self.metrics = (
            'panSessionActive{firewall="fw1"} 1234\n'
            'panSessionThroughputKbps{firewall="fw1"} 5678.9\n'
            'DataPlaneCPUUtilizationPct{firewall="fw1"} 42.4\n'
            'aws_gatewayelb_active_flow_count{load_balancer="gwlb",availability_zone="a"} 77\n'
        )
        self.down = False


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Service:
    """A running lab in *tmp_path* whose managed service is faked."""
    service = Service()

    class Management:
        def __init__(self, port: int) -> None:
            assert port == PORT

        def _answer(self) -> Service:
            if service.down:
                raise ManagementError("the management process at http://127.0.0.1:4711 does not answer: refused")
            return service

        def topology(self) -> dict[str, Any]:
            return self._answer().topology

        def health(self, gwlb: str) -> list[dict[str, Any]]:
            zones = {"fw1": "a", "fw2": "a", "fw3": "b"}
            reasons = {"unhealthy": ("Target.FailedHealthChecks", "Health checks failed")}
            return [
                dict(
                    zip(
                        ("target", "az", "state", "reason", "description"),
                        (name, zones[name], state, *why),
                        strict=True,
                    )
                )
                for name, state in self._answer().targets.items()
                for why in [reasons.get(state, (None, None))]
            ]

        def register(self, gwlb: str, targets: Iterable[str]) -> None:
            for target in targets:
                if target == "web1":
                    raise ManagementError("InvalidTarget: 'web1' is no appliance of gwlb")
                self._answer().targets[target] = "initial"

        def deregister(self, gwlb: str, targets: Iterable[str]) -> None:
            self._answer().targets.update(dict.fromkeys(targets, "draining"))

        def attributes(self, resource: str) -> dict[str, str]:
            if resource != "gwlb":
                raise ManagementError(f"there is no resource with attributes {resource!r}; there is gwlb")
            return self._answer().values

        def set_attributes(self, resource: str, values: Mapping[str, str]) -> dict[str, str]:
            self._answer().values |= {name: value for name, value in values.items() if name != "Alias"}
            return service.values

        def events(self, since: int = 0) -> list[dict[str, Any]]:
            return [event for event in self._answer().events if event["number"] > since]

        def metrics_text(self) -> str:
            return self._answer().metrics

    monkeypatch.setattr(client, "Management", Management)
    monkeypatch.setattr(journal, "RUN_DIRECTORY", tmp_path)
    running = Journal("token", os.getpid(), "gwlb", "netdev")
    running.directory.mkdir()
    (running.directory / "management.json").write_text(json.dumps({"pid": 1, "port": PORT}))
    running.save()
    return service


@pytest.fixture
def bumpwire(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Bumpwire:
    monkeypatch.setenv("COLUMNS", "120")
    return Bumpwire(monkeypatch, capsys)


class Bumpwire:
    """The command line: exit code, standard output, standard error."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys

    def __call__(self, *words: str) -> tuple[int, str, str]:
        self._monkeypatch.setattr(sys, "argv", ["bumpwire", *words])
        with pytest.raises(SystemExit) as end:
            cli.main()
        return int(end.value.code or 0), *self._capsys.readouterr()


def squeezed(text: str) -> list[list[str]]:
    """Return the words of each line that has some."""
    return [words for line in text.splitlines() if (words := re.findall(r"[^\s─]+", line))]


# -- where the lab is ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [("target", "health"), ("set", "gwlb"), ("watch",), ("watch", "--once")])
def test_without_a_lab_is_exit_3(
    words: tuple[str, ...], bumpwire: Bumpwire, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(journal, "RUN_DIRECTORY", tmp_path)
    assert bumpwire(*words) == (3, "", NO_LAB)


@pytest.mark.parametrize("content", [None, "{}", ""])
def test_a_lab_that_is_not_managed_is_exit_3(
    content: str | None, bumpwire: Bumpwire, service: Service, tmp_path: Path
) -> None:
    file = tmp_path / "lab" / "management.json"
    file.unlink()
    if content is not None:
        file.write_text(content)
    line = "bumpwire: the running lab is not managed, or not yet: wait until it is built\n"
    assert bumpwire("target", "health") == (3, "", line)


# -- target --------------------------------------------------------------------------------------------------------


def test_target_health(bumpwire: Bumpwire, service: Service) -> None:
    code, output, _ = bumpwire("target", "health")
    assert code == 0
    assert squeezed(output) == [
        ["target", "AZ", "state", "reason", "description"],
        ["fw1", "a", "healthy"],
        ["fw3", "b", "unhealthy", "Target.FailedHealthChecks", "Health", "checks", "failed"],
    ]


def test_target_health_of_one_as_json(bumpwire: Bumpwire, service: Service) -> None:
    code, output, _ = bumpwire("target", "health", "fw1", "--json")
    assert code == 0
    assert json.loads(output) == [{"target": "fw1", "az": "a", "state": "healthy", "reason": None, "description": None}]


def test_target_register_and_deregister(bumpwire: Bumpwire, service: Service) -> None:
    code, output, _ = bumpwire("target", "register", "fw2", "--gwlb", "gwlb")
    assert (code, squeezed(output)[1:]) == (0, [["fw2", "a", "initial"]])
    code, output, _ = bumpwire("target", "deregister", "fw1", "fw2")
    assert (code, squeezed(output)[1:]) == (0, [["fw1", "a", "draining"], ["fw2", "a", "draining"]])
    assert service.targets == {"fw1": "draining", "fw2": "draining", "fw3": "unhealthy"}


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("register",), "name the targets: bumpwire target register fw1"),
        (("register", "web1"), "InvalidTarget: 'web1' is no appliance of gwlb"),
        (("health", "fw9"), "fw9 is no target of gwlb: it has fw1, fw3"),
        (("health", "--gwlb", "x"), "--gwlb x: there is no such load balancer; the running lab has gwlb"),
    ],
)
def test_a_wrong_request_about_targets_is_exit_2(
    words: tuple[str, ...], line: str, bumpwire: Bumpwire, service: Service
) -> None:
    assert bumpwire("target", *words) == (2, "", f"bumpwire: {line}\n")


def test_with_several_load_balancers_one_is_named(bumpwire: Bumpwire, service: Service) -> None:
    service.topology["gateway_load_balancers"] = {"east": {}, "west": {}}
    line = "bumpwire: say which load balancer with --gwlb NAME; the running lab has east, west\n"
    assert bumpwire("target", "health") == (2, "", line)
    assert bumpwire("target", "health", "--gwlb", "west")[0] == 0


# -- set -----------------------------------------------------------------------------------------------------------


def test_set_lists(bumpwire: Bumpwire, service: Service) -> None:
    listed = "tcp.idle_timeout.seconds  350\nstickiness.enabled        false\n"
    assert bumpwire("set", "gwlb") == (0, listed, "")


def test_set_changes_and_says_what_holds(bumpwire: Bumpwire, service: Service) -> None:
    assert bumpwire("set", "gwlb", "tcp.idle_timeout.seconds=60") == (0, "tcp.idle_timeout.seconds  60\n", "")
    assert bumpwire("set", "gwlb", "--json")[1] == json.dumps(service.values, indent=1) + "\n"


def test_set_by_a_name_that_is_listed_otherwise_shows_all(bumpwire: Bumpwire, service: Service) -> None:
    assert len(bumpwire("set", "gwlb", "Alias=7")[1].splitlines()) == 2


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("gwlb", "x"), "'x' is no ATTRIBUTE=VALUE, such as tcp.idle_timeout.seconds=60"),
        (("gwlb", "=7"), "'=7' is no ATTRIBUTE=VALUE, such as tcp.idle_timeout.seconds=60"),
        (("fw1",), "there is no resource with attributes 'fw1'; there is gwlb"),
    ],
)
def test_a_wrong_setting_is_exit_2(words: tuple[str, ...], line: str, bumpwire: Bumpwire, service: Service) -> None:
    assert bumpwire("set", *words) == (2, "", f"bumpwire: {line}\n")
    assert service.values["tcp.idle_timeout.seconds"] == "350"


# -- watch ---------------------------------------------------------------------------------------------------------


def test_watch_once(bumpwire: Bumpwire, service: Service, tmp_path: Path) -> None:
    status = Status(1.0, 50, 50, 48, 400, 3, 1000)
    (tmp_path / "lab" / "web1-app2.traffic.json").write_text(json.dumps(asdict(status)))
    (tmp_path / "lab" / "gone.traffic.json").write_text("")
    code, output, _ = bumpwire("watch", "--once", "--interval", "0.1")
    assert code == 0
    lines = squeezed(output)
    assert lines[:6] == [
        ["gwlb"],
        ["firewall", "AZ", "target", "sessions", "connections/s", "kbit/s", "CPU", "%"],
        ["fw1", "a", "healthy", "1,234", "–", "5,679", "42"],
        ["fw3", "b", "unhealthy", "–", "–", "–", "–"],
        ["all", "1,234", "0", "5,679"],
        ["load", "balancer", "AZ", "healthy", "flows", "new", "flows/s", "kbit/s"],
    ]
    assert lines[6:8] == [
        ["gwlb", "a", "1", "of", "1", "77", "–", "–"],
        ["gwlb", "b", "0", "of", "1", "–", "–", "–"],
    ]
    assert "web1-app2  48 of 50 flows alive, 400 new connections, 3 failed" in output
    assert lines[-1][1:] == ["fw1", "gwlb", "in", "a:", "initial", "→", "healthy"]


def test_watch_needs_a_terminal(bumpwire: Bumpwire, service: Service) -> None:
    line = "bumpwire: watch needs a terminal; bumpwire watch --once prints one frame\n"
    assert bumpwire("watch") == (2, "", line)


def test_watch_once_of_a_service_that_does_not_answer_is_exit_3(bumpwire: Bumpwire, service: Service) -> None:
    service.down = True
    line = "bumpwire: the management process at http://127.0.0.1:4711 does not answer: refused\n"
    assert bumpwire("watch", "--once", "--interval", "0.1") == (3, "", line)


def seen(watch: Watch) -> str:
    from rich.console import Console

    console = Console(width=120)
    with console.capture() as capture:
        console.print(render(watch.read()))
    return capture.get()


@pytest.fixture
def watch(service: Service, tmp_path: Path) -> Watch:
    return Watch(lambda: client.Management(PORT), tmp_path / "lab")


PLACE = '{load_balancer="gwlb",availability_zone="a"}'


def test_rates_are_between_two_counts_however_often_they_are_read(watch: Watch, service: Service) -> None:
    for seconds, flows, processed, expected in (
        (100, 10, 1000, ["–", "–"]),
        (102, 30, 251000, ["10", "1,000"]),
        (102, 30, 251000, ["10", "1,000"]),
        (104, 5, 0, ["–", "–"]),
    ):
        service.metrics = (
            f"aws_gatewayelb_new_flow_count_total{PLACE} {flows} {seconds * 1000}\n"
            f"aws_gatewayelb_processed_bytes_total{PLACE} {processed} {seconds * 1000}\n"
        )
        row = next(words for words in squeezed(seen(watch)) if words[:2] == ["gwlb", "a"])
        assert row[-2:] == expected


def test_events_are_asked_for_once(watch: Watch, service: Service) -> None:
    watch.read()
    service.events = [{"number": 2, "time": 1.7e9, "kind": "service", "resource": "lab", "text": "[bold]started"}]
    assert [event["number"] for event in watch.read().events] == [1, 2]
    assert [event["number"] for event in watch.read().events] == [1, 2]
    assert "[bold]started" in seen(watch)


def test_while_the_service_is_down_the_last_frame_stays(watch: Watch, service: Service) -> None:
    watch.read()
    service.down = True
    text = seen(watch)
    assert "the management process at http://127.0.0.1:4711 does not answer: refused" in text
    assert "1,234" in text
    service.down = False
    assert "does not answer" not in seen(watch)


def test_malformed_metrics_are_a_problem(watch: Watch, service: Service) -> None:
    service.metrics = "panSessionActive{ 1\n"
    assert watch.read().problem.startswith("the management's metrics are malformed: ")


def test_a_lab_that_is_gone_ends_the_watch(service: Service, tmp_path: Path) -> None:
    calls = iter([client.Management(PORT)])

    def connect() -> client.Management:
        for one in calls:
            return one
        raise MachineError("no lab is running")

    watch = Watch(connect, tmp_path / "lab")
    service.down = True
    with pytest.raises(MachineError, match=r"^no lab is running$"):
        watch.read()


def test_states_that_differ_by_zone_are_all_shown(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"target": "fw1", "az": az, "state": state} for az, state in (("a", "healthy"), ("b", "unhealthy"))]
    monkeypatch.setattr(client.Management, "health", lambda self, gwlb: rows)
    assert "a healthy, b unhealthy" in seen(watch)


def test_a_firewall_that_runs_without_being_a_target_is_shown(watch: Watch, service: Service) -> None:
    service.targets = {}
    assert ["fw1", "a", "not", "registered", "1,234", "–", "5,679", "42"] in squeezed(seen(watch))


def test_a_key_is_read_without_enter_and_the_terminal_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    import termios

    outer, inner = pty.openpty()
    with open(inner, closefd=True) as terminal:
        monkeypatch.setattr(sys, "stdin", terminal)
        before = termios.tcgetattr(terminal)
        with watch_command.key_presses() as pressed:
            assert pressed(0) == ""
            os.write(outer, b"xq")
            assert [pressed(30), pressed(30)] == ["x", "q"]
        assert termios.tcgetattr(terminal) == before
    os.close(outer)


def test_q_ends_the_watch(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole loop on a terminal of its own."""
    outer, inner = pty.openpty()
    shown = bytearray()

    def follow() -> None:
        while b"1,234" not in shown:
            shown.extend(os.read(outer, 4096))
        os.write(outer, b"q")
        try:
            while data := os.read(outer, 4096):
                shown.extend(data)
        except OSError:  # the other end is closed
            pass

    with open(inner, closefd=False) as keys, open(inner, "w", closefd=True) as screen:
        monkeypatch.setattr(sys, "stdin", keys)
        monkeypatch.setattr(sys, "stdout", screen)
        monkeypatch.setenv("TERM", "xterm")
        follower = threading.Thread(target=follow, daemon=True)
        follower.start()
        watch_command.command(once=False, interval=0.1)
    follower.join(30)
    os.close(outer)
    assert not follower.is_alive()
