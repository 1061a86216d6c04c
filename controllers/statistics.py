"""What load balancers carry: packets and bytes by forwarding decision, and how many flows each endpoint has.

The OpenFlow application asks the switches and writes the file beside its status file; the management process makes
AWS's metrics of it. ``STATUS.statistics.json`` is replaced whole, again and again::

    {"time": Unix time, "decisions": {DECISION: [packets, bytes]}, "flows": {ENDPOINT: flows that are known now}}

Bytes are those of Ethernet frames. Sums of a decision never fall while the application runs. An endpoint is missing in
``flows`` where Open vSwitch did not say.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError


class Count(NamedTuple):
    packets: int = 0
    bytes: int = 0


class Statistics(BaseModel):
    """The file's content."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    time: float
    decisions: dict[str, Count] = {}
    flows: dict[str, int] = {}

    @classmethod
    def load(cls, file: Path) -> Statistics | None:
        """Read a file; return None while there is none that is whole."""
        try:
            return cls.model_validate_json(file.read_bytes())
        except (OSError, ValidationError):
            return None

    def save(self, file: Path) -> None:
        """Write a file; who reads it meanwhile finds the old one or the new one, whole."""
        temporary = file.with_name(f"{file.name}.{os.getpid()}")
        temporary.write_text(self.model_dump_json() + "\n")
        temporary.replace(file)


def statistics_file(status: Path) -> Path:
    """Return the file that belongs to the application's status file."""
    return status.with_name(f"{status.stem}.statistics.json")


class Sums:
    """Sums of counters that begin anew when a flow is removed and installed again."""

    def __init__(self) -> None:
        self._last: dict[str, Count] = {}
        self._sums: dict[str, Count] = {}

    def take(self, counters: Mapping[str, Count]) -> None:
        """Add what the counters, by decision, have grown by; those that are missing now begin anew."""
        for decision, now in counters.items():
            last, total = self._last.get(decision, Count()), self._sums.get(decision, Count())
            if now.packets < last.packets:
                last = Count()
            packets, length = now.packets - last.packets, now.bytes - last.bytes
            self._sums[decision] = Count(total.packets + packets, total.bytes + length)
        self._last = dict(counters)

    def sums(self) -> dict[str, Count]:
        return dict(self._sums)


def connections(text: str) -> int | None:
    """Return the total in the output of ``ovs-appctl dpctl/ct-stats-show``; None if it says none."""
    found = re.search(r"^\s*Total: (\d+)$", text, re.MULTILINE)
    return int(found[1]) if found else None


def connections_command(datapath: str, zone: int) -> list[str]:
    """Return the command that counts a conntrack zone's connections; *datapath* is its type, ``system`` or ``netdev``.

    Open vSwitch looks at every connection of the datapath for it, but prints none.
    """
    return ["ovs-appctl", "--timeout=5", "dpctl/ct-stats-show", f"{datapath}@ovs-{datapath}", f"zone={zone}"]
