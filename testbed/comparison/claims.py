"""What the announcement of VM-Series with the Gateway Load Balancer claims, each claim a check of points that can fail.

The announcement: "How VM-Series Integrates with AWS Gateway Load Balancer". *place* is its
heading. A claim whose points are missing, or limited by the machine, is not decided.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum

from testbed.comparison import demand
from testbed.comparison.model import ACTIVE_PASSIVE, GWLB, SANDWICH, VPN, Point, Settings
from testbed.progress import quantity

#: The share of the first that a further firewall adds: at least, where an architecture scales; at most, where not.
SCALES, SCALES_NOT = 0.7, 0.1
#: What a measurement may be beside a limit: a queue's burst, and what an interval's edges count.
TOLERANCE = 1.05
#: By so much a firewall's share of the flows may exceed an even one; three standard deviations of 64 flows on two.
UNEVEN = 0.2
#: Outer IPv4, UDP, GENEVE with AWS's three options: 20 + 8 + 8 + 32 bytes.
GENEVE_OVERHEAD = 68


class Verdict(Enum):
    HELD = "held"
    FAILED = "failed"
    NOT_DECIDED = "not decided"


@dataclass(frozen=True)
class Claim:
    """A claim with what became of it; *points* are the names of those that it was decided by."""

    name: str
    quote: str
    place: str
    verdict: Verdict
    detail: str
    points: tuple[str, ...]


class NotDecided(Exception):
    """The points that a claim needs are not there; the message names them."""


@dataclass
class Evidence:
    """The points of a comparison, and which of them a claim has used."""

    points: Sequence[Point]
    settings: Settings
    rate_scale: float
    used: dict[str, None] = field(default_factory=dict)

    @property
    def tunnel(self) -> float:
        """The rate of one tunnel in the lab, in bit/s."""
        return self.settings.tunnel_rate * self.rate_scale

    def all(self, architecture: str, at_least: int = 1) -> list[Point]:
        """Return the usable points with *at_least* firewalls, fewest first; raises NotDecided where there is none."""
        mine = [one for one in self.points if one.architecture == architecture and one.firewalls >= at_least]
        usable = sorted((one for one in mine if not one.machine_limited), key=lambda one: one.firewalls)
        if not usable:
            wanted = f"{architecture} with {at_least}{' or more' * (at_least > 1)}"
            raise NotDecided(f"{wanted}: {'the machine was the limit' if mine else 'not measured'}")
        self.used |= dict.fromkeys(one.name for one in usable)
        return usable

    def one(self, architecture: str) -> Point:
        """Return the point with one firewall; raises NotDecided where it is missing or the machine was its limit."""
        found = [one for one in self.points if one.architecture == architecture and one.firewalls == 1]
        if not found or found[0].machine_limited:
            raise NotDecided(f"{architecture} with 1: {'the machine was the limit' if found else 'not measured'}")
        self.used[found[0].name] = None
        return found[0]

    def added(self, architecture: str) -> tuple[Point, Point, float]:
        """Return the points with one and with the most firewalls, and what each further firewall added to the first."""
        one, most = self.one(architecture), self.all(architecture, at_least=2)[-1]
        self.used = {name: None for name in self.used if name.split("/")[0] != architecture}
        self.used |= {one.name: None, most.name: None}
        return one, most, demand.efficiency(one, most, one)


Outcome = tuple[bool, str]


def _growth(one: Point, most: Point, share: float) -> str:
    rates = [quantity(point.throughput, "bit/s") for point in (one, most)]
    return (
        f"{rates[0]} with 1, {rates[1]} with {most.firewalls} firewalls: each further one adds {share:.0%} of the first"
    )


def _scales(architecture: str) -> Callable[[Evidence], Outcome]:
    def decide(evidence: Evidence) -> Outcome:
        one, most, share = evidence.added(architecture)
        return share >= SCALES, _growth(one, most, share)

    return decide


def _vpn_capped(evidence: Evidence) -> Outcome:
    cap = evidence.settings.tunnels * evidence.tunnel
    worst = max(evidence.all(VPN), key=lambda point: point.throughput / point.firewalls)
    per = worst.throughput / worst.firewalls
    carried, tunnels = quantity(per, "bit/s"), f"{evidence.settings.tunnels} tunnels carry {quantity(cap, 'bit/s')}"
    return per <= cap * TOLERANCE, f"at most {carried} an attachment, with {worst.firewalls}; its {tunnels}"


def _vpn_single_flow(evidence: Evidence) -> Outcome:
    fastest = max(evidence.all(VPN), key=lambda point: point.single_flow)
    detail = f"at most {quantity(fastest.single_flow, 'bit/s')}, with {fastest.firewalls}"
    return (
        fastest.single_flow <= evidence.tunnel * TOLERANCE,
        f"{detail}; a tunnel carries {quantity(evidence.tunnel, 'bit/s')}",
    )


def _seen(points: Sequence[Point]) -> str:
    texts = {
        f"{source.via}: {source.client} is seen as {source.seen}"
        + (f", X-Forwarded-For {source.forwarded_for}" if source.forwarded_for else "")
        for point in points
        for source in point.sources
    }
    return "; ".join(sorted(texts))


def _vpn_hides(evidence: Evidence) -> Outcome:
    points = evidence.all(VPN)
    return not any(source.kept for point in points for source in point.sources), _seen(points)


def _vpn_encrypts(evidence: Evidence) -> Outcome:
    wires = {point.wire for point in evidence.all(VPN)}
    shown = ", ".join(f"{wire.encapsulation}, {wire.overhead} bytes a packet" for wire in wires)
    return all(wire.encrypted and wire.overhead > 0 for wire in wires), shown


def _active_passive_flat(evidence: Evidence) -> Outcome:
    one, most, share = evidence.added(ACTIVE_PASSIVE)
    return share <= SCALES_NOT, _growth(one, most, share)


def _outdoes(evidence: Evidence, tunnels: int) -> None:
    """Raise NotDecided for firewalls that are rated no faster than so many tunnels: those would not be the limit."""
    if evidence.settings.rating <= tunnels * evidence.settings.tunnel_rate * TOLERANCE:
        rating, limit = evidence.settings.rating, tunnels * evidence.settings.tunnel_rate
        raise NotDecided(
            f"firewalls rated {quantity(rating, 'bit/s')} do not outdo {tunnels} tunnel{'s'[: tunnels != 1]}, "
            f"which carry {quantity(limit, 'bit/s')}"
        )


def _attachment_carries_more(evidence: Evidence) -> Outcome:
    _outdoes(evidence, 1)
    point = evidence.one(ACTIVE_PASSIVE)
    attachment = evidence.settings.attachment_rate * evidence.rate_scale
    rating = evidence.settings.rating * evidence.rate_scale
    carried = [quantity(rate, "bit/s") for rate in (point.throughput, rating, attachment)]
    passed = point.throughput <= rating * TOLERANCE < attachment and point.single_flow > evidence.tunnel * TOLERANCE
    flow = f"one flow {quantity(point.single_flow, 'bit/s')}"
    return passed, f"{carried[0]} ({flow}) with a firewall rated {carried[1]}; the attachment carries {carried[2]}"


def _sandwich_hides(evidence: Evidence) -> Outcome:
    points = evidence.all(SANDWICH)
    return not any(source.kept for point in points for source in point.sources), _seen(points)


def _header_only(evidence: Evidence) -> Outcome:
    points = evidence.all(SANDWICH)
    sources = [source for point in points for source in point.sources]
    named = [source for source in sources if source.forwarded_for is not None]
    if not named or len(named) == len(sources):
        raise NotDecided("sandwich: not measured both with a load balancer of HTTP and one of TCP")
    return all(source.forwarded_for == source.client and not source.kept for source in named), _seen(points)


def _gwlb_keeps(evidence: Evidence) -> Outcome:
    points = evidence.all(GWLB)
    return all(point.sources and all(source.kept for source in point.sources) for point in points), _seen(points)


def _gwlb_intact(evidence: Evidence) -> Outcome:
    wires = [point.wire for point in evidence.all(GWLB)]
    kept = sum(wire.intact for wire in wires)
    return kept == len(wires), f"every packet arrived as it was sent, but for its TTL, at {kept} of {len(wires)} points"


def _gwlb_no_tunnel(evidence: Evidence) -> Outcome:
    wires = {point.wire for point in evidence.all(GWLB)}
    shown = (
        f"{wire.encapsulation}, {wire.overhead} bytes a packet, {'' if wire.encrypted else 'not '}encrypted"
        for wire in wires
    )
    return all(wire.overhead == GENEVE_OVERHEAD and not wire.encrypted for wire in wires), ", ".join(shown)


def _gwlb_faster(evidence: Evidence) -> Outcome:
    _outdoes(evidence, evidence.settings.tunnels)
    mine = {point.firewalls: point for point in evidence.all(GWLB)}
    others = {point.firewalls: point for point in evidence.all(VPN)}
    common = sorted(mine.keys() & others.keys())
    if not common:
        raise NotDecided("gwlb and vpn-ecmp: no number of firewalls was measured with both")
    evidence.used = {point.name: None for number in common for point in (mine[number], others[number])}
    number = min(common, key=lambda number: mine[number].throughput / others[number].throughput)
    rates = [quantity(points[number].throughput, "bit/s") for points in (mine, others)]
    flows = [quantity(points[number].single_flow, "bit/s") for points in (mine, others)]
    passed = all(
        mine[each].throughput > others[each].throughput and mine[each].single_flow > others[each].single_flow
        for each in common
    )
    return passed, f"with {number}: {rates[0]}, over VPN {rates[1]}; one flow {flows[0]}, over VPN {flows[1]}"


def _gwlb_survives(evidence: Evidence) -> Outcome:
    failures = [(point, point.failure) for point in evidence.all(GWLB, at_least=2) if point.failure]
    if not failures:
        raise NotDecided("gwlb: no failure was measured")
    # The dead firewall's share of flows is lost, and the hash is uneven.
    passed = all(
        failure.seconds is not None and failure.flows_lost <= failure.flows * (1 / point.firewalls + UNEVEN)
        for point, failure in failures
    )
    shown = (
        f"{failure.flows_lost} of {failure.flows} flows lost with {point.firewalls}, "
        + ("not recovered" if failure.seconds is None else f"{failure.seconds:.1f} s")
        for point, failure in failures
    )
    return passed, "; ".join(shown)


def _gwlb_simple(evidence: Evidence) -> Outcome:
    mine = evidence.all(GWLB)[-1].application
    theirs = evidence.all(SANDWICH)[-1].application
    shown = [f"{each.rules} rules and {each.listeners} listeners" for each in (mine, theirs)]
    return mine.total < theirs.total, f"one more application needs {shown[0]}, in the sandwich {shown[1]}"


def _gwlb_fewer(evidence: Evidence) -> Outcome:
    mine, vpn, sandwich = (demand.measured(evidence.one(name), evidence.rate_scale) for name in (GWLB, VPN, SANDWICH))
    saved = []
    for wanted in demand.demands([mine, vpn, sandwich]):
        # What the load balancer inspects in one fleet took two: one for inbound traffic, one for all other.
        # Each fleet has a firewall to spare.
        fleet, older = mine.active(wanted) + 1, sandwich.active(wanted / 2) + vpn.active(wanted / 2) + 2
        saved.append((older - fleet, wanted, fleet, older))
    least, wanted, fleet, older = min(saved)
    return least > 0, (
        f"half of the traffic inbound: {fleet} instead of {older} firewalls for {quantity(wanted, 'bit/s')}, where it "
        f"saves least; {max(saved)[2]} instead of {max(saved)[3]} for {quantity(max(saved)[1], 'bit/s')}"
    )


SCALE_AND_THROUGHPUT = "Tradeoff Problem #1: Scale and Throughput Performance"
VISIBILITY = "Tradeoff Problem #2: Visibility and Centralized Firewall Management"
CHANGES, PAYS_OFF = "AWS Gateway Load Balancer Changes the Game", "Three ways the integration pays off"

#: Name, the announcement's words, their heading, what decides.
CLAIMS: tuple[tuple[str, str, str, Callable[[Evidence], Outcome]], ...] = (
    (
        "VPN attachments scale",
        "provides scale using equal-cost multi-path routing (ECMP) and multiple VPN attachments",
        SCALE_AND_THROUGHPUT,
        _scales(VPN),
    ),
    (
        "A VPN attachment carries no more than its tunnels",
        "each VPN attachment offers a limited throughput of 1.25 Gbps",
        SCALE_AND_THROUGHPUT,
        _vpn_capped,
    ),
    (
        "A single flow never exceeds one tunnel",
        "each VPN attachment offers a limited throughput of 1.25 Gbps",
        SCALE_AND_THROUGHPUT,
        _vpn_single_flow,
    ),
    ("VPN attachments encrypt", "with encrypted tunnels", SCALE_AND_THROUGHPUT, _vpn_encrypts),
    ("VPN attachments need SNAT, which hides the source", "no more SNAT", PAYS_OFF, _vpn_hides),
    (
        "A second firewall of an HA pair adds nothing",
        "do not scale beyond a single active VM-Series firewall (per AWS Availability Zone)",
        SCALE_AND_THROUGHPUT,
        _active_passive_flat,
    ),
    (
        "A VPC attachment carries more than a tunnel and than its firewall",
        "VPC attachments that provide up to 50 Gbps of throughput",
        SCALE_AND_THROUGHPUT,
        _attachment_carries_more,
    ),
    (
        "The sandwich scales",
        "hosts an auto-scaling firewall stack for threat prevention",
        VISIBILITY,
        _scales(SANDWICH),
    ),
    (
        "The sandwich hides the source",
        "requires the firewalls to apply source address translation (SNAT) on the traffic to maintain flow symmetry, "
        "thereby obfuscating the source’s identity",
        VISIBILITY,
        _sandwich_hides,
    ),
    (
        "Behind an ALB, only X-Forwarded-For names the client",
        "obfuscating the source’s identity to your applications",
        VISIBILITY,
        _header_only,
    ),
    (
        "The Gateway Load Balancer scales",
        "in a horizontally scalable and fault-tolerant manner",
        CHANGES,
        _scales(GWLB),
    ),
    (
        "The Gateway Load Balancer survives a firewall",
        "in a horizontally scalable and fault-tolerant manner",
        CHANGES,
        _gwlb_survives,
    ),
    (
        "The Gateway Load Balancer keeps the source",
        "keep your traffic packet headers and payload intact, providing complete visibility of the source’s identity",
        PAYS_OFF,
        _gwlb_keeps,
    ),
    (
        "The Gateway Load Balancer keeps headers and payload",
        "use the GENEVE encapsulation to keep your traffic packet headers and payload intact",
        PAYS_OFF,
        _gwlb_intact,
    ),
    (
        "The Gateway Load Balancer needs no encrypted tunnel",
        "You no longer need encrypted tunnels for east-west and outbound traffic inspection",
        PAYS_OFF,
        _gwlb_no_tunnel,
    ),
    (
        "The Gateway Load Balancer carries more than VPN attachments",
        "Scale your traffic across multiple VM-Series firewalls at higher throughput",
        PAYS_OFF,
        _gwlb_faster,
    ),
    (
        "An application needs less configuration than in the sandwich",
        "Simplified connectivity – Easily insert an auto-scaling VM-Series firewall stack",
        PAYS_OFF,
        _gwlb_simple,
    ),
    (
        "The Gateway Load Balancer needs fewer firewalls",
        "Reduce the number of firewalls needed to protect your AWS environment",
        PAYS_OFF,
        _gwlb_fewer,
    ),
)


def decide(points: Sequence[Point], settings: Settings, rate_scale: float) -> list[Claim]:
    """Decide each claim, from nothing but the points."""
    claims = []
    for name, quote, place, decision in CLAIMS:
        evidence = Evidence(points, settings, rate_scale)
        try:
            held, detail = decision(evidence)
            claims.append(
                Claim(name, quote, place, Verdict.HELD if held else Verdict.FAILED, detail, tuple(evidence.used))
            )
        except NotDecided as missing:
            claims.append(Claim(name, quote, place, Verdict.NOT_DECIDED, str(missing), ()))
    return claims
