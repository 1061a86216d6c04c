"""The managed service's rows of the performance table: how fast it finds out, lets go and takes in; what it holds.

What the project promises of each figure, and how it is taken:

* **A killed firewall.** New connections start every 10 ms. The outage lasts from the kill to the first connection after
  the last one that failed: one between firewalls that live proves nothing. Detection time *as configured* is health
  check interval × unhealthy threshold / time_scale, the longest that it takes where checks are refused at once;
  *as it happened* it is the time from the kill to the service's ``unhealthy`` event. The outage may last 0.1 s longer
  than either.
* **A registered firewall.** From the request to the first session on that firewall; two health check intervals and
  0.1 s at most.
* **100,000 sticky flows on 64 targets.** TCP throughput with them, over that with 8 flows on 2 targets, in labs that
  take turns; the appliances are bare turn-arounds, so that it is the load balancer that is measured. The flows are
  counted in conntrack, before and after the measurement, and every target must have been given some. Held is what
  counts: that throughput is taken when Open vSwitch's cache has let go of the burst that opened the flows, 10 s after
  it. What it is at once, *just opened*, is measured as well: on few cores, clearing the cache costs something.
* **A controller that is killed and started**, again and again, under long flows: none is lost, nor a datagram.
"""

from __future__ import annotations

import re
import statistics
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from testbed.bench import CLIENT, SERVER, Target, ping, turn_around
from testbed.bridges import appctl, datapath_name
from testbed.lab import Lab
from testbed.probes import datagrams, flows, iperf3
from testbed.probes.child import ProbeError
from testbed.probes.flows import Settings, Traffic
from testbed.progress import Narrator
from testbed.results import Label, Measurement, Results, Table
from testbed.timeline import Timeline, health_changes
from topologies.defaults import fill
from topologies.fabric import endpoint_index
from topologies.model import UNASSIGNED, Topology

GWLB = "gwlb"
#: Divides the packaged topology's health check interval, 5 s.
TIME_SCALE = 10.0
#: Added to what health checks take, in seconds.
ALLOWANCE = 0.1
#: New connections only, and few enough to be no load. A handshake's first repetition, after 1 s, may still succeed.
NEW_CONNECTIONS = Settings(tcp=0, connect_every=0.01, connect_timeout=2.0)
LONG_FLOWS = Settings(tcp=100, connect_every=0.05)
#: Datagrams beside them, in bit/s: a socket's buffer holds half a second of it, should the machine stall.
DATAGRAM_RATE = 2e6
#: At least so long are datagrams counted: a restart takes a second, on a slow machine several.
RESTART_SECONDS = 5.0

#: (targets, sticky flows): what is compared with what.
FEW, MANY = (2, 8), (64, 100_000)
#: New sticky flows a second, which the slowest of the elements keeps up with; and how often to fill up at most.
PACE = 4000.0
PASSES = 3
#: Flows in Open vSwitch's cache, fewer than which cost nothing; the lab's own are some dozens.
CACHED = 500

Load = tuple[int, int]


