"""``bumpwire target``"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any

import typer

from testbed.errors import RequestError

if TYPE_CHECKING:
    from rich.table import Table


class Action(str, Enum):
    REGISTER = "register"
    DEREGISTER = "deregister"
    HEALTH = "health"


def command(
    action: Action = typer.Argument(help="health shows the targets' states, as describe-target-health does"),
    targets: list[str] = typer.Argument(None, help="Names of firewalls; health: all of them when left out"),
    gwlb: str = typer.Option("", "--gwlb", metavar="NAME", help="The load balancer; needed where there are several"),
    as_json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """Register targets with a load balancer of the running lab, deregister them, or show their health."""
    import json

    from rich.console import Console

    from testbed.running import management, refusals

    client = management()
    targets = targets or []
    if action is not Action.HEALTH and not targets:
        raise RequestError(f"name the targets: bumpwire target {action.value} fw1")
    with refusals():
        balancer = choose(list(client.topology()["gateway_load_balancers"]), gwlb)
        if action is Action.REGISTER:
            client.register(balancer, targets)
        elif action is Action.DEREGISTER:
            client.deregister(balancer, targets)
        health = client.health(balancer)
    known = [row["target"] for row in health]
    for target in targets:
        if target not in known:
            raise RequestError(
                f"{target} is no target of {balancer}: it has {', '.join(dict.fromkeys(known)) or 'none'}"
            )
    shown = [row for row in health if not targets or row["target"] in targets]
    if as_json:
        print(json.dumps(shown, indent=1))
    else:
        Console(highlight=False).print(table(shown))


def choose(balancers: list[str], wanted: str) -> str:
    """Return the load balancer that is meant. Raises RequestError when that is not clear."""
    if wanted in balancers:
        return wanted
    there = ", ".join(balancers) or "none"
    if wanted:
        raise RequestError(f"--gwlb {wanted}: there is no such load balancer; the running lab has {there}")
    if len(balancers) != 1:
        raise RequestError(f"say which load balancer with --gwlb NAME; the running lab has {there}")
    return balancers[0]


def table(health: list[dict[str, Any]]) -> Table:
    """Return targets' health for the terminal, a row for each target and AZ."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from testbed.watch import STYLES

    grid = Table("target", "AZ", "state", "reason", "description", box=box.SIMPLE_HEAD, pad_edge=False)
    for row in health:
        state = Text(row["state"], STYLES.get(row["state"], ""))
        grid.add_row(row["target"], row["az"], state, row["reason"] or "", Text(row["description"] or ""))
    return grid
