"""What a trip proves, as checks: each compares what independent witnesses say, and its detail names what it saw."""

from __future__ import annotations

from collections import Counter

from testbed.results import Check
from testbed.trip import TARGETS, Trip
from testbed.wire import AWS_CLASS, Frame

#: AWS's options: class, type and bytes of data, always all three and in this order (AWS GWLB guide; gwlbtun).
AWS_OPTIONS = ((AWS_CLASS, 1, 8), (AWS_CLASS, 2, 8), (AWS_CLASS, 3, 4))
GENEVE_PORT = 6081
IPV4 = 0x0800


def inspected_on_the_models_path(trip: Trip) -> list[Check]:
    """All that a trip proves about the path through a Gateway Load Balancer's firewall."""
    return [
        followed_the_model(trip),
        one_firewall_saw_both_directions(trip),
        geneve_is_awss(trip),
        nothing_reached_the_controller(trip),
    ]


def followed_the_model(trip: Trip) -> Check:
    """Every decision of the model's walks was made for exactly the packets that went that way, and no other for any."""
    expected = trip.expected()
    problems = [
        f"{decision}: {rise} packets instead of {expected.get(decision, 0)}"
        for decision, rise in sorted(trip.rises.items())
        if rise != expected.get(decision, 0)
    ]
    problems += [f"{decision}: no switch has it" for decision in sorted(expected.keys() - trip.rises.keys())]
    for walks, back, arrived in ((trip.forward, False, trip.sent), (trip.back, True, trip.returned)):
        inspected = sum(trip.carried(hops, back) for hops in walks)
        if inspected != arrived or not arrived:
            problems.append(f"{inspected} packets on the walk {'back' if back else 'there'}, {arrived} arrived")
    made = sum(bool(packets) for packets in expected.values())
    detail = f"{made} decisions, {trip.sent} packets there, {trip.returned} back"
    return Check("every packet took the model's path, hop by hop", not problems, "; ".join(problems) or detail)


def stopped_at_the_firewall(trip: Trip) -> Check:
    """Packets from the client reached a firewall as the model says, and none of them any decision after it."""
    expected = trip.expected()
    problems, stopped = [], 0
    for hops in trip.forward:
        stopped += (packets := trip.carried(hops, back=False))
        tables = [hop.table for hop in hops]
        firewall = tables.index(TARGETS) if TARGETS in tables else len(hops)
        for hop in [*hops[:firewall], *hops[firewall + 1 :]] if packets else []:
            wanted = expected[hop.decision] if hop in hops[:firewall] else 0
            if (count := trip.rises.get(hop.decision, 0)) != wanted:
                problems.append(f"{hop.decision}: {count} packets instead of {wanted}")
    detail = "; ".join(problems) or f"{stopped} packets reached a firewall, {trip.sent} arrived"
    return Check("the firewall stopped every packet", stopped > 0 and trip.sent == 0 and not problems, detail)


def one_firewall_saw_both_directions(trip: Trip) -> Check:
    """Each session is on one firewall only, which counted both directions; and the captures on the links agree."""
    problems = []
    flows = Counter(
        (session.protocol, session.source, session.source_port, session.destination, session.destination_port)
        for session in trip.sessions
    )
    problems += [f"{count} firewalls have a session {flow}" for flow, count in flows.items() if count > 1]
    for session in trip.sessions:
        if not all(session.packets):
            problems.append(f"{session.firewall} saw {session.packets[0]} packets there and {session.packets[1]} back")
    on_links: dict[frozenset[object], set[str]] = {}
    for firewall, frames in trip.frames.items():
        for frame in frames:
            on_links.setdefault(frozenset(frame.flow), set()).add(firewall)
    problems += [
        f"one flow on the links of {', '.join(sorted(links))}" for links in on_links.values() if len(links) > 1
    ]
    seen = [str(session) for session in trip.sessions]
    detail = "; ".join(problems or seen) or "no firewall has a session"
    return Check("one firewall saw both directions", bool(seen) and not problems, detail)


def geneve_is_awss(trip: Trip) -> Check:
    """On the firewalls' links: VNI 0, AWS's three options, a cookie for each flow that is the same in both directions;
    to the firewall and back with addresses swapped and ports as they were."""
    frames = [frame for link in trip.frames.values() for frame in link]
    problems = Counter(problem for frame in frames for problem in _oddities(frame))
    cookies: dict[frozenset[object], set[int | None]] = {}
    for frame in frames:
        cookies.setdefault(frozenset(frame.flow), set()).add(frame.cookie)
    for flow_cookies in cookies.values():
        if len(flow_cookies) != 1:
            problems[f"{len(flow_cookies)} cookies in one flow"] += 1
    there = Counter((frame.source, frame.destination, frame.source_port) for frame in frames)
    for (source, destination, port), count in there.items():
        if there[destination, source, port] != count:
            problems[
                f"{source} → {destination} port {port}: {count} frames, but {there[destination, source, port]} back"
            ] += 1
    if problems:
        return Check(GENEVE, False, "; ".join(f"{problem} ({count})" for problem, count in problems.items()))
    named = ", ".join(
        f"{cookie:#010x}" for found in list(cookies.values())[:3] for cookie in found if cookie is not None
    )
    detail = f"{len(frames)} frames, cookies {named}" if frames else "no GENEVE frame was captured"
    return Check(GENEVE, bool(frames), detail)


GENEVE = "GENEVE on the wire is AWS's, with one cookie for both directions"


def _oddities(frame: Frame) -> list[str]:
    options = tuple((option.option_class, option.type, len(option.data)) for option in frame.options)
    return [
        problem
        for problem, odd in (
            (f"options {options}", options != AWS_OPTIONS),
            (f"VNI {frame.vni}", frame.vni != 0),
            (f"protocol {frame.protocol:#06x}", frame.protocol != IPV4),
            (f"destination port {frame.destination_port}", frame.destination_port != GENEVE_PORT),
        )
        if odd
    ]


def nothing_reached_the_controller(trip: Trip) -> Check:
    """The switches forwarded alone."""
    return Check("no packet reached the controller", trip.packet_ins == 0, f"{trip.packet_ins} packets")
