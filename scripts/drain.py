"""Drain: a firewall is deregistered under load. Its flows go on, new ones avoid it, and nothing is lost.

`deregistration_delay.timeout_seconds` is how long it drains; with no_rebalance, AWS's default, its flows stay even
after that, until they are idle.
"""

from __future__ import annotations

import time

from testbed.run import Run
from testbed.scenario import main
from testbed.timeline import Event, Kind, failures, health_changes

DELAY = "deregistration_delay.timeout_seconds"


def story(run: Run, flows: int = 40, time_scale: float = 20) -> None:
    with run.lab("gwlb", time_scale=time_scale) as lab:
        web1, app2 = lab.host("web1"), lab.host("app2")
        with lab.attributes("gwlb", {DELAY: "60"}), run.flows(web1, app2, tcp=flows) as traffic:
            sessions = {name: firewall.control.info()["sessions"] for name, firewall in lab.firewalls.items()}
            leaving = max(sessions, key=lambda name: sessions[name])
            deregistered = time.monotonic()
            lab.manage(lambda service: service.deregister("gwlb", [leaving]))
            followed = time.time()
            lab.wait_target(leaving, "unused")
            states = [state for _, target, _, state in health_changes(lab.events()) if target == leaving]
            run.check("it drained", states[-2:] == ["draining", "unused"], f"{leaving}: {', '.join(states)}")
            run.measure("drained after", time.monotonic() - deregistered, "s")
            run.measure("deregistration delay as configured", 60 / time_scale, "s")
            kept = lab.firewalls[leaving].control.sessions(source=str(web1.address), state="ACTIVE")
            new = [session for session in kept if session["start_time"] > followed]
            run.check("no new flow went to it", not new, f"{len(new)} of {len(kept)} sessions began after it left")

            lab.manage(lambda service: service.register("gwlb", [leaving]))
            lab.wait_target(leaving, "healthy")
            back = time.time()
            lab.wait(
                lambda: any(
                    session["start_time"] > back
                    for session in lab.firewalls[leaving].control.sessions(source=str(web1.address))
                ),
                f"{leaving} to get new flows",
            )
            run.measure("from registration's health to the first flow", time.time() - back, "s")

        line = run.timeline(
            f"{leaving} leaves and comes back", traffic, Event(deregistered, Kind.CHANGE, f"{leaving} leaves")
        )
        run.check("no flow was lost", not line.died(), f"{len(line.died())} of {flows} died")
        failed, gap = line.failed(), line.longest_gap()
        run.check("no new connection failed", bool(line.connections) and not failed, failures(line.connections))
        run.check(
            "its flows went on while it drained", bool(kept), f"{len(kept)} sessions were on {leaving} at the end"
        )
        run.measure("longest silence of a flow", gap.seconds if gap else 0, "s")


if __name__ == "__main__":
    main(__file__)
