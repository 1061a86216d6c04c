"""Conntrack's idle time-outs in Open vSwitch: in its database, because OpenFlow does not know them."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping


class ZoneError(Exception):
    """Open vSwitch refused the time-outs; one line, its own words."""


def set_zone_timeouts(datapath: str, timeouts: Mapping[int, Mapping[str, int]]) -> bool:
    """Give each zone of *datapath* (``system`` or ``netdev``) its time-outs: seconds by Open vSwitch's names.

    In place of those that the zones had. Returns False, having changed nothing, while Open vSwitch has no record of the
    datapath. Raises ZoneError.
    """
    if datapath not in vsctl("get", "open_vswitch", ".", "datapaths"):
        return False
    remove: list[str] = []
    add: list[str] = []
    for zone, policy in timeouts.items():
        remove += ["--", "--if-exists", "del-zone-tp", datapath, f"zone={zone}"]
        add += ["--", "add-zone-tp", datapath, f"zone={zone}"]
        add += [f"{name}={seconds}" for name, seconds in policy.items()]
    if timeouts:
        vsctl(*remove)  # ovs-vsctl does not see within one transaction that a zone is free again
        vsctl(*add)
    return True


def vsctl(*words: str) -> str:
    answer = subprocess.run(["ovs-vsctl", "--timeout=60", *words], capture_output=True, text=True, check=False)
    if answer.returncode:
        raise ZoneError(f"ovs-vsctl: {answer.stderr.strip().splitlines()[-1]}")
    return answer.stdout
