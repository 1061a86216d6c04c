"""What a run says while it runs: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from testbed.results import Check, Measurement


class Narrator:
    """Tells *console* what happens. One step is under way at a time."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def title(self, text: str) -> None:
        self.console.print(f"\n[bold]{escape(text)}[/]", highlight=False, soft_wrap=True)

    @contextmanager
    def step(self, text: str, seconds: float | None = None) -> Iterator[None]:
        """Show that *text* is under way; with a bar where it is known to take so many *seconds*."""
        if not self.console.is_terminal:
            self.console.print(f"  {text} …", markup=False, highlight=False, soft_wrap=True)
            yield
            return
        bar = [BarColumn(bar_width=24)] if seconds else []
        columns = [SpinnerColumn(), TextColumn("{task.description}"), *bar, TimeElapsedColumn()]
        with Progress(*columns, console=self.console, transient=True) as progress:
            task = progress.add_task(escape(text), total=seconds)
            done = threading.Event()
            follower = threading.Thread(target=_follow, args=(progress, task, seconds, done), daemon=True)
            if seconds:
                follower.start()
            try:
                yield
            finally:
                done.set()

    def check(self, check: Check) -> None:
        mark = "[green]✓[/]" if check.passed else "[bold red]✗[/]"
        detail = f" [dim]{escape(check.detail)}[/]" if check.detail else ""
        self.console.print(f"  {mark} {escape(check.name)}{detail}", highlight=False, soft_wrap=True)

    def measurement(self, measurement: Measurement) -> None:
        value = quantity(measurement.value, measurement.unit)
        self.console.print(
            f"  [cyan]•[/] {escape(measurement.name)}: [bold]{value}[/]", highlight=False, soft_wrap=True
        )


def _follow(progress: Progress, task: object, seconds: float, done: threading.Event) -> None:
    start = time.monotonic()
    while not done.wait(0.1):
        progress.update(task, completed=min(time.monotonic() - start, seconds))  # type: ignore[arg-type]


def quantity(value: float, unit: str) -> str:
    """Return a number as an engineer writes it: ``1.62 Gbit/s``, ``3.4 ms``, ``12 segments``."""
    if unit == "s":
        for factor, name in ((1, "s"), (1e-3, "ms"), (1e-6, "µs")):
            if abs(value) >= factor or name == "µs":
                return f"{value / factor:.3g} {name}"
    if unit == "%":
        return f"{value:.3g} %"
    for factor, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor and unit in ("bit/s", "B"):
            return f"{value / factor:.3g} {prefix}{unit}"
    number = f"{value:,.0f}" if value == int(value) or abs(value) >= 1000 else f"{value:.3g}"
    return f"{number} {unit}".strip()
