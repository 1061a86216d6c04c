"""The performance table: the path without the detour and with different appliances in it, side by side in one run.

Machines differ and are noisy, so variants take turns (round after round), medians are kept, and what is compared with
a target is a ratio of two of them. The engine is measured alone as well, without any packet on a wire; the managed
service in :mod:`testbed.bench_service`.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Protocol

from firewall_vnf import benchmark
from testbed.lab import Lab
from testbed.probes import connections, iperf3
from testbed.progress import Narrator, quantity
from testbed.results import Label, Measurement, Results, Table
from topologies.bypass import without_inspection
from topologies.fabric import balancer_of
from topologies.model import Topology

#: The flows of every variant: from spoke 1 to spoke 2, over the Transit Gateway.
CLIENT, SERVER = "web1", "app2"
MTUS = (8500, 1500)
FLOWS = (1, 8)


def firewall(lab: Lab, name: str) -> list[str]:
    return lab.firewall_command(name)


def turn_around(_lab: Lab, _name: str) -> list[str]:
    return [sys.executable, "-m", "firewall_vnf", "--turnaround", "--interface", "eth0"]


def bpf_turn_around(_lab: Lab, _name: str) -> list[str]:
    return [sys.executable, "-m", "testbed.peers.bpf_appliance"]


def scapy(_lab: Lab, _name: str) -> list[str]:
    return [sys.executable, "-m", "testbed.peers.scapy_appliance"]


def nfqueue(lab: Lab, name: str) -> list[str]:
    gwlb = balancer_of(lab.topology, name)
    vpc = lab.topology.vpcs[gwlb.vpc]
    zone = lab.zone(name)
    node: IPv4Address = next(address for subnet, address in gwlb.subnets.items() if vpc.subnets[subnet].az == zone)
    own = gwlb.appliances[name].address
    return [sys.executable, "-m", "testbed.peers.nfqueue_appliance", str(node), str(own)]


@dataclass(frozen=True)
class Variant:
    """One way for the packets. ``appliance`` returns the command of an appliance; None where none is passed.

    ``offload``: whether the firewall has the kernel carry sessions.
    """

    name: str
    appliance: Callable[[Lab, str], list[str]] | None
    offload: bool = False

    def lab(self, topology: Topology) -> Lab:
        """Return the lab that this variant is measured in."""
        if self.appliance is None:
            return Lab(without_inspection(topology))
        if self.appliance is firewall:
            return Lab(topology, firewall_settings={"offload": self.offload})
        return Lab(topology, appliance=self.appliance)


NO_DETOUR = Variant("no detour", None)
TURN_AROUND = Variant("turn-around", turn_around)
BPF_TURN_AROUND = Variant("turn-around in BPF", bpf_turn_around)
FIREWALL = Variant("firewall", firewall)
OFFLOAD = Variant("firewall with offload", firewall, offload=True)
VARIANTS = (
    NO_DETOUR,
    TURN_AROUND,
    BPF_TURN_AROUND,
    FIREWALL,
    OFFLOAD,
    Variant("Scapy", scapy),
    Variant("NFQUEUE", nfqueue),
)


@dataclass(frozen=True)
class Target:
    """What the project promises of a figure: ``value`` at least, or at most where ``at_most``."""

    name: str
    value: float
    bound: float
    unit: str
    at_most: bool = False

    @property
    def met(self) -> bool:
        return self.value <= self.bound if self.at_most else self.value >= self.bound


class Part(Protocol):
    """A part of the benchmark: measures into its results, and says what the project promises of it."""

    def run(self) -> None: ...

    def tables(self) -> Iterable[Table]: ...

    def targets(self) -> Iterable[Target]: ...


class PathBench:
    """The path's throughput and rates, variant beside variant.

    Measures into *results*; ``seconds`` is the length of one measurement, ``rounds`` how often each is taken.
    """

    def __init__(self, results: Results, narrator: Narrator, topology: Topology, rounds: int, seconds: float) -> None:
        self.results = results
        self.narrator = narrator
        self.topology = topology
        self.rounds = rounds
        self.seconds = seconds
        self.samples: dict[tuple[str, str, int, int], list[float]] = defaultdict(list)
        self.datapath: str | None = None

    def run(self) -> None:
        """Measure everything; what was measured is kept even when it ends early."""
        try:
            for number in range(1, self.rounds + 1):
                for variant in VARIANTS:
                    with self.narrator.step(f"round {number} of {self.rounds}: {variant.name}", self.duration):
                        self.measure(variant)
        finally:
            self.results.measurements += self.medians()

    @property
    def duration(self) -> float:
        """About how long one variant takes, in seconds: its measurements, each one's set-up, the lab's."""
        return (len(MTUS) * len(FLOWS) + 1) * (self.seconds + 0.5) + 4

    def medians(self) -> Iterator[Measurement]:
        for (variant, name, mtu, streams), values in self.samples.items():
            labels: dict[str, Label] = {"variant": variant}
            if mtu:
                labels |= {"mtu": mtu, "streams": streams}
            labels |= {"repeats": len(values), "minimum": min(values), "maximum": max(values)}
            yield Measurement(name, statistics.median(values), UNITS[name], labels)

    def measure(self, variant: Variant) -> None:
        """Take one sample of each of the figures of *variant*."""
        start = time.monotonic()
        with variant.lab(self.topology) as lab:
            self.datapath = lab.datapath
            if variant is FIREWALL:
                self.samples[variant.name, "lab up", 0, 0].append(time.monotonic() - start)
            lab.wait(lambda: lab.host(CLIENT).run(ping(lab)).returncode == 0, f"the first reply through {variant.name}")
            for mtu in MTUS:
                for name in (CLIENT, SERVER):
                    lab.host(name).run(["ip", "link", "set", "eth0", "mtu", str(mtu)])
                for flows in FLOWS:
                    self.measure_throughput(lab, variant, mtu, flows)
            rate = connections.measure(lab.host(CLIENT), lab.host(SERVER), seconds=self.seconds)
            self.samples[variant.name, "connections", 0, 0].append(rate.per_second)
            start = time.monotonic()
        if variant is FIREWALL:
            self.samples[variant.name, "lab down", 0, 0].append(time.monotonic() - start)

    def measure_throughput(self, lab: Lab, variant: Variant, mtu: int, flows: int) -> None:
        """Take a sample of the throughput, and of what it costs in appliances: their processes' time, and packets."""
        processor, packets = processor_time(lab), lab.endpoint_counters().get("decapsulated", 0)
        test = iperf3.measure(lab.host(CLIENT), lab.host(SERVER), seconds=self.seconds, streams=flows)
        self.samples[variant.name, "throughput", mtu, flows].append(test.bits_per_second)
        if lab.appliances:
            gigabytes = test.bits_per_second * test.seconds / 8e9
            spent = (processor_time(lab) - processor) / gigabytes
            self.samples[variant.name, "processor time", mtu, flows].append(spent)
            rate = (lab.endpoint_counters()["decapsulated"] - packets) / test.seconds
            self.samples[variant.name, "packets", mtu, flows].append(rate)

    def median(self, variant: Variant, name: str, mtu: int = 0, flows: int = 0) -> float:
        """Return the median of a figure that was sampled."""
        return statistics.median(self.samples[variant.name, name, mtu, flows])

    def targets(self) -> Iterator[Target]:
        """Yield what the project promises, with what was measured."""
        one = {variant: self.median(variant, "throughput", 8500, 1) for variant in VARIANTS[:5]}
        yield Target("firewall / turn-around, one flow, MTU 8,500", one[FIREWALL] / one[TURN_AROUND], 0.9, "")
        yield Target("firewall / no detour, one flow, MTU 8,500", one[FIREWALL] / one[NO_DETOUR], 0.5, "")
        offload = "firewall with offload / {}, one flow, MTU 8,500".format
        if self.datapath == "netdev":  # there the switch is the limit of every appliance
            yield Target(offload(BPF_TURN_AROUND.name), one[OFFLOAD] / one[BPF_TURN_AROUND], 0.98, "")
        else:
            yield Target(offload(NO_DETOUR.name), one[OFFLOAD] / one[NO_DETOUR], 0.85, "")
        yield Target("reference lab up", self.median(FIREWALL, "lab up"), 3, "s", True)
        yield Target("reference lab down", self.median(FIREWALL, "lab down"), 1, "s", True)

    def tables(self) -> Iterator[Table]:
        yield ratio_table(self)
        yield cost_table(self)


