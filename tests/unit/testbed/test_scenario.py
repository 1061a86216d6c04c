"""Scenarios: finding them, their options, and what is kept of a run however it ends."""

from __future__ import annotations

import io
import json
import os
import signal
from collections.abc import Callable
from contextlib import nullcontext
from datetime import datetime, timezone
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

import pytest
from pydantic import Field
from rich.console import Console

from testbed import scenario
from testbed.errors import MachineError, RequestError
from testbed.probes.child import ProbeError
from testbed.run import Run
from testbed.scenario import Scenario, execute, find, options_of, parse_options
from topologies.model import Topology

NOON = datetime(2026, 11, 22, 12, 0, 0, tzinfo=timezone.utc)


def of(story: Callable[..., None]) -> Scenario:
    return Scenario("tale", "A tale.", story, options_of(story))


def told(run: Run, seconds: Annotated[int, Field(ge=1)] = 3, udp: bool = False, name: str = "x") -> None:
    run.check("options came", True, f"{seconds!r} {udp!r} {name!r}")


# -- finding -------------------------------------------------------------------------------------------------------


def test_the_stories_that_ship() -> None:
    assert {"east-west", "outbound", "inbound", "policy", "tour", "failover", "autoscale"} <= set(scenario.names())
    for name in scenario.names():
        found = find(name)
        assert found.name == name
        assert found.description.endswith(".")


def test_underscores_are_dashes() -> None:
    assert find("east_west").name == "east-west"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("eastwest", "no scenario 'eastwest'; did you mean east-west?"),
        (
            "xyzzy",
            f"no scenario 'xyzzy'; there are: {', '.join(scenario.names())}; or give a script's path",
        ),
    ],
)
def test_an_unknown_scenario(name: str, message: str) -> None:
    with pytest.raises(RequestError) as caught:
        find(name)
    assert str(caught.value) == message


def test_a_script_of_ones_own(tmp_path: Path) -> None:
    script = tmp_path / "my_story.py"
    script.write_text('"""Mine.\n\nMore."""\ndef story(run, seconds: int = 1): pass\n')
    found = find(str(script))
    assert (found.name, found.description) == ("my-story", "Mine.")
    assert parse_options(found, ["seconds=2"]) == {"seconds": 2}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\n", "{path}: a scenario needs a function story(run)"),
        ("import nowhere\n", "{path}: ModuleNotFoundError: No module named 'nowhere'"),
        (None, "{path}: FileNotFoundError: [Errno 2] No such file or directory: '{path}'"),
    ],
)
def test_a_script_that_is_none(tmp_path: Path, text: str | None, message: str) -> None:
    script = tmp_path / "wrong.py"
    if text is not None:
        script.write_text(text)
    with pytest.raises(RequestError) as caught:
        find(str(script))
    assert str(caught.value) == message.format(path=script)


# -- options -------------------------------------------------------------------------------------------------------


def test_options_have_the_types_of_the_signature() -> None:
    assert parse_options(of(told), ["seconds=10", "udp=true"]) == {"seconds": 10, "udp": True, "name": "x"}


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("seconds", "--set seconds: write KEY=VALUE"),
        ("second=3", "--set second=3: tale has no option 'second'; did you mean seconds?"),
        ("mtu=3", "--set mtu=3: tale has no option 'mtu'; it has: seconds=3, udp=False, name=x"),
        ("seconds=0", "--set seconds=0: input should be greater than or equal to 1"),
        (
            "seconds=three",
            "--set seconds=three: input should be a valid integer, unable to parse string as an integer",
        ),
    ],
)
def test_wrong_options(setting: str, message: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse_options(of(told), [setting])
    assert str(caught.value) == message


def test_a_story_without_options_says_so() -> None:
    def bare(run: Run) -> None: ...

    with pytest.raises(RequestError, match=r"it has none$"):
        parse_options(of(bare), ["seconds=3"])


# -- running -------------------------------------------------------------------------------------------------------


def run(story: Callable[..., None], tmp_path: Path, **options: object) -> bool:
    console = Console(file=io.StringIO(), width=120)
    return execute(of(story), options, console, tmp_path, now=lambda: NOON, repeats=2)


def kept(tmp_path: Path) -> dict[str, object]:
    document: dict[str, object] = json.loads((tmp_path / "2026-11-22T12-00-00-tale/result.json").read_text())
    return document


def test_a_run_that_passes(tmp_path: Path) -> None:
    assert run(told, tmp_path, seconds=4)
    document = kept(tmp_path)
    assert document["status"] == "passed"
    assert document["checks"] == [{"name": "options came", "passed": True, "detail": "4 False 'x'"}]
    manifest = document["manifest"]
    assert isinstance(manifest, dict)
    assert manifest["options"] == {"seconds": "4"}
    assert manifest["repeats"] == 2
    assert manifest["time"] == "2026-11-22T12:00:00+00:00"
    assert (tmp_path / "2026-11-22T12-00-00-tale/report.html").exists()


def test_a_check_that_fails_does_not_end_the_story(tmp_path: Path) -> None:
    def story(run: Run) -> None:
        run.check("first", False)
        run.check("second", True)

    assert not run(story, tmp_path)
    assert len(kept(tmp_path)["checks"]) == 2  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("error", "detail"),
    [
        (ProbeError("iperf3 web1 → app2: no route"), "iperf3 web1 → app2: no route"),
        (MachineError("firewall fw2 ended with -9"), "firewall fw2 ended with -9"),
    ],
)
def test_an_error_in_the_middle_keeps_what_was_measured(tmp_path: Path, error: Exception, detail: str) -> None:
    def story(run: Run) -> None:
        run.measure("round trip", [1.0, 3.0, 2.0], "s")
        raise error

    assert not run(story, tmp_path)
    document = kept(tmp_path)
    assert document["status"] == "failed"
    assert document["checks"] == [{"name": "the story ran to its end", "passed": False, "detail": detail}]
    labels = {"minimum": 1.0, "maximum": 3.0, "repeats": 3}
    assert document["measurements"] == [{"name": "round trip", "value": 2.0, "unit": "s", "labels": labels}]


