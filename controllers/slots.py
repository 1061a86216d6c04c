"""Which target serves which slot of a load balancer's node: an even deal that moves as little as it can.

A new flow's hash names a slot, and the slot's target gets the flow. When a target comes or goes, only slots that must
change hands do: those of a target that went, and as many as a newcomer's fair share. So adding or removing one of N
targets moves about 1/N of new flows. AWS does not publish its own algorithm.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

#: The most that Open vSwitch hashes to exactly (OVS source, ofproto-dpif.c, ``MAX_SELECT_GROUP_HASH_VALUES``).
SLOTS = 256


def deal(available: Sequence[str], previous: Sequence[str] = ()) -> list[str]:
    """Return the target of each slot: loads differ by at most one, and the fewest possible slots leave *previous*.

    *available* are the targets, each once; *previous* is an earlier deal, or nothing. Without a target there are no
    slots. What is dealt already stays as it is, so dealing again changes nothing.
    """
    if not available:
        return []
    held = Counter(target for target in previous[:SLOTS] if target in available)
    share, over = divmod(SLOTS, len(available))
    # The one slot more goes to those who have the most: to anybody else it would have to move.
    richest = sorted(available, key=lambda target: -held[target])
    room = {target: share + (place < over) for place, target in enumerate(richest)}
    slots: list[str | None] = []
    for number in range(SLOTS):
        kept = previous[number] if number < len(previous) else None
        if kept is not None and room.get(kept):
            room[kept] -= 1
            slots.append(kept)
        else:
            slots.append(None)
    # The emptiest first, so that what one target leaves is spread over all others.
    return [slot if slot is not None else take(room) for slot in slots]


def take(room: dict[str, int]) -> str:
    target = max(room, key=room.__getitem__)
    room[target] -= 1
    return target