class EngineBench:
    """The engine without packets on a wire: what one core can do."""

    def __init__(self, results: Results, narrator: Narrator) -> None:
        self.results = results
        self.narrator = narrator

    def run(self) -> None:
        with self.narrator.step("the engine alone"):
            self.results.measurements += engine_measurements()

    def tables(self) -> Iterator[Table]:
        """There is none but that of the targets."""
        return iter(())

    def targets(self) -> Iterator[Target]:
        """Yield what the project promises, with what was measured."""
        engine = {measurement.name: measurement.value for measurement in self.results.measurements}
        yield Target("engine: established packets", engine[ESTABLISHED], 250_000, "1/s")
        yield Target("engine: new sessions", engine[NEW_SESSIONS], 25_000, "1/s")
        yield Target("engine: 1,000,000 sessions", engine["engine memory at 1,000,000 sessions"], 1 << 30, "B", True)


UNITS = {
    "throughput": "bit/s",
    "processor time": "s/GB",
    "packets": "1/s",
    "connections": "1/s",
    "lab up": "s",
    "lab down": "s",
}
ESTABLISHED = "engine established packets"
NEW_SESSIONS = "engine new sessions"


def ping(lab: Lab) -> list[str]:
    """Return the command that sends one echo request and waits a second for the reply."""
    return ["ping", "-n", "-c", "1", "-W", "1", str(lab.host(SERVER).address)]


