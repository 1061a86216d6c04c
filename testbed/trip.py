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
from itertools import permutations, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from testbed.results import Table
from testbed.wire import Frame, Tap, parse_frame, pcap
from topologies.model import Topology
from topologies.walk import Hop, hosts, walks

if TYPE_CHECKING:
    from testbed.lab import Lab
    from testbed.nodes import Host

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

    ``forward`` and ``back`` are the model's paths: for each hop the decisions that it may be, of which a flow takes
    one (several where the Transit Gateway chooses a zone by a hash). ``sent`` and ``returned`` are the packets that
    arrived at the server and at the client. ``rises`` are the packets of each decision that some path of the model
    takes, ``packet_ins`` those that reached the controller. ``frames`` are the GENEVE frames on each firewall's link
    that carry packets between the two. ``capture`` is all of that as a capture file.
    """

    client: str
    server: str
    forward: Sequence[frozenset[str]] = ()
    back: Sequence[frozenset[str]] = ()
    sent: int = 0
    returned: int = 0
    rises: Mapping[str, int] = field(default_factory=dict)
    packet_ins: int = 0
    sessions: Sequence[SeenSession] = ()
    frames: Mapping[str, Sequence[Frame]] = field(default_factory=dict)
    capture: bytes = b""

    def expected(self) -> dict[frozenset[str], int]:
        """Return the packets that each hop's decisions must have been made for together, if the model is right."""
        packets: dict[frozenset[str], int] = {}
        for path, count in ((self.forward, self.sent), (self.back, self.returned)):
            for hop in path:
                packets[hop] = packets.get(hop, 0) + count
        return packets

    def counted(self, hop: frozenset[str]) -> int:
        """Return the packets that a hop's decisions were made for together."""
        return sum(self.rises.get(decision, 0) for decision in hop)

    def path_table(self, title: str) -> Table:
        """Return the path, forward and back, with each hop's counter."""
        expected = self.expected()
        rows = []
        for direction, path in (("→", self.forward), ("←", self.back)):
            for number, hop in enumerate(path, start=1):
                taken = sorted(decision for decision in hop if self.rises.get(decision)) or sorted(hop)
                rows.append((f"{direction} {number}", " or ".join(taken), str(expected[hop]), str(self.counted(hop))))
        return Table(title, ("hop", "decision", "packets", "counted"), tuple(rows))


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


def path(topology: Topology, client: str, server: str, reply: bool = False) -> tuple[frozenset[str], ...]:
    """Return the model's path, of the reply if *reply*: for each hop, the decisions of which a flow takes one."""
    columns = zip_longest(*walks(topology, client, server, reply))
    return tuple(frozenset().union(*(decisions(hop) for hop in column if hop)) for column in columns)


def decisions(hop: Hop) -> frozenset[str]:
    """Return the decisions of which a flow takes one at this hop."""
    return frozenset(hop.alternatives or [hop.decision])


def model_decisions(topology: Topology) -> frozenset[str]:
    """Return the decisions of every path that the model knows, between any two hosts."""
    names = hosts(topology)
    found = [path(topology, one, other, reply) for one, other in permutations(names, 2) for reply in (False, True)]
    return frozenset().union(*(hop for hops in found for hop in hops))


@contextmanager
def observe(lab: Lab, client: Host, server: Host) -> Iterator[Trip]:
    """Fill in a trip at the end of the block.

    Nothing else may send in the lab meanwhile. For a short exchange: every frame is captured and taken apart.
    """
    topology = lab.topology
    trip = Trip(client.name, server.name)
    trip.forward = path(topology, client.name, server.name)
    trip.back = path(topology, client.name, server.name, reply=True)
    known = model_decisions(topology)
    ends = {client.address, server.address}
    with ExitStack() as stack:
        taps = {}
        for link in lab.fabric.appliance_links:
            taps[link.appliance] = stack.enter_context(Tap(lab.host(link.gwlb).pid, link.appliance))
        old_sessions = {(session.firewall, session.id) for session in sessions(lab)}
        old_packet_ins, old_counters = packet_ins(lab), lab.flow_counters()
        old_sent, old_returned = settle(server, client)

        yield trip

        sent, returned = settle(server, client)
        counters = lab.flow_counters()
        trip.sent, trip.returned = sent - old_sent, returned - old_returned
        trip.rises = {decision: counters[decision] - old_counters[decision] for decision in known & counters.keys()}
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
