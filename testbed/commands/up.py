"""``bumpwire up``"""

from __future__ import annotations

import typer


def command(topology: str = typer.Argument("gwlb", help="A topology's name or the path of its file")) -> None:
    """Build a lab and give a prompt (Mininet's CLI); leaving it takes the lab down."""
    from contextlib import ExitStack

    from rich.console import Console

    from testbed.lab import Lab
    from testbed.prompt import Prompt
    from topologies.loader import load_topology

    loaded = load_topology(topology)
    with ExitStack() as stack:
        with Console(stderr=True).status(f"building {loaded.name}"):
            lab = stack.enter_context(Lab(loaded))
        Prompt(lab)
