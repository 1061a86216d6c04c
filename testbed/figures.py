"""Figures of a run's measurements, as SVG to be put into a page."""

from __future__ import annotations

import io
from collections.abc import Sequence
from textwrap import shorten
from typing import TYPE_CHECKING

from testbed.results import Measurement, Series
from testbed.timeline import Form, Kind, Panel, Timeline

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
    shown = [one for one in measurements if one.unit == "bit/s" and {"variant", "mtu"} <= one.labels.keys()]
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
    axes.legend(frameon=False, ncols=(len(variants) + 1) // 2, loc="upper right")
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


#: Of a timeline's events, and of its bars: what went well and what did not.
EVENT_COLOURS = {Kind.FAILURE: "#c0392b", Kind.DETECTION: "#c77414", Kind.CHANGE: "#7a4fa3"}
BAR_COLOURS = ("#9fd3b4", "#c0392b")
#: Inches: a timeline's panels and what is around them, and a row of its events' labels.
PANEL, BETWEEN, LEFT, RIGHT, BOTTOM, LANE = 1.15, 0.42, 0.75, 0.15, 0.5, 0.24
LABEL_SIZE, LABEL_LENGTH = 11.0, 50  # points, characters
#: Behind words that a line may cross.
PAPER = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}


def timeline(timeline: Timeline) -> str:
    """Return small diagrams that share the time, with the events as lines through all of them.

    Events before or after the traffic are left out; their labels are above, each in a row where it has room.
    """
    panels = timeline.panels()
    length = timeline.end - timeline.start
    events = [event for event in timeline.events if timeline.start <= event.time <= timeline.end]
    words = [shorten(event.text, LABEL_LENGTH, placeholder=" …") for event in events]
    times = [event.time - timeline.start for event in events]
    places = [time / length * (WIDTH - LEFT - RIGHT) for time in times]
    lanes = label_lanes(
        [(place, _width(event.text)) for place, event in zip(places, events, strict=True)], WIDTH - LEFT
    )
    top = LANE * (max((lane for lane, _ in lanes), default=-1) + 1) + BETWEEN
    height = top + len(panels) * PANEL + (len(panels) - 1) * BETWEEN + BOTTOM
    figure = _empty(height)
    for number, panel in enumerate(panels):
        y = height - top - number * (PANEL + BETWEEN) - PANEL
        axes = figure.add_axes((LEFT / WIDTH, y / height, 1 - (LEFT + RIGHT) / WIDTH, PANEL / height))
        _clean(axes)
        _panel(axes, panel)
        axes.set_xlim(0, length)
        for event, time in zip(events, times, strict=True):
            axes.axvline(time, color=EVENT_COLOURS[event.kind], linewidth=1.2, zorder=3)
        if number < len(panels) - 1:
            axes.tick_params(labelbottom=False)
        else:
            axes.set_xlabel("time, s", fontsize=LABEL_SIZE, color=INK)
    for event, text, place, (lane, start) in zip(events, words, places, lanes, strict=True):
        colour = EVENT_COLOURS[event.kind]
        y = 1 - (top - BETWEEN - LANE * (lane + 0.5)) / height
        _line(figure, (LEFT + place) / WIDTH, (BOTTOM / height, y), colour)
        label = figure.text((LEFT + start) / WIDTH, y, text, color=colour, fontsize=LABEL_SIZE, va="center")
        label.set(weight="bold", bbox=PAPER)
    return _svg(figure)


def label_lanes(labels: Sequence[tuple[float, float]], end: float) -> list[tuple[int, float]]:
    """Return the row, from the bottom, and the start of each label, given as (place of its line, width).

    A label starts at its line, or earlier where it would go beyond *end*. No two labels of a row meet, and a label
    that starts at its line is above all lines that it crosses. Widths and places have the same unit.
    """
    placed: list[tuple[int, float, float, float]] = []  # row, place, start, end
    found: dict[int, tuple[int, float]] = {}
    for number, (place, width) in sorted(enumerate(labels), key=lambda label: (-label[1][0], -label[0])):
        start = max(min(place, end - width), 0.0)
        crossed = [row for row, other, *_ in placed if start <= other <= start + width]
        met = {row for row, _, left, right in placed if left < start + width and start < right}
        row = max(crossed, default=-1) + 1
        while row in met:
            row += 1
        placed.append((row, place, start, start + width))
        found[number] = (row, start)
    return [found[number] for number in range(len(labels))]


