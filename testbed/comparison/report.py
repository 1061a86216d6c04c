"""The comparison as tables (one a question), CSV, and the tree's results."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence

from testbed.comparison import demand, figures
from testbed.comparison.calibration import Calibration
from testbed.comparison.claims import Claim, Verdict
from testbed.comparison.model import Latency, Point, Settings
from testbed.comparison.store import POINTS
from testbed.progress import quantity
from testbed.results import Check, Results, Table

#: Of the table of needed firewalls, in bit/s.
DEMANDS = (1e9, 2.5e9, 5e9, 10e9, 20e9, 40e9)
#: What stands behind a number that the machine limited.
LIMITED = "*"


def add(
    results: Results,
    points: Sequence[Point],
    claims: Sequence[Claim],
    settings: Settings,
    calibration: Calibration,
    titles: Mapping[str, str],
) -> None:
    """Put a comparison into *results*: decided claims are checks (that there is one is another), points are data.

    Figures, ``comparison.csv`` and ``comparison.md``, the tables to be pasted into a document, are files as well.
    """
    scale = calibration.rate_scale
    results.manifest |= {"rate_scale": scale, "rate_scale_because": calibration.reason}
    results.manifest |= {"time_scale": settings.time_scale}
    decided = [claim for claim in claims if claim.verdict is not Verdict.NOT_DECIDED]
    results.checks += [Check(claim.name, claim.verdict is Verdict.HELD, claim.detail) for claim in decided]
    if not decided:
        told = f"for example {claims[0].name}: {claims[0].detail}"
        results.checks.append(Check("a claim can be decided", False, told))
    results.data["points"] = [
        POINTS.dump_python(point, mode="json") | {"next_firewall_efficiency": next_firewall(point, points)}
        for point in points
    ]
    sizings = [demand.rated(name, settings) for name in dict.fromkeys(point.architecture for point in points)]
    drawn = {
        "Throughput over the number of firewalls": figures.throughput(points, settings, scale, titles),
        "A firewall dies": figures.failures(points, titles),
        "Whom the server sees": figures.sources(points, titles),
        "Firewalls needed": figures.needed(sizings, titles),
    }
    results.drawings |= {title: drawing for title, drawing in drawn.items() if drawing}
    for title, drawing in drawn.items():
        if drawing:
            (results.directory / f"{title.lower().replace(' ', '-')}.svg").write_text(drawing)
    (results.directory / "comparison.csv").write_text(as_csv(points))
    asked = [*questions(points, settings, titles), claimed(claims)]
    (results.directory / "comparison.md").write_text("\n".join(map(markdown, asked)))
    results.tables += asked


def questions(points: Sequence[Point], settings: Settings, titles: Mapping[str, str]) -> list[Table]:
    """Return a table for each question, of terminal and page."""

    def table(question: str, cell: Callable[[Point], str | None], measured: bool = True) -> Table:
        """Return a row for each architecture, a column for each number of firewalls; *cell* may have no answer."""
        limited = {point.name for point in points if measured and point.machine_limited}
        answers = {point: cell(point) for point in points}
        cells = {
            (point.architecture, point.firewalls): "–" if answer is None else answer + LIMITED * (point.name in limited)
            for point, answer in answers.items()
        }
        numbers = sorted({number for _, number in cells})
        names = list(dict.fromkeys(name for name, _ in cells))
        return Table(
            question + f" ({LIMITED} the machine was the limit)" * bool(limited),
            ("firewalls", *map(str, numbers)),
            tuple((titles.get(name, name), *(cells.get((name, number), "") for number in numbers)) for name in names),
        )

    def further(point: Point) -> str | None:
        share = next_firewall(point, points)
        return None if share is None else f"{share:.0%}"

    return [
        table("Throughput of all flows together, Mbit/s", lambda point: f"{point.throughput / 1e6:.4g}"),
        table("Throughput of a single flow, Mbit/s", lambda point: f"{point.single_flow / 1e6:.4g}"),
        table("What each further firewall adds, of what the first carries", further, measured=False),
        table("Round trip, idle: median (99th percentile), ms", lambda point: _trip(point.latency_idle)),
        table("Round trip under load: median (99th percentile), ms", lambda point: _trip(point.latency_loaded)),
        Table(
            "What the leg to a firewall adds to a packet, and whether it arrives as it was sent",
            ("", "bytes", "encapsulation", "encrypted", "arrives intact"),
            tuple(
                (
                    titles.get(name, name),
                    str(wire.overhead),
                    wire.encapsulation,
                    *("yes" if each else "no" for each in (wire.encrypted, wire.intact)),
                )
                for name, wire in dict.fromkeys((point.architecture, point.wire) for point in points)
            ),
        ),
        table(
            "CPU seconds per gigabyte",
            lambda point: None if point.cpu_seconds_per_gigabyte is None else f"{point.cpu_seconds_per_gigabyte:.3g}",
        ),
        Table(
            "Whom the server sees",
            ("", "by", "the client is", "the server sees", "X-Forwarded-For"),
            tuple(
                (titles.get(name, name), source.via, source.client, source.seen, source.forwarded_for or "–")
                for (name, _), source in {
                    (point.architecture, source.via): source for point in points for source in point.sources
                }.items()
            ),
        ),
        table(
            "Flows lost when a firewall dies",
            lambda point: f"{point.failure.flows_lost} of {point.failure.flows}" if point.failure else None,
            measured=False,
        ),
        table(
            f"Seconds for which new connections fail when a firewall dies, at time scale {settings.time_scale:g}",
            lambda point: (
                None
                if point.failure is None
                else "not recovered"
                if point.failure.seconds is None
                else f"{point.failure.seconds:.2g}"
            ),
            measured=False,
        ),
        table(
            "One more application: rules of the policy + rules of NAT + listeners",
            lambda point: (
                f"{point.application.policy_rules} + {point.application.nat_rules} + {point.application.listeners}"
            ),
            measured=False,
        ),
        Table(
            "Firewalls needed, one to spare",
            ("demand", *(titles.get(name, name) for name in settings.architectures)),
            tuple(_needed(settings)),
        ),
    ]


def claimed(claims: Sequence[Claim]) -> Table:
    """Return the table of the claims, whether decided or not."""
    return Table(
        "What was claimed",
        ("", "claim", "the announcement's words", "decided by"),
        tuple(
            (each.verdict.value, each.name, f"“{each.quote}” ({each.place})", ", ".join(each.points) or each.detail)
            for each in claims
        ),
    )


def markdown(table: Table) -> str:
    """Return a table with its title as Markdown."""
    rows = [table.columns, ("---",) * len(table.columns), *table.rows]
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return f"**{table.title}**\n\n" + "\n".join(lines) + "\n"


def _trip(latency: Latency) -> str:
    return f"{_ms(latency.median)} ({_ms(latency.p99)})"


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.{2 if seconds < 0.01 else 0}f}"


def next_firewall(point: Point, points: Sequence[Point]) -> float | None:
    """Return what each firewall since the next smaller point added; None where a point for it is missing or limited."""
    mine = {each.firewalls: each for each in points if each.architecture == point.architecture}
    smaller = [number for number in mine if number < point.firewalls]
    if not smaller or 1 not in mine or any(each.machine_limited for each in (mine[1], mine[max(smaller)], point)):
        return None
    return demand.efficiency(mine[max(smaller)], point, mine[1])


def _needed(settings: Settings) -> Iterable[tuple[str, ...]]:
    sizings = [demand.rated(name, settings) for name in settings.architectures]
    for wanted in DEMANDS:
        counts = (sizing.needed(wanted) for sizing in sizings)
        yield quantity(wanted, "bit/s"), *("impossible" if count is None else str(count) for count in counts)


def as_csv(points: Sequence[Point]) -> str:
    """Return a line for each point; columns name their units, what was not measured is empty."""
    text = io.StringIO()
    rows = [dict(_row(point, points)) for point in points]
    writer = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _row(point: Point, points: Sequence[Point]) -> Iterable[tuple[str, object]]:
    yield from (("architecture", point.architecture), ("firewalls", point.firewalls))
    yield "machine_limited", int(point.machine_limited)
    yield "throughput_mbit_s", f"{point.throughput / 1e6:.3f}"
    yield "single_flow_mbit_s", f"{point.single_flow / 1e6:.3f}"
    share = next_firewall(point, points)
    yield "next_firewall_efficiency", "" if share is None else f"{share:.3f}"
    for state, latency in (("idle", point.latency_idle), ("loaded", point.latency_loaded)):
        yield f"latency_{state}_median_ms", f"{latency.median * 1e3:.3f}"
        yield f"latency_{state}_p99_ms", f"{latency.p99 * 1e3:.3f}"
    yield from (("encapsulation", point.wire.encapsulation), ("overhead_bytes", point.wire.overhead))
    yield from (("encrypted", int(point.wire.encrypted)), ("intact", int(point.wire.intact)))
    spent = point.cpu_seconds_per_gigabyte
    yield "cpu_s_per_gb", "" if spent is None else f"{spent:.3f}"
    yield from (("idle_share", f"{point.idle_share:.3f}"), ("thread_share", f"{point.thread_share:.3f}"))
    yield "client", " ".join(dict.fromkeys(source.client for source in point.sources))
    yield "seen", " ".join(f"{source.via}={source.seen}".replace(" ", "-") for source in point.sources)
    yield "forwarded_for", " ".join(source.forwarded_for for source in point.sources if source.forwarded_for)
    failure = point.failure
    yield "flows", failure.flows if failure else ""
    yield "flows_lost", failure.flows_lost if failure else ""
    yield "seconds_lost", f"{failure.seconds:.3f}" if failure and failure.seconds is not None else ""
    yield from (("policy_rules", point.application.policy_rules), ("nat_rules", point.application.nat_rules))
    yield "listeners", point.application.listeners
