"""Active/passive: two firewalls, one at work. It dies, the other takes its addresses, routes and sessions over.

Zone a's pair moves the secondary address and the routes, zone b's the interfaces themselves, the older and slower way.
Detection is PAN-OS's: three heartbeats missing on both links, then the promotion hold. Then the cloud moves what is to
be moved, which takes its time. Both are divided by `time_scale`; what firewalls and attachments carry is multiplied
by `rate_scale`.
"""

from __future__ import annotations

import subprocess
import time
from typing import Any

from controllers.management.network_interfaces import pair_delay
from firewall_vnf.high_availability import LOST, PROFILES
from testbed import nodes
from testbed.comparison.model import Settings
from testbed.lab import Lab
from testbed.nodes import Host
from testbed.probes.flows import Traffic
from testbed.rating import rate_attachments, rate_firewalls
from testbed.results import Table
from testbed.run import Run
from testbed.scenario import main
from testbed.timeline import Event, Kind, Timeline, failures
from topologies.fabric import interface
from topologies.loader import load_topology
from topologies.model import Topology, interface_name

#: What a busy machine may add to a time that is configured, in seconds.
SLACK = 3.0
#: A pair by its zone.
PAIRS = {"a": "ha-a", "b": "ha-b"}
#: The public address of what a zone sends out.
PUBLIC = {"a": "192.0.2.31", "b": "192.0.2.32"}
STREAMS = 2
#: Parts of a rate: that TCP reaches at least, that it may exceed, and by which two measurements may differ.
REACHED, EXCEEDED, ALIKE = 0.75, 1.1, 0.3


def story(run: Run, flows: int = 30, seconds: float = 2, time_scale: float = 10, rate_scale: float = 0.001) -> None:
    with run.lab(plan(), time_scale=time_scale) as lab:
        lab.wait(lambda: states(lab) == ["active", "passive"] * 2, "the pairs to agree")
        run.results.tables.append(pair_table(lab, "the pairs"))
        web1, app1, app2, web2 = (lab.host(name) for name in ("web1", "app1", "app2", "web2"))
        with run.chapter("the active firewall dies, its address moves"):
            failover(run, lab, "a", web1, app2, flows)
        with run.chapter("the active firewall dies, its interfaces move"):
            failover(run, lab, "b", app1, web2, flows)
        with run.chapter("the active firewall loses a link"):
            lose_link(run, lab, web1, app2, flows)
        with run.chapter("one link of a pair is cut"):
            one_link(run, lab)
        with run.chapter("both links of a pair are cut"):
            split_brain(run, lab, web1, app2, flows)
        with run.chapter("what a pair carries"):
            capacity(run, lab, web1, app2, seconds, rate_scale)


def plan() -> Topology:
    """Return the topology with one pair for each way of moving, and with each zone's traffic in its zone.

    Packets are short, so that a queue of a low rate has room for many.
    """
    topology = load_topology("active-passive")
    security = topology.vpcs["security"]
    older = security.high_availability["ha-b"].model_copy(update={"move": "interface"})
    security = security.model_copy(update={"high_availability": {**security.high_availability, "ha-b": older}})
    gateway = topology.transit_gateways["tgw"]
    attachment = gateway.attachments["att-sec"].model_copy(update={"appliance_mode": False})
    gateway = gateway.model_copy(update={"attachments": {**gateway.attachments, "att-sec": attachment}})
    return topology.model_copy(
        update={
            "mtu": 1500,
            "vpcs": {**topology.vpcs, "security": security},
            "transit_gateways": {**topology.transit_gateways, "tgw": gateway},
        }
    )


