"""What a run proved and measured, and the folder that keeps it: ``results/<time>-<scenario>/``.

``result.json``::

    {"scenario": str, "status": "passed" | "failed", "checks": [{"name", "passed", "detail"}],
     "measurements": [{"name", "value", "unit", "labels": {…}}], "manifest": {…}}

Beside it are ``report.html``, iperf3's own reports, and the firewalls' logs.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from testbed.errors import RequestError

PASSED, FAILED = "passed", "failed"
Label = str | int | float


@dataclass(frozen=True)
class Check:
    """One thing that must hold. ``detail`` says what was seen, whether it held or not."""

    name: str
    passed: bool
    detail: str = ""


@dataclass(frozen=True)
class Measurement:
    """A number with its unit (bit/s, s, packets, 1/s, …). ``labels`` say of what, and how repeats spread."""

    name: str
    value: float
    unit: str
    labels: dict[str, Label]


@dataclass(frozen=True)
class Series:
    """Values over time, for the report's figures: (seconds since the start, value)."""

    title: str
    unit: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Table:
    """Evidence for the report that is neither check nor measurement: a path with its counters, sessions."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass
class Results:
    """What one run of *scenario* has come to so far, to be kept in *directory*, which is made when it is needed."""

    scenario: str
    description: str
    directory: Path
    checks: list[Check] = field(default_factory=list)
    measurements: list[Measurement] = field(default_factory=list)
    series: list[Series] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    drawings: dict[str, str] = field(default_factory=dict)  # SVG by title, for the report
    manifest: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)  # what tables and figures show, for other programs

    @property
    def passed(self) -> bool:
        """Whether every check held."""
        return all(check.passed for check in self.checks)

    @property
    def empty(self) -> bool:
        """Whether nothing was proved or measured."""
        return not self.checks and not self.measurements

    def document(self) -> dict[str, Any]:
        """Return the content of ``result.json``."""
        return {
            "scenario": self.scenario,
            "status": PASSED if self.passed else FAILED,
            "checks": [asdict(check) for check in self.checks],
            "measurements": [asdict(measurement) for measurement in self.measurements],
            "manifest": self.manifest,
        } | ({"data": self.data} if self.data else {})

    def save(self, name: str, content: str | bytes) -> Path:
        """Keep a file of that name; a second one of the same name is numbered. Return its path."""
        path = self.directory / file_name(name)
        number = 1
        while path.exists():
            number += 1
            path = path.with_name(f"{Path(file_name(name)).stem}-{number}{path.suffix}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def keep(self, directory: Path, kind: str, name: str) -> None:
        """Copy the files of a directory, such as a firewall's logs, to the folder *kind*/*name*."""
        shutil.copytree(directory, self.directory / file_name(kind) / name, dirs_exist_ok=True, ignore=_ignore_sockets)

    def write(self, json_file: Path | None = None) -> Path:
        """Write ``result.json``, and a copy of it to *json_file*. Return the path.

        Raises RequestError where *json_file* cannot be written; the run's own folder is complete by then.
        """
        text = json.dumps(self.document(), indent=2, ensure_ascii=False) + "\n"
        self.directory.mkdir(parents=True, exist_ok=True)
        path = self.directory / "result.json"
        path.write_text(text)
        if json_file:
            try:
                json_file.write_text(text)
            except OSError as error:
                raise RequestError(f"--json {json_file}: {error.strerror}; the result is in {path}") from None
        return path

    def hand_over(self) -> None:
        """Give the folder to the user who called sudo, if one did."""
        user, group = os.environ.get("SUDO_UID"), os.environ.get("SUDO_GID")
        if os.geteuid() == 0 and user and group:
            for path in (self.directory.parent, self.directory, *self.directory.rglob("*")):
                os.chown(path, int(user), int(group))


def new_results(scenario: str, description: str, root: Path, time: datetime) -> Results:
    """Return empty results whose folder below *root* is named for the time and the scenario, and is new."""
    stem = f"{time:%Y-%m-%dT%H-%M-%S}-{file_name(scenario)}"
    directory, number = root / stem, 1
    while directory.exists():
        number += 1
        directory = root / f"{stem}-{number}"
    return Results(scenario, description, directory)


def file_name(title: str) -> str:
    """Return *title* with only letters, digits, dots and dashes, fit for a file's name."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", title).strip("-")


def _ignore_sockets(directory: str, names: Sequence[str]) -> set[str]:
    return {name for name in names if not Path(directory, name).is_file()}
