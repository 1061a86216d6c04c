"""The file of finished points, ``points.jsonl``: what an interrupted comparison goes on from.

Its first line is the plan (settings, calibration, machine), each further line a point. A line counts when it is whole:
what an interruption left half written is cut off before the next point is added.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from testbed.comparison.calibration import Calibration
from testbed.comparison.model import Point, Settings

FILE = "points.jsonl"


@dataclass(frozen=True)
class Plan:
    """What a comparison measures, and with what. *pairs* are the points: (architecture, firewalls)."""

    settings: Settings
    calibration: Calibration
    machine: dict[str, Any]
    pairs: tuple[tuple[str, int], ...]


PLANS, POINTS = TypeAdapter(Plan), TypeAdapter(Point)


@dataclass
class Store:
    """A comparison's file, and the points that are in it."""

    path: Path
    plan: Plan
    points: list[Point]

    @property
    def missing(self) -> list[tuple[str, int]]:
        """The points that are still to be measured, in the plan's order."""
        finished = {(point.architecture, point.firewalls) for point in self.points}
        return [pair for pair in self.plan.pairs if pair not in finished]

    def add(self, point: Point) -> None:
        """Add a finished point; it is on the disk when this returns."""
        _append(self.path, POINTS.dump_json(point))
        self.points.append(point)


def create(directory: Path, plan: Plan) -> Store:
    """Begin a comparison in a directory of its own."""
    directory.mkdir(parents=True, exist_ok=True)
    _append(directory / FILE, PLANS.dump_json(plan))
    return Store(directory / FILE, plan, [])


def read(path: Path) -> Store:
    """Read a comparison's file, and cut off a line that is not whole. Raises ValueError for a file without a plan."""
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    try:
        first, *lines = whole.splitlines()
        plan = PLANS.validate_json(first)
        points = [POINTS.validate_json(line) for line in lines]
    except ValueError:  # pydantic's are as well
        raise ValueError(f"{path.parent.name}/{path.name} is damaged") from None
    if whole != content:
        os.truncate(path, len(whole))
    return Store(path, plan, points)


def unfinished(
    root: Path, settings: Settings, machine: dict[str, Any], pairs: Sequence[tuple[str, int]]
) -> tuple[Store | None, str]:
    """Return the newest comparison below *root* where it can be gone on with, and a line that says why or why not.

    That line is empty where there is nothing to go on with.
    """
    files = sorted(root.glob(f"*-compare*/{FILE}"), key=lambda path: path.stat().st_mtime_ns)
    if not files:
        return None, ""
    try:
        store = read(files[-1])
    except ValueError as error:
        return None, f"starting anew: {error}"
    if not store.missing:
        return None, ""
    plan = store.plan
    reason = (
        _difference("settings", asdict(plan.settings), asdict(settings))
        or _difference("the machine", plan.machine, TypeAdapter(dict[str, Any]).dump_python(machine, mode="json"))
        or ("" if plan.pairs == tuple(pairs) else "the architectures that there are differ")
    )
    if reason:
        return None, f"starting anew: {store.path.parent.name} has {len(store.points)} points, but {reason}"
    done = f"{len(store.points)} of {len(plan.pairs)} points are there"
    return store, f"going on with {store.path.parent.name}: {done}"


def _difference(of: str, before: dict[str, Any], now: dict[str, Any]) -> str:
    for key in {**before, **now}:
        if before.get(key) != now.get(key):
            return f"{of} differ{'s' * (of != 'settings')}: {key} is {now.get(key)}, was {before.get(key)}"
    return ""


def _append(path: Path, line: bytes) -> None:
    with path.open("ab") as file:
        file.write(line + b"\n")
        file.flush()
        os.fsync(file.fileno())