def failover(run: Run, lab: Lab, zone: str, client: Host, server: Host, flows: int) -> None:
    """Kill the active firewall of a zone under traffic."""
    pair = lab.topology.vpcs["security"].high_availability[PAIRS[zone]]
    dying, heir = roles(lab, zone)
    before = run.http(client, lab.host("server")).peer
    with run.flows(client, server, tcp=flows, dead_after=15) as traffic:
        lab.wait(lambda: ha(lab, heir)["synchronized"] >= flows, "all copies")
        carried = {name: packets(lab, name) for name in pair.firewalls}
        run.check("the passive firewall carries nothing", carried[heir] == 0 < carried[dying], f"packets: {carried}")
        killed = time.monotonic()
        forwarding(lab, dying, on=False)
        lab.firewalls[dying].kill(meant=True)
        lab.wait(lambda: ha(lab, heir)["state"] == "active", f"{heir} to be active")
        promoted = time.monotonic()
        wait_for_route(lab, zone, heir)
        moved = time.monotonic()
        wait_for_flows(traffic, moved)
        lab.firewalls[dying].start()
        forwarding(lab, dying, on=True)
        lab.wait(lambda: states(lab, dying, heir) == ["passive", "active"], f"{dying} to come back")

    timers = PROFILES[pair.timers]
    detection = (LOST * timers.heartbeat_interval + timers.promotion_hold) / lab.time_scale
    delay = pair_delay(pair) / lab.time_scale
    line = run.timeline(f"{dying} dies, {heir} takes over", traffic, Event(killed, Kind.FAILURE, f"{dying}: killed"))
    run.measure("promoted after", promoted - killed, "s")
    run.measure("promotion as configured, at most", detection, "s")
    run.check("the peer was promoted in time", promoted - killed < detection + SLACK, f"{promoted - killed:.2f} s")
    run.measure("moved after", moved - promoted, "s")
    run.measure("the cloud's delay as configured", delay, "s")
    run.check("the cloud took its time", moved - promoted >= delay, f"{moved - promoted:.2f} s")
    survived(run, line, flows)
    after = run.http(client, lab.host("server")).peer
    kept = str(before) == str(after) == PUBLIC[zone]
    run.check("the internet sees the same address before and after", kept, f"{before}, then {after}")
    new = line.started(moved)
    late = [one for one in new if one.error]
    run.check("new connections succeed once the routes lead to the heir", bool(new) and not late, failures(new))
    outage = line.outage(killed)
    if outage is not None:
        run.measure("last new connection lost after", outage, "s")
    gap = line.longest_gap(killed)
    if gap:
        run.measure("longest silence of a flow", gap.seconds, "s")
    run.check("who comes back is passive, without preemption", states(lab, dying, heir) == ["passive", "active"])


def lose_link(run: Run, lab: Lab, client: Host, server: Host, flows: int) -> None:
    """Take the trust link of zone a's active firewall down under traffic: its link monitoring hands over."""
    losing, heir = roles(lab, "a")
    with run.flows(client, server, tcp=flows, dead_after=15) as traffic:
        lab.wait(lambda: ha(lab, heir)["synchronized"] >= flows, "all copies")
        lost = time.monotonic()
        trust_link(losing, on=False)
        lab.wait(lambda: states(lab, losing, heir) == ["non-functional", "active"], f"{heir} to be active")
        handed = time.monotonic()
        reason = ha(lab, losing)["reason"]
        run.results.tables.append(pair_table(lab, f"{losing} has lost its trust link"))
        wait_for_route(lab, "a", heir)
        wait_for_flows(traffic, time.monotonic())
        trust_link(losing, on=True)
        lab.wait(lambda: states(lab, losing, heir) == ["passive", "active"], f"{losing} to take part again")

    line = run.timeline(f"{losing} loses a link", traffic, Event(lost, Kind.FAILURE, f"{losing}: trust link down"))
    run.measure("handed over after", handed - lost, "s")
    run.check("the firewall that lost its link handed over", reason == "no link: trust", reason)
    survived(run, line, flows)


def one_link(run: Run, lab: Lab) -> None:
    """Cut HA1 alone: heartbeats go on over HA2, so nobody is promoted."""
    before = states(lab)
    links(lab, "ha1", on=False)
    lab.wait(lambda: ha(lab, "fw1")["links"]["ha1"] == ha(lab, "fw2")["links"]["ha1"] == "down", "HA1 to be missed")
    timers = PROFILES[lab.topology.vpcs["security"].high_availability[PAIRS["a"]].timers]
    patience = 2 * LOST * timers.heartbeat_interval / lab.time_scale
    deadline = time.monotonic() + patience
    lab.wait(lambda: time.monotonic() > deadline, "a second detection time")
    run.check("HA1 alone is cut: nobody is promoted", states(lab) == before, ", ".join(states(lab)))
    links(lab, "ha1", on=True)
    lab.wait(lambda: ha(lab, "fw1")["links"]["ha1"] == "up", "HA1 to be back")
    run.check("it comes back, and nothing changes", states(lab) == before, ", ".join(states(lab)))