class ServiceBench:
    """Measures into *results*; ``seconds`` is the length of one measurement, ``rounds`` how often each is taken."""

    def __init__(self, results: Results, narrator: Narrator, topology: Topology, rounds: int, seconds: float) -> None:
        self.results = results
        self.narrator = narrator
        self.topology = topology
        self.rounds = rounds
        self.seconds = seconds
        self.samples: dict[str, list[float]] = defaultdict(list)

    def run(self) -> None:
        """Measure everything; what was measured is kept even when it ends early."""
        self.results.manifest |= {"time_scale": TIME_SCALE}
        try:
            with Lab(self.topology, time_scale=TIME_SCALE) as lab:
                self.samples[INTERVAL].append(check_interval(lab))
                self.samples[CONFIGURED].append(lab.detection_time(GWLB))
                for number in range(self.rounds):
                    name = list(lab.firewalls)[number % len(lab.firewalls)]
                    turn = f"round {number + 1} of {self.rounds}"
                    with self.narrator.step(f"{turn}: {name} is killed"):
                        self.kill(lab, name)
                    with self.narrator.step(f"{turn}: {name} is registered"):
                        self.register(lab, name)
                    with self.narrator.step(f"{turn}: the controller is restarted", RESTART_SECONDS):
                        self.restart(lab)
            for number in range(self.rounds):
                for load in (FEW, MANY):
                    with self.narrator.step(f"round {number + 1} of {self.rounds}: {words(load)}"):
                        self.hold(load)
        finally:
            self.results.measurements += self.measurements()

    # -- what is measured --------------------------------------------------------------------------------------------

    def kill(self, lab: Lab, name: str) -> None:
        """Kill a firewall under new connections, and bring it back."""
        with new_connections(lab) as traffic:
            traffic.wait(lambda status: status.connected > 0, "the first connection")
            clocks, killed = time.time() - time.monotonic(), time.monotonic()
            lab.firewalls[name].kill(meant=True)
            lab.wait_target(name, "unhealthy")
            known = time.monotonic() + NEW_CONNECTIONS.connect_timeout
            traffic.wait(lambda status: status.time > known, "the fate of the last connections")
            found = unhealthy_at(lab.events(), name, killed + clocks) - clocks
        lab.firewalls[name].start()
        lab.wait_target(name, "healthy")
        outage = Timeline((traffic.report,)).outage(killed)
        if outage is None:
            raise ProbeError(f"new connections go on failing after {name} was found unhealthy")
        self.samples[OUTAGE].append(outage)
        self.samples[DETECTED].append(found - killed)
        self.samples[AFTER_EVENT].append(outage - (found - killed))

    def register(self, lab: Lab, name: str) -> None:
        """Deregister a firewall without any delay, register it again, and wait for its first session."""
        control = lab.firewalls[name].control
        with lab.attributes(GWLB, {"deregistration_delay.timeout_seconds": "0"}):
            lab.manage(lambda service: service.deregister(GWLB, [name]))
            lab.wait_target(name, "unused")
            with new_connections(lab) as traffic:
                traffic.wait(lambda status: status.connected > 0, "the first connection")
                before, start = control.counters()["session_installed"], time.monotonic()
                assert lab.management is not None, "firewalls are managed"
                lab.management.client.register(GWLB, [name])
                lab.wait(lambda: control.counters()["session_installed"] > before, f"the first session on {name}")
                self.samples[REGISTRATION].append(time.monotonic() - start)
            lab.wait_target(name, "healthy")

    def restart(self, lab: Lab) -> None:
        """Kill the controller and start it again for as long as datagrams are counted, at least once."""
        client, server = lab.host(CLIENT), lab.host(SERVER)
        restarts = 0
        with flows.keep(client, server, settings=LONG_FLOWS) as traffic, ThreadPoolExecutor(1) as pool:
            traffic.wait_established()
            seconds = max(self.seconds, RESTART_SECONDS)
            counted = pool.submit(iperf3.measure, client, server, seconds=seconds, udp_rate=DATAGRAM_RATE)
            while not counted.done():
                lab.controller.kill()
                lab.controller.start()
                lab.wait(lab.settled, "the new controller to know all switches")
                restarts += 1
            told = traffic.status().time + LONG_FLOWS.interval
            traffic.wait(lambda status: status.time > told, "an answer of each flow")
        line = Timeline((traffic.report,))
        self.samples[RESTARTS].append(restarts)
        self.samples[FLOWS_LOST].append(len(line.died()))
        self.samples[DATAGRAMS_LOST].append(counted.result().lost_packets or 0)
        self.samples[CONNECTIONS_LOST].append(len(line.failed()))

    def hold(self, load: Load) -> None:
        """Measure throughput while so many targets hold so many sticky flows."""
        targets, wanted = load
        with Lab(with_appliances(self.topology, targets), appliance=turn_around) as lab:
            lab.wait(lambda: all(receives(lab.hosts[name].pid) for name in lab.appliances), "all appliances to listen")
            lab.wait(lambda: lab.host(CLIENT).run(ping(lab)).returncode == 0, "the first reply")
            before = fill_up(lab, wanted)
            self.samples[f"{throughput(load)}, just opened"].append(self.rate(lab))
            lab.wait(lambda: cached_flows(lab) < CACHED, "Open vSwitch's cache to be cleared")
            self.samples[throughput(load)].append(self.rate(lab))
            self.samples[held(load)].append(min(before, sticky_flows(lab)))
            traffic = [one for endpoint in lab.endpoints.values() for one in endpoint.target_counters().values()]
            self.samples[used(load)].append(sum(one.packets_returned > 0 for one in traffic))

    def rate(self, lab: Lab) -> float:
        """Return the throughput of one TCP flow, in bit/s."""
        return iperf3.measure(lab.host(CLIENT), lab.host(SERVER), seconds=self.seconds).bits_per_second

    # -- what comes of it --------------------------------------------------------------------------------------------

    def measurements(self) -> Iterator[Measurement]:
        """Yield the medians of all figures; of what must not be lost, the sum."""
        for name, values in self.samples.items():
            labels: dict[str, Label] = {"repeats": len(values), "minimum": min(values), "maximum": max(values)}
            yield Measurement(name, self.figure(name), unit(name), labels)

    def figure(self, name: str) -> float:
        values = self.samples[name]
        return float(sum(values)) if name in SUMS else float(statistics.median(values))

    def tables(self) -> Iterator[Table]:
        """There is none but that of the targets."""
        return iter(())

    def targets(self) -> Iterator[Target]:
        """Yield what the project promises, with what was measured."""
        figure, configured, interval = self.figure, self.figure(CONFIGURED), self.figure(INTERVAL)
        beyond = figure(OUTAGE) - configured
        yield Target("killed firewall: outage beyond configured detection", beyond, ALLOWANCE, "s", True)
        yield Target("killed firewall: outage beyond its detection", figure(AFTER_EVENT), ALLOWANCE, "s", True)
        yield Target(REGISTRATION, figure(REGISTRATION), 2 * interval + ALLOWANCE, "s", True)
        yield Target(f"{MANY[0]} targets: sticky flows held", min(self.samples[held(MANY)]), MANY[1], "flows")
        yield Target(f"{MANY[0]} targets: targets that carry them", min(self.samples[used(MANY)]), MANY[0], "targets")
        share = figure(throughput(MANY)) / figure(throughput(FEW))
        yield Target(f"throughput, {words(MANY)} / {words(FEW)}", share, 0.95, "")
        yield Target(FLOWS_LOST, figure(FLOWS_LOST), 0, "flows", True)
        yield Target(DATAGRAMS_LOST, figure(DATAGRAMS_LOST), 0, "packets", True)


