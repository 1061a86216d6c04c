"""Soak: random faults under constant load, for as long as wanted; what must hold is looked at all the time.

In rounds of 20 s: long flows and new connections from web1 to app2, and datagrams that the policy denies, while
firewalls, links, policies, controller, management, targets and attributes are broken and mended at random. The seed
decides what happens; `faults.jsonl` among the results is what did, for `--set replay=FILE`. Hours: `--set minutes=480`;
Ctrl-C ends it with what was found so far. `--set openvswitch=true` restarts Open vSwitch as well, where it is nobody
else's.
"""

from __future__ import annotations

import os
import time
from collections import deque
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from itertools import groupby
from math import ceil
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import Field

from controllers.management.client import ManagementError
from firewall_vnf.control import ControlError
from testbed import bridges, figures
from testbed.errors import MachineError, RequestError
from testbed.faults import BREAKING, Conductor, Deed, Fault, Kind, draw, read, write
from testbed.invariants import (
    Footprint,
    Ledger,
    Packets,
    at_two_firewalls,
    broken_flows,
    datagrams,
    footprint,
    growth,
    lost_connections,
    packets,
    surplus,
)
from testbed.journal import RUN_DIRECTORY, TOKEN_VARIABLE
from testbed.lab import PATIENCE, Lab
from testbed.openvswitch import SYSTEMD, ensure_running, running
from testbed.probes.flows import PORT, Report, Settings, Traffic, keep
from testbed.results import Table
from testbed.run import POLICIES, Run
from testbed.scenario import main
from testbed.timeline import Event, Timeline, healthy_targets, service_events
from testbed.timeline import Kind as What

#: Seconds that a round takes, about: its faults, and a silence in which every flow that broke is found dead.
ROUND = 20.0
#: Seconds after which a silent flow is dead; longer than anything stays broken, and TCP's waiting doubles meanwhile.
DEAD_AFTER = 7.0
CONNECT_EVERY = 0.05
DENIED = 8
#: Rounds that are drawn, the last ones: hours would not fit.
SHOWN = 6
#: Faults that a figure shows as failures; the others are changes.
ENDED = (*BREAKING, Kind.CONTROLLER, Kind.MANAGEMENT, Kind.OPEN_VSWITCH)
#: Seconds between two looks at the firewalls' sessions.
LOOK = 0.5

ONE_FIREWALL = "both directions of every flow are at one firewall"
INSPECTED = "no datagram that the policy denies arrives"
UNBROKEN = "flows on firewalls that are well never break"
NEW = "new connections succeed while no firewall is broken"
RECOVERS = "after every fault all is well again"
SURPLUS = "switches, maps and conntrack hold no more than they should"
GROWTH = "no process grows"
INVARIANTS = (ONE_FIREWALL, INSPECTED, UNBROKEN, NEW, RECOVERS, SURPLUS, GROWTH)
UNCHANGED = "a wrong policy is refused"
#: What is wrong with it.
WRONG = "no-such-application"


def story(
    run: Run,
    seed: int = 1,
    minutes: Annotated[float, Field(gt=0)] = 0.5,
    replay: Path | None = None,
    flows: int = 40,
    openvswitch: bool = False,
    time_scale: float = 10,
) -> None:
    policy = run.results.save("policy.yaml", changed_policy("allow"))
    with run.lab("gwlb", policy=str(policy), time_scale=time_scale) as lab:
        zones: dict[str, list[str]] = {}
        for name in lab.firewalls:
            zones.setdefault(lab.zone(name), []).append(name)
        if replay:
            faults = read(read_text(replay), str(replay), zones)
        else:
            faults = draw(seed, ceil(60 * minutes / ROUND), zones, openvswitch)
        if any(fault.kind is Kind.OPEN_VSWITCH for fault in faults):
            require_own_open_vswitch(lab)
        run.results.save("faults.jsonl", write(faults))
        wrong = [UNCHANGED] if any(fault.kind is Kind.WRONG_POLICY for fault in faults) else []
        soak = Soak(run, lab, policy, flows, Ledger([*INVARIANTS, *wrong]))
        try:
            soak.prove_the_witness()
            for number, its in groupby(faults, key=lambda fault: fault.round):
                soak.round(number, list(its))
        finally:
            soak.report()
    left = sorted(path.name for path in RUN_DIRECTORY.iterdir() if path.name != "lock")
    run.check("nothing is left behind", not left, f"{RUN_DIRECTORY}: {', '.join(left) or 'empty'}")


