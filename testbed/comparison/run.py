"""The loop over the points: measure those that are missing, keep each at once, then decide and report."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Any

from testbed import manifest, report
from testbed.comparison import demand
from testbed.comparison import report as comparison_report
from testbed.comparison import store as stores
from testbed.comparison.calibration import Calibration
from testbed.comparison.claims import Claim, Verdict, decide
from testbed.comparison.model import Architecture, Latency, Point, Settings
from testbed.errors import RequestError
from testbed.run import Run

#: What building a point, its failure and the rest take beside the measurements, in seconds, until it is known.
BUILDING = 45.0
#: What a calibration takes, in seconds: six labs are built.
CALIBRATING = 150.0


@dataclass(frozen=True)
class Tools:
    """The outside world, for tests to replace."""

    clock: Callable[[], float] = time.monotonic
    now: Callable[[], datetime] = lambda: datetime.now(timezone.utc)
    machine: Callable[[], dict[str, Any]] = manifest.machine


def compare(
    run: Run,
    architectures: Sequence[Architecture],
    settings: Settings,
    calibrate: Callable[[], Calibration],
    tools: Tools = Tools(),
) -> list[Claim]:
    """Measure each architecture with each number of firewalls, or go on where an earlier comparison was interrupted.

    *calibrate* is called for a new comparison without a rate scale. The results' folder becomes that of the comparison
    that goes on. Raises RequestError for architectures or numbers that there are not, and what building raises.
    """
    chosen = choose(architectures, settings)
    pairs = planned(chosen, settings)
    machine = tools.machine()
    store, reason = stores.unfinished(run.results.directory.parent, settings, machine, pairs)
    if reason:
        run.narrator.title(reason[0].upper() + reason[1:])
    if store:
        run.results.directory = store.path.parent
    else:
        scale = settings.rate_scale
        if scale:
            calibration = Calibration(scale, "as asked for")
        else:
            with run.narrator.step("choosing the rate scale", CALIBRATING):
                calibration = calibrate()
        store = stores.create(run.results.directory, stores.Plan(settings, calibration, machine, pairs))
    calibration = store.plan.calibration
    run.narrator.title(f"rate_scale {calibration.rate_scale:g}: {calibration.reason}")
    while missing := store.missing:
        name, firewalls = missing[0]
        number, left = len(pairs) - len(missing) + 1, time_left(store.points, missing, settings)
        title = f"{number} of {len(pairs)}: {chosen[name].title}, {firewalls} firewall{'s'[: firewalls != 1]}"
        with run.narrator.step(f"{title}; {words(left)} left", time_left(store.points, missing[:1], settings)):
            store.add(measure(chosen[name], firewalls, calibration.rate_scale, settings, tools))
    order = list(chosen)
    points = sorted(store.points, key=lambda point: (order.index(point.architecture), point.firewalls))
    claims = decide(points, settings, calibration.rate_scale)
    titles = {name: architecture.title for name, architecture in chosen.items()}
    comparison_report.add(run.results, points, claims, settings, calibration, titles)
    show(run, claims)
    return claims


def show(run: Run, claims: Sequence[Claim]) -> None:
    """Print the tables, what became of each claim, and how many could be decided."""
    for table in run.results.tables[:-1]:
        run.narrator.title(table.title)  # a table's own title is folded to the table's width
        run.narrator.console.print(report.grid(replace(table, title="")))
    for check in run.results.checks:
        run.narrator.check(check)
    undecided = [claim for claim in claims if claim.verdict is Verdict.NOT_DECIDED]
    for claim in undecided:
        text = f"  ? {claim.name} not decided: {claim.detail}"
        run.narrator.console.print(text, markup=False, highlight=False, soft_wrap=True)
    run.narrator.title(f"{len(claims) - len(undecided)} of {len(claims)} claims decided")


def choose(architectures: Sequence[Architecture], settings: Settings) -> dict[str, Architecture]:
    """Return the wanted architectures by name, in the settings' order. Raises RequestError for an unknown one."""
    known = {architecture.name: architecture for architecture in architectures}
    for name in settings.architectures:
        if name not in known:
            raise RequestError(f"comparison: no architecture {name!r}; there are: {', '.join(known)}")
    if not settings.architectures or not settings.firewalls or min(settings.firewalls) < 1:
        raise RequestError("comparison: give at least one architecture, and numbers of firewalls from 1")
    for name in settings.architectures:
        if min(settings.firewalls) > known[name].most:
            raise RequestError(f"comparison: {name} has at most {known[name].most} firewalls; give a smaller number")
    return {name: known[name] for name in settings.architectures}


def planned(chosen: Mapping[str, Architecture], settings: Settings) -> tuple[tuple[str, int], ...]:
    """Return the points in the order in which they are measured: few firewalls of all architectures first."""
    numbers = sorted(set(settings.firewalls))
    return tuple((name, number) for number in numbers for name, each in chosen.items() if number <= each.most)


def measure(architecture: Architecture, firewalls: int, rate_scale: float, settings: Settings, tools: Tools) -> Point:
    """Build and measure one point."""
    start = tools.clock()
    with architecture.build(firewalls, rate_scale) as cloud:
        sources, wire, application = tuple(cloud.sources()), cloud.wire(), cloud.application()
        unloaded = cloud.idle(settings.seconds)
        idle = Latency.of(cloud.latency(0, settings.seconds))
        single, together = (cloud.throughput(flows, settings.seconds) for flows in (1, settings.flows))
        loaded = Latency.of(cloud.latency(settings.flows, settings.seconds))
        failure = cloud.failure(settings.flows, settings.seconds) if firewalls > 1 else None
    if not together.rate:
        raise RequestError(f"comparison: {architecture.name} with {firewalls} carried nothing")
    loads = (single.headroom, together.headroom)
    # At scaled rates, what daemons and the rest of the machine do all the time would be most of it.
    spent = max(0.0, together.headroom.busy - unloaded.busy)
    return Point(
        architecture=architecture.name,
        firewalls=firewalls,
        throughput=together.rate,
        single_flow=single.rate,
        latency_idle=idle,
        latency_loaded=loaded,
        wire=wire,
        sources=sources,
        application=application,
        failure=failure,
        cpu_seconds_per_gigabyte=(None if unloaded.idle_share < settings.idle_share else spent / (together.rate / 8e9)),
        idle_share=min(load.idle_share for load in loads),
        thread_share=max(load.thread_share for load in loads),
        machine_limited=(
            single.limited_by_machine(demand.allowed_flow(architecture.name, settings, rate_scale), settings)
            or together.limited_by_machine(demand.allowed(architecture.name, firewalls, settings, rate_scale), settings)
        ),
        time=tools.now().isoformat(timespec="seconds"),
        duration=tools.clock() - start,
    )


def time_left(points: Sequence[Point], missing: Sequence[tuple[str, int]], settings: Settings) -> float:
    """Return the seconds that the missing points take: as those of their architecture did, or as any did."""
    total = 0.0
    for name, _ in missing:
        alike = [point.duration for point in points if point.architecture == name]
        known = alike or [point.duration for point in points]
        total += sum(known) / len(known) if known else BUILDING + 6 * settings.seconds
    return total


def words(seconds: float) -> str:
    """Return a time that is an estimate: ``40 s``, ``12 min``."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
