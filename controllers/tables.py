"""The OpenFlow tables as a page for readers: ``python -m controllers.tables > docs/openflow-tables.md``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from controllers.compiler import compile_topology
from controllers.flows import Action, Ct, Flow, GotoTable, Output, Program, Resubmit, SelectGroup
from topologies.fabric import ElementKind, build_fabric
from topologies.loader import load_topology

TOPOLOGY = "gwlb"

INTRODUCTION = """# OpenFlow tables

What each bridge of the topology `{topology}` holds: its tables, how a packet moves through them, and how many flows
each has. Generated from the compiler by `python -m controllers.tables`; a test holds it to the code. On a running lab,
`ovs-ofctl -O OpenFlow15 dump-flows bw-spoke1` shows the flows themselves, with counters; the cookie of each is the
hash of its decision's name (`topologies.decision`). What nothing in a table matches is dropped there, by a flow that
counts it.
"""


def next_tables(program: Program, flow: Flow) -> Iterator[int | str]:
    """Yield where a flow sends a packet on: tables, ``out``, or nowhere."""
    groups = {group.id: group for group in program.groups}

    def of(actions: tuple[Action, ...]) -> Iterator[int | str]:
        for action in actions:
            to = action.table if isinstance(action, GotoTable | Resubmit | Ct) else None
            if to is not None:
                yield to
            elif isinstance(action, Output):
                yield "out"
            elif isinstance(action, SelectGroup):
                for bucket in groups[action.group].buckets:
                    yield from of(bucket)

    return of(flow.actions)


def diagram(program: Program) -> str:
    """Return a mermaid flowchart of a program's tables."""
    edges = {(flow.table, to) for flow in program.flows for to in next_tables(program, flow)}
    lines = ["```mermaid", "flowchart LR"]
    for number, name in sorted(program.tables.items()):
        lines.append(f'    t{number}["{number} {name}"]')
    lines.append("    out((out))")
    for source, to in sorted(edges, key=str):
        lines.append(f"    t{source} --> {to if to == 'out' else f't{to}'}")
    return "\n".join([*lines, "```"])


def section(name: str, kind: ElementKind, program: Program) -> str:
    lines = [f"## {name} ({kind.value})", "", diagram(program), "", "| table | name | flows |", "| --- | --- | --- |"]
    for number, table in sorted(program.tables.items()):
        count = sum(flow.table == number for flow in program.flows)
        lines.append(f"| {number} | {table} | {count} |")
    for group in program.groups:
        lines += ["", f"Group {group.id} selects among {len(group.buckets)} slots."]
    return "\n".join(lines)


def page(programs: Mapping[str, Program], kinds: Mapping[str, ElementKind]) -> str:
    sections = [section(name, kinds[name], program) for name, program in programs.items()]
    return "\n\n".join([INTRODUCTION.format(topology=TOPOLOGY).strip(), *sections]) + "\n"


def packaged_page() -> str:
    """Return the page of the packaged topology."""
    topology = load_topology(TOPOLOGY)
    kinds = {name: element.kind for name, element in build_fabric(topology).elements.items()}
    return page(compile_topology(topology), kinds)


if __name__ == "__main__":
    print(packaged_page(), end="")
