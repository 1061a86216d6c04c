"""The comparison as tables, CSV and the tree's results."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence

from testbed.comparison import demand, figures
from testbed.comparison.calibration import Calibration
from testbed.comparison.claims import Claim, Verdict
from testbed.comparison.model import Point, Settings
from testbed.progress import quantity
from testbed.results import Check, Label, Measurement, Results, Table

#: Of the table of needed firewalls, in bit/s.
DEMANDS = (1e9, 2.5e9, 5e9, 10e9, 20e9, 40e9)


def add(
    results: Results,
    points: Sequence[Point],
    claims: Sequence[Claim],
    settings: Settings,
    calibration: Calibration,
    titles: Mapping[str, str],
) -> None:
    """Put a comparison into *results*: decided claims are checks; figures and CSV are files of their own as well."""
    scale = calibration.rate_scale
    results.manifest |= {"rate_scale": scale, "rate_scale_because": calibration.reason}
    decided = (claim for claim in claims if claim.verdict is not Verdict.NOT_DECIDED)
    results.checks += [Check(claim.name, claim.verdict is Verdict.HELD, claim.detail) for claim in decided]
    results.measurements += measurements(points)
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
    results.tables += tables(points, claims, settings, titles)


def tables(
    points: Sequence[Point], claims: Sequence[Claim], settings: Settings, titles: Mapping[str, str]
) -> list[Table]:
    """Return the tables for terminal and page; the last one is of the claims."""
    return [
        Table(
            "Throughput in Mbit/s, round trips in ms (99th percentile), CPU",
            (
                "architecture", "firewalls", "together", "one flow", "next adds", "round trip", "loaded", "CPU s/GB",
                "idle CPU", "limit",
            ),
            tuple(_performance(points)),
        ),
        Table(
            "On the wire, the source, a failure, what to configure for one more application",
            (
                "architecture", "firewalls", "overhead", "server sees the client", "flows lost", "for", "rules",
                "listeners",
            ),
            tuple(_operation(points)),
        ),
        Table(
            "Firewalls needed, one to spare",
            ("demand", *(titles.get(name, name) for name in settings.architectures)),
            tuple(_needed(settings)),
        ),
        Table(
            "What was claimed",
            ("", "claim", "the announcement's words", "decided by"),
            tuple(
                (each.verdict.value, each.name, f"“{each.quote}” ({each.place})", ", ".join(each.points) or each.detail)
                for each in claims
            ),
        ),
    ]  # fmt: skip


def _performance(points: Sequence[Point]) -> Iterable[tuple[str, ...]]:
    for point in points:
        yield (
            point.architecture,
            str(point.firewalls),
            f"{point.throughput / 1e6:.4g}",
            f"{point.single_flow / 1e6:.4g}",
            "–" if (share := next_firewall(point, points)) is None else f"{share:.0%}",
            *(f"{_ms(trip.median)} ({_ms(trip.p99)})" for trip in (point.latency_idle, point.latency_loaded)),
            "–" if point.cpu_seconds_per_gigabyte is None else f"{point.cpu_seconds_per_gigabyte:.3g}",
            f"{point.idle_share:.0%}",
            "machine" * point.machine_limited,
        )


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.{2 if seconds < 0.01 else 0}f}"


def next_firewall(point: Point, points: Sequence[Point]) -> float | None:
    """Return what each firewall since the next smaller point added; None where a point for it is missing or limited."""
    mine = {each.firewalls: each for each in points if each.architecture == point.architecture}
    smaller = [number for number in mine if number < point.firewalls]
    if not smaller or 1 not in mine or any(each.machine_limited for each in (mine[1], mine[max(smaller)], point)):
        return None
    return demand.efficiency(mine[max(smaller)], point, mine[1])


def _operation(points: Sequence[Point]) -> Iterable[tuple[str, ...]]:
    for point in points:
        failure = point.failure
        lasted = "–" if failure is None else "not recovered" if failure.seconds is None else f"{failure.seconds:.3g} s"
        seen = (
            f"{source.via}: {'yes' if source.kept else f'no, {source.seen}'}"
            + (f", X-Forwarded-For {source.forwarded_for}" if source.forwarded_for else "")
            for source in point.sources
        )
        yield (
            point.architecture,
            str(point.firewalls),
            f"{point.wire.overhead} B {point.wire.encapsulation}{', encrypted' * point.wire.encrypted}",
            "; ".join(seen),
            "–" if failure is None else f"{failure.flows_lost} of {failure.flows}",
            lasted,
            str(point.application.rules),
            str(point.application.listeners),
        )


def _needed(settings: Settings) -> Iterable[tuple[str, ...]]:
    sizings = [demand.rated(name, settings) for name in settings.architectures]
    for wanted in DEMANDS:
        counts = (sizing.needed(wanted) for sizing in sizings)
        yield quantity(wanted, "bit/s"), *("impossible" if count is None else str(count) for count in counts)


def measurements(points: Sequence[Point]) -> list[Measurement]:
    """Return all numbers of the points."""
    found = []
    for point in points:
        labels: dict[str, Label] = {"architecture": point.architecture, "firewalls": point.firewalls}
        if point.machine_limited:
            labels["limit"] = "machine"
        # Not in bit/s: the page draws what is in bit/s as bars, and has a figure of these.
        values: list[tuple[str, float, str]] = [
            ("throughput", point.throughput / 1e6, "Mbit/s"),
            ("throughput of one flow", point.single_flow / 1e6, "Mbit/s"),
            ("round trip", point.latency_idle.median, "s"),
            ("round trip, 99th percentile", point.latency_idle.p99, "s"),
            ("round trip under load", point.latency_loaded.median, "s"),
            ("round trip under load, 99th percentile", point.latency_loaded.p99, "s"),
            ("overhead of a packet", point.wire.overhead, "B"),
            ("idle CPU", 100 * point.idle_share, "%"),
            ("busiest thread", 100 * point.thread_share, "%"),
            ("rules for one more application", point.application.rules, ""),
            ("listeners for one more application", point.application.listeners, ""),
        ]
        if point.cpu_seconds_per_gigabyte is not None:
            values.append(("CPU per gigabyte", point.cpu_seconds_per_gigabyte, "s"))
        if point.failure:
            values.append(("flows lost in a failure", point.failure.flows_lost, "flows"))
            if point.failure.seconds is not None:
                values.append(("time lost in a failure", point.failure.seconds, "s"))
        found += [Measurement(name, float(value), unit, dict(labels)) for name, value, unit in values]
    return found


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
    yield "encrypted", int(point.wire.encrypted)
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
    yield from (("rules", point.application.rules), ("listeners", point.application.listeners))
