"""The four architectures in the lab, measured alike: a client downloads over HTTP from a server behind the firewalls.

East-west between two VPCs for all but the sandwich, which is for inbound traffic. All have an MTU of 1,500 bytes, and
both ends in one Availability Zone where there are two.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from ipaddress import IPv4Address

from testbed.comparison.application import one_more
from testbed.comparison.calibration import Calibration, calibrate
from testbed.comparison.headroom import Headroom, sample
from testbed.comparison.model import (
    ACTIVE_PASSIVE,
    GWLB,
    SANDWICH,
    VPN,
    Application,
    Failure,
    Load,
    Settings,
    Source,
    Wire,
)
from testbed.lab import Lab
from testbed.probes import downloads, source_log
from testbed.rating import interfaces, rate_attachments, rate_firewalls
from testbed.wire import Tap
from topologies.fabric import tunnels, tunnels_of
from topologies.loader import load_topology
from topologies.model import Topology
from topologies.sizing import MOST_ACTIVE_PASSIVE, with_firewalls
from topologies.walk import address_for

MTU = 1500
ETHERNET, TCP, UDP = 14, 6, 17
SYN = 0x02
#: Seconds of paced flows before the failure, and after it beside those of the settings: a Network Load Balancer's
#: health checks, the slowest to notice, take a dead target out within 15 s at time scale 10.
BEFORE, AFTER = 3.0, 20.0
#: So many new connections in a row are answered when a failure is over: were one of eight firewalls still dead, that
#: would be so once in 3,000 times.
RECOVERED = 60
#: Seconds of each load that a calibration tries.
TRIAL = 3.0
TITLES = {
    GWLB: "Gateway Load Balancer",
    VPN: "VPN attachments, ECMP",
    ACTIVE_PASSIVE: "Active-passive HA",
    SANDWICH: "Inbound sandwich",
}


@dataclass
class LabCloud:
    """An architecture's lab with one client and one server."""

    name: str
    lab: Lab
    client: str
    servers: tuple[str, ...]
    address: IPv4Address
    others: dict[str, IPv4Address]

    def idle(self, seconds: float) -> Headroom:
        before = sample()
        time.sleep(seconds)
        return Headroom.between(before, sample())

    def throughput(self, flows: int, seconds: float) -> Load:
        """Count what flows receive in the very time in which the machine is watched, after they have ramped up."""
        with downloads.loading(self.lab.host(self.client), self.address, seconds + 2 * downloads.RAMP, flows) as found:
            time.sleep(downloads.RAMP)
            before = sample()
            time.sleep(seconds)
            after = sample()
        return Load(found[0].between(before.time, after.time), Headroom.between(before, after))

    def latency(self, flows: int, seconds: float) -> Sequence[float]:
        client = self.lab.host(self.client)
        with ExitStack() as stack:
            if flows:  # they go on for longer than a probe takes to start
                running = downloads.loading(client, self.address, seconds + 5 * downloads.RAMP, flows)
                stack.enter_context(running)
            return downloads.trips(client, self.address, seconds)

    def sources(self) -> Sequence[Source]:
        client = self.lab.host(self.client)
        found = []
        for via, address in {"": self.address, **self.others}.items():
            (answer,) = ask(self.lab, self.client, address)
            found.append(Source(via or ("nlb" if self.others else "routes"), str(client.address), *answer))
        return found

    def wire(self) -> Wire:
        """Compare the sizes of the leg's largest frames with the largest packet that the tenant sends."""
        lab = self.lab
        if self.name == VPN:
            places = [(plan.ends[0], "outside") for plan in tunnels(lab.topology)]
        elif self.name == GWLB:
            places = [(name, "eth0") for name in lab.firewalls]
        else:
            places = [(name, "trust") for name in lab.firewalls]
        with ExitStack() as stack:
            taps = [stack.enter_context(Tap(lab.host(node).pid, interface)) for node, interface in places]
            tenant = stack.enter_context(Tap(lab.host(self.client).pid, "eth0"))
            with downloads.loading(self.lab.host(self.client), self.address, 1.0, 8):
                pass
            frames = [frame for tap in taps for _, frame in tap.read()]
            inner = max(packet_length(frame) for _, frame in tenant.read())
        carried = [frame for frame in frames if frame[12:14] == b"\x08\x00"]
        largest = max(carried, key=packet_length)
        encapsulation = {(UDP, 6081): "GENEVE", (UDP, 4500): "ESP"}.get((largest[23], port_of(largest)), "none")
        encapsulation = "ESP" if largest[23] == 50 else encapsulation
        return Wire(encapsulation, packet_length(largest) - inner, encapsulation == "ESP", self.intact())

    def intact(self) -> bool:
        """Compare what some paced flows' client receives with what servers send; so few that no capture loses one.

        Packets of flows from before may still wait in queues; those were sent before the captures began.
        """
        with ExitStack() as stack:
            sending = [stack.enter_context(Tap(self.lab.host(name).pid, "eth0")) for name in self.servers]
            receiving = stack.enter_context(Tap(self.lab.host(self.client).pid, "eth0"))
            with downloads.loading(self.lab.host(self.client), self.address, 1.0, 8, "/paced"):
                pass
            own = self.lab.host(self.client).address.packed
            mine = [frame for frame in packets(receiving) if frame[30:34] == own and frame[23] == TCP]
            begun = {client_port(frame) for frame in mine if segment(frame)[13] & SYN}
            arrived = {invariable(frame) for frame in mine if client_port(frame) in begun}
            sent = {invariable(frame) for tap in sending for frame in packets(tap)}
        return bool(arrived) and arrived <= sent

    def failure(self, flows: int, seconds: float) -> Failure:
        """Kill the first firewall under paced flows and new connections."""
        length = BEFORE + seconds + AFTER
        with downloads.loading(self.lab.host(self.client), self.address, length, flows, "/paced", True) as found:
            time.sleep(BEFORE)  # the flows' time without a failure, which the figure shows
            died = time.monotonic()
            kill(self.lab, "fw1")
        return judge(found[0], died)

    def application(self) -> Application:
        return one_more(self.lab.topology)


