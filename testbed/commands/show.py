"""``bumpwire show``"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from testbed.errors import RequestError

if TYPE_CHECKING:
    from rich.console import Console

    from topologies.model import Topology
    from topologies.walk import Hop


def command(
    topology: str = typer.Argument("gwlb", help="A topology's name or the path of its file."),
    mermaid: bool = typer.Option(False, "--mermaid", help="Print the diagram as mermaid text."),
    svg: Path | None = typer.Option(None, "--svg", metavar="FILE", help="Write the diagram as SVG."),
    path: tuple[str, str] | None = typer.Option(
        None, "--path", metavar="SOURCE DESTINATION", help="The walk of a packet between two hosts, hop by hop."
    ),
    reply: bool = typer.Option(False, "--return", help="With --path: the walk of the reply as well."),
    zone: str | None = typer.Option(None, "--zone", metavar="AZ", help="With --path: what appliance mode chooses."),
    as_json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """Show a topology: its route tables, its diagram, or the walk of a packet."""
    from rich.console import Console

    from topologies.loader import load_topology

    loaded = load_topology(topology)
    console = Console(highlight=False) if sys.stdout.isatty() else Console(highlight=False, width=180)
    if (reply or zone) and not path:
        raise RequestError("--return and --zone are about a walk: add --path SOURCE DESTINATION")
    if svg:
        from topologies.diagram import svg as draw

        try:
            svg.write_text(draw(loaded))
        except OSError as error:
            raise RequestError(f"cannot write {svg}: {error.strerror}") from None
        console.print(f"wrote {svg}")
    if mermaid:
        from topologies.diagram import mermaid as describe

        print(describe(loaded), end="")
    if path:
        show_walks(console, loaded, *path, reply, zone, as_json)
    elif as_json:
        print(json.dumps(everything(loaded), indent=2))
    elif not (svg or mermaid):
        show_tables(console, loaded)


def show_tables(console: Console, topology: Topology) -> None:
    """Print each route table with the routes that can win."""
    from rich.table import Table

    console.print(f"[bold]{topology.name}[/]  {topology.description}\n")
    for element, tables in route_tables(topology).items():
        grid = Table(title=f"[bold]{element}[/]", title_justify="left", box=None, padding=(0, 2), header_style="dim")
        for heading in ("route table", "associated with", "destination", "target", "", "origin"):
            grid.add_column(heading)
        for name, table in tables.items():
            title, associated = name, ", ".join(table["associations"])
            for route in table["routes"] or [dict.fromkeys(("destination", "target", "kind", "origin"), "")]:
                kind = "" if route["kind"] == route["target"] else f"[dim]{route['kind']}[/]"
                grid.add_row(title, associated, route["destination"], route["target"], kind, route["origin"])
                title = associated = ""
        console.print(grid, "")


def route_tables(topology: Topology) -> dict[str, dict[str, dict[str, Any]]]:
    """Return, by element and table, the ``associations`` and the ``routes``: destination, target, kind, origin."""
    from topologies.routing import Route, tgw_routes, vpc_routes

    def table(associations: tuple[str, ...], routes: list[Route]) -> dict[str, Any]:
        words = [
            {
                "destination": str(route.destination),
                "target": route.target,
                "kind": route.kind.value,
                "origin": route.origin.value,
            }
            for route in routes
        ]
        return {"associations": list(associations), "routes": words}

    found = {}
    for vpc_name, vpc in topology.vpcs.items():
        found[f"VPC {vpc_name} {vpc.cidr}"] = {
            name: table((*filter(None, [item.gateway]), *item.subnets), vpc_routes(topology, vpc_name, name))
            for name, item in vpc.route_tables.items()
        }
    for tgw_name, gateway in topology.transit_gateways.items():
        found[f"Transit Gateway {tgw_name}"] = {
            name: table(item.associations, tgw_routes(topology, tgw_name, name))
            for name, item in gateway.route_tables.items()
        }
    return found


def everything(topology: Topology) -> dict[str, Any]:
    """Return the whole topology with its ids and the routes that can win."""
    from topologies.ids import resource_ids

    ids = {".".join(place): identity for place, identity in resource_ids(topology).items()}
    return {"topology": topology.model_dump(mode="json"), "ids": ids, "route_tables": route_tables(topology)}


def show_walks(
    console: Console, topology: Topology, source: str, destination: str, reply: bool, zone: str | None, as_json: bool
) -> None:
    """Print the walk, and the reply's; say what else a hash could choose, and whether both are inspected alike."""
    from topologies.walk import inspections, walk, walks

    try:
        there = walk(topology, source, destination, zone)
    except ValueError as error:
        raise RequestError(f"--path: {error}") from None
    back = walk(topology, source, destination, zone, reply=True) if reply else []
    if as_json:
        print(
            json.dumps({"walk": [as_words(hop) for hop in there], "return": [as_words(hop) for hop in back]}, indent=2)
        )
        return
    show_walk(console, f"{source} to {destination}", there)
    if reply and not there[-1].dropped:
        show_walk(console, f"the reply, {destination} to {source}", back)
        seen, answered = inspections(there), inspections(back)
        if seen != answered[::-1]:
            console.print(
                f"[red]Asymmetric[/]: inspected at {' and '.join(seen) or 'no endpoint'} on the way there, at "
                f"{' and '.join(answered) or 'no endpoint'} on the way back: no firewall sees the whole flow."
            )
        elif seen:
            console.print(f"Both directions are inspected at {' and '.join(seen)}, by the same firewall.")
    others = walks(topology, source, destination)[1:]
    if others and not zone:
        console.print("Appliance mode can choose another zone for other flows: --zone AZ shows their walk.")


def show_walk(console: Console, title: str, hops: list[Hop]) -> None:
    from rich.table import Table

    grid = Table(title=f"[bold]{title}[/]", title_justify="left", box=None, padding=(0, 2), header_style="dim")
    for heading in ("", "decision", "target", "AZ", "packet", "why"):
        grid.add_column(heading)
    for number, hop in enumerate(hops, start=1):
        choices = ", ".join(name.split()[-1] for name in hop.alternatives)
        packet = f"{hop.packet.source} → {hop.packet.destination}"
        style = "red" if hop.dropped else None
        grid.add_row(str(number), hop.decision, choices or hop.target, hop.az, packet, hop.why, style=style)
    console.print(grid, "")


def as_words(hop: Hop) -> dict[str, Any]:
    return {
        "decision": hop.decision,
        "element": hop.element,
        "table": hop.table,
        "destination": hop.destination,
        "target": hop.target,
        "az": hop.az,
        "source_address": str(hop.packet.source),
        "destination_address": str(hop.packet.destination),
        "alternatives": list(hop.alternatives),
        "dropped": hop.dropped,
        "why": hop.why,
    }
