"""One firewall of a pair as a process, without its data path: the service, the session store's records, the cloud.

``python -m tests.lab.ha_firewall JSON`` appends a line to the file ``status`` whenever something has changed.
"""

from __future__ import annotations

import json
import select
import sys
import time
from ipaddress import IPv4Address
from pathlib import Path

from firewall_vnf.cloud_api import CloudApi, Failover
from firewall_vnf.config import FailoverPlan
from firewall_vnf.ha_link import HaService
from firewall_vnf.high_availability import HaLink, HaSettings, HighAvailability
from firewall_vnf.log import Log
from firewall_vnf.session_store import Change


def main() -> None:
    settings = json.loads(sys.argv[1])
    status = Path(settings["status"])
    log = Log(settings["name"], lambda _, line: print(line, file=sys.stderr), time.time() - time.monotonic())
    boot = time.time_ns()
    machine = HighAvailability(HaSettings.model_validate(settings["ha"]), boot, time.monotonic())
    cloud = Failover(CloudApi(settings["cloud"]), FailoverPlan.model_validate(settings["plan"]))
    addresses, peers = ({HaLink(k): IPv4Address(v) for k, v in settings[side].items()} for side in ("here", "there"))
    service = HaService(machine, addresses, peers, "secret", cloud, lambda: "", log, boot, time.monotonic)
    poll = select.poll()
    service.register(poll)
    service.sync.put([Change(f"session-{number}", "x" * 400, 3600) for number in range(settings["records"])])
    said = None
    while True:
        ready = [descriptor for descriptor, _ in poll.poll(20)]
        service.serve(ready, time.monotonic())
        now = [machine.state.value, machine.reason, service.sync.count, service.sync.unsent]
        if now != said:
            said = now
            with status.open("a") as file:
                file.write(json.dumps([time.monotonic(), *now]) + "\n")


main()
