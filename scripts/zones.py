"""Zones: an AZ's firewalls fail, with cross-zone load balancing off and on; and what appliance mode is for.

A load balancer node uses the firewalls of its own AZ, unless cross-zone is on. Without appliance mode the Transit
Gateway keeps a packet in the AZ where it came from, so that the answer of an instance in another AZ meets a firewall
that has never seen the question.
"""

from __future__ import annotations

import time

from testbed.lab import Lab
from testbed.run import Run
from testbed.scenario import main
from testbed.timeline import Event, Kind, failures

CROSS_ZONE = "load_balancing.cross_zone.enabled"
#: The load balancer drops an answer of a flow that it has not seen begin.
UNKNOWN = "gwlb/connections invalid"


def story(run: Run, flows: int = 40, time_scale: float = 10) -> None:
    with run.lab("gwlb", time_scale=time_scale) as lab:
        with run.chapter("AZ a fails"):
            zone_fails(run, lab, flows)
        with run.chapter("appliance mode"):
            asymmetry(run, lab)


def zone_fails(run: Run, lab: Lab, count: int) -> None:
    web1, app2 = lab.host("web1"), lab.host("app2")
    failing = [name for name, firewall in lab.firewalls.items() if lab.zone(name) == "a"]
    with run.flows(web1, app2, tcp=count, dead_after=4) as traffic:
        ports = {
            session["source_port"]
            for name in failing
            for session in lab.firewalls[name].control.sessions(source=str(web1.address))
        }
        broken = time.monotonic()
        for name in failing:
            lab.firewalls[name].kill(meant=True)
        for name in failing:
            lab.wait_target(name, "unhealthy")
        alone = time.monotonic()
        traffic.wait(lambda status: status.time > alone + 5, "what becomes of AZ a")

        # The other AZ's firewalls may help now.
        lab.manage(lambda service: service.set_attributes("gwlb", {CROSS_ZONE: "true"}))
        lab.revalidate()
        helped = time.monotonic()
        traffic.wait(lambda status: status.time > helped + 5, "cross-zone load balancing")

        for name in failing:
            lab.firewalls[name].start()
        for name in failing:
            lab.wait_target(name, "healthy")
        lab.manage(lambda service: service.set_attributes("gwlb", {CROSS_ZONE: "false"}))
        lab.revalidate()
        whole = time.monotonic()
        traffic.wait(lambda status: status.time > whole + 4, "both zones on their own again")

    line = run.timeline("AZ a fails", traffic, Event(broken, Kind.FAILURE, f"{' and '.join(failing)} killed"))
    dead = {flow.local_port for flow in line.died()}
    theirs = {flow.local_port for flow in line.flows} & ports
    fate = f"{len(theirs)} of {count} in a, {len(dead)} died"
    run.check("flows of AZ a died, those of AZ b did not", dead == theirs != set(), fate)
    between = {
        "cross-zone off": [one for one in line.connections if alone < one.started < helped],
        "cross-zone on": [one for one in line.connections if helped < one.started < whole],
        "after the repair": [one for one in line.connections if one.started > whole],
    }
    failed = {phase: sum(bool(one.error) for one in ones) for phase, ones in between.items()}
    told = {phase: failures(ones) for phase, ones in between.items()}
    off, on, after = between
    run.check("cross-zone off: AZ a's new connections fail", 0 < failed[off] < len(between[off]), told[off])
    run.check("cross-zone on: all succeed", not failed[on] and bool(between[on]), told[on])
    run.check("after the repair all succeed", not failed[after] and bool(between[after]), told[after])


def asymmetry(run: Run, lab: Lab) -> None:
    # web1 is in AZ a, web2 in AZ b.
    web1, web2 = lab.host("web1"), lab.host("web2")
    on = run.connections(web1, web2, seconds=2)
    run.check(
        "on: both directions meet one firewall",
        on.failed == 0 < on.completed,
        f"{on.completed} completed, {on.failed} failed",
    )
    with lab.attributes("att-sec", {"ApplianceModeSupport": "disable"}):
        before = lab.flow_counters()[UNKNOWN]
        off = run.connections(web1, web2, seconds=2)
        dropped = lab.flow_counters()[UNKNOWN] - before
        run.check(
            "off: no connection from AZ to AZ",
            off.completed == 0 < off.failed,
            f"{off.completed} completed, {off.failed} failed",
        )
        run.check("off: the answers were dropped as unknown", dropped >= off.failed, f"{UNKNOWN}: {dropped} packets")
        same = run.connections(web1, lab.host("app2"), seconds=2)
        run.check(
            "off: within an AZ nothing changes",
            same.failed == 0 < same.completed,
            f"{same.completed} completed, {same.failed} failed",
        )
    again = run.connections(web1, web2, seconds=2)
    run.check(
        "on again: all is well",
        again.failed == 0 < again.completed,
        f"{again.completed} completed, {again.failed} failed",
    )


if __name__ == "__main__":
    main(__file__)
