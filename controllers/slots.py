"""Which target serves which slot of a load balancer: rendezvous choice with balanced load.

A new flow's hash names a slot. As in rendezvous hashing each slot ranks all registered targets and takes the first
that is available, so a target that becomes unavailable moves only the slots that it served, and they come back with it.
Ranks drawn by hash alone would be uneven over 64 slots; here each target is dealt evenly into the ranks of those before
it, so that the load is even, and stays about even when targets are missing. A target registered last takes its fair
share from each other one and moves nothing else. AWS does not publish its own algorithm.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence

SLOTS = 64


def assign_slots(registered: Sequence[str], available: Collection[str], slots: int = SLOTS) -> list[str]:
    """Return the target of each slot, out of *available*; empty when no registered target is.

    *registered* is in the order of registration: the same order always gives the same slots.
    """
    ranks: list[tuple[int, ...]] = [()] * slots
    for number, target in enumerate(registered):
        # Slots of equal ranks lie side by side, so that dealing places in turn is even within each such set.
        dealt = sorted(range(slots), key=lambda slot: (ranks[slot], draw(target, slot)))
        for turn, slot in enumerate(dealt):
            place = turn % (number + 1)
            ranks[slot] = (*ranks[slot][:place], number, *ranks[slot][place:])
    usable = {number for number, target in enumerate(registered) if target in available}
    if not usable:
        return []
    return [registered[next(number for number in rank if number in usable)] for rank in ranks]


def draw(target: str, slot: int) -> bytes:
    return hashlib.blake2b(f"{target}/{slot}".encode(), digest_size=8).digest()
