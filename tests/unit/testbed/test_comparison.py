"""The comparison, with architectures of known behaviour: claims both ways, resuming, the machine as the limit."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from testbed import report as page
from testbed.comparison import figures
from testbed.comparison import store as stores
from testbed.comparison.calibration import Calibration
from testbed.comparison.claims import CLAIMS, Claim, Verdict, decide
from testbed.comparison.headroom import Headroom, Sample, sample
from testbed.comparison.model import (
    ACTIVE_PASSIVE,
    GWLB,
    SANDWICH,
    VPN,
    Application,
    Failure,
    Latency,
    Load,
    Point,
    Settings,
    Source,
    Wire,
)
from testbed.comparison.report import as_csv, markdown, questions
from testbed.comparison.run import Tools, choose, compare, measure, planned, time_left, words
from testbed.errors import RequestError
from testbed.progress import Narrator
from testbed.results import Results, Table
from testbed.run import Run

GOLDEN = Path(__file__).parent / "recorded" / "comparison.csv"
SCALE = 0.01
SETTINGS = Settings(rate_scale=SCALE)
CLIENT, FIREWALL = "203.0.113.10", "10.100.1.4"
PLAIN, ONE_RULE = Wire("none", 0, False, False), Application(1, 0, 0)


@dataclass
class FakeCloud:
    architecture: FakeArchitecture
    firewalls: int
    scale: float

    @property
    def capacity(self) -> float:
        return self.architecture.per_firewall * self.scale

    def idle(self, seconds: float) -> Headroom:
        return self.architecture.clock.run(seconds, 1.0)

    def throughput(self, flows: int, seconds: float) -> Load:
        active = 1 if flows == 1 else min(self.firewalls, self.architecture.active)
        one = min(self.capacity, self.architecture.one_flow * self.scale)
        headroom = self.architecture.clock.run(seconds, self.architecture.idle)
        short = 0.5 if headroom.idle_share < 0.15 else 1.0
        return Load(short * (one if flows == 1 else self.capacity * active), headroom)

    def latency(self, flows: int, seconds: float) -> list[float]:
        self.architecture.clock.run(seconds, 1.0)
        return [0.001 * number * (1 + flows / 64) for number in range(1, 101)]

    def wire(self) -> Wire:
        return self.architecture.wire

    def sources(self) -> tuple[Source, ...]:
        return self.architecture.sources

    def failure(self, flows: int, seconds: float) -> Failure:
        full = self.throughput(flows, seconds).rate
        lasted = self.architecture.outage
        rates = tuple((n / 4, full / 2 if 8 <= n < 8 + 4 * (lasted or 99) else full) for n in range(60))
        return Failure(flows, self.architecture.lost // self.firewalls, lasted, 2.0, rates)

    def application(self) -> Application:
        return self.architecture.application


class Clock:
    """A machine with two CPUs, whose time passes when something is measured."""

    def __init__(self) -> None:
        self.time = 0.0

    def run(self, seconds: float, idle: float) -> Headroom:
        self.time += seconds
        return Headroom(2 * (1 - idle), idle, 0.5)


@dataclass
class FakeArchitecture:
    name: str
    title: str
    clock: Clock
    per_firewall: float = 4.8e9
    one_flow: float = 4.8e9
    active: int = 100
    most: int = 100
    idle: float = 0.4
    wire: Wire = PLAIN
    sources: tuple[Source, ...] = (Source("SNAT", CLIENT, FIREWALL),)
    outage: float | None = 4.0
    lost: int = 0
    application: Application = ONE_RULE
    cloud: type[FakeCloud] = FakeCloud
    built: list[int] = field(default_factory=list)
    dies: Callable[[int], bool] = lambda firewalls: False

    @contextmanager
    def build(self, firewalls: int, rate_scale: float) -> Iterator[FakeCloud]:
        if self.dies(firewalls):
            raise KeyboardInterrupt
        self.built.append(firewalls)
        self.clock.run(10, 1.0)
        yield self.cloud(self, firewalls, rate_scale)


def architectures(clock: Clock) -> list[FakeArchitecture]:
    """Four architectures that do as the announcement says."""
    http = Source("ALB (HTTP)", CLIENT, FIREWALL, CLIENT)
    return [
        FakeArchitecture(
            GWLB, "Gateway Load Balancer", clock, wire=Wire("GENEVE", 68, False, True), lost=64,
            sources=(Source("endpoint", CLIENT, CLIENT),), outage=2.0,
        ),
        FakeArchitecture(
            VPN, "VPN, ECMP", clock, per_firewall=2.4e9, one_flow=1.2e9, wire=Wire("ESP", 73, True, False), lost=64,
            outage=9.0,
        ),
        FakeArchitecture(
            ACTIVE_PASSIVE, "Active-passive HA", clock, active=1, most=2, sources=(Source("route", CLIENT, CLIENT),)
        ),
        FakeArchitecture(
            SANDWICH, "Sandwich", clock, sources=(Source("NLB (TCP)", CLIENT, FIREWALL), http), lost=64,
            application=Application(1, 4, 2),
        ),
    ]  # fmt: skip


@pytest.fixture(autouse=True)
def without_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the figures out, which take a second; ``monkeypatch.undo()`` has them drawn."""
    for name in ("throughput", "failures", "sources", "needed"):
        monkeypatch.setattr(figures, name, lambda *_: "")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def fakes(clock: Clock) -> dict[str, FakeArchitecture]:
    return {each.name: each for each in architectures(clock)}