INTERVAL, CONFIGURED = "health check interval, scaled", "detection as configured, scaled"
OUTAGE = "killed firewall: outage of new connections"
DETECTED = "killed firewall: detection"
AFTER_EVENT = "killed firewall: outage after detection"
REGISTRATION = "register to first flow"
RESTARTS = "controller restarts"
FLOWS_LOST = "controller restart: established flows lost"
DATAGRAMS_LOST = "controller restart: packets lost"
CONNECTIONS_LOST = "controller restart: new connections lost"
SUMS = (RESTARTS, FLOWS_LOST, DATAGRAMS_LOST, CONNECTIONS_LOST)
UNITS = {RESTARTS: "restarts", FLOWS_LOST: "flows", DATAGRAMS_LOST: "packets", CONNECTIONS_LOST: "connections"}


def words(load: Load) -> str:
    return f"{load[0]} targets, {load[1]:,} flows"


def throughput(load: Load) -> str:
    return f"throughput with {words(load)}"


def held(load: Load) -> str:
    return f"sticky flows held with {words(load)}"


def used(load: Load) -> str:
    return f"targets used with {words(load)}"


def unit(name: str) -> str:
    """Return the unit of a figure."""
    for start, of_those in (("throughput", "bit/s"), ("sticky flows", "flows"), ("targets used", "targets")):
        if name.startswith(start):
            return of_those
    return UNITS.get(name, "s")


