"""Differences: the least that leads from any program to any other, in an order that a switch accepts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from controllers.difference import Change, Operation, difference
from controllers.flows import Flow, Group, Output, Program, SelectGroup, match

flows = st.builds(
    lambda table, priority, port, out, cookie: Flow(table, priority, match(in_port=port), (Output(out),), cookie),
    st.integers(0, 2),
    st.integers(0, 2),
    st.integers(1, 2),
    st.integers(1, 2),
    st.integers(0, 1),
)
groups = st.builds(lambda number, out: Group(number, ((Output(out),),)), st.integers(1, 3), st.integers(1, 2))
programs = st.builds(
    lambda some, others: Program(tuple(some), tuple(others)),
    st.lists(flows, unique_by=lambda flow: flow.key),
    st.lists(groups, unique_by=lambda group: group.key),
)


def applied(program: Program, changes: list[Change]) -> Program:
    """Do what a switch does."""
    held_flows = {flow.key: flow for flow in program.flows}
    held_groups = {group.key: group for group in program.groups}
    for change in changes:
        if isinstance(change.item, Flow):
            if change.operation is Operation.DELETE:
                del held_flows[change.item.key]
            else:
                held_flows[change.item.key] = change.item
        elif change.operation is Operation.DELETE:
            del held_groups[change.item.key]
        else:
            assert (change.item.key in held_groups) == (change.operation is Operation.MODIFY)
            held_groups[change.item.key] = change.item
    return Program(tuple(held_flows.values()), tuple(held_groups.values()))


@given(programs, programs)
def test_a_difference_leads_there_and_no_further(installed: Program, desired: Program) -> None:
    changes = difference(installed, desired)
    result = applied(installed, changes)
    assert result.digest == desired.digest
    assert difference(result, desired) == []


@given(programs, programs)
def test_what_is_right_is_not_touched(installed: Program, desired: Program) -> None:
    right = set(installed.flows) & set(desired.flows), set(installed.groups) & set(desired.groups)
    items = {change.item for change in difference(installed, desired)}
    assert not items & (right[0] | right[1])
    assert len(difference(installed, desired)) == len(items)


@given(programs, programs, st.frozensets(st.integers(0, 2)))
def test_what_a_switch_learned_is_left_alone(installed: Program, desired: Program, learned: frozenset[int]) -> None:
    desired = Program(tuple(f for f in desired.flows if f.table not in learned), desired.groups, learned=learned)
    changes = difference(installed, desired)
    assert not [change for change in changes if isinstance(change.item, Flow) and change.item.table in learned]
    result = applied(installed, changes)
    assert Program(result.flows, result.groups, learned=learned).digest == desired.digest
    assert {f for f in result.flows if f.table in learned} == {f for f in installed.flows if f.table in learned}


def test_a_group_comes_before_its_flows_and_goes_after() -> None:
    using = Flow(0, 1, match(), (SelectGroup(1),), 0)
    full, empty = Program((using,), (Group(1, ((Output(1),),)),)), Program()
    there, back = difference(empty, full), difference(full, empty)
    assert [type(change.item) for change in there] == [Group, Flow]
    assert [type(change.item) for change in back] == [Flow, Group]


def test_a_change_names_its_decision() -> None:
    flow = Flow(0, 1, match(in_port=3), (), 0xAB, "tgw/spokes no route")
    (change,) = difference(Program(), Program((flow,)))
    assert str(change) == "add tgw/spokes no route: cookie=0xab, table=0, priority=1,in_port=3 actions=drop"