def judge(found: downloads.Downloads, died: float) -> Failure:
    """Return what became of flows and of new connections after a failure at *died*."""
    end, answered_in_a_row = died, 0
    for moment, answered in found.attempts:
        if moment >= died and answered_in_a_row < RECOVERED:
            answered_in_a_row = answered_in_a_row + 1 if answered else 0
            end = end if answered else moment + downloads.ATTEMPT
    seconds = None if answered_in_a_row < RECOVERED else end - died
    origin = found.rates[0][0]
    return Failure(
        found.flows, found.lost, seconds, died - origin, tuple((time - origin, rate) for time, rate in found.rates)
    )


def kill(lab: Lab, name: str) -> None:
    """Let a firewall's machine die: its links, then all that runs on it.

    Its kernel would carry the sessions on that need no more inspection, and its BGP would say goodbye.
    """
    for interface in interfaces(lab, name):
        lab.host(name).run(["ip", "link", "set", interface, "down"])
    mine = set(tunnels_of(lab.topology, name))
    for plan in tunnels(lab.topology):
        if plan.name in mine:
            lab.tunnels[plan.ends[1]].kill()
    if mine:
        lab.tunnels[f"{name}-bgp"].kill()
    lab.firewalls[name].kill(meant=True)


def ask(lab: Lab, client: str, address: IPv4Address) -> list[tuple[str, str | None]]:
    """Return whom the server sees, with the first address of X-Forwarded-For."""
    seen = source_log.request(lab.host(client), address, downloads.PORT)
    return [(str(one.peer), str(one.forwarded_for[0]) if one.forwarded_for else None) for one in seen.seen]


def packet_length(frame: bytes) -> int:
    """Return the length of a frame's IPv4 packet; 0 of another frame's."""
    return int.from_bytes(frame[16:18], "big") if frame[12:14] == b"\x08\x00" else 0


