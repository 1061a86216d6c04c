"""Slots: exactly even, steady when a target goes or comes, and the same every time."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from controllers.slots import SLOTS, deal

names = st.from_regex(r"[a-z][a-z0-9]{0,8}", fullmatch=True)
several = st.lists(names, min_size=1, max_size=12, unique=True)
anything = st.lists(st.sampled_from([f"fw{n}" for n in range(6)]), max_size=2 * SLOTS)


def moved(before: list[str], after: list[str]) -> list[tuple[str, str]]:
    return [(old, new) for old, new in zip(before, after, strict=True) if old != new]


@given(st.lists(names, min_size=1, max_size=300, unique=True))
def test_loads_differ_by_at_most_one(targets: list[str]) -> None:
    load = Counter(deal(targets))
    assert sum(load.values()) == SLOTS
    counts = [load[target] for target in targets]
    assert max(counts) - min(counts) <= 1


@given(st.lists(st.sampled_from([f"fw{n}" for n in range(6)]), min_size=1, unique=True), anything)
def test_from_any_deal_the_fewest_slots_move(targets: list[str], previous: list[str]) -> None:
    after = deal(targets, previous)
    load = Counter(after)
    share, over = divmod(SLOTS, len(targets))
    assert sorted(load.values()) == [share] * (len(targets) - over) + [share + 1] * over
    held = Counter(previous[:SLOTS])
    # Each keeps up to its share; of those with more, as many as there are slots over keep one more.
    could_stay = sum(min(held[target], share) for target in targets)
    could_stay += min(over, sum(held[target] > share for target in targets))
    assert sum(old == new for old, new in zip(previous, after, strict=False)) == could_stay


@given(several, st.data())
def test_a_target_that_goes_moves_only_its_own_slots(targets: list[str], data: st.DataObject) -> None:
    gone = data.draw(st.sampled_from(targets))
    before = deal(targets)
    after = deal([target for target in targets if target != gone], before)
    if after:
        assert {old for old, _ in moved(before, after)} <= {gone}
        assert len(moved(before, after)) == before.count(gone)


@given(several, names)
def test_a_target_that_comes_takes_its_share_and_moves_nothing_else(targets: list[str], new: str) -> None:
    targets = [target for target in targets if target != new] or ["other"]
    before = deal(targets)
    after = deal([*targets, new], before)
    assert {to for _, to in moved(before, after)} == {new}
    assert len(moved(before, after)) == after.count(new) == SLOTS // (len(targets) + 1)


@given(several)
def test_dealing_again_changes_nothing(targets: list[str]) -> None:
    slots = deal(targets)
    assert deal(targets, slots) == slots
    assert deal(list(reversed(targets)), slots) == slots


def test_what_one_leaves_is_shared_by_the_rest() -> None:
    before = deal(["fw1", "fw2", "fw3", "fw4"])
    after = deal(["fw1", "fw2", "fw3"], before)
    assert sorted(Counter(new for _, new in moved(before, after)).values()) == [21, 21, 22]


def test_no_target_no_slots() -> None:
    assert deal([]) == []
    assert deal([], ["fw1"] * SLOTS) == []


def test_a_deal_is_written_down() -> None:
    """Another rule would move flows when a controller is updated."""
    assert deal(["fw1", "fw2"]) == ["fw1", "fw2"] * (SLOTS // 2)
    assert deal(["fw1", "fw2", "fw3"])[:7] == ["fw1", "fw1", "fw2", "fw3", "fw1", "fw2", "fw3"]
