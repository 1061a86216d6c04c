"""What must hold of a lab whatever fails, and how it is seen: the ledger of a soak, its judges, and its witnesses.

Judges are pure and return a line for each violation. Witnesses read a running lab: the firewalls' sessions, the
switches' tables, ``/proc``.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from controllers.conntrack import zone_timeouts
from testbed import bridges
from testbed.errors import MachineError
from testbed.geneve_endpoint import endpoint_configuration
from testbed.lab import Lab
from testbed.probes.flows import Connection, Flow
from testbed.results import Check

#: How much more memory and how many more descriptors a process may have at the end than after the first third. Python
#: gives memory back late, and a table of sessions has its size when it is fullest.
MEMORY_FACTOR, MEMORY_SLACK, DESCRIPTOR_SLACK = 1.5, 32 << 20, 16
#: Violations of one invariant that are told; all are counted.
TOLD = 3


class Ledger:
    """How often each invariant was looked at, and what was found against it."""

    def __init__(self, names: Iterable[str]) -> None:
        self._looks = dict.fromkeys(names, 0)
        self._found: dict[str, list[str]] = {name: [] for name in self._looks}
        self._broken: Counter[str] = Counter()

    def look(self, name: str, problems: Collection[str]) -> None:
        """Note that the invariant was looked at, with what was found against it. Raises KeyError for an unknown one."""
        self._looks[name] += 1
        self._broken[name] += bool(problems)
        self._found[name] = [*self._found[name], *problems][:TOLD]

    def checks(self) -> list[Check]:
        """Return a check for each invariant; one that was never looked at does not hold."""
        checks = []
        for name, looks in self._looks.items():
            detail = "; ".join([self._detail(name, looks), *self._found[name]])
            checks.append(Check(name, looks > 0 and not self._broken[name], detail))
        return checks

    def _detail(self, name: str, looks: int) -> str:
        if not looks:
            return "never looked at"
        return f"looked at {looks} times" + (f", violated {self._broken[name]}" if self._broken[name] else "")


# -- flows ---------------------------------------------------------------------------------------------------------

#: A flow whatever its direction: protocol and both ends; and packets by it.
FlowKey = tuple[str, frozenset[tuple[str, int]]]
Packets = Mapping[FlowKey, int]


def packets(sessions: Iterable[Mapping[str, Any]]) -> dict[FlowKey, int]:
    """Return the packets that one firewall has seen, both ways, by flow; of :meth:`Control.sessions`' answer."""
    counts: Counter[FlowKey] = Counter()
    for one in sessions:
        ends = frozenset(((one["source"], one["source_port"]), (one["destination"], one["destination_port"])))
        counts[one["protocol"], ends] += one["packets_sent"] + one["packets_received"]
    return counts


def at_two_firewalls(before: Mapping[str, Packets], after: Mapping[str, Packets]) -> list[str]:
    """Return the flows of which packets came to more than one firewall between two readings, by firewall.

    A session that only lingers is no violation: its port may belong to another flow by now. Sessions may have been
    made anew between the readings, with fewer packets.
    """
    seen: dict[FlowKey, list[str]] = {}
    for firewall in before.keys() & after.keys():
        for flow, count in after[firewall].items():
            if count > before[firewall].get(flow, 0):
                seen.setdefault(flow, []).append(firewall)
    return [f"{flow_text(flow)} at {' and '.join(sorted(names))}" for flow, names in seen.items() if len(names) > 1]


def flow_text(flow: FlowKey) -> str:
    protocol, ends = flow
    return f"{protocol} {' ↔ '.join(f'{address}:{port}' for address, port in sorted(ends))}"


def broken_flows(flows: Iterable[Flow], ports: Mapping[str, Collection[int]], broken: Collection[str]) -> list[str]:
    """Return the flows that died, or were never seen, on firewalls that were not *broken*.

    *ports* are the flows' source ports by firewall.
    """
    home = {port: firewall for firewall, its in ports.items() for port in its}
    found = []
    for flow in flows:
        firewall = home.get(flow.local_port)
        if firewall is None:
            found.append(f"{flow.protocol} port {flow.local_port} was at no firewall")
        elif flow.died is not None and firewall not in broken:
            found.append(f"{flow.protocol} port {flow.local_port} at {firewall} died of {flow.cause}")
    return found


def lost_connections(connections: Iterable[Connection], troubles: Collection[tuple[float, float]]) -> list[str]:
    """Return the new connections that failed although no firewall was in trouble while they were tried.

    *troubles* are (from, to) in the probe's time.
    """
    return [
        f"port {one.local_port}: {one.error}"
        for one in connections
        if one.error and not any(begin <= one.ended and one.started <= end for begin, end in troubles)
    ]


# -- leaks ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Footprint:
    """What a lab holds at one time.

    ``memory`` (resident, bytes) and ``descriptors`` are by process, ``flows``, ``groups`` and ``entries`` (of the
    GENEVE endpoint's maps) by name as (what is there, what should be), ``conntrack`` is by zone (entries, bound).
    """

    memory: Mapping[str, int] = field(default_factory=dict)
    descriptors: Mapping[str, int] = field(default_factory=dict)
    flows: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    groups: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    entries: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    conntrack: Mapping[int, tuple[int, int]] = field(default_factory=dict)
    packet_ins: int = 0


