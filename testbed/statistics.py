"""The median of repeated measurements, with how far they spread."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Summary:
    """Of ``count`` values: the median, which one bad repeat does not move, and the extremes."""

    median: float
    minimum: float
    maximum: float
    count: int


def summarize(values: Sequence[float]) -> Summary:
    """Summarize at least one value. Raises ValueError for none."""
    if not values:
        raise ValueError("nothing was measured")
    return Summary(float(statistics.median(values)), float(min(values)), float(max(values)), len(values))
