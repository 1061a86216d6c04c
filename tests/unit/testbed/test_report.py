"""The report: units, the table, the page and its figures."""

from __future__ import annotations

import io
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console

from testbed import figures, report
from testbed.progress import Narrator, quantity
from testbed.results import Check, Measurement, Results, Series, Table

BETWEEN = {"from": "web1", "to": "app2", "protocol": "tcp", "streams": 1}


@pytest.fixture
def results() -> Results:
    return Results(
        "east-west",
        "Two <hosts> talk.",
        Path("unused"),
        checks=[Check("it held", True, "as seen"), Check("all lived", False, "fw2 ended with -9 [bold]")],
        measurements=[
            Measurement("throughput", 1.5e9, "bit/s", BETWEEN | {"minimum": 1.4e9, "maximum": 1.6e9, "repeats": 3}),
            Measurement("throughput", 1.7e9, "bit/s", BETWEEN | {"streams": 8}),
        ],
        series=[Series("iperf3", "bit/s", ((1.0, 1.4e9), (2.0, 1.6e9)))],
        tables=[Table("the path", ("hop", "decision"), (("→ 1", "tgw/spokes 0.0.0.0/0"),))],
        manifest={"time": "2026-11-22T12:00:00+00:00", "git": {"dirty": True}, "bumpwire": None},
    )


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (1.5234e9, "bit/s", "1.52 Gbit/s"),
        (701e6, "bit/s", "701 Mbit/s"),
        (12.0, "bit/s", "12 bit/s"),
        (0.00131, "s", "1.31 ms"),
        (0.000088, "s", "88 µs"),
        (0.0, "s", "0 µs"),
        (2.15, "s", "2.15 s"),
        (0.5, "%", "0.5 %"),
        (1165.3, "1/s", "1,165 1/s"),
        (2.0, "segments", "2 segments"),
    ],
)
def test_quantities(value: float, unit: str, text: str) -> None:
    assert quantity(value, unit) == text


def test_what_a_measurement_is_of() -> None:
    assert report.of(dict(BETWEEN)) == "web1 → app2, tcp"
    assert report.of(BETWEEN | {"streams": 8, "repeats": 3}) == "web1 → app2, tcp, 8 streams"
    assert report.of({"mtu": 1500}) == "mtu 1500"


def test_the_table_on_the_console(results: Results) -> None:
    text = shown(results)
    assert "1.5 Gbit/s" in text
    assert "1.4 Gbit/s … 1.6 Gbit/s, n = 3" in text
    assert "✗ all lived fw2 ended with -9 [bold]" in text
    assert text.endswith("failed: 1 of 2 checks held, 2 measurements\n")


def shown(results: Results) -> str:
    console = Console(file=io.StringIO(), width=120)
    report.show(results, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_progress_is_plain_lines_where_there_is_no_terminal() -> None:
    console = Console(file=io.StringIO(), width=40)
    narrator = Narrator(console)
    with narrator.step("iperf3 [web1] → app2, a title that is longer than the console", seconds=3):
        pass
    narrator.check(Check("held", True, "5 of 5"))
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue() == (
        "  iperf3 [web1] → app2, a title that is longer than the console …\n  ✓ held 5 of 5\n"
    )


def test_progress_on_a_terminal_goes_when_it_is_done() -> None:
    console = Console(file=io.StringIO(), width=80, force_terminal=True)
    with Narrator(console).step("iperf3", seconds=3):
        pass
    assert isinstance(console.file, io.StringIO)
    assert "iperf3" in console.file.getvalue()


class Balance(HTMLParser):
    """Holds the page to closed elements, and keeps its text and its links to elsewhere."""

    VOID = frozenset({"meta", "br", "use", "path"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.links: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.links += [value for key, value in attributes if key in ("src", "href") and value and value[0] != "#"]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_the_page_is_whole_and_needs_nothing_else(results: Results) -> None:
    page = Balance(report.html(results))
    assert page.open == []
    assert page.links == []
    for expected in (
        "Two <hosts> talk.",
        "fw2 ended with -9 [bold]",
        "tgw/spokes 0.0.0.0/0",
        "dirty True",
        "–",
        "failed",
    ):
        assert any(expected in text for text in page.text), expected


def test_a_page_of_nothing() -> None:
    page = Balance(report.html(Results("empty", "", Path("unused"))))
    assert "Figures" not in page.text


def test_figures_are_svg_and_name_what_they_show(results: Results) -> None:
    for figure in (figures.throughput_bars(results.measurements), figures.series_lines(results.series)):
        assert ElementTree.fromstring(figure).tag == "{http://www.w3.org/2000/svg}svg"
    bars = figures.throughput_bars(results.measurements)
    assert "web1 → app2, tcp, 8 streams" in bars
    assert "1.70" in bars


def test_figures_of_nothing_are_nothing() -> None:
    assert figures.throughput_bars([Measurement("loss", 1, "%", {})]) == ""
    assert figures.series_lines([Series("empty", "bit/s", ())]) == ""
