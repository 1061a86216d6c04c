"""Failover: a firewall breaks under load. Which flows it takes along, how long others suffer, what attributes change.

By default a Gateway Load Balancer leaves a failed firewall's flows on it: they are lost, and only they. New flows are
lost until the health checks have found out.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from testbed.lab import Lab
from testbed.probes.flows import RESET, TIME_OUT
from testbed.run import Run
from testbed.scenario import main
from testbed.timeline import Event, Kind, failures
from topologies.loader import load_topology


def kill(lab: Lab, name: str) -> None:
    lab.firewalls[name].kill(meant=True)


def restart(lab: Lab, name: str) -> None:
    lab.firewalls[name].start()


def freeze(lab: Lab, name: str) -> None:
    lab.firewalls[name].freeze()


def thaw(lab: Lab, name: str) -> None:
    lab.firewalls[name].thaw()


@dataclass(frozen=True)
class Case:
    """What breaks and how it is mended, with which attributes, and what must come of it."""

    name: str
    break_: Callable[[Lab, str], None]
    mend: Callable[[Lab, str], None]
    attributes: Mapping[str, str] = field(default_factory=dict)
    detected: bool = True
    #: What the flows of the broken firewall die of; None if it does not matter, "" if they live on.
    cause: str | None = None


REBALANCE = {"target_failover.on_unhealthy": "rebalance", "target_failover.on_deregistration": "rebalance"}
CASES = (
    Case("process killed", kill, restart),
    Case("link cut", Lab.cut, Lab.mend),
    Case("hang", freeze, thaw),
    # The kernel of a hung firewall still completes TCP handshakes: only a check that wants an answer finds out.
    Case("hang, checked by TCP", freeze, thaw, {"HealthCheckProtocol": "TCP"}, detected=False),
    Case("TCP reset", kill, restart, {"send_tcp_reset.on_unhealthy.enabled": "true"}, cause=RESET),
    # The next firewall does not know the flows that it is given, so they are lost all the same …
    Case("rebalance", kill, restart, REBALANCE),
)
# … unless the firewalls share their sessions.
SHARED = Case("rebalance, sessions shared", kill, restart, REBALANCE, cause="")


def story(run: Run, flows: int = 40, time_scale: float = 10) -> None:
    plan = load_topology("gwlb")
    with run.lab(plan, time_scale=time_scale) as lab:
        for case in CASES:
            with run.chapter(case.name):
                tell(run, lab, case, flows)
    assert plan.firewalls is not None
    sharing = plan.model_copy(update={"firewalls": plan.firewalls.model_copy(update={"session_sharing": True})})
    with run.lab(sharing, time_scale=time_scale) as lab, run.chapter(SHARED.name):
        tell(run, lab, SHARED, flows)


def tell(run: Run, lab: Lab, case: Case, count: int) -> None:
    web1, app2 = lab.host("web1"), lab.host("app2")
    patience = 4.0  # seconds after which a silent flow is dead
    with lab.attributes("gwlb", case.attributes):
        with run.flows(web1, app2, tcp=count, dead_after=patience) as traffic:
            # The firewall that breaks is the one with the most sessions.
            ports = {
                name: {session["source_port"] for session in firewall.control.sessions(source=str(web1.address))}
                for name, firewall in lab.firewalls.items()
            }
            victim = max(ports, key=lambda name: len(ports[name]))
            broken = time.monotonic()
            case.break_(lab, victim)
            if case.detected:
                lab.wait_target(victim, "unhealthy")
            known = time.monotonic()
            lab.revalidate()
            followed = time.monotonic()
            traffic.wait(lambda status: status.time > followed + patience + 2, "the flows' fate")
            states = lab.target_states(victim)
        case.mend(lab, victim)
        lab.wait_target(victim, "healthy")

    what = Event(broken, Kind.FAILURE, f"{victim}: {case.name}")
    line = run.timeline(f"{victim}: {case.name}", traffic, what)
    dead = {flow.local_port: flow.cause for flow in line.died()}
    theirs = {flow.local_port for flow in line.flows} & ports[victim]
    told = f"{len(theirs)} of {count} flows were on {victim}, {len(dead)} died"
    if case.cause == "":
        run.check("every flow survived", not dead, told)
    else:
        run.check("the broken firewall's flows died, and no other", dead.keys() == theirs != set(), told)
    if case.cause:
        causes = Counter(dead.values())
        # Only the sender of a flow's next packet is told; where that was the server, the client waits in vain.
        were = case.cause in causes and causes.keys() <= {case.cause, TIME_OUT}
        told = ", ".join(f"{number} of {cause}" for cause, number in causes.items())
        run.check(f"they were told: {case.cause}", were, f"died: {told}")

    new = line.started(followed)
    late = [one for one in new if one.error]
    if case.detected:
        run.check("new connections succeed once the failure is known", bool(new) and not late, failures(new))
        run.measure("detection", known - broken, "s")
        run.measure("detection as configured", lab.detection_time("gwlb"), "s")
    else:
        run.check("the health check never found out", states == {"healthy"}, f"{victim} is {', '.join(states)}")
        run.check("new connections went on failing", bool(late), failures(new))
    first = line.outage(broken)
    if first is not None:
        run.measure("last new connection lost after", first, "s")
    gap = line.longest_gap(broken)
    if case.cause == "" and gap:
        run.measure("longest silence of a flow", gap.seconds, "s")


if __name__ == "__main__":
    main(__file__)