def tools(clock: Clock, **machine: Any) -> Tools:
    now = datetime(2026, 11, 24, tzinfo=timezone.utc)
    return Tools(lambda: clock.time, lambda: now, lambda: {"cpus": 2, "git": {"dirty": False}} | machine)


def runs(root: Path, name: str = "1-compare") -> Run:
    results = Results("compare", "Four architectures.", root / name)
    return Run(results, Narrator(Console(file=io.StringIO(), width=200)))


def no_calibration() -> Calibration:
    raise AssertionError("the scale was given")


def compared(
    fakes: dict[str, FakeArchitecture], clock: Clock, root: Path, settings: Settings = SETTINGS
) -> tuple[Run, dict[str, Claim]]:
    run = runs(root)
    claims = compare(run, list(fakes.values()), settings, no_calibration, tools(clock))
    return run, {claim.name: claim for claim in claims}


def test_what_the_announcement_claims_holds_where_it_does(
    fakes: dict[str, FakeArchitecture], clock: Clock, tmp_path: Path
) -> None:
    run, claims = compared(fakes, clock, tmp_path)
    assert {claim.name: claim.detail for claim in claims.values() if claim.verdict is not Verdict.HELD} == {}
    assert len(claims) == len(run.results.checks) == len(CLAIMS)
    assert claims["VPN attachments scale"].points == ("vpn-ecmp/1", "vpn-ecmp/4")
    assert claims["VPN attachments scale"].detail == (
        "24 Mbit/s with 1, 96 Mbit/s with 4 firewalls: each further one adds 100% of the first"
    )
    assert claims["Behind an ALB, only X-Forwarded-For names the client"].detail == (
        "ALB (HTTP): 203.0.113.10 is seen as 10.100.1.4, X-Forwarded-For 203.0.113.10; "
        "NLB (TCP): 203.0.113.10 is seen as 10.100.1.4"
    )
    assert fakes[ACTIVE_PASSIVE].built == [1, 2]
    assert run.results.manifest["rate_scale"] == SCALE


NAMES = [name for name, *_ in CLAIMS]