def packets(tap: Tap) -> list[bytes]:
    """Return the frames of IPv4 that a tap has captured."""
    return [frame for _, frame in tap.read() if packet_length(frame)]


def segment(frame: bytes) -> bytes:
    """Return what follows a frame's IPv4 header."""
    return frame[ETHERNET + 4 * (frame[14] & 0x0F) :]


def client_port(frame: bytes) -> bytes:
    """Return the destination port of a segment to a client."""
    return segment(frame)[2:4]


def invariable(frame: bytes) -> bytes:
    """Return a frame's IPv4 packet without what each router changes: the TTL, and the header's checksum for it."""
    packet = bytearray(frame[ETHERNET : ETHERNET + packet_length(frame)])
    packet[8], packet[10:12] = 0, bytes(2)
    return bytes(packet)


def port_of(frame: bytes) -> int:
    """Return the destination port of a frame's UDP or TCP packet, or the source's where that is well known."""
    behind = segment(frame)
    ports = [int.from_bytes(behind[at : at + 2], "big") for at in (0, 2)]
    return next((port for port in ports if port in (6081, 4500)), ports[1])


@dataclass(frozen=True)
class LabArchitecture:
    """An architecture as labs of its packaged topology, with the settings' ratings."""

    name: str
    settings: Settings

    @property
    def title(self) -> str:
        return TITLES[self.name]

    @property
    def most(self) -> int:
        return MOST_ACTIVE_PASSIVE if self.name == ACTIVE_PASSIVE else 8

    @contextmanager
    def build(self, firewalls: int, rate_scale: float) -> Iterator[LabCloud]:
        topology = sized(self.name, firewalls)
        with Lab(topology, time_scale=self.settings.time_scale, rate_scale=rate_scale) as lab, ExitStack() as stack:
            rate_firewalls(lab, self.settings.rating * rate_scale)
            if self.name == SANDWICH:
                balancers = topology.vpcs["app"].load_balancers
                public = {name: item.public_address for name, item in balancers.items() if item.public_address}
                for name in topology.vpcs["app"].instances:
                    stack.enter_context(downloads.serving(lab.host(name)))
                lab.wait(lab.balanced, "all targets to be healthy")
                servers = tuple(topology.vpcs["app"].instances)
                yield LabCloud(self.name, lab, "client", servers, public.pop("nlb"), public)
                return
            client, server = ENDS
            rate_attachments(lab, ENDS, self.settings.attachment_rate * rate_scale)
            stack.enter_context(downloads.serving(lab.host(server)))
            yield LabCloud(self.name, lab, client, (server,), address_for(topology, client, server), {})


#: Client and server of east-west traffic, in zone a.
ENDS = ("web1", "app2")


def sized(name: str, firewalls: int) -> Topology:
    return with_firewalls(load_topology(name), firewalls).model_copy(update={"mtu": MTU})


def architectures(settings: Settings) -> list[LabArchitecture]:
    """Return the four."""
    return [LabArchitecture(name, settings) for name in TITLES]


@dataclass(frozen=True)
class LabTrial:
    """What a calibration measures, in labs."""

    settings: Settings

    def unlimited(self, architecture: str) -> float:
        free = replace(self.settings, rating=1e11, attachment_rate=1e11)
        with LabArchitecture(architecture, free).build(1, 1.0) as cloud:
            return cloud.throughput(8, TRIAL).rate

    def loaded(self, architecture: str, firewalls: int, rate_scale: float) -> Load:
        with LabArchitecture(architecture, self.settings).build(firewalls, rate_scale) as cloud:
            return cloud.throughput(self.settings.flows, TRIAL)


def calibrator(settings: Settings) -> Callable[[], Calibration]:
    """Return the calibration of a comparison on this machine."""
    most = {architecture.name: architecture.most for architecture in architectures(settings)}
    return lambda: calibrate(LabTrial(settings), settings, most)
