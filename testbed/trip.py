"""A trip: everything that the lab knows about the traffic between two hosts in a stretch of time.

Four independent witnesses: the hosts' own IP counters, the switches' flow counters, the firewalls' session tables,
and captures on the firewalls' links. :mod:`testbed.proofs` compares them with each other and with the model.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from itertools import permutations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from testbed.results import Table
from testbed.wire import Frame, Tap, parse_frame, pcap
from topologies.decision import decision
from topologies.ids import endpoint_ids, endpoint_number
from topologies.model import Topology
from topologies.walk import Hop, hosts, inspections, walks

if TYPE_CHECKING:
    from testbed.lab import Lab
    from testbed.nodes import Host

#: The table in which a load balancer's flow meets its firewall (:mod:`topologies.walk`).
TARGETS = "targets"
#: Seconds without a new packet after which the hosts count as quiet, and after which they are given up on.
QUIET, NEVER_QUIET = 0.05, 5.0


@dataclass(frozen=True)
class SeenSession:
    """A session as a firewall's table shows it: packets are (client to server, server to client)."""

    firewall: str
    id: int
    source: IPv4Address
    destination: IPv4Address
    protocol: str
    source_port: int
    destination_port: int
    application: str
    rule: str
    state: str
    packets: tuple[int, int]

    def __str__(self) -> str:
        return (
            f"{self.firewall} session {self.id}: {self.application} {self.state}, rule {self.rule}, "
            f"{self.packets[0]} packets there, {self.packets[1]} back"
        )


@dataclass
class Trip:
    """What happened between *client* and *server* (names) while they were observed.

    ``forward`` and ``back`` are the model's walks: one for each zone that the Transit Gateway's hash may choose.
    ``sent`` and ``returned`` are the IP packets that arrived at the server and at the client. ``rises`` are the
    packets of each decision that some walk of the model makes, ``packet_ins`` those that reached the controller.
    ``frames`` are the GENEVE frames on each firewall's link that carry packets between the two; ``capture`` is a
    capture file of those links. ``addresses`` are the hosts' and firewalls', ``endpoints`` their names by the number
    that GENEVE carries.
    """

    client: str
    server: str
    addresses: Mapping[str, IPv4Address]
    endpoints: Mapping[int, str]
    forward: Sequence[Sequence[Hop]] = ()
    back: Sequence[Sequence[Hop]] = ()
    sent: int = 0
    returned: int = 0
    rises: Mapping[str, int] = field(default_factory=dict)
    packet_ins: int = 0
    sessions: Sequence[SeenSession] = ()
    frames: Mapping[str, Sequence[Frame]] = field(default_factory=dict)
    capture: bytes = b""

    def inspected(self, source: str, firewall: str, endpoint: str) -> int:
        """Return the packets from host *source* that went to *firewall* through *endpoint*, as captured on its link."""
        return sum(
            frame.inner_source == self.addresses[source]
            and frame.destination == self.addresses[firewall]
            and self.endpoints.get(frame.endpoint or 0) == endpoint
            for frame in self.frames[firewall]
        )

    def carried(self, hops: Sequence[Hop], back: bool) -> int:
        """Return the packets that took a walk: those inspected at its endpoint, or all where it has none."""
        through = inspections(list(hops))
        if not through:
            return self.returned if back else self.sent
        source = self.server if back else self.client
        return sum(self.inspected(source, firewall, through[0]) for firewall in self.frames)

    def expected(self) -> dict[str, int]:
        """Return the packets that each decision must have been made for, if the model's walks are the packets' way.

        Hashes choose the zone and the firewall: what they chose is in the captures.
        """
        expected: dict[str, int] = {}
        for paths, back in ((self.forward, False), (self.back, True)):
            for hops in paths:
                packets = self.carried(hops, back)
                through = inspections(list(hops))
                for hop in hops:
                    if hop.table != TARGETS:
                        expected[hop.decision] = expected.get(hop.decision, 0) + packets
                        continue
                    for firewall in self.frames:
                        chosen = decision(hop.element, TARGETS, firewall)
                        inspected = self.inspected(self.server if back else self.client, firewall, through[0])
                        expected[chosen] = expected.get(chosen, 0) + inspected
        return expected

    @property
    def traffic(self) -> str:
        """What it was, by the firewalls' sessions: ``icmp``, ``tcp 80``."""
        names = {
            session.protocol if session.protocol == "icmp" else f"{session.protocol} {session.destination_port}"
            for session in self.sessions
        }
        return ", ".join(sorted(names))

    def path_table(self, title: str) -> Table:
        """Return the walks that packets took, there and back, with what each decision counted."""
        rows = []
        expected = self.expected()
        for arrow, paths, back in (("→", self.forward, False), ("←", self.back, True)):
            for hops in paths:
                if not self.carried(hops, back):
                    continue
                for number, hop in enumerate(hops, start=1):
                    taken = [name for name in hop.alternatives if self.rises.get(name)] or [hop.decision]
                    counts = [f"{self.rises.get(name, 0)} of {expected.get(name, 0)}" for name in taken]
                    rows.append((f"{arrow} {number}", ", ".join(taken), hop.why, ", ".join(counts)))
        return Table(title, ("hop", "decision", "why", "packets counted"), tuple(rows))


