"""``bumpwire list``"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import typer


def command(json: bool = typer.Option(False, "--json", help="Print JSON.")) -> None:
    """List the topologies and the scenarios that there are."""
    from json import dumps

    from rich.console import Console
    from rich.table import Table

    from topologies.catalogue import packaged
    from topologies.loader import load_topology

    listed = {
        "topologies": {name: load_topology(name).description for name in packaged()},
        "scenarios": dict(scenarios()),
    }
    if json:
        print(dumps(listed, indent=2))
        return
    console = Console(highlight=False)
    for kind, entries in listed.items():
        table = Table.grid(padding=(0, 2))
        for name, description in entries.items():
            table.add_row(f"  [bold]{name}[/]", description)
        console.print(f"[bold]{kind}[/]", table, sep="\n")
    console.print("\nbumpwire show TOPOLOGY · bumpwire up TOPOLOGY · bumpwire run SCENARIO")


def scenarios() -> Iterator[tuple[str, str]]:
    """Yield the name of each script and the first line of its docstring. Nothing is imported."""
    spec = find_spec("scripts")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for path in sorted(Path(folder).glob("[!_]*.py")):
            documentation = ast.get_docstring(ast.parse(path.read_text(), str(path))) or ""
            yield path.stem.replace("_", "-"), documentation.partition("\n")[0]