def engine_measurements() -> list[Measurement]:
    """Measure the engine without packets on a wire: what one core can do."""
    return [
        Measurement(ESTABLISHED, benchmark.established_packets_per_second(), "1/s", {}),
        Measurement(NEW_SESSIONS, benchmark.new_sessions_per_second(), "1/s", {}),
        *(
            Measurement(f"engine memory at {count:,} sessions", float(benchmark.memory(count)), "B", {})
            for count in (250_000, 1_000_000)
        ),
    ]


def soak_measurements(frames: int) -> list[Measurement]:
    """Feed the engine mutated frames; returns how fast that went and the engine's counters.

    Raises whatever the engine lets through: nothing may.
    """
    start = time.monotonic()
    counters = benchmark.soak(frames)
    rate = Measurement("fuzzed frames", frames / (time.monotonic() - start), "1/s", {})
    return [rate, *(Measurement(name, value, "packets", {}) for name, value in counters.items() if value)]


def processor_time(lab: Lab) -> float:
    """Return the seconds of processor time that the appliances' processes have taken, in user space and kernel."""
    ticks = 0
    for appliance in lab.appliances.values():
        fields = Path(f"/proc/{appliance.process.pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])  # proc(5): utime and stime
    return ticks / os.sysconf("SC_CLK_TCK")


def cost_table(bench: PathBench) -> Table:
    """Return what each appliance's processes take for a gigabyte, and the packets that come back from it."""
    rows = [
        (
            variant.name,
            str(mtu),
            str(flows),
            f"{bench.median(variant, 'processor time', mtu, flows):.2f}",
            f"{bench.median(variant, 'packets', mtu, flows):,.0f}",
        )
        for mtu in MTUS
        for flows in FLOWS
        for variant in VARIANTS[1:]
    ]
    return Table("Appliances", ("variant", "MTU", "flows", "processor s/GB", "packets/s"), tuple(rows))


def ratio_table(bench: PathBench) -> Table:
    """Return each variant's throughput as a share of the path without the detour, and of the bare turn-around."""
    rows = []
    for mtu in MTUS:
        for flows in FLOWS:
            rates = {variant: bench.median(variant, "throughput", mtu, flows) for variant in VARIANTS}
            for variant in VARIANTS[1:]:
                shares = (rates[variant] / rates[base] for base in (NO_DETOUR, TURN_AROUND, BPF_TURN_AROUND))
                rows.append((variant.name, str(mtu), str(flows), *(f"{share:.2f}" for share in shares)))
    columns = ("variant", "MTU", "flows", *(f"/ {base.name}" for base in (NO_DETOUR, TURN_AROUND, BPF_TURN_AROUND)))
    return Table("Throughput, as ratios", columns, tuple(rows))


def target_table(targets: Iterable[Target]) -> Table:
    """Return the promises beside what was measured."""
    rows = (
        (
            target.name,
            quantity(target.value, target.unit),
            f"{'≤' if target.at_most else '≥'} {quantity(target.bound, target.unit)}",
            "met" if target.met else "missed",
        )
        for target in targets
    )
    return Table("Targets", ("figure", "measured", "target", ""), tuple(rows))
