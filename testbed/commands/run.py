"""``bumpwire run``: run a scenario, prove and measure, keep the results."""

from __future__ import annotations

import sys
from pathlib import Path

import typer
from rich.console import Console

from testbed import doctor
from testbed import scenario as scenarios
from testbed.lab import NEEDS

#: Columns of the table where there is no terminal.
PLAIN_WIDTH = 120


def command(
    scenario: str = typer.Argument(help="a name of `bumpwire list`, or the path of a script of your own"),
    settings: list[str] = typer.Option([], "--set", metavar="KEY=VALUE", help="change an option; may be repeated"),
    full: bool = typer.Option(False, "--full", help="the long form, of scenarios that have one: --set full=true"),
    json_file: Path | None = typer.Option(None, "--json", metavar="FILE", help="write result.json there as well"),
    repeats: int = typer.Option(1, min=1, help="how often each measurement is taken; the median counts"),
    results: Path = typer.Option(Path("results"), metavar="DIR", help="where the results' folder is made"),
    datapath: str | None = typer.Option(None, help="force Open vSwitch's datapath: system or netdev"),
) -> None:
    """Run a scenario; exits with 0 when every check held, and 1 when one did not."""
    found = scenarios.find(scenario)
    options = scenarios.parse_options(found, [*settings, "full=true"] if full else settings)
    doctor.require(*NEEDS, "iperf3", "ping")  # before anything is built, not in the middle of a story
    console = Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH)
    passed = scenarios.execute(
        found, options, console, results, repeats=repeats, datapath=datapath, json_file=json_file
    )
    raise typer.Exit(0 if passed else 1)