def _panel(axes: Axes, panel: Panel) -> None:
    axes.set_title(panel.title, loc="left", fontsize=LABEL_SIZE, color=INK, bbox=PAPER)
    floor: list[float] = []
    highest = 0.0
    for number, one in enumerate(panel.series):
        times = [time for time, _ in one.points]
        values = [value / 1e3 if one.unit == "bit/s" else value for _, value in one.points]
        if panel.form is Form.BARS:
            floor = floor or [0.0] * len(values)
            width = times[1] - times[0] if len(times) > 1 else 1.0
            axes.bar(times, values, width * 0.9, floor, align="edge", color=BAR_COLOURS[number], label=one.title)
            floor = values = [below + value for below, value in zip(floor, values, strict=True)]
        else:
            style = "steps-post" if panel.form is Form.STEPS else "default"
            colour = COLOURS[number % len(COLOURS)]
            axes.plot(times, values, drawstyle=style, color=colour, linewidth=2, label=one.title)
        highest = max([highest, *values])
    unit = "kbit/s" if panel.series[0].unit == "bit/s" else panel.series[0].unit
    axes.set_ylabel(unit, fontsize=LABEL_SIZE - 1, color=FAINT)
    axes.set_ylim(0, highest * 1.12 or 1)
    axes.locator_params(axis="y", nbins=3, integer=panel.form is Form.STEPS)
    axes.grid(color=LINE)
    axes.tick_params(labelsize=LABEL_SIZE - 1)
    if len(panel.series) > 1:
        axes.legend(
            loc="lower right", bbox_to_anchor=(1, 1), ncols=len(panel.series), fontsize=LABEL_SIZE - 1, borderpad=0.1,
            facecolor="white", edgecolor="none", framealpha=1,
        )  # fmt: skip


def _width(text: str) -> float:
    """Return the width of a label in inches."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    path = TextPath((0, 0), text, size=LABEL_SIZE, prop=FontProperties(weight="bold"))
    return float(path.get_extents().x1) / 72 + 0.12 if text else 0.0


def _line(figure: Figure, x: float, y: tuple[float, float], colour: str) -> None:
    """Draw an event's line behind all panels: what is seen of it is between them and up to the label."""
    from matplotlib.lines import Line2D

    figure.add_artist(Line2D((x, x), y, color=colour, linewidth=1.2, zorder=-1))


def _label(measurement: Measurement) -> str:
    labels = measurement.labels
    streams = f", {labels['streams']} streams" if labels.get("streams", 1) != 1 else ""
    return f"{labels.get('from', '')} → {labels.get('to', '')}, {labels.get('protocol', '')}{streams}"


def _figure(height: float) -> tuple[Figure, Axes]:
    figure = _empty(height)
    figure.set_layout_engine("constrained")
    axes = figure.add_subplot()
    _clean(axes)
    return figure, axes


def _empty(height: float) -> Figure:
    from matplotlib.figure import Figure  # half a second, when a lab has to come up

    return Figure(figsize=(WIDTH, height))


def _clean(axes: Axes) -> None:
    axes.patch.set_visible(False)
    axes.spines[["top", "right", "left", "bottom"]].set_visible(False)
    axes.tick_params(length=0, labelcolor=INK)
    axes.set_axisbelow(True)


def _svg(figure: Figure) -> str:
    from matplotlib import rc_context

    text = io.StringIO()
    # Text stays text, in the page's own font; the salt keeps the same figure the same file.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "bumpwire", "font.family": "sans-serif"}):
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg") :]
