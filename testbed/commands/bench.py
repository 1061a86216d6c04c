"""``bumpwire bench``"""

from __future__ import annotations

from enum import Enum
from pathlib import Path

import typer


class Parts(str, Enum):
    """The parts of the benchmark."""

    PATH = "path"
    ENGINE = "engine"
    SERVICE = "service"


def command(
    rounds: int = typer.Option(3, min=1, help="how often each variant takes its turn; the median counts"),
    seconds: float = typer.Option(3, min=1, help="how long one measurement takes"),
    only: Parts | None = typer.Option(None, help="measure this part alone", show_default="all of them"),
    soak: int = typer.Option(0, min=0, metavar="FRAMES", help="instead, feed the engine so many fuzzed frames"),
    json_file: Path | None = typer.Option(None, "--json", metavar="FILE", help="write result.json there as well"),
    results: Path = typer.Option(Path("results"), metavar="DIR", help="where the results' folder is made"),
) -> None:
    """Measure the performance table, side by side in one run. Nothing else should run meanwhile."""
    from datetime import datetime, timezone

    from rich.console import Console

    from testbed import figures, manifest, report
    from testbed.bench import EngineBench, Part, PathBench, soak_measurements, target_table
    from testbed.bench_service import ServiceBench
    from testbed.progress import Narrator
    from testbed.results import new_results
    from topologies.loader import load_topology

    console = Console()
    narrator = Narrator(console)
    start = datetime.now(timezone.utc)
    kept = new_results("soak" if soak else "bench", command.__doc__ or "", results, start)
    kept.manifest = manifest.machine() | {"time": start.isoformat(timespec="seconds")}
    try:
        if soak:
            with narrator.step(f"{soak:,} fuzzed frames"):
                kept.measurements += soak_measurements(soak)
        else:
            topology = load_topology("gwlb")
            parts: dict[Parts, Part] = {
                Parts.PATH: PathBench(kept, narrator, topology, rounds, seconds),
                Parts.ENGINE: EngineBench(kept, narrator),
                Parts.SERVICE: ServiceBench(kept, narrator, topology, rounds, seconds),
            }
            measured = [part for name, part in parts.items() if only in (None, name)]
            for part in measured:
                part.run()
            kept.tables += [table for part in measured for table in part.tables()]
            kept.tables.append(target_table(target for part in measured for target in part.targets()))
    finally:
        path = kept.write(json_file)
        path.with_name("report.html").write_text(report.html(kept))
        if bars := figures.variant_bars(kept.measurements):
            path.with_name("throughput.svg").write_text(bars)
        kept.hand_over()
    report.show(kept, console)
    for table in kept.tables:
        console.print(report.grid(table))
    console.print(path.parent, highlight=False, soft_wrap=True)
