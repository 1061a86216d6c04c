"""Offload: the kernel carries what needs no more inspection, and the firewall stops it all the same.

A long flow of which Python sees next to nothing, short ones that are not worth it, and a policy that is changed while a
flow is offloaded: none of its packets passes after that.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

from testbed.firewall import Firewall
from testbed.lab import Lab
from testbed.nodes import Host
from testbed.probes import iperf3, web
from testbed.run import POLICIES, Run
from testbed.scenario import main
from testbed.wire import Meter, Passed

DENY = "rules:\n  - {name: no-measurement, application: iperf3, service: any, action: drop}\n"


def story(run: Run, seconds: float = 6, requests: int = 1000, rate: float = 200e6) -> None:
    with tempfile.TemporaryDirectory() as folder:
        policy = Path(folder, "policy.yaml")
        policy.write_text((POLICIES / "gwlb.yaml").read_text())
        with run.lab("gwlb", policy=str(policy)) as lab:
            web1, app2 = lab.host("web1"), lab.host("app2")
            with run.chapter("a long flow"):
                long_flow(run, lab, web1, app2, seconds, rate)
            with run.chapter("short flows"):
                short_flows(run, lab, web1, app2, requests)
            with run.chapter("the policy changes"):
                denied_flow(run, lab, web1, app2, policy, rate)


def long_flow(run: Run, lab: Lab, web1: Host, app2: Host, seconds: float, rate: float) -> None:
    before = {name: firewall.control.counters() for name, firewall in lab.firewalls.items()}
    options = ["--bitrate", f"{rate:.0f}"]
    with meter(lab) as wire, iperf3.started(web1, app2, seconds=seconds, options=options) as (sender, _):
        start = time.monotonic()
        firewall, session = lab.wait(lambda: offloaded(lab), "the flow to be offloaded")
        run.measure("offloaded after", time.monotonic() - start, "s")
        with run.narrator.step(f"{rate / 1e6:g} Mbit/s web1 → app2", seconds):
            sender.wait(seconds + iperf3.MARGIN)
        lab.wait(lambda: not offloaded(lab), "the flow to end")
    seen, carried = (
        firewall.control.counters()[name] - before[firewall.name][name] for name in ("pkt_recv", "pkt_offloaded")
    )
    share = seen / (seen + carried)
    run.measure("packets that Python saw", seen, "packets")
    run.measure("packets that the kernel carried", carried, "packets")
    told = f"{seen} of {seen + carried} that came to {firewall.name}, {share:.2%}"
    run.check("Python saw less than 1 % of its packets", share < 0.01, told)

    firewall.control.clear(id=session["id"])  # it is logged when it ends, which would be after TCP's time-wait
    line = run.logged(subtype="end", sport=session["source_port"], dport=iperf3.PORT, src=web1.address)
    compare(run, line, wire, session)


def short_flows(run: Run, lab: Lab, web1: Host, app2: Host, requests: int) -> None:
    before, start = total(lab), time.monotonic()
    with run.narrator.step(f"{requests} requests web1 → app2"):
        last = web.fetch(web1, app2, count=requests)
    rise = {name: value - before[name] for name, value in total(lab).items()}
    run.measure("requests", requests / (time.monotonic() - start), "1/s")
    run.check("all requests were answered", last.status == 200, f"the last of {requests} with {last.status}")
    sessions = rise["session_installed"]
    run.check("each was a session of its own", sessions >= requests, f"{sessions} sessions")
    run.check("none was worth offloading", not rise["session_offload"], f"{rise['session_offload']} of {sessions} were")


def denied_flow(run: Run, lab: Lab, web1: Host, app2: Host, policy: Path, rate: float) -> None:
    options = ["--bitrate", f"{rate:.0f}"]
    with meter(lab) as wire, iperf3.started(web1, app2, seconds=60, options=options):
        firewall, session = lab.wait(lambda: offloaded(lab, packets=1000), "the flow to be offloaded")
        policy.write_text(policy.read_text().replace("rules:\n", DENY, 1))
        start = time.monotonic()
        firewall.control.reload()
        acknowledged = time.time()
        run.measure("commit", time.monotonic() - start, "s")
        lab.wait(lambda: firewall.control.counters()["flow_rematch_deny"], "the flow's next packet to be judged")
        lab.wait(lambda: firewall.control.counters()["session_discard_drop"], "the flow to be tried again")
    there, back = directions(wire, session)
    early = acknowledged - max(there.last, back.last)
    told = f"the last one {early * 1000:.1f} ms before, of {there.packets + back.packets} that passed"
    run.check("no packet passed after the change was acknowledged", early > 0, told)
    line = run.logged(subtype="deny", rule="no-measurement", sport=session["source_port"])
    compare(run, line, wire, session)


def meter(lab: Lab) -> Meter:
    """Count what firewalls send back, on the load balancer's ends of their links."""
    links = lab.fabric.appliance_links
    return Meter((lab.host(link.gwlb).pid, link.appliance, lab.host(link.appliance).address) for link in links)


def offloaded(lab: Lab, packets: int = 0) -> tuple[Firewall, dict[str, Any]] | None:
    """Return the firewall whose kernel carries the test's data, and the session, once it has had so many packets."""
    for firewall in lab.firewalls.values():
        for session in firewall.control.sessions(destination_port=iperf3.PORT, offloaded=True):
            if session["packets_sent"] >= packets:
                return firewall, session
    return None


def total(lab: Lab) -> dict[str, int]:
    """Return the counters of all firewalls together."""
    counters = [firewall.control.counters() for firewall in lab.firewalls.values()]
    return {name: sum(each[name] for each in counters) for name in counters[0]}


def directions(wire: Meter, session: dict[str, Any]) -> tuple[Passed, Passed]:
    """Return what passed of a session from the client, and from the server."""
    (there,) = (flow for key, flow in wire.passed.items() if key[2:] == (session["source_port"], iperf3.PORT))
    (back,) = (flow for key, flow in wire.passed.items() if key[2:] == (iperf3.PORT, session["source_port"]))
    return there, back


def compare(run: Run, line: dict[str, Any], wire: Meter, session: dict[str, Any]) -> None:
    """Check what the log says of the session against what was captured."""
    there, back = directions(wire, session)
    logged = line.get("bytes_sent"), line.get("bytes_received")
    told = f"{logged[0]} there, {logged[1]} back; captured {there.bytes} and {back.bytes}, {wire.lost} frames lost"
    run.check("the log's bytes are those that were captured", logged == (there.bytes, back.bytes), told)


if __name__ == "__main__":
    main(__file__)