#: A claim, the architecture that is otherwise, and how.
FALSE: list[tuple[str, str, dict[str, Any]]] = [
    ("VPN attachments scale", VPN, {"active": 1}),
    ("A VPN attachment carries no more than its tunnels", VPN, {"per_firewall": 3e9}),
    ("A single flow never exceeds one tunnel", VPN, {"one_flow": 2.4e9}),
    ("VPN attachments encrypt", VPN, {"wire": Wire("GRE", 24, False, False)}),
    ("VPN attachments need SNAT, which hides the source", VPN, {"sources": (Source("SNAT", CLIENT, CLIENT),)}),
    ("A second firewall of an HA pair adds nothing", ACTIVE_PASSIVE, {"active": 2}),
    ("A VPC attachment carries more than a tunnel and than its firewall", ACTIVE_PASSIVE, {"one_flow": 1e9}),
    ("The sandwich scales", SANDWICH, {"active": 2}),
    ("The sandwich hides the source", SANDWICH, {"sources": (Source("NLB (TCP)", CLIENT, CLIENT),)}),
    (
        "Behind an ALB, only X-Forwarded-For names the client",
        SANDWICH,
        {"sources": (Source("NLB (TCP)", CLIENT, FIREWALL), Source("ALB (HTTP)", CLIENT, FIREWALL, FIREWALL))},
    ),
    ("The Gateway Load Balancer scales", GWLB, {"active": 2}),
    ("The Gateway Load Balancer survives a firewall", GWLB, {"lost": 64 * 4}),
    ("The Gateway Load Balancer survives a firewall", GWLB, {"outage": None}),
    ("The Gateway Load Balancer keeps the source", GWLB, {"sources": (Source("endpoint", CLIENT, FIREWALL),)}),
    ("The Gateway Load Balancer keeps headers and payload", GWLB, {"wire": Wire("GENEVE", 68, False, False)}),
    ("The Gateway Load Balancer needs no encrypted tunnel", GWLB, {"wire": Wire("ESP", 73, True, False)}),
    ("The Gateway Load Balancer carries more than VPN attachments", GWLB, {"per_firewall": 2.3e9}),
    ("An application needs less configuration than in the sandwich", GWLB, {"application": Application(4, 3, 0)}),
    ("The Gateway Load Balancer needs fewer firewalls", GWLB, {"per_firewall": 1e9}),
]


@pytest.mark.parametrize(("name", "architecture", "otherwise"), FALSE)
def test_a_claim_fails_where_it_is_false(
    fakes: dict[str, FakeArchitecture], clock: Clock, name: str, architecture: str, otherwise: dict[str, Any]
) -> None:
    false = {**fakes, architecture: replace(fakes[architecture], **otherwise)}
    points = measured(false, clock)
    claim = next(claim for claim in decide(points, SETTINGS, SCALE) if claim.name == name)
    assert claim.verdict is Verdict.FAILED, claim.detail
    assert claim.detail
    assert claim.points


def test_each_claim_was_made_to_fail() -> None:
    assert {name for name, *_ in FALSE} == set(NAMES)


def test_slow_firewalls_do_not_show_what_tunnels_cost(fakes: dict[str, FakeArchitecture], clock: Clock) -> None:
    points = measured(fakes, clock)
    claims = {claim.name: claim for claim in decide(points, replace(SETTINGS, rating=1e9), SCALE)}
    faster = claims["The Gateway Load Balancer carries more than VPN attachments"]
    assert faster.verdict is Verdict.NOT_DECIDED
    assert faster.detail == "firewalls rated 1 Gbit/s do not outdo 2 tunnels, which carry 2.5 Gbit/s"


def test_the_machine_may_limit_one_point_only_and_by_one_flow(fakes: dict[str, FakeArchitecture], clock: Clock) -> None:
    class Narrow(FakeCloud):
        def throughput(self, flows: int, seconds: float) -> Load:
            found = super().throughput(flows, seconds)
            busy = flows == 1 and self.firewalls == 2
            return Load(found.rate / 2, Headroom(1.0, 0.5, 0.95)) if busy else found

    fakes[GWLB].cloud = Narrow
    points = measured(fakes, clock)
    assert [point.name for point in points if point.machine_limited] == ["gwlb/2"]
    (adding,) = (table for table in questions(points, SETTINGS, {}) if table.title.startswith("What each further"))
    assert adding.rows[0] == (GWLB, "–", "–", "–")  # of one firewall, of a limited point, beside a limited point
    assert next(point.thread_share for point in points if point.machine_limited) == 0.95