def test_a_mistake_in_a_story_keeps_its_traceback(tmp_path: Path) -> None:
    def story(run: Run) -> None:
        raise KeyError("web3")

    assert not run(story, tmp_path)
    traceback = tmp_path / "2026-11-22T12-00-00-tale/traceback.txt"
    assert 'raise KeyError("web3")' in traceback.read_text()
    checks = kept(tmp_path)["checks"]
    assert checks[0]["detail"] == f"KeyError: 'web3' (see {traceback})"  # type: ignore[index]


@pytest.mark.parametrize("error", [MachineError("no root"), RequestError("no topology")])
def test_a_run_that_cannot_begin_leaves_no_folder(tmp_path: Path, error: Exception) -> None:
    def story(run: Run) -> None:
        raise error

    with pytest.raises(type(error)):
        run(story, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_keeps_what_was_measured(tmp_path: Path) -> None:
    def story(run: Run) -> None:
        run.check("first", True)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(story, tmp_path)
    checks = kept(tmp_path)["checks"]
    assert checks[1] == {"name": "the story ran to its end", "passed": False, "detail": "interrupted"}  # type: ignore[index]


def test_sigterm_too(tmp_path: Path) -> None:
    former = signal.getsignal(signal.SIGTERM)

    def story(run: Run) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        signal.pause()

    with pytest.raises(KeyboardInterrupt):
        run(story, tmp_path)
    assert kept(tmp_path)["checks"][0]["detail"] == "ended by SIGTERM"  # type: ignore[index]
    assert signal.getsignal(signal.SIGTERM) == former


def test_chapters_name_their_checks(tmp_path: Path) -> None:
    def story(run: Run) -> None:
        with run.chapter("policy"):
            run.check("refused", True)
            run.measure("loss", 100.0, "%")
        run.check("lived", True)

    assert run(story, tmp_path)
    document = kept(tmp_path)
    assert [check["name"] for check in document["checks"]] == ["policy: refused", "lived"]  # type: ignore[attr-defined]
    assert document["measurements"][0]["name"] == "policy: loss"  # type: ignore[index]


def test_a_lab_in_a_lab_of_the_same_plan_is_that_one_whatever_has_changed_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failover moves routes: the topology of a lab is no more what was asked for."""

    class Built(nullcontext[Any]):
        datapath, management, firewalls = "netdev", None, MappingProxyType({})

        def __init__(self, topology: Topology, **settings: object) -> None:
            super().__init__(self)
            self.topology = topology
            built.append(self)

        def problems(self) -> list[str]:
            return []

    def story(run: Run) -> None:
        with run.lab("gwlb") as outer:
            outer.topology = outer.topology.model_copy(update={"description": "changed"})  # type: ignore[misc]
            with run.lab("gwlb") as inner:
                run.check("the same", inner is outer)

    built: list[Built] = []
    monkeypatch.setattr("testbed.run.Lab", Built)
    assert run(story, tmp_path)
    assert len(built) == 1
