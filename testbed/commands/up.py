"""``bumpwire up``"""

from __future__ import annotations

import typer


def command(topology: str = typer.Argument("gwlb", help="A topology's name or the path of its file")) -> None:
    """Build a lab and give a prompt (Mininet's CLI); leaving it takes the lab down."""
    from rich.console import Console

    from testbed.lab import Lab
    from testbed.prompt import Prompt
    from topologies.loader import load_topology

    console = Console(stderr=True)
    loaded = load_topology(topology)
    with console.status(f"building {loaded.name}"):
        lab = Lab(loaded).__enter__()
    try:
        Prompt(lab).cmdloop()
    finally:
        with console.status("taking it down"):
            lab.__exit__(None, None, None)
