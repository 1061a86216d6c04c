"""The results of a run for people: a table on the terminal, and a self-contained HTML page with figures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from string import Template

from rich import box
from rich.console import Console
from rich.markup import escape as plain
from rich.table import Table as Grid

from testbed import figures
from testbed.progress import quantity
from testbed.results import FAILED, PASSED, Label, Measurement, Results, Table

TEMPLATE = Path(__file__).with_name("report.html")


def show(results: Results, console: Console) -> None:
    """Print the checks that failed, the measurements, and how it ended."""
    if results.measurements:
        shown = Grid(box=box.SIMPLE_HEAD, pad_edge=False)
        for title, justify in (("measurement", "left"), ("value", "right"), ("of", "left"), ("spread", "left")):
            shown.add_column(title, justify=justify)  # type: ignore[arg-type]
        for measurement in results.measurements:
            value = quantity(measurement.value, measurement.unit)
            shown.add_row(plain(measurement.name), value, plain(of(measurement.labels)), spread(measurement))
        console.print(shown)
    for check in results.checks:
        if not check.passed:
            console.print(f"[bold red]✗ {plain(check.name)}[/] {plain(check.detail)}", highlight=False, soft_wrap=True)
    style = "bold green" if results.passed else "bold red"
    if results.checks:
        console.print(f"[{style}]{PASSED if results.passed else FAILED}[/]: {summary(results)}", highlight=False)


def grid(table: Table) -> Grid:
    """Return a table of evidence for the terminal."""
    shown = Grid(*table.columns, title=table.title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for row in table.rows:
        shown.add_row(*map(plain, row))
    return shown


def summary(results: Results) -> str:
    """Return how many checks held, in words; a run whose results are tables has no measurements to be counted."""
    held = sum(check.passed for check in results.checks)
    words = f"{held} of {len(results.checks)} checks held"
    return (
        words if results.tables and not results.measurements else f"{words}, {len(results.measurements)} measurements"
    )


def of(labels: dict[str, Label]) -> str:
    """Return what was measured: from where to where, and the other labels but those of the spread."""
    ends = f"{labels['from']} → {labels['to']}" if {"from", "to"} <= labels.keys() else ""
    streams = f"{labels['streams']} streams" if labels.get("streams", 1) != 1 else ""
    rest = [str(value) if key == "protocol" else f"{key} {value}" for key, value in labels.items() if key not in HIDDEN]
    return ", ".join(filter(None, [ends, *rest, streams]))


HIDDEN = {"from", "to", "streams", "minimum", "maximum", "repeats"}


def spread(measurement: Measurement) -> str:
    """Return the extremes of the repeats; empty where there was one."""
    labels = measurement.labels
    if "repeats" not in labels:
        return ""
    ends = [quantity(float(labels[key]), measurement.unit) for key in ("minimum", "maximum")]
    return f"{ends[0]} … {ends[1]}, n = {labels['repeats']}"


def html(results: Results) -> str:
    """Return the report as one HTML page that needs nothing else."""
    sections = [_checks(results), _measurements(results)]
    drawn = [
        figures.variant_bars(results.measurements) or figures.throughput_bars(results.measurements),
        figures.series_lines(results.series),
    ]
    if any(drawn):
        sections.append(_section("Figures", "\n".join(f"<figure>{figure}</figure>" for figure in drawn if figure)))
    sections += [_section(title, drawing) for title, drawing in results.drawings.items()]
    sections += [_section(table.title, _table(table)) for table in results.tables]
    sections.append(_section("Measured with", _manifest(results)))
    return Template(TEMPLATE.read_text()).substitute(
        scenario=escape(results.scenario),
        description=escape(results.description),
        status=PASSED if results.passed else FAILED,
        summary=escape(f"{summary(results)} · {results.manifest.get('time', '')}"),
        sections="\n".join(filter(None, sections)),
    )


def _section(title: str, content: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{content}</section>"


def _rows(rows: Iterable[Sequence[tuple[str, str]]]) -> str:
    """Return table rows of (class, text) cells."""
    return "".join(
        "<tr>" + "".join(f'<td class="{kind}">{escape(text)}</td>' for kind, text in row) + "</tr>" for row in rows
    )


def _checks(results: Results) -> str:
    if not results.checks:
        return ""
    rows = (
        (("mark good", "✓") if check.passed else ("mark bad", "✗"), ("", check.name), ("detail", check.detail))
        for check in results.checks
    )
    return _section("Checks", f"<table>{_rows(rows)}</table>")


def _measurements(results: Results) -> str:
    if not results.measurements:
        return ""
    head = '<tr><th>measurement</th><th class="number">value</th><th>of</th><th>spread</th></tr>'
    rows = (
        (("", m.name), ("number", quantity(m.value, m.unit)), ("detail", of(m.labels)), ("detail", spread(m)))
        for m in results.measurements
    )
    return _section("Measurements", f"<table>{head}{_rows(rows)}</table>")


def _table(table: Table) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in table.columns)
    rows = _rows([("", cell) for cell in row] for row in table.rows)
    return f'<table class="code"><tr>{head}</tr>{rows}</table>'


def _manifest(results: Results) -> str:
    entries = "".join(
        f"<div><dt>{escape(key)}</dt><dd>{escape(_value(value))}</dd></div>" for key, value in results.manifest.items()
    )
    return f'<dl class="manifest">{entries}</dl>'


def _value(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_value(inner)}" for key, inner in value.items()) or "–"
    return "–" if value is None else str(value)
