"""What is wrong in a topology, and what to do about it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches

from topologies.model import Vpc

Place = tuple[str, ...]


@dataclass(frozen=True)
class Problem:
    """What is wrong and what to do about it. ``place`` is a path of keys; ``key``, in it, is where the line is."""

    place: Place
    what: str
    remedy: str
    key: str = ""
    line: int = 0

    def __str__(self) -> str:
        return ": ".join(filter(None, [".".join(self.place), f"{self.what}; {self.remedy}"]))


def did_you_mean(word: str, known: Collection[str]) -> str:
    """Return what to do about a name that is not known."""
    close = get_close_matches(word, known, n=1)
    if close:
        return f"did you mean {close[0]}?"
    return f"there are: {', '.join(known)}" if known else "there is none"


def one_subnet_a_zone(place: Place, vpc_name: str, vpc: Vpc, subnets: Iterable[str]) -> Iterator[Problem]:
    """Yield the problems of a list of subnets of which each AZ may have one."""
    first: dict[str, str] = {}
    for subnet in subnets:
        if subnet not in vpc.subnets:
            yield Problem(
                place, f"VPC {vpc_name} has no subnet {subnet!r}", did_you_mean(subnet, vpc.subnets), "subnets"
            )
            continue
        az = vpc.subnets[subnet].az
        if az in first:
            yield Problem(
                place, f"{subnet} and {first[az]} are both in AZ {az}", "keep one subnet for each AZ", "subnets"
            )
        first.setdefault(az, subnet)
    if not subnets:
        yield Problem(place, "no subnets", "list one subnet for each AZ", "subnets")