@dataclass
class Soak:
    """What goes on in one lab, and what was found."""

    run: Run
    lab: Lab
    policy: Path
    flows: int
    ledger: Ledger
    deeds: list[Deed] = field(default_factory=list)
    #: The last rounds' numbers and what became of their load.
    reports: deque[tuple[int, Report]] = field(default_factory=lambda: deque(maxlen=SHOWN))
    footprints: list[Footprint] = field(default_factory=list)
    before: dict[str, str] = field(default_factory=dict)

    # -- the course of it --------------------------------------------------------------------------------------------

    def prove_the_witness(self) -> None:
        """Let the datagrams through once, so that it is known that they would be seen; then deny them."""
        with self.denied() as traffic:
            self.lab.wait(lambda: self.arrived() > 0 and traffic.status().alive == DENIED, "datagrams that are allowed")
            self.run.check("datagrams that a policy allows are seen", self.arrived() > 0, f"{self.arrived()} arrived")
        self.policy.write_text(changed_policy("deny"))
        for firewall in self.lab.firewalls.values():
            firewall.control.reload()

    def round(self, number: int, faults: list[Fault]) -> None:
        """Break and mend things under load, then wait until all is well and the fate of every flow is known."""
        lab = self.lab
        for fault in (fault for fault in faults if fault.kind is Kind.OPEN_VSWITCH):
            self.restart_open_vswitch(fault)
        arrived = self.arrived()
        with ExitStack() as stack:
            web1, app2 = lab.host("web1"), lab.host("app2")
            stack.enter_context(self.denied())
            traffic = stack.enter_context(
                self.run.flows(
                    web1, app2, tcp=self.flows, dead_after=DEAD_AFTER, connect_every=CONNECT_EVERY, connect_timeout=4
                )
            )
            source = str(web1.address)
            ports = {
                name: {session["source_port"] for session in firewall.control.sessions(source=source, protocol="tcp")}
                for name, firewall in lab.firewalls.items()
            }
            happening = [fault for fault in faults if fault.kind is not Kind.OPEN_VSWITCH]
            conductor = Conductor(happening, self.begin, self.mend, self.recovered, time.monotonic)
            with self.run.narrator.step(f"round {number}: {', '.join(map(str, happening))}", ROUND):
                try:
                    self.conduct(conductor, traffic, arrived)
                finally:
                    self.deeds += conductor.deeds
                    conductor.end()  # nothing is broken any more when the story ends early
            self.footprints.append(footprint(lab, self.flows + DENIED, 1 / CONNECT_EVERY))
        self.reports.append((number, traffic.report))
        self.judge(traffic.report, ports, conductor.deeds)

    def conduct(self, conductor: Conductor, traffic: Traffic, arrived: int) -> None:
        readings: dict[str, Packets] = {}
        due = calm = 0.0
        while not conductor.over or time.monotonic() < calm:
            conductor.step()
            now = time.monotonic()
            for deed in conductor.under_way:
                if deed.mended is not None and now - deed.mended > PATIENCE:
                    self.ledger.look(RECOVERS, [f"{deed.fault}: not within {PATIENCE:.0f} s"])
                    raise MachineError(f"{deed.fault}: all is not well after {PATIENCE:.0f} s")
            if not conductor.over:
                calm = now + DEAD_AFTER + 0.5
            if now >= due:
                broken = {deed.fault.subject for deed in conductor.under_way if deed.fault.kind in BREAKING}
                latest: dict[str, Packets] = {
                    name: packets(firewall.control.sessions())
                    for name, firewall in self.lab.firewalls.items()
                    if name not in broken
                }
                self.ledger.look(ONE_FIREWALL, at_two_firewalls(readings, latest))
                readings = latest
                came = self.arrived() - arrived
                self.ledger.look(INSPECTED, [f"{came} datagrams arrived"] if came else [])
                due = now + LOOK
            traffic.status()  # raises when the load has ended
            time.sleep(0.02)

    def judge(self, report: Report, ports: dict[str, set[int]], deeds: list[Deed]) -> None:
        broken = [deed for deed in deeds if deed.fault.kind in BREAKING]
        for deed in deeds:
            self.ledger.look(RECOVERS, [] if deed.recovered else [f"{deed.fault}: not seen"])
        self.ledger.look(UNBROKEN, broken_flows(report.flows, ports, {deed.fault.subject for deed in broken}))
        troubles = [(deed.began, deed.recovered) for deed in broken if deed.recovered]
        self.ledger.look(NEW, lost_connections(report.connections, troubles))
        self.ledger.look(SURPLUS, surplus(self.footprints[-1]))
        self.ledger.look(GROWTH, growth(self.early[0], self.footprints[-1]))

    @property
    def early(self) -> list[Footprint]:
        """The footprint after the first third of the rounds so far, if there was any."""
        return self.footprints[(len(self.footprints) - 1) // 3 :][:1]

    def arrived(self) -> int:
        """Return the datagrams that have come to app2; nothing but the load sends any there."""
        return datagrams(self.lab.host("app2").pid)

    def denied(self) -> AbstractContextManager[Traffic]:
        """Send datagrams that the policy denies; long before they would give up, the round is over."""
        settings = Settings(tcp=0, udp=DENIED, gap=3600, dead_after=7200, connect_every=None)
        return keep(self.lab.host("web1"), self.lab.host("app2"), settings=settings, port=PORT + 1)

    # -- what is done ------------------------------------------------------------------------------------------------

    def begin(self, fault: Fault) -> None:
        lab, name = self.lab, fault.subject
        match fault.kind:
            case Kind.KILL:
                lab.firewalls[name].kill(meant=True)
            case Kind.FREEZE:
                lab.firewalls[name].freeze()
            case Kind.CUT:
                lab.cut(name)
            case Kind.RELOAD:
                lab.firewalls[name].control.reload()
            case Kind.WRONG_POLICY:
                self.reload_wrong_policy(name)
            case Kind.CONTROLLER:
                lab.controller.kill()
            case Kind.MANAGEMENT:
                assert lab.management is not None
                lab.management.kill()
            case Kind.DEREGISTER:
                lab.manage(lambda service: service.deregister("gwlb", [name]))
            case Kind.CROSS_ZONE | Kind.ATTRIBUTE:
                attribute, _, value = name.partition("=")
                self.before[attribute] = lab.manage(lambda service: service.attributes("gwlb"))[attribute]
                lab.manage(lambda service: service.set_attributes("gwlb", {attribute: value}))

    def mend(self, fault: Fault) -> None:
        lab, name = self.lab, fault.subject
        match fault.kind:
            case Kind.KILL:
                # Ready before anything else happens: while it starts, it reads the policy, which may be wrong then.
                firewall = lab.firewalls[name]
                firewall.start()
                lab.wait(firewall.ready, f"{name} to start", broken=True)
            case Kind.FREEZE:
                lab.firewalls[name].thaw()
            case Kind.CUT:
                lab.mend(name)
            case Kind.CONTROLLER:
                lab.controller.start()
            case Kind.MANAGEMENT:
                assert lab.management is not None
                lab.management.start()
            case Kind.DEREGISTER:
                lab.manage(lambda service: service.register("gwlb", [name]))
            case Kind.CROSS_ZONE | Kind.ATTRIBUTE:
                attribute = name.partition("=")[0]
                before = {attribute: self.before.pop(attribute)} if attribute in self.before else {}
                lab.manage(lambda service: service.set_attributes("gwlb", before))

    def recovered(self, fault: Fault) -> bool:
        """Whether the service sees a broken firewall healthy again, and the switches hold what they shall."""
        try:
            if fault.subject in self.lab.firewalls and self.lab.target_states(fault.subject) != {"healthy"}:
                return False
            if fault.kind is Kind.MANAGEMENT:
                self.lab.events()
        except ManagementError:
            return False
        return self.lab.settled()

    def reload_wrong_policy(self, name: str) -> None:
        """Have a policy loaded that would let everything through, and is wrong: it must change nothing."""
        right = self.policy.read_text()
        self.policy.write_text(changed_policy("allow", application=WRONG))
        try:
            self.lab.firewalls[name].control.reload()
            self.ledger.look(UNCHANGED, [f"{name} took it"])
        except ControlError as error:
            self.ledger.look(UNCHANGED, [] if WRONG in str(error) else [str(error)])
        finally:
            self.policy.write_text(right)

    def restart_open_vswitch(self, fault: Fault) -> None:
        """End the switch process and start another; nothing is under load, for conntrack may be forgotten."""
        deed = Deed(fault, time.monotonic())
        self.deeds.append(deed)
        with self.run.narrator.step(str(fault)):
            bridges.appctl("exit")
            self.lab.wait(lambda: not running(), "Open vSwitch to end", broken=True)
            deed.mended = time.monotonic()
            self.lab.journal.change_setting(bridges.SOCKET_BUFFER_SETTING, str(bridges.SOCKET_BUFFER))
            token = os.environ.pop(TOKEN_VARIABLE)  # or the switch would end with the lab
            try:
                ensure_running()
            finally:
                os.environ[TOKEN_VARIABLE] = token
                self.lab.journal.restore_settings()
            self.lab.wait(self.lab.settled, "the switches to be filled again")
        deed.recovered = time.monotonic()
        self.ledger.look(RECOVERS, [])

    # -- what came of it ---------------------------------------------------------------------------------------------

    def report(self) -> None:
        """Record what was found so far."""
        self.run.prove(*self.ledger.checks())
        self.run.measure("faults", len(self.deeds), "faults")
        for kind in Kind:
            times = [deed.recovery for deed in self.deeds if deed.fault.kind is kind and deed.recovery is not None]
            if times:
                self.run.measure(f"recovery: {kind.value}", times, "s")
        for name, memory in (("after the first third", self.early), ("at the end", self.footprints[-1:])):
            for each in memory:
                self.run.measure(f"memory of all processes {name}", sum(each.memory.values()), "B")
                self.run.measure(
                    f"conntrack entries {name}", sum(there for there, _ in each.conntrack.values()), "entries"
                )
        start = self.deeds[0].began if self.deeds else 0.0
        rows = (
            (str(deed.fault.round), f"{deed.began - start:.1f} s", str(deed.fault), *map(seconds, durations(deed)))
            for deed in self.deeds
        )
        columns = ("round", "at", "fault", "broken for", "well again after")
        self.run.results.tables.append(Table("What happened", columns, tuple(rows)))
        self.draw()

    def draw(self) -> None:
        """Draw the last rounds."""
        offset = time.time() - time.monotonic()
        try:
            events = self.lab.events()
        except ManagementError:
            events = []  # the soak was ended while the management process was down
        found = [event for event in service_events(events, offset) if event.kind is What.DETECTION]
        for number, report in self.reports:
            told = [
                Event(deed.began, What.FAILURE if deed.fault.kind in ENDED else What.CHANGE, str(deed.fault))
                for deed in self.deeds
                if deed.fault.round == number
            ]
            line = Timeline((report,), (*told, *found), (healthy_targets(events, offset),))
            self.run.results.drawings[f"round {number}"] = figures.timeline(line)


def durations(deed: Deed) -> tuple[float | None, float | None]:
    return None if deed.mended is None else deed.mended - deed.began, deed.recovery


def seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f} s"


def changed_policy(denied: str, application: str = "any") -> str:
    """Return the packaged policy with *denied* done to *application* in place of its last rule, which denies all."""
    policy = yaml.safe_load((POLICIES / "gwlb.yaml").read_text())
    policy["rules"][-1] |= {"action": denied, "application": application}
    return yaml.safe_dump(policy, sort_keys=False)


def read_text(file: Path) -> str:
    """Return a schedule's text. Raises RequestError where it cannot be read."""
    try:
        return file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"--set replay={file}: {getattr(error, 'strerror', None) or 'no text'}") from None


def require_own_open_vswitch(lab: Lab) -> None:
    """Raise RequestError where a restart of Open vSwitch would concern anybody but this lab."""
    if SYSTEMD.is_dir():
        raise RequestError("Open vSwitch belongs to the service manager here: leave openvswitch=false")
    others = set(bridges.vsctl("list-br").split()) - {bridges.bridge_name(name) for name in lab.fabric.elements}
    if others:
        raise RequestError(f"Open vSwitch has bridges of others ({', '.join(sorted(others))}): leave openvswitch=false")


if __name__ == "__main__":
    main(__file__)
