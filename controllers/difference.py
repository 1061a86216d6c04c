"""What must change in a switch so that it holds a program: nothing that is right already is touched."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from controllers.flows import Flow, Group, Program


class Operation(Enum):
    ADD = "add"
    MODIFY = "modify"  # a group; a flow is replaced by adding it
    DELETE = "delete"


@dataclass(frozen=True)
class Change:
    operation: Operation
    item: Flow | Group

    def __str__(self) -> str:
        decision = self.item.decision if isinstance(self.item, Flow) else ""
        return f"{self.operation.value} {decision}{': ' if decision else ''}{self.item}"


def difference(installed: Program, desired: Program) -> list[Change]:
    """Return the fewest changes that lead from *installed* to *desired*, in an order that a switch accepts.

    Groups come before the flows that use them and go after, because deleting a group deletes its flows.
    A changed flow is added again, which replaces it in one step and starts its counters anew. What the switch has
    learned in tables that *desired* leaves to it stays.
    """
    flows = {flow.key: flow for flow in installed.flows if flow.table not in desired.learned}
    groups = {group.key: group for group in installed.groups}
    wanted_flows = {flow.key: flow for flow in desired.flows}
    wanted_groups = {group.key: group for group in desired.groups}
    changes = [
        Change(Operation.MODIFY if group.key in groups else Operation.ADD, group)
        for group in desired.groups
        if groups.get(group.key) != group
    ]
    changes += [Change(Operation.ADD, flow) for flow in desired.flows if flows.get(flow.key) != flow]
    changes += [Change(Operation.DELETE, flow) for key, flow in flows.items() if key not in wanted_flows]
    changes += [Change(Operation.DELETE, group) for key, group in groups.items() if key not in wanted_groups]
    return changes
