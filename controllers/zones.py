"""Conntrack's idle time-outs in Open vSwitch: in its database, because OpenFlow does not know them.

What Open vSwitch 3.1 and 3.5 do, and their documents do not say:

* A connection stays with the policy that it began with. When no zone has that policy any more, the userspace datapath
  forgets it and gives the connection a day. So a policy that was in force stays, with a zone that nobody uses: a
  changed time-out is for new connections, and those that there are keep theirs.
* 3.5 ignores the policy that a new zone comes with, and follows a zone that gets one later.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

#: From this number on, zones keep policies alive.
KEEPERS = 0xFF00

Policy = tuple[tuple[str, int], ...]
"""Seconds by Open vSwitch's names, sorted."""


class ZoneError(Exception):
    """Open vSwitch refused the time-outs; one line, its own words."""


@dataclass(frozen=True)
class Zone:
    """A zone's row in the database: its UUID, and what it has."""

    row: str
    policy: Policy | None


def set_zone_timeouts(datapath: str, timeouts: Mapping[int, Mapping[str, int]]) -> bool:
    """Give each zone of *datapath* (``system`` or ``netdev``) its time-outs: seconds by Open vSwitch's names.

    Connections that there are keep theirs. Returns False, having changed nothing, while Open vSwitch has no record of
    the datapath. Raises ZoneError.
    """
    record = _record(datapath)
    if record is None:
        return False
    zones = _zones(record)
    wanted: dict[int, Policy] = {number: tuple(sorted(policy.items())) for number, policy in timeouts.items()}
    keepers = {number: zone.policy for number, zone in zones.items() if number >= KEEPERS}
    new = sorted(set(wanted.values()) - set(keepers.values()))
    wanted |= dict(enumerate(new, start=KEEPERS + len(keepers)))
    words: list[str] = []
    for number in wanted.keys() - zones.keys():
        words += ["--", f"--id=@zone{number}", "create", "ct_zone", "external_ids:bumpwire=made"]
        words += ["--", "set", "datapath", record, f"ct_zones:{number}=@zone{number}"]
    if words:
        vsctl(*words)
        zones = _zones(record)
    words = []
    for place, policy in enumerate(sorted(set(wanted.values()))):
        rows = [zones[number].row for number in wanted if wanted[number] == policy != zones[number].policy]
        if rows:
            words += ["--", f"--id=@policy{place}", "create", "ct_timeout_policy"]
            words += [f"timeouts:{name}={seconds}" for name, seconds in policy]
        for row in rows:
            words += ["--", "set", "ct_zone", row, f"timeout_policy=@policy{place}"]
    if words:
        vsctl(*words)
    return True


def remove_zones(datapath: str, numbers: list[int]) -> None:
    """Remove zones of *datapath* with their time-outs, and those that keep policies. Raises ZoneError."""
    record = _record(datapath)
    if record is None:
        return
    gone = [str(number) for number in _zones(record) if number in numbers or number >= KEEPERS]
    if gone:
        vsctl("remove", "datapath", record, "ct_zones", *gone)


def _record(datapath: str) -> str | None:
    """Return the UUID of the datapath's record, None where there is none."""
    ((found,),) = _rows("open_vswitch", "datapaths")
    records: dict[str, list[str]] = dict(found[1])
    return records[datapath][1] if datapath in records else None


def _zones(record: str) -> dict[int, Zone]:
    """Return a datapath's zones by number."""
    policies: dict[str, Policy] = {
        row[1]: tuple(sorted((name, seconds) for name, seconds in timeouts[1]))
        for row, timeouts in _rows("ct_timeout_policy", "_uuid,timeouts")
    }
    # A reference is ["uuid", …], none is ["set", []].
    of_zone = {row[1]: policies.get(str(policy[1])) for row, policy in _rows("ct_zone", "_uuid,timeout_policy")}
    found = {row[1]: zones[1] for row, zones in _rows("datapath", "_uuid,ct_zones")}
    return {number: Zone(row[1], of_zone[row[1]]) for number, row in found[record]}


def _rows(table: str, columns: str) -> list[list[Any]]:
    """Return a table's rows, their values as RFC 7047 writes them: ["map", pairs], ["uuid", text]."""
    rows: list[list[Any]] = json.loads(vsctl("--format=json", f"--columns={columns}", "list", table))["data"]
    return rows


def vsctl(*words: str) -> str:
    answer = subprocess.run(["ovs-vsctl", "--timeout=60", *words], capture_output=True, text=True, check=False)
    if answer.returncode:
        raise ZoneError(f"ovs-vsctl: {answer.stderr.strip().splitlines()[-1]}")
    return answer.stdout