@pytest.mark.parametrize("architecture", [GWLB, VPN, ACTIVE_PASSIVE, SANDWICH])
def test_no_claim_uses_what_the_machine_limited(
    fakes: dict[str, FakeArchitecture], clock: Clock, architecture: str
) -> None:
    fakes[architecture].idle = 0.05
    points = measured(fakes, clock)
    assert {point.architecture for point in points if point.machine_limited} == {architecture}
    claims = decide(points, SETTINGS, SCALE)
    assert not any(name.startswith(f"{architecture}/") for claim in claims for name in claim.points)
    undecided = [claim for claim in claims if claim.verdict is Verdict.NOT_DECIDED]
    assert undecided
    assert all(claim.detail.endswith("the machine was the limit") for claim in undecided)
    assert all(claim.detail.startswith(architecture) for claim in undecided)


def test_a_larger_point_that_the_machine_limited_leaves_the_smaller(
    fakes: dict[str, FakeArchitecture], clock: Clock
) -> None:
    points = [replace(point, machine_limited=point.firewalls == 4) for point in measured(fakes, clock)]
    claims = {claim.name: claim for claim in decide(points, SETTINGS, SCALE)}
    assert claims["VPN attachments scale"].points == ("vpn-ecmp/1", "vpn-ecmp/2")
    assert claims["VPN attachments scale"].verdict is Verdict.HELD


def test_claims_without_points_are_not_decided() -> None:
    claims = decide([], SETTINGS, SCALE)
    assert {claim.verdict for claim in claims} == {Verdict.NOT_DECIDED}
    assert {claim.name: claim.detail for claim in claims}["VPN attachments scale"] == "vpn-ecmp with 1: not measured"


def measured(fakes: dict[str, FakeArchitecture], clock: Clock) -> list[Point]:
    pairs = planned(choose(list(fakes.values()), SETTINGS), SETTINGS)
    return [measure(fakes[name], number, SCALE, SETTINGS, tools(clock)) for name, number in pairs]


# -- resuming ------------------------------------------------------------------------------------------------------


class Dying:
    """Interrupts the comparison when it is to build its n-th point."""

    def __init__(self, after: int) -> None:
        self.left = after

    def __call__(self, firewalls: int) -> bool:
        self.left -= 1
        return self.left < 0


@pytest.mark.parametrize("after", range(11))
@pytest.mark.parametrize("torn", [b"", b'{"architecture": "gw'])
def test_an_interrupted_comparison_goes_on(after: int, torn: bytes, tmp_path: Path) -> None:
    whole_clock = Clock()
    whole, claims = compared({each.name: each for each in architectures(whole_clock)}, whole_clock, tmp_path / "whole")
    clock = Clock()
    first = {each.name: each for each in architectures(clock)}
    dying = Dying(after)
    for each in first.values():
        each.dies = dying
    with pytest.raises(KeyboardInterrupt):
        compared(first, clock, tmp_path)
    file = tmp_path / "1-compare" / stores.FILE
    with file.open("ab") as stream:
        stream.write(torn)
    second = {each.name: each for each in architectures(clock)}
    run = runs(tmp_path, "2-compare")
    again = compare(run, list(second.values()), SETTINGS, no_calibration, tools(clock))
    assert run.results.directory == tmp_path / "1-compare"
    assert not (tmp_path / "2-compare").exists()
    assert f"{after} of 11 points are there" in told(run)
    assert sum(len(each.built) for each in second.values()) == 11 - after
    assert again == list(claims.values())
    assert (run.results.directory / "comparison.csv").read_text() == (
        whole.results.directory / "comparison.csv"
    ).read_text()


def told(run: Run) -> str:
    stream = run.narrator.console.file
    assert isinstance(stream, io.StringIO)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("settings", "machine", "reason"),
    [
        (replace(SETTINGS, flows=8), {}, "settings differ: flows is 8, was 64"),
        (replace(SETTINGS, rate_scale=0.1), {}, "settings differ: rate_scale is 0.1, was 0.01"),
        (SETTINGS, {"kernel": "6.1"}, "the machine differs: kernel is 6.1, was None"),
    ],
)
def test_another_comparison_starts_anew_and_says_why(
    fakes: dict[str, FakeArchitecture],
    clock: Clock,
    tmp_path: Path,
    settings: Settings,
    machine: dict[str, Any],
    reason: str,
) -> None:
    fakes[VPN].dies = lambda firewalls: firewalls == 2
    with pytest.raises(KeyboardInterrupt):
        compared(fakes, clock, tmp_path)
    fakes[VPN].dies = lambda firewalls: False
    run = runs(tmp_path, "2-compare")
    compare(run, list(fakes.values()), settings, no_calibration, tools(clock, **machine))
    assert f"Starting anew: 1-compare has 5 points, but {reason}" in told(run)
    assert run.results.directory.name == "2-compare"
    assert len(stores.read(run.results.directory / stores.FILE).points) == 11


