"""Active/passive: two firewalls, one at work. It dies, the other takes its addresses, routes and sessions over.

Detection is PAN-OS's: three heartbeats missing on both links, then the promotion hold. Then the cloud moves the routes,
which takes its time. Both are divided by `time_scale`.
"""

from __future__ import annotations

import time
from typing import Any

from controllers.management.network_interfaces import pair_delay
from firewall_vnf.high_availability import LOST, RECOMMENDED
from testbed import nodes
from testbed.lab import Lab
from testbed.results import Table
from testbed.run import Run
from testbed.scenario import main
from testbed.timeline import Event, Kind

#: What a busy machine may add to a time that is configured, in seconds.
SLACK = 3.0
FLOATING = "ha-a"


def story(run: Run, flows: int = 30, time_scale: float = 10) -> None:
    with run.lab("active-passive", time_scale=time_scale) as lab:
        lab.wait(lambda: states(lab) == ["active", "passive"] * 2, "the pairs to agree")
        run.results.tables.append(pair_table(lab))
        with run.chapter("the active firewall dies"):
            failover(run, lab, flows)
        with run.chapter("a link of the pair is cut"):
            split_brain(run, lab)


def failover(run: Run, lab: Lab, flows: int) -> None:
    web1, app2 = lab.host("web1"), lab.host("app2")
    with run.flows(web1, app2, tcp=flows, dead_after=15, connect_timeout=1) as traffic:
        lab.wait(lambda: ha(lab, "fw2")["synchronized"] + ha(lab, "fw4")["synchronized"] >= flows, "all copies")
        carried = {name: packets(lab, name) for name in lab.firewalls}
        run.check("the passive firewalls carry nothing", carried["fw2"] == carried["fw4"] == 0, f"packets: {carried}")
        killed = time.monotonic()
        forwarding(lab, "fw1", on=False)
        lab.firewalls["fw1"].kill(meant=True)
        lab.wait(lambda: ha(lab, "fw2")["state"] == "active", "fw2 to be active")
        promoted = time.monotonic()
        lab.wait(lambda: target(lab) == "fw2-trust", "the route to fw2")
        lab.wait(lab.settled, "the switches to follow")
        moved = time.monotonic()
        traffic.wait(lambda status: status.time > moved + 2, "traffic after the move")
        lab.firewalls["fw1"].start()
        forwarding(lab, "fw1", on=True)
        lab.wait(lambda: states(lab)[:2] == ["passive", "active"], "fw1 to come back")

    detection = (LOST * RECOMMENDED.heartbeat_interval + RECOMMENDED.promotion_hold) / lab.time_scale
    delay = pair_delay(lab.topology.vpcs["security"].high_availability[FLOATING]) / lab.time_scale
    line = run.timeline("fw1 dies, fw2 takes over", traffic, Event(killed, Kind.FAILURE, "fw1: killed"))
    run.measure("promoted after", promoted - killed, "s")
    run.measure("promotion as configured, at most", detection, "s")
    run.check("the peer was promoted in time", promoted - killed < detection + SLACK, f"{promoted - killed:.2f} s")
    run.measure("routes moved after", moved - promoted, "s")
    run.measure("the cloud's delay as configured", delay, "s")
    run.check("the cloud took its time", moved - promoted >= delay, f"{moved - promoted:.2f} s")
    died = line.died()
    run.check("every flow survived: HA2 had copied its session", not died, f"{len(died)} of {flows} died")
    new = line.started(moved)
    late = [one for one in new if one.error]
    told = f"{len(late)} of {len(new)} failed"
    run.check("new connections succeed once the routes lead to fw2", bool(new) and not late, told)
    outage = line.outage(killed)
    if outage is not None:
        run.measure("last new connection lost after", outage, "s")
    gap = line.longest_gap(killed)
    if gap:
        run.measure("longest silence of a flow", gap.seconds, "s")
    run.check("who comes back is passive, without preemption", states(lab)[:2] == ["passive", "active"])


def split_brain(run: Run, lab: Lab) -> None:
    """Cut HA1 alone: heartbeats go on over HA2, so nobody is promoted."""
    before = states(lab)
    nodes.configure([(lab.network["fw1"], ["ip link set ha1 down"])])
    lab.wait(lambda: ha(lab, "fw1")["links"]["ha1"] == ha(lab, "fw2")["links"]["ha1"] == "down", "HA1 to be missed")
    patience = 2 * LOST * RECOMMENDED.heartbeat_interval / lab.time_scale
    deadline = time.monotonic() + patience
    lab.wait(lambda: time.monotonic() > deadline, "a second detection time")
    run.check("HA1 alone is cut: nobody is promoted", states(lab) == before, ", ".join(states(lab)))
    nodes.configure([(lab.network["fw1"], ["ip link set ha1 up"])])
    lab.wait(lambda: ha(lab, "fw1")["links"]["ha1"] == "up", "HA1 to be back")
    run.check("it comes back, and nothing changes", states(lab) == before, ", ".join(states(lab)))


def forwarding(lab: Lab, name: str, on: bool) -> None:
    """Have a firewall's node forward or not: a machine that is dead carries nothing, where its kernel would go on."""
    nodes.configure([(lab.network[name], [f"echo {int(on)} > /proc/sys/net/ipv4/ip_forward"])])


def ha(lab: Lab, name: str) -> dict[str, Any]:
    """Return what a firewall says of its pair; while it is away, that."""
    firewall = lab.firewalls[name]
    found: dict[str, Any] = firewall.control.info()["ha"] if firewall.ready() else {"state": "away"}
    return found


def states(lab: Lab) -> list[str]:
    return [ha(lab, name)["state"] for name in lab.firewalls]


def packets(lab: Lab, name: str) -> int:
    return int(lab.firewalls[name].control.counters()["pkt_recv"])


def target(lab: Lab) -> str:
    """Return the interface that zone a's traffic is routed to."""
    (found,) = lab.topology.vpcs["security"].route_tables["tgw-attach-a"].routes.values()
    return found


def pair_table(lab: Lab) -> Table:
    rows = []
    for name in lab.firewalls:
        said = ha(lab, name)
        links = ", ".join(f"{link} {state}" for link, state in said["links"].items())
        rows.append((name, said["state"], str(said["priority"]), said["peer"], links, str(said["synchronized"])))
    return Table("The pairs", ("firewall", "state", "priority", "its peer", "links", "sessions copied"), tuple(rows))


if __name__ == "__main__":
    main(__file__)
