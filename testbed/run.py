"""A run of a scenario: the words that a story is told in.

::

    def story(run: Run, seconds: int = 3) -> None:
        with run.lab("gwlb") as lab:
            web1, app2 = lab.host("web1"), lab.host("app2")
            page = run.http(web1, app2)
            run.check("app2 saw web1's own address", page.peer == web1.address, f"it saw {page.peer}")
            run.iperf3(web1, app2, seconds=seconds)

A probe is repeated as often as the run says (``--repeats``): the median is recorded, and the repeat that is nearest to
it is returned. What cannot be measured raises :class:`testbed.probes.child.ProbeError`: the story ends, the run fails.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, TypeVar

import topologies
from testbed import figures
from testbed.errors import RequestError
from testbed.lab import Lab
from testbed.nodes import Host
from testbed.probes import connections, iperf3, ping, ssh, web
from testbed.probes.flows import Settings, Traffic, keep
from testbed.progress import Narrator
from testbed.results import Check, Label, Measurement, Results, Series
from testbed.statistics import summarize
from testbed.timeline import Event, Timeline, healthy_targets, service_events
from testbed.trip import Trip, observe, traffic_log
from topologies import diagram
from topologies.loader import load_topology
from topologies.model import Topology
from topologies.walk import address_for

#: The policies that ship.
POLICIES = Path(topologies.__file__).parent / "policies"
#: Seconds that a line of a log is waited for; firewalls write theirs every half second.
LOG_PATIENCE = 5.0

T = TypeVar("T")


class Run:
    """One run: what it finds goes to *results*, what happens is told to *narrator*."""

    def __init__(self, results: Results, narrator: Narrator, repeats: int = 1, datapath: str | None = None) -> None:
        self.results = results
        self.narrator = narrator
        self.repeats = repeats
        self.datapath = datapath
        self._lab: Lab | None = None
        self._plan: Topology | None = None  # of the lab as it was built: what happens in it changes its topology
        self._chapter = ""

    # -- the frame of a story --------------------------------------------------------------------------------------

    @contextmanager
    def lab(self, topology: str | Topology, policy: str | None = None, time_scale: float = 1.0) -> Iterator[Lab]:
        """Build a lab, of a topology's name, file or model, and take it down at the end of the block.

        *policy* is that of the firewalls: a name of ``topologies/policies``, or a file; the topology's own if None.
        *time_scale* divides the managed service's intervals, so that a lesson need not wait for AWS's minutes.
        Inside another lab of the same topology, that one is used: so a tour tells several stories in one lab. At the
        end, it is a check that all firewalls and the controller lived, and the firewalls' logs are kept.
        """
        plan = topology if isinstance(topology, Topology) else load_topology(topology)
        if policy:
            plan = with_policy(plan, policy)
        if self._lab and self._plan == plan:
            yield self._lab
            return
        with ExitStack() as stack:
            start = time.monotonic()
            with self.narrator.step(f"building the lab {plan.name}"):
                self._lab = lab = stack.enter_context(Lab(plan, datapath=self.datapath, time_scale=time_scale))
                self._plan = plan
            self.results.manifest |= {"topology": plan.name, "datapath": lab.datapath, "mtu": plan.mtu}
            self.results.manifest |= {"time_scale": time_scale}
            self.results.drawings[f"The network {plan.name}"] = diagram.svg(plan)
            self.measure("lab up", time.monotonic() - start, "s")
            try:
                yield lab
            finally:
                self._lab = None
                self._close(lab)

    def _close(self, lab: Lab) -> None:
        problems = lab.problems()
        self.check("all firewalls and the controller lived", not problems, "; ".join(problems))
        if lab.management:  # the firewalls of auto scaling groups end with it
            lab.management.end()
        for firewall in lab.firewalls.values():
            firewall.end()
        if lab.management:
            lab.management.wait()
        for firewall in lab.firewalls.values():
            firewall.wait()
            self.results.keep(firewall.logs, self._title("firewalls"), firewall.name)

    @contextmanager
    def chapter(self, title: str) -> Iterator[None]:
        """Tell a part under a title of its own, which goes before the names of its checks and measurements."""
        self.narrator.title(title)
        outer, self._chapter = self._chapter, title
        try:
            yield
        finally:
            self._chapter = outer

    # -- what is recorded ------------------------------------------------------------------------------------------

    def check(self, name: str, passed: bool, detail: str = "") -> bool:
        """Record whether something that must hold does. The story goes on either way. Return *passed*."""
        check = Check(self._title(name), bool(passed), detail)
        self.results.checks.append(check)
        self.narrator.check(check)
        return check.passed

    def prove(self, *checks: Check) -> None:
        """Record what functions of :mod:`testbed.proofs` found."""
        for check in checks:
            self.check(check.name, check.passed, check.detail)

    def measure(self, name: str, value: float | Sequence[float], unit: str, **labels: Label) -> None:
        """Record a number; of several repeats the median, with the extremes and their number as labels."""
        if isinstance(value, Sequence):
            summary = summarize(value)
            value = summary.median
            if summary.count > 1:
                labels |= {"minimum": summary.minimum, "maximum": summary.maximum, "repeats": summary.count}
        measurement = Measurement(self._title(name), float(value), unit, labels)
        self.results.measurements.append(measurement)
        self.narrator.measurement(measurement)

    def _title(self, name: str) -> str:
        return f"{self._chapter}: {name}" if self._chapter else name

    def logged(self, **fields: object) -> dict[str, Any]:
        """Wait for a line of a firewall's traffic log in which these fields have these values, and return it.

        The fields are PAN-OS's (``src``, ``dst``, ``app``, ``rule``, ``action``, …). Returns an empty dict when no such
        line is written within some seconds.
        """
        assert self._lab is not None, "logged() belongs inside run.lab()"
        wanted = {key: str(value) for key, value in fields.items()}
        deadline = time.monotonic() + LOG_PATIENCE
        while True:
            for line in traffic_log(self._lab):
                if all(str(line.get(key)) == value for key, value in wanted.items()):
                    return line
            if time.monotonic() > deadline:
                return {}
            time.sleep(0.05)

    # -- traffic ---------------------------------------------------------------------------------------------------

    @contextmanager
    def observe(self, client: Host, server: Host) -> Iterator[Trip]:
        """Watch what the lab does with the traffic between the two in the block: see :class:`testbed.trip.Trip`."""
        assert self._lab is not None, "observe() belongs inside run.lab()"
        with observe(self._lab, client, server) as trip:
            yield trip
        ends = f"{client.name} → {server.name} {trip.traffic}"
        self.results.tables.append(trip.path_table(self._title(f"the path {ends}")))
        self.results.save(self._title(f"geneve {ends}.pcap"), trip.capture)

    def address(self, client: Host, server: Host) -> IPv4Address:
        """Return the address by which *client* reaches *server*: from the internet, an instance's public one."""
        assert self._lab is not None, "an address has a meaning inside run.lab() only"
        return address_for(self._lab.topology, client.name, server.name)

    def ping(self, client: Host, server: Host, count: int = 5) -> ping.RoundTrips:
        """Ping *count* times for each repeat: the median round trip, and the loss."""
        address, count = self.address(client, server), count * self.repeats
        with self.narrator.step(f"ping {client.name} → {server.name}", count * ping.INTERVAL):
            trips = ping.measure(client, server, address, count=count)
        between: dict[str, Label] = {"from": client.name, "to": server.name}
        if trips.times:
            self.measure("round trip", trips.times, "s", **between)
        self.measure("ping loss", 100 * trips.loss, "%", **between)
        return trips

    def http(self, client: Host, server: Host, path: str = "/") -> web.Response:
        """One HTTP request: the time to the first byte."""
        address = self.address(client, server)

        def probe() -> web.Response:
            return web.fetch(client, server, address, path=path)

        responses = self._repeat(f"http {client.name} → {server.name}", None, probe)
        times = [response.first_byte for response in responses]
        self.measure("time to first byte", times, "s", **{"from": client.name, "to": server.name})
        return _middle(responses, lambda response: response.first_byte)

    def ssh(self, client: Host, server: Host) -> ssh.Login:
        """One SSH login: the time that it takes."""
        address = self.address(client, server)
        logins = self._repeat(f"ssh {client.name} → {server.name}", None, lambda: ssh.login(client, server, address))
        times = [login.seconds for login in logins]
        self.measure("ssh login", times, "s", **{"from": client.name, "to": server.name})
        return _middle(logins, lambda login: login.seconds)

    def iperf3(
        self, client: Host, server: Host, seconds: float = 3, streams: int = 1, udp_rate: float | None = None
    ) -> iperf3.Throughput:
        """Throughput for so many seconds over TCP streams, or UDP at *udp_rate* bits per second for each stream.

        TCP's retransmissions, and UDP's loss and jitter, are recorded as well; iperf3's own reports are kept.
        """
        address = self.address(client, server)
        kind = f"udp {udp_rate / 1e6:g} Mbit/s" if udp_rate else "tcp"
        title = f"iperf3 {client.name} → {server.name}, {kind}" + (f", {streams} streams" if streams > 1 else "")

        def probe() -> iperf3.Throughput:
            test = iperf3.measure(client, server, address, seconds=seconds, streams=streams, udp_rate=udp_rate)
            self.results.save(self._title(f"{title} client.json"), test.client_report)
            self.results.save(self._title(f"{title} server.json"), test.server_report)
            return test

        tests = self._repeat(title, seconds, probe)
        labels: dict[str, Label] = {"from": client.name, "to": server.name, "protocol": kind, "streams": streams}
        self.measure("throughput", [test.bits_per_second for test in tests], "bit/s", **labels)
        if udp_rate is None:
            self.measure("retransmissions", [test.retransmissions or 0 for test in tests], "segments", **labels)
        else:
            losses = [100 * (test.lost_packets or 0) / (test.packets or 1) for test in tests]
            self.measure("udp loss", losses, "%", **labels)
            self.measure("jitter", [test.jitter or 0.0 for test in tests], "s", **labels)
        middle = _middle(tests, lambda test: test.bits_per_second)
        self.results.series.append(Series(self._title(title), "bit/s", middle.intervals))
        return middle

    def connections(self, client: Host, server: Host, seconds: float = 3) -> connections.ConnectionRate:
        """New TCP connections per second."""
        address = self.address(client, server)

        def probe() -> connections.ConnectionRate:
            return connections.measure(client, server, address, seconds=seconds)

        rates = self._repeat(f"connections {client.name} → {server.name}", seconds, probe)
        between: dict[str, Label] = {"from": client.name, "to": server.name}
        self.measure("new connections", [rate.per_second for rate in rates], "1/s", **between)
        self.measure("failed connections", [rate.failed for rate in rates], "connections", **between)
        return _middle(rates, lambda rate: rate.per_second)

    @contextmanager
    def flows(self, client: Host, server: Host, **settings: Any) -> Iterator[Traffic]:
        """Keep long flows alive and open new connections for as long as the block lasts; all flows run when it starts.

        *settings* are those of :class:`testbed.probes.flows.Settings`. The report is there at the end of the block.
        """
        assert self._lab is not None, "flows() belongs inside run.lab()"
        address, chosen = self.address(client, server), Settings(**settings)
        status = self._lab.directory / f"{client.name}-{server.name}.traffic.json"  # for `bumpwire watch`
        with keep(client, server, address, settings=chosen, status=status) as traffic:
            with self.narrator.step(f"{chosen.tcp + chosen.udp} flows {client.name} → {server.name}"):
                traffic.wait_established()
            yield traffic

    def timeline(self, title: str, traffic: Traffic, *happened: Event) -> Timeline:
        """Draw what became of *traffic*, with what the story did (*happened*) and what the managed service did."""
        assert self._lab is not None, "timeline() belongs inside run.lab()"
        offset = time.time() - time.monotonic()
        events = self._lab.events()
        told = [event for event in service_events(events, offset) if event.time >= traffic.report.start]
        line = Timeline((traffic.report,), (*happened, *told), (healthy_targets(events, offset),))
        self.results.drawings[self._title(title)] = figures.timeline(line)
        return line

    def _repeat(self, title: str, seconds: float | None, probe: Callable[[], T]) -> list[T]:
        results = []
        for number in range(1, self.repeats + 1):
            with self.narrator.step(f"{title} ({number} of {self.repeats})" if self.repeats > 1 else title, seconds):
                results.append(probe())
        return results


def with_policy(topology: Topology, policy: str) -> Topology:
    """Return the topology with firewalls that run *policy*: a packaged one's name, or a file.

    Raises RequestError for neither.
    """
    packaged = {path.stem: path for path in POLICIES.glob("*.yaml")}
    file = packaged.get(policy, Path(policy))
    if not file.is_file():
        raise RequestError(f"no policy {policy!r}; there are: {', '.join(sorted(packaged))}; or give a file")
    if topology.firewalls is None:
        raise RequestError(f"topology {topology.name} has no firewalls that could run policy {policy!r}")
    firewalls = topology.firewalls.model_copy(update={"policy": str(file.resolve())})
    return topology.model_copy(update={"firewalls": firewalls})


def _middle(results: Sequence[T], value: Callable[[T], float]) -> T:
    return sorted(results, key=value)[len(results) // 2]
