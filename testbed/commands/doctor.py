"""``bumpwire doctor``"""

from __future__ import annotations

from typing import Annotated

import typer


def command(json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Say what this machine can do, what is missing, what that costs and what to install.

    Exits with 0 when a lab can run here, with 3 when it cannot.
    """
    from rich.console import Console
    from rich.table import Table

    from testbed import doctor

    found = doctor.capabilities()
    if json:
        print(doctor.as_json(found))
    else:
        console = Console(highlight=False)
        table = Table.grid(padding=(0, 2))
        colour = {"ok": "green", "degraded": "yellow", "missing": "red", "unknown": "yellow"}
        for one in found:
            table.add_row(one.name, f"[{colour[one.state.value]}]{one.state.value}", one.detail)
            if one.cost:
                table.add_row("", "", f"[dim]costs:[/] {one.cost}")
                table.add_row("", "", f"[dim]to do:[/] {one.remedy}")
        console.print(table)
        blocking = [one.name for one in found if one.essential and not one.usable]
        console.print(f"\nA lab cannot run here: {', '.join(blocking)}." if blocking else "\nA lab can run here.")
    if not doctor.can_run(found):
        raise typer.Exit(3)