def split_brain(run: Run, lab: Lab, client: Host, server: Host, flows: int) -> None:
    """Cut HA1 and HA2 under traffic: both become active, and the cloud decides which of them works."""
    one, other = roles(lab, "a")
    owners: set[tuple[tuple[str, ...], str]] = set()

    def both(*wanted: str) -> bool:
        owners.add((holders(lab), target(lab, "a")))
        return states(lab, one, other) == list(wanted)

    with run.flows(client, server, tcp=flows, dead_after=15) as traffic:
        lab.wait(lambda: ha(lab, other)["synchronized"] >= flows, "all copies")
        idle = packets(lab, other)
        cut = time.monotonic()
        links(lab, "ha1", "ha2", on=False)
        lab.wait(lambda: both("active", "active"), "both to be active")
        doubled = time.monotonic()
        early = packets(lab, other), target(lab, "a")
        run.results.tables.append(pair_table(lab, "both links are cut: two are active"))
        run.check(
            "two are active: the routes still lead to the first, the second carries nothing",
            early == (idle, f"{one}-trust"),
            f"route to {early[1]}, {early[0] - idle} packets at {other}",
        )
        lab.wait(lambda: both("non-functional", "active"), "the cloud to be the fence")
        fenced = time.monotonic()
        lab.wait(lab.settled, "the switches to follow")
        left = packets(lab, one)
        wait_for_flows(traffic, fenced)
        carried = {one: packets(lab, one) - left, other: packets(lab, other) - idle}
        run.results.tables.append(pair_table(lab, "both links are cut: the cloud has decided"))
        links(lab, "ha1", "ha2", on=True)
        lab.wait(lambda: both("passive", "active"), "the pair to agree again")
        agreed = states(lab, one, other)
        hand_back(lab, other, one)
        wait_for_flows(traffic, time.monotonic())
        lab.firewalls[other].control.functional()

    line = run.timeline("both links are cut", traffic, Event(cut, Kind.FAILURE, "HA1 and HA2: cut"))
    run.measure("both were active for", fenced - doubled, "s")
    run.check(
        "at each moment the cloud had address and route at one of them",
        all(len(names) == 1 for names, _ in owners)
        and {route for _, route in owners} == {f"{one}-trust", f"{other}-trust"},
        "; ".join(f"address {' and '.join(names)}, route {route}" for names, route in sorted(owners)),
    )
    run.check("the one that lost them stopped", carried[one] == 0 < carried[other], f"packets since then: {carried}")
    run.check("with the links back one is active", agreed == ["passive", "active"], " and ".join(agreed))
    survived(run, line, flows)


def hand_back(lab: Lab, active: str, passive: str) -> None:
    """Suspend the active firewall, as an operator does: flows go back to where they were, and are further by now."""
    lab.wait(lambda: not ha(lab, active)["unsent"], "all copies")
    lab.firewalls[active].control.suspend()
    lab.wait(lambda: states(lab, passive, active) == ["active", "suspended"], f"{passive} to be active")
    wait_for_route(lab, "a", passive)


def capacity(run: Run, lab: Lab, client: Host, server: Host, seconds: float, rate_scale: float) -> None:
    """Load a zone's pair with what the attachment carries, then with a firewall's rating, then without the passive."""
    run.results.manifest["rate_scale"] = rate_scale
    settings = Settings()
    rating, attachment = settings.rating * rate_scale, settings.attachment_rate * rate_scale
    active, passive = roles(lab, "a")
    idle = packets(lab, passive)

    def loaded(how: str) -> float:
        with run.chapter(f"what a pair carries, {how}"):
            return run.iperf3(client, server, seconds=seconds, streams=STREAMS).bits_per_second

    rate_attachments(lab, (client.name, server.name), attachment)
    free = loaded("no rating")
    rate_firewalls(lab, rating)
    two = loaded("both firewalls")
    run.check("the passive firewall carries nothing", packets(lab, passive) == idle, passive)
    lab.firewalls[passive].kill(meant=True)
    one = loaded(f"{active} alone")
    lab.firewalls[passive].start()
    rates = {"no rating": free, "both firewalls": two, f"{active} alone": one}
    run.results.tables.append(
        Table(
            f"What zone a's pair carries (rate_scale {rate_scale:g})",
            ("", "Mbit/s", "of the firewall's rating", "of the attachment"),
            tuple(
                (name, f"{rate / 1e6:.1f}", f"{rate / rating:.2f}", f"{rate / attachment:.2f}")
                for name, rate in rates.items()
            ),
        )
    )
    for name, rate, limit in (("attachment", free, attachment), ("firewall's rating", two, rating)):
        run.measure(f"the {name}", limit, "bit/s")
        run.check(
            f"the {name} is the limit",
            REACHED * limit < rate < EXCEEDED * limit,
            f"{rate / 1e6:.1f} of {limit / 1e6:.1f} Mbit/s",
        )
    run.check(
        "a second firewall adds nothing",
        abs(two - one) < ALIKE * one,
        f"{two / 1e6:.1f} Mbit/s with both, {one / 1e6:.1f} with one",
    )
    lab.wait(lambda: states(lab, active, passive) == ["active", "passive"], f"{passive} to come back")


