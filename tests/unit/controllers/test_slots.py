"""Slots: even, steady when a target goes or comes, and the same every time."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from controllers.slots import SLOTS, assign_slots

names = st.lists(st.from_regex(r"[a-z][a-z0-9]{0,8}", fullmatch=True), min_size=1, max_size=12, unique=True)


@given(names)
def test_the_load_is_even(targets: list[str]) -> None:
    load = Counter(assign_slots(targets, targets))
    assert set(load) == set(targets)
    fair = SLOTS / len(targets)
    assert max(load.values()) <= fair + 3
    assert min(load.values()) >= fair - 3


@given(names, st.data())
def test_a_target_that_goes_moves_only_its_own_slots(targets: list[str], data: st.DataObject) -> None:
    available = data.draw(st.lists(st.sampled_from(targets), unique=True))
    gone = data.draw(st.sampled_from(targets))
    before = assign_slots(targets, available)
    after = assign_slots(targets, [target for target in available if target != gone])
    if after:
        assert [new for old, new in zip(before, after, strict=True) if old != gone] == [s for s in before if s != gone]


@given(names, st.data())
def test_what_one_leaves_is_shared_by_the_rest(targets: list[str], data: st.DataObject) -> None:
    gone = data.draw(st.sampled_from(targets))
    rest = [target for target in targets if target != gone]
    load = Counter(assign_slots(targets, rest))
    assert all(abs(load[target] - SLOTS / len(rest)) <= 6 for target in rest)


@given(names, st.from_regex(r"[a-z][a-z0-9]{0,8}", fullmatch=True))
def test_a_target_that_comes_last_takes_its_share_and_moves_nothing_else(targets: list[str], new: str) -> None:
    targets = [target for target in targets if target != new] or ["other"]
    before, after = assign_slots(targets, targets), assign_slots([*targets, new], [*targets, new])
    assert all(late in (early, new) for early, late in zip(before, after, strict=True))
    assert abs(after.count(new) - SLOTS / (len(targets) + 1)) <= 3


def test_no_target_no_slots() -> None:
    assert assign_slots([], []) == []
    assert assign_slots(["fw1"], []) == []
    assert assign_slots(["fw1"], ["stranger"]) == []


def test_the_assignment_is_written_down() -> None:
    """A changed hash would move flows when a controller is updated."""
    slots = assign_slots(["fw1", "fw2"], ["fw1", "fw2"])
    assert "".join(slot[-1] for slot in slots) == WRITTEN


WRITTEN = "2112221111112221222121211222122212121121111221212221111221211122"
