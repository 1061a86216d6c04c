"""The comparison's figures, as SVG for a page or a slide: an architecture has the same colour and marker in all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from testbed import figures
from testbed.comparison.demand import Sizing
from testbed.comparison.model import ACTIVE_PASSIVE, GWLB, SANDWICH, VPN, Point, Settings
from testbed.figures import COLOURS, FAINT, INK, LINE, PAPER, WIDTH
from testbed.probes.downloads import SILENCE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Okabe and Ito's colours, which the colour-blind tell apart, and markers for a print without colours.
STYLES = {
    GWLB: ("#0072b2", "o"),
    VPN: ("#d55e00", "s"),
    ACTIVE_PASSIVE: ("#009e73", "D"),
    SANDWICH: ("#b0578d", "^"),
}
KEPT, HIDDEN = STYLES[GWLB][0], STYLES[VPN][0]
SIZE = 13  # points of text, to be read at a distance
Titles = Mapping[str, str]


def throughput(points: Sequence[Point], settings: Settings, rate_scale: float, titles: Titles) -> str:
    """Return throughput over the number of firewalls, beside what so many firewalls are rated for.

    A hollow marker is a point that the machine limited.
    """
    figure, axes = figures._figure(5.4)
    most = max(point.firewalls for point in points)
    rating = settings.rating * rate_scale / 1e6
    axes.plot([0, most], [0, most * rating], color=FAINT, linestyle=(0, (4, 3)), linewidth=1.5)
    axes.annotate(
        f"ideal: {settings.rating / 1e9:g} Gbit/s each", (most, most * rating), (10, 0), textcoords="offset points",
        va="center", color=FAINT, fontsize=SIZE - 1, annotation_clip=False,
    )  # fmt: skip
    tunnels = settings.tunnels * settings.tunnel_rate
    if VPN in {point.architecture for point in points} and tunnels < settings.rating:
        cap = tunnels * rate_scale / 1e6
        axes.plot([0, most], [0, most * cap], color=STYLES[VPN][0], linestyle=":", linewidth=1.5)
    labels: list[tuple[float, str, str]] = []
    names = list(dict.fromkeys(point.architecture for point in points))
    for name in names:
        # Of lines that are the same, the earlier ones are seen around the later.
        wider = len(names) - 1 - names.index(name)
        mine = sorted((point for point in points if point.architecture == name), key=lambda point: point.firewalls)
        colour, marker = _style(name)
        numbers, rates = [point.firewalls for point in mine], [point.throughput / 1e6 for point in mine]
        axes.plot(numbers, rates, color=colour, linewidth=2.4 + wider, zorder=3)
        for point, rate in zip(mine, rates, strict=True):
            face = "white" if point.machine_limited else colour
            axes.plot(
                point.firewalls, rate, marker=marker, markersize=8 + 1.5 * wider, color=colour, markerfacecolor=face,
                markeredgewidth=2, zorder=4, clip_on=False,
            )  # fmt: skip
        labels.append((rates[-1], titles.get(name, name), colour))
        if numbers[-1] < most:
            axes.plot([numbers[-1], most], [rates[-1]] * 2, color=colour, linewidth=1, alpha=0.5, zorder=2)
    top = most * rating * 1.08
    _end_labels(axes, most, top, labels, taken=[most * rating])
    axes.set_xlim(0, most)
    axes.set_ylim(0, top)
    axes.set_xticks(sorted({point.firewalls for point in points}))
    axes.set_xlabel("firewalls", fontsize=SIZE, color=INK)
    axes.set_ylabel("throughput in the lab, Mbit/s", fontsize=SIZE, color=INK)
    axes.tick_params(labelsize=SIZE)
    axes.grid(color=LINE)
    words = [f"rate scale {rate_scale:g}: {rating:g} Mbit/s stand for {settings.rating / 1e9:g} Gbit/s"]
    if tunnels < settings.rating:
        words.append(f"dotted: {settings.tunnels} tunnels each")
    if any(point.machine_limited for point in points):
        words.append("hollow: the machine was the limit")
    axes.set_title(" · ".join(words), loc="left", fontsize=SIZE - 2, color=FAINT)
    return figures._svg(figure)


def failures(points: Sequence[Point], titles: Titles) -> str:
    """Return, for each architecture, what flows carried before and after one of its firewalls died at 0 s."""
    shown: dict[str, Point] = {}
    for point in sorted(points, key=lambda point: point.firewalls):
        if point.failure and point.failure.rates:
            shown.setdefault(point.architecture, point)
    if not shown:
        return ""
    figure = figures._empty(1.0 + 1.75 * len(shown))
    figure.set_layout_engine("constrained")
    panels = figure.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (name, point) in zip(panels, shown.items(), strict=True):
        failure = point.failure
        assert failure is not None
        figures._clean(axes)
        colour, _ = _style(name)
        times = [time - failure.died for time, _ in failure.rates]
        rates = [rate / 1e6 for _, rate in failure.rates]
        axes.fill_between(times, rates, color=colour, alpha=0.25, linewidth=0)
        axes.plot(times, rates, color=colour, linewidth=2.2)
        axes.axvline(0, color=INK, linewidth=1.6)
        if failure.seconds:
            axes.axvspan(0, failure.seconds, color=FAINT, alpha=0.16, linewidth=0)
        lost = f"{failure.flows_lost} of {failure.flows} flows lost"
        lasted = "to the end" if failure.seconds is None else f"for {failure.seconds:.2g} s"
        axes.set_title(titles.get(name, name), loc="left", fontsize=SIZE, color=colour, weight="bold")
        axes.set_title(f"{lost}, new connections fail {lasted}", loc="right", fontsize=SIZE - 1, color=INK)
        axes.set_xlim(times[0], times[-1])
        axes.set_ylim(0, max(rates) * 1.1 or 1)
        axes.set_ylabel("Mbit/s", fontsize=SIZE - 1, color=FAINT)
        axes.locator_params(axis="y", nbins=3)
        axes.grid(color=LINE)
        axes.tick_params(labelsize=SIZE - 1)
    numbers = " or ".join(str(number) for number in sorted({point.firewalls for point in shown.values()}))
    panels[-1].set_xlabel(f"seconds since 1 of {numbers} firewalls died", fontsize=SIZE, color=INK)
    words = f"grey: new connections fail · a lost flow is made anew after {SILENCE:g} s of silence"
    figure.get_layout_engine().set(w_pad=0.1)  # type: ignore[union-attr, call-arg]
    figure.suptitle(words, x=0.01, ha="left", fontsize=SIZE - 2, color=FAINT)
    return figures._svg(figure)


def sources(points: Sequence[Point], titles: Titles) -> str:
    """Return, for each architecture and kind of load balancer, whom the server took the client for."""
    rows = {
        (point.architecture, source.via): source
        for point in sorted(points, key=lambda point: -point.firewalls)
        for source in point.sources
    }
    rows = {
        key: rows[key] for key in sorted(rows, key=lambda key: list(STYLES).index(key[0]) if key[0] in STYLES else 9)
    }
    height = 0.55 + 0.62 * len(rows)
    figure = figures._empty(height)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set_xlim(0, WIDTH)
    axes.set_ylim(len(rows) - 0.35, -0.8)
    for x, word in ((0.1, ""), (3.35, "the client is"), (6.1, "the server sees")):
        axes.text(x, -0.5, word, fontsize=SIZE - 1, color=FAINT, va="center")
    for row, ((name, via), source) in enumerate(rows.items()):
        kept = source.kept
        colour = KEPT if kept else HIDDEN
        axes.text(0.1, row, titles.get(name, name), fontsize=SIZE, weight="bold", color=INK, va="center")
        axes.text(0.1, row + 0.32, via, fontsize=SIZE - 3, color=FAINT, va="center")
        axes.text(3.35, row, source.client, fontsize=SIZE, color=INK, va="center")
        axes.annotate(
            "", (6.0, row), (5.0, row), arrowprops={"arrowstyle": "-|>", "color": colour, "linewidth": 2.4}
        )  # fmt: skip
        axes.text(6.1, row, source.seen, fontsize=SIZE, weight="bold", color=colour, va="center")
        verdict = "✓ the client" if kept else "✗ not the client"
        axes.text(7.85, row, verdict, fontsize=SIZE, weight="bold", color=colour, va="center")
        if source.forwarded_for:
            note = f"X-Forwarded-For: {source.forwarded_for}"
            axes.text(6.1, row + 0.32, note, fontsize=SIZE - 3, color=FAINT, va="center")
        axes.plot([0.1, WIDTH - 0.1], [row + 0.6] * 2, color=LINE, linewidth=1)
    return figures._svg(figure)


def needed(sizings: Sequence[Sizing], titles: Titles) -> str:
    """Return the firewalls that a demand needs, with one to spare, as steps over the demand in the products' Gbit/s."""
    figure, axes = figures._figure(5.0)
    top = 8 * max(sizing.capacity for sizing in sizings)
    demands = [step * top / 400 for step in range(1, 401)]
    by_name = {sizing.architecture: sizing for sizing in sizings}
    labels: list[tuple[float, str, str]] = []
    highest = 0
    for number, sizing in enumerate(sizings):
        colour, marker = _style(sizing.architecture)
        steps = [(wanted, count) for wanted in demands if (count := sizing.needed(wanted)) is not None]
        xs = [0.0, *(wanted / 1e9 for wanted, _ in steps)]
        # Architectures that need the same would hide each other.
        ys = [
            count + 0.06 * (number - (len(sizings) - 1) / 2) for count in (steps[0][1], *(count for _, count in steps))
        ]
        axes.plot(xs, ys, color=colour, linewidth=2.6, drawstyle="steps-pre")
        title = titles.get(sizing.architecture, sizing.architecture)
        highest = max(highest, steps[-1][1])
        if steps[-1][0] < top:
            axes.plot(xs[-1], ys[-1], marker="x", markersize=11, markeredgewidth=3, color=colour)
            axes.annotate(
                f"{title}: not beyond {xs[-1]:.3g} Gbit/s", (xs[-1], ys[-1]), (10, -2), textcoords="offset points",
                va="top", color=colour, fontsize=SIZE, weight="bold", bbox=PAPER,
            )  # fmt: skip
        else:
            labels.append((ys[-1], title, colour))
            axes.plot(xs[-1], ys[-1], marker=marker, markersize=9, color=colour, clip_on=False)
    if {VPN, SANDWICH} <= by_name.keys():
        halves = [sum(by_name[name].needed(wanted / 2) or 0 for name in (VPN, SANDWICH)) for wanted in demands]
        axes.plot(
            [wanted / 1e9 for wanted in demands],
            halves,
            color=FAINT,
            linewidth=2,
            linestyle="--",
            drawstyle="steps-pre",
        )
        labels.append((halves[-1], "VPN and sandwich,\nhalf of it each", FAINT))
        highest = max(highest, halves[-1])
    axes.set_xlim(0, top / 1e9)
    axes.set_ylim(0, highest * 1.1)
    _end_labels(axes, top / 1e9, highest * 1.1, labels, taken=[])
    axes.set_xlabel("demand, Gbit/s of the real products", fontsize=SIZE, color=INK)
    axes.set_ylabel("firewalls, one to spare", fontsize=SIZE, color=INK)
    axes.locator_params(axis="y", integer=True)
    axes.tick_params(labelsize=SIZE)
    axes.grid(color=LINE)
    return figures._svg(figure)


def _style(architecture: str) -> tuple[str, str]:
    return STYLES.get(architecture, (COLOURS[-2], "v"))


def _end_labels(
    axes: Axes, x: float, top: float, labels: Sequence[tuple[float, str, str]], taken: Sequence[float]
) -> None:
    """Name each line at its end, moved apart where ends are near each other; *taken* are heights with a label.

    The figure keeps room for them, and some more: the page's own font may be wider.
    """
    axes.figure.get_layout_engine().set(w_pad=0.15)  # type: ignore[union-attr, call-arg]
    apart = top * 0.062
    placed: list[float] = list(taken)
    for y, text, colour in sorted(labels, reverse=True):
        place = y
        while any(abs(place - other) < apart * 0.999 for other in placed):
            place = min(other for other in placed if abs(place - other) < apart * 0.999) - apart
        placed.append(place)
        axes.annotate(
            text, (x, place), (10, 0), textcoords="offset points", va="center", color=colour, fontsize=SIZE,
            weight="bold", annotation_clip=False,
        )  # fmt: skip