def received(snmp: str) -> int:
    """Return the IP packets that a namespace has received, of the text of its ``/proc/net/snmp``."""
    names, values = (line.split() for line in snmp.splitlines() if line.startswith("Ip:"))
    return int(values[names.index("InReceives")])


def arrived(*hosts: Host) -> list[int]:
    """Return how many IP packets each host has received since it was made."""
    return [received(Path(f"/proc/{host.pid}/net/snmp").read_text()) for host in hosts]


def settle(*hosts: Host) -> list[int]:
    """Wait until no more packets arrive at the hosts, and return what :func:`arrived` does."""
    deadline = time.monotonic() + NEVER_QUIET
    last: list[int] = []
    while (now := arrived(*hosts)) != last and time.monotonic() < deadline:
        last = now
        time.sleep(QUIET)
    return now


def model_decisions(topology: Topology) -> frozenset[str]:
    """Return the decisions of every walk that the model knows, between any two hosts."""
    pairs = permutations(hosts(topology), 2)
    found = (walks(topology, one, other, reply) for one, other in pairs for reply in (False, True))
    hops = (hop for alternatives in found for hops in alternatives for hop in hops)
    return frozenset(name for hop in hops for name in (hop.decision, *hop.alternatives))


@contextmanager
def observe(lab: Lab, client: Host, server: Host) -> Iterator[Trip]:
    """Fill in a trip at the end of the block.

    Nothing else may send in the lab meanwhile. For a short exchange: every frame is captured and taken apart.
    """
    topology = lab.topology
    trip = Trip(
        client.name,
        server.name,
        addresses={host.name: host.address for host in lab.hosts.values()},
        endpoints={endpoint_number(number): name for name, number in endpoint_ids(topology).items()},
        forward=walks(topology, client.name, server.name),
        back=walks(topology, client.name, server.name, reply=True),
    )
    known = model_decisions(topology)
    ends = {client.address, server.address}
    with ExitStack() as stack:
        taps = {
            link.appliance: stack.enter_context(Tap(lab.host(link.appliance).pid, "eth0"))
            for link in lab.fabric.appliance_links
        }
        old_sessions = {(session.firewall, session.id) for session in sessions(lab)}
        old_packet_ins, old_counters = packet_ins(lab), lab.flow_counters()
        old_sent, old_returned = settle(server, client)

        yield trip

        sent, returned = settle(server, client)
        counters = lab.flow_counters()
        trip.sent, trip.returned = sent - old_sent, returned - old_returned
        trip.rises = {name: counters[name] - old_counters[name] for name in known & counters.keys()}
        trip.packet_ins = packet_ins(lab) - old_packet_ins
        trip.sessions = [
            session
            for session in sessions(lab)
            if (session.firewall, session.id) not in old_sessions and {session.source, session.destination} == ends
        ]
        raw = {name: tap.read() for name, tap in taps.items()}
        trip.capture = pcap([frame for frames in raw.values() for frame in frames])
        trip.frames = {name: between(ends, frames) for name, frames in raw.items()}


def between(ends: set[IPv4Address], frames: Sequence[tuple[float, bytes]]) -> list[Frame]:
    """Return the GENEVE frames whose inner packets go between the two addresses."""
    parsed = [parse_frame(frame) for _, frame in frames]
    return [frame for frame in parsed if frame and {frame.inner_source, frame.inner_destination} == ends]


def packet_ins(lab: Lab) -> int:
    """Return how many packets have reached the controller."""
    return sum(switch["packet_ins"] for switch in lab.controller.status()["switches"].values())


def sessions(lab: Lab) -> list[SeenSession]:
    """Return the sessions in the tables of all firewalls."""
    return [
        SeenSession(
            firewall.name,
            session["id"],
            IPv4Address(session["source"]),
            IPv4Address(session["destination"]),
            session["protocol"],
            session["source_port"],
            session["destination_port"],
            session["application"],
            session["rule"],
            session["state"],
            (session["packets_sent"], session["packets_received"]),
        )
        for firewall in lab.firewalls.values()
        for session in firewall.control.sessions()
    ]


def traffic_log(lab: Lab) -> list[dict[str, Any]]:
    """Return the lines of all firewalls' traffic logs so far, as :mod:`firewall_vnf.log` writes them."""
    files = [firewall.logs / "traffic.jsonl" for firewall in lab.firewalls.values()]
    # The last line may be half written.
    lines = [line for file in files if file.exists() for line in file.read_text().split("\n")[:-1]]
    return [json.loads(line) for line in lines]
