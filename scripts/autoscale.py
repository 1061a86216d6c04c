"""Auto scaling: load rises and falls, and the group of firewalls follows. No flow is lost on the way.

Out: the firewalls' throughput is above the policy's target for three periods; firewalls are launched, wait for the
launch hook, register, turn healthy and take new flows. In: it is well below for fifteen; the oldest firewalls are
deregistered, keep their flows until these have ended, wait for the terminate hook and are terminated.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from testbed import figures
from testbed.lab import Lab
from testbed.nodes import Host
from testbed.probes import iperf3
from testbed.probes.child import Child, program
from testbed.results import Series
from testbed.run import Run
from testbed.scenario import main
from testbed.timeline import Form, Panel, Timeline, failures, service_events
from testbed.trip import traffic_log
from testbed.watch import parse

GROUP = "gwlb-asg"
#: Bits per second, and flows, of a step of the load: one step is enough for 3 firewalls, two are for 6. Where less than
#: two get through and the group has only 4, one is still below what keeps 4.
STEP, STREAMS = 26e6, 12
#: The service's time passes so much faster, where firewalls start fast enough.
FASTEST = 60.0
#: In seconds of the service's time: what the group may take to follow the load, what a firewall may take to start, and
#: how long nothing is done.
PATIENCE, START, REST = 7200.0, 20.0, 180.0
#: So too, between two looks at the firewalls, two records of a flow and two new connections: where time has to pass
#: slowly because the machine is slow, it does not have more of these to do.
LOOK, RECORD, CONNECTION = 15.0, 6.0, 3.0
THROUGHPUT, SESSIONS = "panSessionThroughputKbps", "panSessionActive"
#: What an instance goes through, as the service's events name it: what it began with, out, and in.
INITIAL = ["Pending", "InService"]
OUT = ["Pending", "Pending:Wait", "Pending:Proceed", "InService", "registered"]
IN = ["Terminating", "deregistered", "Terminating:Wait", "Terminating:Proceed", "Terminated"]


def story(run: Run, flows: int = 40, time_scale: float | None = None) -> None:
    """*time_scale* None: what fits this machine. Where launches last, too few firewalls' metrics call for too many."""
    with run.lab("autoscale", time_scale=time_scale or fitting()) as lab:
        web1, web2, app1, app2 = (lab.host(name) for name in ("web1", "web2", "app1", "app2"))
        group = Watched(lab)
        least = group.look().in_service
        record = {"interval": RECORD / lab.time_scale, "gap": 3 * RECORD / lab.time_scale}
        with run.flows(web2, app1, tcp=0, connect_every=CONNECTION / lab.time_scale) as opened:
            with run.flows(web1, app2, tcp=flows, connect_every=None, **record) as kept:
                # New flows come with each step; those that there are stay where they are.
                with load(lab, steps=1):
                    group.wait("the first step out", lambda now: now.in_service > least)
                    more = group.now.in_service
                with load(lab, steps=2):
                    group.wait("the second step out", lambda now: more < now.desired == now.in_service)
                with load(lab, steps=2):
                    group.wait("all firewalls to take flows", lambda now: len(now.busy("InService")) == now.in_service)
                    group.rest()
                    most = group.now.in_service
                with load(lab, steps=1):
                    group.wait("the first step in", lambda now: now.desired < most)
                group.wait("the second step in", lambda now: now.desired == least)
                group.rest()
                draining = group.now.busy("Terminating")
            group.wait("those that left to be terminated", lambda now: now.in_service == len(now.states) == least)
        ports = {flow.local_port for flow in kept.report.flows}
        lab.wait(lambda: ports <= sessions(lab, web1).keys(), "the firewalls' logs")
        running = {name for name, firewall in lab.firewalls.items() if firewall.ready()}

        line = Timeline((kept.report, opened.report), capacity_changes(lab), measured=group.panels())
        run.results.drawings["firewalls follow the load"] = figures.timeline(line)
        run.measure("most firewalls", most, "firewalls")
        run.check("the group grew in two steps", least < more < most, f"{least} → {more} → {most}")
        told = f"{', '.join(sorted(running))} run at the end"
        run.check("and shrank: who is terminated does not run", running == set(group.now.states), told)
        run.check("who left waited for its flows to end", bool(draining), f"{', '.join(draining)} had flows left")
        check_lives(run, lab)

        dead, failed = line.died(), line.failed()
        run.check("no flow was lost", not dead, f"{len(dead)} of {flows} died")
        run.check("no new connection failed", bool(line.connections) and not failed, failures(line.connections))
        met = sessions(lab, web1)
        strays = [port for port in ports if len(met[port]) != 1 or not all(both_ways(one) for one in met[port])]
        run.check("each flow met one firewall, in both directions", not strays, f"{len(strays)} of {flows} did not")


def fitting() -> float:
    """Return the time scale at which a firewall's process starts in time."""
    start = time.monotonic()
    subprocess.run([sys.executable, "-m", "firewall_vnf", "--help"], capture_output=True, check=True)
    return min(FASTEST, START / (time.monotonic() - start))


