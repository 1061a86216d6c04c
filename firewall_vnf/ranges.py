"""Sets of integers as ranges: addresses and ports, and the index that answers which of many sets hold a number.

A :data:`Ranges` is sorted, disjoint and inclusive: ``((10, 19), (30, 30))``. Universes begin at 0. IPv6's addresses
come after all of IPv4's: add :data:`IPV6` to their numbers.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv6Address

Ranges = tuple[tuple[int, int], ...]

IPV6 = 1 << 32
ADDRESSES: Ranges = ((0, IPV6 + (1 << 128) - 1),)
PORTS: Ranges = ((0, 65535),)


def number(address: IPv4Address | IPv6Address) -> int:
    """Return the address's number among all of both versions."""
    return int(address) + (IPV6 if address.version == 6 else 0)


def union(ranges: Iterable[tuple[int, int]]) -> Ranges:
    merged: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return tuple(merged)


def complement(ranges: Ranges, universe: Ranges) -> Ranges:
    gaps, free = [], 0
    for first, last in ranges:
        if first > free:
            gaps.append((free, first - 1))
        free = last + 1
    end = universe[-1][1]
    return (*gaps, (free, end)) if free <= end else tuple(gaps)


def covers(outer: Ranges, inner: Ranges) -> bool:
    """True when every number of ``inner`` is in ``outer``."""
    return union((*outer, *inner)) == outer


class Index:
    """Which of some sets hold a number, as a bit mask: bit *i* stands for ``sets[i]``. One bisection a question."""

    __slots__ = ("masks", "starts")

    def __init__(self, sets: Sequence[Ranges]) -> None:
        toggles = {0: 0}
        for position, ranges in enumerate(sets):
            for first, last in ranges:
                toggles[first] = toggles.get(first, 0) ^ 1 << position
                toggles[last + 1] = toggles.get(last + 1, 0) ^ 1 << position
        self.starts: list[int] = []
        self.masks: list[int] = []
        mask = 0
        for start, toggled in sorted(toggles.items()):
            mask ^= toggled
            self.starts.append(start)
            self.masks.append(mask)

    def mask(self, number: int) -> int:
        return self.masks[bisect_right(self.starts, number) - 1]