# -- parts of a measurement ----------------------------------------------------------------------------------------


def new_connections(lab: Lab) -> AbstractContextManager[Traffic]:
    return flows.keep(lab.host(CLIENT), lab.host(SERVER), settings=NEW_CONNECTIONS)


def check_interval(lab: Lab) -> float:
    """Return the seconds between two health checks of a target, scaled."""
    return lab.topology.gateway_load_balancers[GWLB].target_group.health_check.interval_seconds / lab.time_scale


def unhealthy_at(events: Iterable[Mapping[str, Any]], name: str, since: float) -> float:
    """Return when the service noted *name* as unhealthy, after *since*; Unix times. Raises ProbeError if it did not."""
    for when, target, _, state in health_changes(events):
        if target == name and state == "unhealthy" and when >= since:
            return when
    raise ProbeError(f"the managed service has noted no event that {name} is unhealthy")


def with_appliances(topology: Topology, count: int) -> Topology:
    """Return *topology* with *count* appliances behind its load balancer, all registered, over its zones by turns.

    Their subnets become the last of the VPC's /24: the packaged ones hold eleven addresses.
    """
    document = topology.model_dump()
    balancer = document["gateway_load_balancers"][GWLB]
    vpc = document["vpcs"][balancer["vpc"]]
    subnets = list(balancer["subnets"])
    for subnet, cidr in zip(subnets, reversed(list(vpc["cidr"].subnets(new_prefix=24))), strict=False):
        vpc["subnets"][subnet]["cidr"] = cidr
    names = [f"fw{number}" for number in range(1, count + 1)]
    balancer["subnets"] = dict.fromkeys(subnets, UNASSIGNED)
    balancer["appliances"] = {
        name: {"subnet": subnets[number % len(subnets)], "address": UNASSIGNED} for number, name in enumerate(names)
    }
    balancer["target_group"]["targets"] = names
    return fill(Topology.model_validate(document))


def receives(pid: int, port: int = 6081) -> bool:
    """Whether something in the network namespace of process *pid* has a UDP socket with that *port*."""
    return f":{port:04X} " in Path(f"/proc/{pid}/net/udp").read_text()


def fill_up(lab: Lab, wanted: int) -> int:
    """Send until *wanted* flows are sticky, or as many as there can be; return their number."""
    count = 0
    for _ in range(PASSES):
        datagrams.send(lab.host(CLIENT), lab.host(SERVER).address, wanted, PACE)
        before, count = count, sticky_flows(lab)
        while before < count < wanted:  # what was sent is still on its way
            before, count = count, sticky_flows(lab)
        if count >= wanted:
            break
    return count


def sticky_flows(lab: Lab) -> int:
    """Return the UDP flows in the conntrack zones of all VPC endpoints."""
    zones = endpoint_index(lab.topology).values()
    return sum(
        number_of("UDP", appctl("dpctl/ct-stats-show", datapath_name(lab.journal.datapath), f"zone={zone}"))
        for zone in zones
    )


def cached_flows(lab: Lab) -> int:
    """Return the number of flows in Open vSwitch's cache; it forgets one that was idle for 10 s."""
    return number_of("flows", appctl("dpctl/show", datapath_name(lab.journal.datapath)))


def number_of(name: str, text: str) -> int:
    """Return the number after *name* in what ``ovs-appctl dpctl`` prints; what it does not name, there is none of."""
    found = re.search(rf"^\s*{name}: (\d+)$", text, re.MULTILINE)
    return int(found[1]) if found else 0