def surplus(footprint: Footprint) -> list[str]:
    """Return what a lab at rest holds beside what it should: learned flows are among the flows."""
    exact = {"flows": footprint.flows, "groups": footprint.groups, "map entries": footprint.entries}
    found = [
        f"{name}: {there} {what} instead of {wanted}"
        for what, counts in exact.items()
        for name, (there, wanted) in counts.items()
        if there != wanted
    ]
    found += [
        f"conntrack zone {zone}: {there} entries, more than {bound}"
        for zone, (there, bound) in footprint.conntrack.items()
        if there > bound
    ]
    return found + ([f"{footprint.packet_ins} packets went to the controller"] if footprint.packet_ins else [])


def growth(first: Footprint, last: Footprint) -> list[str]:
    """Return which processes have grown beyond the bounds between two times."""
    found = [
        f"{name}: {first.memory[name] >> 20} MiB grew to {memory >> 20} MiB"
        for name, memory in last.memory.items()
        if name in first.memory and memory > MEMORY_FACTOR * first.memory[name] + MEMORY_SLACK
    ]
    found += [
        f"{name}: {first.descriptors[name]} descriptors grew to {count}"
        for name, count in last.descriptors.items()
        if name in first.descriptors and count > first.descriptors[name] + DESCRIPTOR_SLACK
    ]
    return found


# -- witnesses -----------------------------------------------------------------------------------------------------


def footprint(lab: Lab, flows: int, connections: float) -> Footprint:
    """Read what the lab holds; all its processes run.

    The load, *flows* and so many new *connections* a second, bounds what conntrack holds: twice what it can have begun
    within a zone's longest time-out.
    """
    processes = {name: int(firewall.control.info()["pid"]) for name, firewall in lab.firewalls.items()}
    processes["controller"] = lab.controller.process.pid
    if lab.management:
        processes["management"] = lab.management.process.pid
    tracked = zone_entries(bridges.appctl("dpctl/dump-conntrack", bridges.datapath_name(lab.journal.datapath)))
    timeouts, programs = zone_timeouts(lab.topology, lab.time_scale), lab.programs
    switches = {name: bridges.bridge_name(name) for name in programs}
    return Footprint(
        memory={name: resident(pid) for name, pid in processes.items()},
        descriptors={name: len(os.listdir(f"/proc/{pid}/fd")) for name, pid in processes.items()},
        flows={
            name: (len(bridges.flow_packets(bridge)), len(programs[name].flows)) for name, bridge in switches.items()
        },
        groups={name: (groups(bridge), len(programs[name].groups)) for name, bridge in switches.items()},
        entries=dict(counts for name in lab.endpoints for counts in _map_entries(lab, name)),
        conntrack={
            zone: (tracked[zone], round(2 * (flows + connections * max(policy.values()))))
            for zone, policy in timeouts.items()
        },
        packet_ins=sum(state["packet_ins"] for state in lab.controller.status()["switches"].values()),
    )


def _map_entries(lab: Lab, gwlb: str) -> Iterator[tuple[str, tuple[int, int]]]:
    """Yield (name, (entries, what was put in)) of those maps of an endpoint that could grow."""
    configuration = endpoint_configuration(lab.topology, lab.fabric, gwlb)
    entries = lab.endpoints[gwlb].entries()
    yield f"{gwlb}'s interfaces", (entries["interfaces"], len(configuration.targets))
    yield f"{gwlb}'s endpoint_index", (entries["endpoint_index"], len(configuration.endpoints))


def zone_entries(conntrack: str) -> Counter[int]:
    """Return the entries of each zone in what ``dpctl/dump-conntrack`` prints; zone 0 is not printed."""
    return Counter(int(zone) for zone in re.findall(r"zone=(\d+)", conntrack))


def groups(bridge: str) -> int:
    """Return how many groups a bridge has. Raises MachineError."""
    command = ["ovs-ofctl", "-O", "OpenFlow15", "dump-groups", bridge]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    if answer.returncode:
        raise MachineError(f"ovs-ofctl: {answer.stderr.strip().splitlines()[-1]}")
    return answer.stdout.count("group_id=")


def resident(pid: int) -> int:
    """Return the memory of a process that is in RAM, in bytes: ``VmRSS`` of proc(5)."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.findall(r"VmRSS:\s+(\d+) kB", status)[0]) << 10


def datagrams(pid: int) -> int:
    """Return the UDP datagrams that have come to the network namespace of process *pid*, wanted there or not.

    Of ``/proc/PID/net/snmp``, proc(5): a line of names and one of numbers for each protocol.
    """
    names, numbers = (
        line.split() for line in Path(f"/proc/{pid}/net/snmp").read_text().splitlines() if line.startswith("Udp:")
    )
    counts = dict(zip(names, numbers, strict=True))
    return sum(int(counts[name]) for name in ("InDatagrams", "NoPorts", "InErrors"))