@contextmanager
def load(lab: Lab, steps: int) -> Iterator[None]:
    """Offer so many steps of load from web1 to app2 for as long as the block lasts."""
    client, server, most = lab.host("web1"), lab.host("app2"), 4 * PATIENCE / lab.time_scale
    iperf = [program("iperf3"), "-4"]
    send = [*iperf, "--client", str(server.address), "--udp", "--bitrate", f"{STEP / STREAMS:.0f}"]
    title = f"load {client.name} → {server.name}"
    with Child(server, f"{title}, server", [*iperf, "--server", "--one-off"]) as receiver:
        receiver.wait_listening(iperf3.PORT)
        with Child(client, title, [*send, "--parallel", str(steps * STREAMS), "--time", f"{most:.0f}"]):
            yield


@dataclass(frozen=True)
class Look:
    """The group at a ``time``: ``states`` are its instances' lifecycle states, ``metrics`` those of its firewalls."""

    time: float
    desired: int
    states: Mapping[str, str]
    metrics: Mapping[tuple[str, str], float]

    @property
    def in_service(self) -> int:
        return list(self.states.values()).count("InService")

    def metric(self, firewall: str, name: str) -> float:
        """Return what a firewall measured; 0 where there is none."""
        return self.metrics.get((firewall, name), 0)

    def busy(self, state: str) -> list[str]:
        """Return the instances in a state whose firewalls have sessions."""
        return [name for name, one in self.states.items() if one == state and self.metric(name, SESSIONS)]


class Watched:
    """The lab's group, looked at whenever the story waits."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._looks: list[Look] = []

    @property
    def now(self) -> Look:
        return self._looks[-1]

    def look(self) -> Look:
        assert self._lab.management is not None
        client = self._lab.management.client
        group = client.auto_scaling_group(GROUP)
        states = {instance["name"]: instance["lifecycle_state"] for instance in group["instances"]}
        metrics = {
            (sample.labels["firewall"], sample.name): sample.value
            for sample in parse(client.metrics_text())
            if sample.name in (THROUGHPUT, SESSIONS)
        }
        self._looks.append(Look(time.monotonic(), group["desired_capacity"], states, metrics))
        return self.now

    def wait(self, what: str, condition: Callable[[Look], bool]) -> None:
        def seen() -> bool:
            return time.monotonic() > self.now.time + LOOK / self._lab.time_scale and condition(self.look())

        self._lab.wait(seen, what, PATIENCE / self._lab.time_scale)

    def rest(self) -> None:
        """Let the group be for a while."""
        end = time.monotonic() + REST / self._lab.time_scale
        self.wait("time to pass", lambda now: now.time > end)

    def panels(self) -> tuple[Panel, ...]:
        """Return what was seen, for the figure."""

        def series(title: str, unit: str, value: Callable[[Look], float]) -> Series:
            return Series(title, unit, tuple((look.time, value(look)) for look in self._looks))

        def metric(name: str, unit: str) -> tuple[Series, ...]:
            return tuple(
                series(one, unit, partial(Look.metric, firewall=one, name=name)) for one in self._lab.firewalls
            )

        sizes = (
            series("desired", "firewalls", lambda look: look.desired),
            series("running", "firewalls", lambda look: len(look.states)),
        )
        return (
            Panel("firewalls", Form.STEPS, sizes),
            Panel("throughput of each firewall", Form.LINE, metric(THROUGHPUT, "kbit/s")),
            Panel("sessions of each firewall", Form.LINE, metric(SESSIONS, "sessions")),
        )


def capacity_changes(lab: Lab) -> tuple[Any, ...]:
    """Return the changes of the group's size, for the figure."""
    told = service_events(lab.events(), time.time() - time.monotonic())
    return tuple(event for event in told if event.text.startswith(GROUP))


def check_lives(run: Run, lab: Lab) -> None:
    """Check from the service's events what the instances went through, and the balance of the zones."""
    lives: dict[str, list[str]] = {name: [] for name in lab.firewalls}
    zones = Counter({lab.zone(name): 0 for name in lives})
    unbalanced = []
    for event in lab.events():
        name, text = event["resource"], event["text"]
        if name not in lives or event["kind"] not in ("scaling", "registration"):
            continue
        word = text.partition(": ")[0] if event["kind"] == "scaling" else text.rpartition(": ")[2]
        lives[name].append(word)
        zones[lab.zone(name)] += {"Pending": 1, "Terminating": -1}.get(word, 0)
        if max(zones.values()) - min(zones.values()) > 1:
            unbalanced.append(f"{name} {word}")
    run.check("the zones were in balance throughout", not unbalanced, ", ".join(unbalanced))
    allowed = (INITIAL, INITIAL + IN, OUT, OUT + IN)
    odd = {name: life for name, life in lives.items() if life and life not in allowed}
    told = "; ".join(f"{name}: {' ▶ '.join(life)}" for name, life in odd.items())
    run.check("hooks were waited for, and draining before", not odd, told)


def sessions(lab: Lab, client: Host) -> dict[int, list[dict[str, Any]]]:
    """Return the TCP sessions of *client* that have ended, by its port, as all firewalls logged them."""
    found: dict[int, list[dict[str, Any]]] = {}
    for line in traffic_log(lab):
        if (line["src"], line["proto"], line["subtype"]) == (str(client.address), "tcp", "end"):
            found.setdefault(line["sport"], []).append(line)
    return found


def both_ways(session: Mapping[str, Any]) -> bool:
    return bool(session["pkts_sent"] and session["pkts_received"])


if __name__ == "__main__":
    main(__file__)