def test_a_finished_comparison_is_not_gone_on_with(
    fakes: dict[str, FakeArchitecture], clock: Clock, tmp_path: Path
) -> None:
    compared(fakes, clock, tmp_path)
    run = runs(tmp_path, "2-compare")
    compare(run, list(fakes.values()), SETTINGS, no_calibration, tools(clock))
    assert run.results.directory.name == "2-compare"
    assert "tarting anew" not in told(run)


def test_a_comparison_torn_in_its_plan_starts_anew(
    fakes: dict[str, FakeArchitecture], clock: Clock, tmp_path: Path
) -> None:
    (tmp_path / "0-compare").mkdir()
    (tmp_path / "0-compare" / stores.FILE).write_text('{"settings": {"arch')
    run, _ = compared(fakes, clock, tmp_path)
    assert "Starting anew: 0-compare/points.jsonl is damaged" in told(run)
    assert run.results.directory.name == "1-compare"


def test_the_calibration_is_kept_with_the_points(
    fakes: dict[str, FakeArchitecture], clock: Clock, tmp_path: Path
) -> None:
    settings = replace(SETTINGS, rate_scale=None)
    fakes[VPN].dies = lambda firewalls: firewalls == 2
    with pytest.raises(KeyboardInterrupt):
        compare(runs(tmp_path), list(fakes.values()), settings, lambda: Calibration(0.02, "measured"), tools(clock))
    fakes[VPN].dies = lambda firewalls: False
    run = runs(tmp_path, "2-compare")
    compare(run, list(fakes.values()), settings, no_calibration, tools(clock))
    assert run.results.manifest["rate_scale"] == 0.02
    assert "rate_scale 0.02: measured" in told(run).lower()


# -- results -------------------------------------------------------------------------------------------------------