def wait_for_route(lab: Lab, zone: str, name: str) -> None:
    """Wait until a zone's traffic is routed to a firewall."""
    lab.wait(lambda: target(lab, zone) == f"{name}-trust", f"the route to {name}")
    lab.wait(lab.settled, "the switches to follow")


def wait_for_flows(traffic: Traffic, mended: float) -> None:
    """Wait until every flow has gone on or is dead: TCP's waiting for the next try has doubled meanwhile.

    Not less than 3 s: a new connection has 2 s to succeed, and those that are under way at the end do not count.
    """
    traffic.wait(lambda status: status.time > mended + 3 and not status.silent, "the flows to go on")


def survived(run: Run, line: Timeline, flows: int) -> None:
    died, silent = line.died(), line.silent()
    run.check(
        "every flow survived: HA2 had copied its session",
        not died and not silent and len(line.flows) == flows,
        f"of {flows} {len(died)} died, {len(silent)} are silent",
    )


def links(lab: Lab, *names: str, on: bool) -> None:
    """Cut zone a's HA links, or mend them."""
    nodes.configure([(lab.network["fw1"], [f"ip link set {name} {'up' if on else 'down'}" for name in names])])


def trust_link(name: str, on: bool) -> None:
    """Take the link of a firewall's trust interface down at the router's end, or bring it up again."""
    subprocess.run(["ip", "link", "set", interface(interface_name(name, "trust")), "up" if on else "down"], check=True)


def forwarding(lab: Lab, name: str, on: bool) -> None:
    """Have a firewall's node forward or not: a machine that is dead carries nothing, where its kernel would go on."""
    nodes.configure([(lab.network[name], [f"echo {int(on)} > /proc/sys/net/ipv4/ip_forward"])])


def ha(lab: Lab, name: str) -> dict[str, Any]:
    """Return what a firewall says of its pair; while it is away, that."""
    firewall = lab.firewalls[name]
    found: dict[str, Any] = firewall.control.info()["ha"] if firewall.ready() else {"state": "away"}
    return found


def states(lab: Lab, *names: str) -> list[str]:
    """Return the states of these firewalls, or of all."""
    return [ha(lab, name)["state"] for name in names or lab.firewalls]


def roles(lab: Lab, zone: str) -> tuple[str, str]:
    """Return the active and the passive firewall of a zone, where there are both."""
    one, other = lab.topology.vpcs["security"].high_availability[PAIRS[zone]].firewalls
    return (one, other) if states(lab, one, other) == ["active", "passive"] else (other, one)


def packets(lab: Lab, name: str) -> int:
    """Return the packets that a firewall has judged. It judges the first ones of each session."""
    return int(lab.firewalls[name].control.counters()["pkt_recv"])


def target(lab: Lab, zone: str) -> str:
    """Return the interface that a zone's traffic is routed to."""
    (found,) = lab.topology.vpcs["security"].route_tables[f"tgw-attach-{zone}"].routes.values()
    return found


def holders(lab: Lab) -> tuple[str, ...]:
    """Return the firewalls to which the cloud gives zone a's secondary address."""
    firewalls = lab.topology.vpcs["security"].firewalls
    return tuple(name for name in ("fw1", "fw2") if firewalls[name].untrust.secondary_addresses)


def pair_table(lab: Lab, title: str) -> Table:
    rows = []
    for name in lab.firewalls:
        said = ha(lab, name)
        links = ", ".join(f"{link} {state}" for link, state in said["links"].items())
        rows.append((name, said["state"], said["reason"], said["peer"], links, str(said["synchronized"])))
    return Table(title, ("firewall", "state", "why", "its peer", "links", "sessions copied"), tuple(rows))


if __name__ == "__main__":
    main(__file__)
