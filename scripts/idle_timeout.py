"""Idle time-out: the load balancer forgets a TCP flow after 350 s, a firewall after 3,600 s. What falls in between.

After 350 idle seconds a flow's next packet is dropped without a word, while the firewall still shows its session. The
remedies: speak more often than that, raise `tcp.idle_timeout.seconds`, or let the load balancer answer with RST.
"""

from __future__ import annotations

from testbed.lab import Lab
from testbed.probes.flows import RESET, TIME_OUT, Flow
from testbed.run import Run
from testbed.scenario import main

UNKNOWN = "gwlb/connections not a SYN"
FLOWS = 3


def story(run: Run, time_scale: float = 70) -> None:
    with run.lab("gwlb", time_scale=time_scale) as lab:
        timeout = 350 / time_scale
        with run.chapter("as it is"):
            before = lab.flow_counters()[UNKNOWN]
            lost = idle(run, lab, 1.4 * timeout)
            silent = {flow.cause for flow in lost} == {TIME_OUT} and len(lost) == FLOWS
            run.check("flows that pause for longer are lost without a word", silent, told(lost))
            dropped = lab.flow_counters()[UNKNOWN] - before
            run.check("their packets were dropped as unknown", dropped >= FLOWS, f"{UNKNOWN}: {dropped} packets")
            ports = {flow.local_port for flow in lost}
            table = [
                session
                for firewall in lab.firewalls.values()
                for session in firewall.control.sessions(state="ACTIVE")
                if session["source_port"] in ports
            ]
            run.check("the firewalls have the sessions still", len(table) == FLOWS, f"{len(table)} ACTIVE sessions")
        with run.chapter("speak more often"):
            lost = idle(run, lab, 0.6 * timeout)
            run.check("no flow is lost", not lost, told(lost))
        with run.chapter("a longer time-out"), lab.attributes("gwlb", {"tcp.idle_timeout.seconds": "3600"}):
            lost = idle(run, lab, 1.4 * timeout)
            run.check("no flow is lost", not lost, told(lost))
        with run.chapter("an answer"), lab.attributes("gwlb", {"send_tcp_reset.on_idle_timeout.enabled": "true"}):
            lost = idle(run, lab, 1.4 * timeout)
            reset = {flow.cause for flow in lost} == {RESET} and len(lost) == FLOWS
            run.check("the flows are reset at once", reset, told(lost))


def idle(run: Run, lab: Lab, pause: float) -> list[Flow]:
    """Let flows pause for so many seconds between two records, twice; return those that died."""
    web1, app2 = lab.host("web1"), lab.host("app2")
    settings = {"interval": pause, "gap": pause + 1, "dead_after": pause + 2, "connect_every": None}
    with run.flows(web1, app2, tcp=FLOWS, **settings) as traffic:
        begin = traffic.status().time
        with run.narrator.step(f"{FLOWS} flows that pause for {pause:.1f} s", 2 * pause + 3):
            traffic.wait(
                lambda status: not status.alive or status.time > begin + 2 * pause + 3, "what comes of it", 600
            )
    return [flow for flow in traffic.report.flows if flow.died]


def told(lost: list[Flow]) -> str:
    return f"{len(lost)} of {FLOWS} were lost" + "".join(f", {flow.cause}" for flow in lost)


if __name__ == "__main__":
    main(__file__)