def test_the_results_are_files_tables_and_figures(
    fakes: dict[str, FakeArchitecture], clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    run, _ = compared(fakes, clock, tmp_path)
    assert {path.name for path in run.results.directory.iterdir()} == {
        "points.jsonl", "comparison.csv", "comparison.md",
        "throughput-over-the-number-of-firewalls.svg", "a-firewall-dies.svg", "whom-the-server-sees.svg",
        "firewalls-needed.svg",
    }  # fmt: skip
    html = page.html(run.results)
    for words_there in (
        "Whom the server sees",
        "no more SNAT",
        "not beyond",
        "seconds since 1 of 2 firewalls died",
        "rate scale 0.01",
    ):
        assert words_there in html
    assert "http-equiv" not in html
    assert "src=" not in html
    (point, *_) = json.loads(json.dumps(run.results.document()))["data"]["points"]
    assert point["architecture"] == GWLB
    assert point["failure"] is None
    assert point["next_firewall_efficiency"] is None
    titles = [table.title for table in run.results.tables]
    assert all(f"**{title}**" in (run.results.directory / "comparison.md").read_text() for title in titles)
    assert all(title in told(run) for title in titles[:-1])
    assert "✓ The sandwich hides the source" in told(run)


def test_csv(fakes: dict[str, FakeArchitecture], clock: Clock) -> None:
    fakes[VPN].idle = 0.1
    assert as_csv(measured(fakes, clock)) == GOLDEN.read_text()


def test_each_question_has_a_table(fakes: dict[str, FakeArchitecture], clock: Clock) -> None:
    fakes[VPN].idle = 0.1
    titles = {each.name: each.title for each in fakes.values()}
    asked = {table.title: table for table in questions(measured(fakes, clock), SETTINGS, titles)}
    rates = asked["Throughput of all flows together, Mbit/s (* the machine was the limit)"]
    assert rates.columns == ("firewalls", "1", "2", "4")
    assert rates.rows == (
        ("Gateway Load Balancer", "48", "96", "192"),
        ("VPN, ECMP", "12*", "24*", "48*"),
        ("Active-passive HA", "48", "48", ""),
        ("Sandwich", "48", "96", "192"),
    )
    assert asked["What each further firewall adds, of what the first carries"].rows[:3] == (
        ("Gateway Load Balancer", "–", "100%", "100%"),
        ("VPN, ECMP", "–", "–", "–"),
        ("Active-passive HA", "–", "0%", ""),
    )
    (legs,) = (table for title, table in asked.items() if title.startswith("What the leg"))
    assert legs.rows[:2] == (
        ("Gateway Load Balancer", "68", "GENEVE", "no", "yes"),
        ("VPN, ECMP", "73", "ESP", "yes", "no"),
    )
    assert asked["Whom the server sees"].rows[-1] == ("Sandwich", "ALB (HTTP)", CLIENT, FIREWALL, CLIENT)
    assert asked["Flows lost when a firewall dies"].rows[0] == ("Gateway Load Balancer", "–", "32 of 64", "16 of 64")
    (failing,) = (table for title, table in asked.items() if title.startswith("Seconds for which"))
    assert failing.title.endswith("at time scale 10")
    assert failing.rows[1] == ("VPN, ECMP", "–", "9", "9")
    (more,) = (table for title, table in asked.items() if title.startswith("One more application"))
    assert (more.rows[0][1], more.rows[-1][1]) == ("1 + 0 + 0", "1 + 4 + 2")
    assert asked["Firewalls needed, one to spare"].rows[3] == ("10 Gbit/s", "3", "5", "impossible", "3")
    assert len(asked) == 12


def test_a_table_as_markdown() -> None:
    table = Table("Whom?", ("a", "b"), (("1|2", "3"),))
    assert markdown(table) == "**Whom?**\n\n| a | b |\n| --- | --- |\n| 1\\|2 | 3 |\n"


def test_an_undecided_claim_is_told_and_no_check(
    fakes: dict[str, FakeArchitecture], clock: Clock, tmp_path: Path
) -> None:
    run, _ = compared(fakes, clock, tmp_path, replace(SETTINGS, architectures=(GWLB,)))
    assert {check.name for check in run.results.checks} == {
        "The Gateway Load Balancer scales", "The Gateway Load Balancer survives a firewall",
        "The Gateway Load Balancer keeps the source", "The Gateway Load Balancer needs no encrypted tunnel",
        "The Gateway Load Balancer keeps headers and payload",
    }  # fmt: skip
    assert "? VPN attachments scale not decided: vpn-ecmp with 1: not measured" in told(run)
    assert "\n5 of 18 claims decided\n" in told(run)


def test_a_comparison_that_decides_nothing_has_failed(
    fakes: dict[str, FakeArchitecture], clock: Clock, tmp_path: Path
) -> None:
    for fake in fakes.values():
        fake.idle = 0.05
    run, _ = compared(fakes, clock, tmp_path)
    (check,) = run.results.checks
    assert (check.name, check.passed) == ("a claim can be decided", False)
    assert check.detail.endswith("the machine was the limit")
    assert "\n0 of 18 claims decided\n" in told(run)


def test_wrong_settings_are_refused(fakes: dict[str, FakeArchitecture]) -> None:
    with pytest.raises(RequestError) as unknown:
        choose(list(fakes.values()), replace(SETTINGS, architectures=("gwbl",)))
    assert str(unknown.value) == (
        "comparison: no architecture 'gwbl'; there are: gwlb, vpn-ecmp, active-passive, sandwich"
    )
    with pytest.raises(RequestError, match="comparison: active-passive has at most 2 firewalls; give a smaller number"):
        choose(list(fakes.values()), replace(SETTINGS, firewalls=(4, 8)))
    for wrong in ({"firewalls": ()}, {"firewalls": (0, 1)}, {"architectures": ()}):
        with pytest.raises(RequestError, match="at least one architecture, and numbers of firewalls from 1"):
            choose(list(fakes.values()), replace(SETTINGS, **wrong))


def test_a_machine_that_is_busy_with_other_work_has_no_cpu_cost(
    fakes: dict[str, FakeArchitecture], clock: Clock
) -> None:
    point = measured(fakes, clock)[0]
    assert point.cpu_seconds_per_gigabyte == pytest.approx(1.2 / 0.006)  # 60 % of two CPUs for 48 Mbit/s
    busy = replace(SETTINGS, idle_share=1.1)  # less is idle, whatever happens
    assert measure(fakes[GWLB], 1, SCALE, busy, tools(clock)).cpu_seconds_per_gigabyte is None


def test_a_point_that_carries_nothing_is_none(fakes: dict[str, FakeArchitecture], clock: Clock, tmp_path: Path) -> None:
    fakes[GWLB].per_firewall = 0.0
    with pytest.raises(RequestError, match="gwlb with 1 carried nothing"):
        compared(fakes, clock, tmp_path)


def test_time_left(fakes: dict[str, FakeArchitecture], clock: Clock) -> None:
    missing = [(VPN, 4), (SANDWICH, 4)]
    assert time_left([], missing, SETTINGS) == 2 * 75
    point = measured(fakes, clock)[1]
    points = [replace(point, duration=100.0), replace(point, architecture=GWLB, duration=20.0)]
    assert time_left(points, missing, SETTINGS) == 100 + 60
    assert [words(40), words(89.4), words(700)] == ["40 s", "89 s", "12 min"]


# -- the machine ---------------------------------------------------------------------------------------------------


def test_a_busy_thread_is_the_machines_limit_although_cpus_are_idle() -> None:
    before = Sample(0.0, 100.0, 50.0, {(7, 1): 3.0, (8, 2): 1.0})
    after = Sample(10.0, 120.0, 60.0, {(7, 1): 12.9, (8, 3): 4.0})
    headroom = Headroom.between(before, after)
    assert (headroom.busy, headroom.idle_share, round(headroom.thread_share, 6)) == (1.0, 0.5, 0.99)
    assert headroom.exhausted(Settings())
    assert not headroom.exhausted(Settings(thread_share=1.0))
    assert Headroom(1.9, 0.05, 0.5).exhausted(Settings())
    with pytest.raises(ValueError, match="no time passed"):
        Headroom.between(before, before)


def test_the_sample_is_read_from_proc(tmp_path: Path) -> None:
    (tmp_path / "stat").write_text(
        "cpu  100 0 100 600 200 25 75 50 7 7\ncpu0 50 0 50 300 100 0 25 25\ncpu1 50 0 50 300 100 25 50 25\nintr 5\n"
    )
    task = tmp_path / "12" / "task" / "13"
    task.mkdir(parents=True)
    (task / "stat").write_text("13 (a ) b) S " + " ".join(["0"] * 10 + ["150", "50"] + ["0"] * 6 + ["777"] + ["0"] * 9))
    (tmp_path / "99" / "task" / "99").mkdir(parents=True)  # it has ended
    assert sample(tmp_path, lambda: 5.0) == Sample(5.0, 11.5, 8.0, {(13, 777): 2.0, (-1, 0): 0.25, (-2, 0): 0.75})


def test_a_cpu_full_of_interrupts_is_the_machines_limit() -> None:
    before, after = Sample(0.0, 100.0, 50.0, {(-1, 0): 1.0}), Sample(10.0, 120.0, 60.0, {(-1, 0): 10.5})
    headroom = Headroom.between(before, after)
    assert headroom.exhausted(Settings())
    assert not headroom.exhausted(Settings(thread_share=0.95))
    assert headroom.exhausted(Settings(idle_share=0.6, thread_share=1.0))


def test_the_machine_itself_can_be_sampled() -> None:
    first, second = sample(), sample()
    assert second.threads
    assert second.total >= first.total > 0


def test_latency_of_nothing() -> None:
    assert Latency.of([3.0, 1.0, 2.0]) == Latency(2.0, 3.0)
    with pytest.raises(ValueError, match="no round trip"):
        Latency.of([])
