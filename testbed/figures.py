"""Figures of a run's measurements, as SVG to be put into a page."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from testbed.results import Measurement, Series

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, FAINT, LINE = "#1d2733", "#66717e", "#e3e8ee"
COLOURS = ("#1f6fb2", "#e08a1e", "#1a7f4b", "#8e5bb5", "#c0392b", "#3aa6a0", "#7a6a58", "#d1689b")
WIDTH = 9.6  # inches


def throughput_bars(measurements: Sequence[Measurement]) -> str:
    """Return a bar for each throughput, with its repeats' extremes; empty where there is none."""
    shown = [measurement for measurement in measurements if measurement.unit == "bit/s"]
    if not shown:
        return ""
    figure, axes = _figure(0.9 + 0.42 * len(shown))
    for row, measurement in enumerate(shown):
        value = measurement.value / 1e9
        axes.barh(row, value, height=0.6, color=COLOURS[0])
        if "repeats" in measurement.labels:
            low, high = (float(measurement.labels[key]) / 1e9 for key in ("minimum", "maximum"))
            axes.errorbar(value, row, xerr=[[value - low], [high - value]], color=INK, capsize=3, linewidth=1)
        end = float(measurement.labels.get("maximum", measurement.value)) / 1e9
        axes.annotate(f"{value:.2f}", (end, row), (6, 0), textcoords="offset points", va="center", color=INK)
    axes.set_yticks(range(len(shown)), [_label(measurement) for measurement in shown])
    axes.invert_yaxis()
    axes.set_xlabel("throughput, Gbit/s")
    axes.grid(axis="x", color=LINE)
    axes.margins(x=0.1)
    return _svg(figure)


def variant_bars(measurements: Sequence[Measurement]) -> str:
    """Return the throughput of a benchmark's variants side by side, a group for each MTU and number of streams."""
    shown = [measurement for measurement in measurements if {"variant", "mtu"} <= measurement.labels.keys()]
    if not shown:
        return ""
    variants = list(dict.fromkeys(str(measurement.labels["variant"]) for measurement in shown))
    groups = list(dict.fromkeys((measurement.labels["mtu"], measurement.labels["streams"]) for measurement in shown))
    figure, axes = _figure(4.2)
    width = 0.8 / len(variants)
    for measurement in shown:
        number = variants.index(str(measurement.labels["variant"]))
        group = groups.index((measurement.labels["mtu"], measurement.labels["streams"]))
        place, value = group + (number - (len(variants) - 1) / 2) * width, measurement.value / 1e9
        axes.bar(place, value, width * 0.92, color=COLOURS[number], label=variants[number] if not group else None)
        axes.annotate(f"{value:.2f}", (place, value), (0, 3), textcoords="offset points", ha="center", fontsize=8)
    axes.set_xticks(
        range(len(groups)), [f"MTU {mtu}, {streams} TCP flow{'s'[: streams != 1]}" for mtu, streams in groups]
    )
    axes.set_ylabel("throughput, Gbit/s")
    axes.grid(axis="y", color=LINE)
    axes.legend(frameon=False, ncols=len(variants), loc="upper right")
    return _svg(figure)


def series_lines(series: Sequence[Series]) -> str:
    """Return the rates over time as lines; empty where there are none."""
    shown = [one for one in series if one.unit == "bit/s" and one.points]
    if not shown:
        return ""
    figure, axes = _figure(3.0 + 0.22 * len(shown))
    for number, one in enumerate(shown):
        times, values = zip(*one.points, strict=True)
        rates = [value / 1e9 for value in values]
        axes.plot(times, rates, marker="o", markersize=4, color=COLOURS[number % len(COLOURS)], label=one.title)
    axes.set_xlabel("time, s")
    axes.set_ylabel("Gbit/s")
    axes.set_ylim(bottom=0)
    axes.set_xlim(left=0)
    axes.grid(color=LINE)
    axes.legend(loc="upper left", bbox_to_anchor=(0, -0.16 - 0.1 / len(shown)), frameon=False, fontsize=10)
    return _svg(figure)


def _label(measurement: Measurement) -> str:
    labels = measurement.labels
    streams = f", {labels['streams']} streams" if labels.get("streams", 1) != 1 else ""
    return f"{labels.get('from', '')} → {labels.get('to', '')}, {labels.get('protocol', '')}{streams}"


def _figure(height: float) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure  # half a second, when a lab has to come up

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right", "left", "bottom"]].set_visible(False)
    axes.tick_params(length=0, labelcolor=INK)
    axes.set_axisbelow(True)
    return figure, axes


def _svg(figure: Figure) -> str:
    from matplotlib import rc_context

    text = io.StringIO()
    # Text stays text, in the page's own font; the salt keeps the same figure the same file.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "bumpwire", "font.family": "sans-serif"}):
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg") :]
