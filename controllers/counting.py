"""Asks the load balancers' switches what they have carried, in a green thread of its own.

One question at a time: a change that is sent meanwhile waits for one answer at the most, not for all of them. However
long the answers take, most of the time nothing is asked.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path

from controllers.desired import Desired
from controllers.flows import match
from controllers.gateway_load_balancer import ENDPOINT, STICKY
from controllers.ryu import Switch, SwitchError, hub, output
from controllers.statistics import Count, Statistics, Sums, connections, connections_command
from topologies.decision import cookie

LOG = logging.getLogger("bumpwire.controller")
#: Seconds between two rounds at least, and how many times as long as a round took.
INTERVAL = 2.0
PAUSE = 9


class Counting:
    """Counts for the switches of *desired*; *switches* are those in sync by their element's name.

    Without *datapath* (``system`` or ``netdev``) the connections that Open vSwitch tracks are not counted.
    """

    def __init__(
        self,
        desired: Callable[[], Desired],
        switches: Callable[[], Mapping[str, Switch]],
        file: Path,
        datapath: str | None,
    ) -> None:
        self._desired = desired
        self._switches = switches
        self._file = file
        self._datapath = datapath
        self._sums: defaultdict[str, Sums] = defaultdict(Sums)

    def run(self) -> None:
        while True:
            began = time.monotonic()
            try:
                self.count()
            except (SwitchError, OSError) as error:
                LOG.warning("statistics: %s", error)
            hub.sleep(max(INTERVAL, PAUSE * (time.monotonic() - began)))

    def count(self) -> None:
        """Ask once, and write the file. Raises SwitchError or OSError."""
        desired, switches, flows = self._desired(), self._switches(), dict[str, int]()
        for name, endpoints in desired.endpoints.items():
            if name not in switches:
                continue
            switch, counters = switches[name], dict[str, Count]()
            for decision in sorted({flow.decision for flow in desired.programs[name].flows}):
                packets, length, _ = switch.aggregate(cookie=cookie(decision))
                counters[decision] = Count(packets, length)
            self._sums[name].take(counters)
            for endpoint, zone in endpoints.items():
                learned = switch.aggregate(STICKY, match({ENDPOINT: zone}))[2]
                tracked = self._tracked(zone)
                if tracked is not None:
                    # Both directions of a flow are learned.
                    flows[endpoint] = tracked + (learned + 1) // 2
        if self._sums:
            decisions = {decision: count for sums in self._sums.values() for decision, count in sums.sums().items()}
            Statistics(time=time.time(), decisions=decisions, flows=flows).save(self._file)

    def _tracked(self, zone: int) -> int | None:
        return connections(output(connections_command(self._datapath, zone))) if self._datapath else None
