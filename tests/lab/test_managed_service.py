"""The managed service on a real Open vSwitch, shown with packets: health, draining, failover, resets, stickiness.

The firewalls share their sessions, so that a flow survives where the load balancer lets it.
"""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether

from controllers.conntrack import NON_TCP, endpoint_zones, scaled
from controllers.gateway_load_balancer import STICKY
from controllers.slots import SLOTS
from testbed import bridges
from testbed.errors import RequestError
from testbed.invariants import FlowKey, packets
from testbed.lab import Lab
from testbed.nodes import Host
from testbed.probes import datagrams
from testbed.probes.flows import PORT, RESET, Settings, Traffic, keep
from testbed.run import with_policy
from testbed.service import STATE, TOPOLOGY
from testbed.wire import Tap, parse_frame
from topologies import loader

pytestmark = pytest.mark.lab

#: Divides AWS's minutes. Checks have a second each, so that a busy machine is no unhealthy target.
TIME_SCALE = 50.0
CHECK = "interval_seconds: 50, timeout_seconds: 50, healthy_threshold_count: 2, unhealthy_threshold_count: 2"
REBALANCE = {"target_failover.on_unhealthy": "rebalance", "target_failover.on_deregistration": "rebalance"}
CROSS_ZONE = {"load_balancing.cross_zone.enabled": "true"}
DELAY = "deregistration_delay.timeout_seconds"
#: By which the internet reaches web1: always through the endpoint of zone a, and no Transit Gateway.
PUBLIC, INBOUND = IPv4Address("192.0.2.11"), "gwlbe1-a"
#: More packets than a connection that has ended may still have on their way.
ENDING = 8
#: Long enough for what this test does to a flow; nothing dies of it.
LONG = 60.0


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    policy = tmp_path_factory.mktemp("policy") / "all.yaml"
    zones = "[inbound-spoke1, inbound-spoke2, transit]"
    policy.write_text(f"zones: {zones}\nrules: [{{name: all, service: any, action: allow}}]\n")
    file = loader.find("gwlb")
    text, changes = re.subn(r"interval_seconds: 5,.*?(?=\})", CHECK, file.read_text())
    assert changes == 1
    plan = with_policy(loader.parse(text, file), str(policy))
    assert plan.firewalls is not None
    shared = plan.firewalls.model_copy(update={"session_sharing": True})
    with Lab(plan.model_copy(update={"firewalls": shared}), time_scale=TIME_SCALE) as running:
        yield running


def east_west(lab: Lab, **settings: Any) -> Any:
    """Flows between the spokes, of both zones."""
    chosen = {"tcp": 24, "connect_every": None, "dead_after": LONG} | settings
    return keep(lab.host("web1"), lab.host("app2"), settings=Settings(**chosen))


def readings(lab: Lab, client: str) -> dict[str, dict[FlowKey, int]]:
    """Return the packets of a client's flows, at each firewall that runs."""
    running = {name: one for name, one in lab.firewalls.items() if one.process.poll() is None}
    source = str(lab.host(client).address)
    return {name: packets(one.control.sessions(source=source)) for name, one in running.items()}


def serving(lab: Lab, count: int, client: str = "web1") -> dict[str, set[FlowKey]]:
    """Wait until packets of *count* flows have come to firewalls, and return the flows by firewall: each at one."""
    before = readings(lab, client)

    def moved() -> dict[str, set[FlowKey]] | None:
        found = {
            name: {flow for flow, number in flows.items() if number > before.get(name, {}).get(flow, 0) + ENDING}
            for name, flows in readings(lab, client).items()
        }
        return found if len(set[FlowKey]().union(*found.values())) == count else None

    found = lab.wait(moved, f"packets of {count} flows")
    assert sum(len(flows) for flows in found.values()) == count, found
    return found


def most(served: Mapping[str, set[FlowKey]]) -> str:
    return max(served, key=lambda name: len(served[name]))


def started(lab: Lab, name: str, after: float, client: str = "web1") -> list[dict[str, Any]]:
    """Return a firewall's sessions that began after a Unix time."""
    sessions = lab.firewalls[name].control.sessions(source=str(lab.host(client).address))
    return [session for session in sessions if session["start_time"] > after]


def register(lab: Lab, name: str) -> None:
    lab.manage(lambda service: service.register("gwlb", [name]))
    lab.wait_target(name, "healthy")


def slots(lab: Lab, az: str) -> list[str]:
    content = json.loads((lab.directory / STATE).read_text())
    found: list[str] = content["gwlb"]["slots"][az]
    return found


def survived(traffic: Traffic) -> bool:
    return all(flow.died is None for flow in traffic.report.flows)


# -- registered, draining, unused ------------------------------------------------------------------------------------


def test_a_target_drains_keeps_its_flows_gets_no_new_ones_and_comes_back(lab: Lab) -> None:
    with lab.attributes("gwlb", {DELAY: "150"}), east_west(lab) as traffic:
        traffic.wait_established()
        before = serving(lab, 24)
        leaving = most(before)
        with east_west(lab, tcp=0, connect_every=0.05, connect_timeout=20) as stream:
            stream.wait(lambda status: status.connected > 20, "connections")
            health = lab.manage(lambda service: service.deregister("gwlb", [leaving]))
            (drains,) = (one for one in health if one["target"] == leaving)
            assert (drains["state"], drains["reason"]) == ("draining", "Target.DeregistrationInProgress")
            assert leaving not in slots(lab, lab.zone(leaving))
            now = stream.status()
            stream.wait(lambda status: status.connected > now.connected + 40, "new connections")
            lab.wait_target(leaving, "unused")
            seen = stream.status()
            stream.wait(lambda status: status.connected > seen.connected + 40, "more new connections")
        assert serving(lab, 24) == before  # no_rebalance: also when the delay is over
        late = [one for one in stream.report.connections if one.started > now.time]
        ports = {one.local_port for one in late}
        assert len(late) > 60
        assert not [one for one in stream.report.connections if one.error]
        assert not {one["source_port"] for one in started(lab, leaving, 0)} & ports
        with lab.attributes("gwlb", REBALANCE):
            after = serving(lab, 24)
            assert not after[leaving]
            assert all(after[name] >= flows for name, flows in before.items() if name != leaving)
        register(lab, leaving)
        with east_west(lab, tcp=0, connect_every=0.05) as again:
            again.wait(lambda _: bool(fresh(lab, leaving, before)), f"new flows at {leaving}")
    assert survived(traffic)


def fresh(lab: Lab, name: str, before: Mapping[str, set[FlowKey]]) -> set[FlowKey]:
    """Return the flows that a firewall has now, beside those of long ago and those that only linger."""
    sessions = lab.firewalls[name].control.sessions(source=str(lab.host("web1").address), state="ACTIVE")
    return set(packets(sessions)) - set[FlowKey]().union(*before.values())


# -- unhealthy: rebalance, fail-open, reset --------------------------------------------------------------------------


def test_a_dead_targets_flows_move_and_survive_where_sessions_are_shared(lab: Lab) -> None:
    with lab.attributes("gwlb", REBALANCE), east_west(lab) as traffic:
        traffic.wait_established()
        before = serving(lab, 24)
        dead = most(before)
        lab.firewalls[dead].kill(meant=True)
        lab.wait_target(dead, "unhealthy")
        after = serving(lab, 24)
        assert dead not in after
        assert all(after[name] >= flows for name, flows in before.items() if name != dead)
        lab.firewalls[dead].start()
        lab.wait_target(dead, "healthy")
        assert serving(lab, 24)[dead] == set()  # who was moved stays
    assert survived(traffic)


def test_where_all_are_unhealthy_all_get_new_flows_and_none_moves(lab: Lab) -> None:
    with east_west(lab) as traffic:
        traffic.wait_established()
        before = serving(lab, 24)
        with lab.attributes("gwlb", {"HealthCheckPath": "/nothing"}):
            for name in lab.firewalls:
                lab.wait_target(name, "unhealthy")
            assert {*slots(lab, "a")} | {*slots(lab, "b")} == set(lab.firewalls)
            with lab.attributes("gwlb", REBALANCE):
                assert serving(lab, 24) == before
            known = lab.flow_counters()
            with east_west(lab, connect_every=0.05, connect_timeout=20) as new:
                new.wait_established()
                new.wait(lambda status: status.connected > 40, "new connections")
            after = lab.flow_counters()
        for name in lab.firewalls:
            lab.wait_target(name, "healthy")
    assert survived(traffic)
    assert not [one for one in new.report.connections if one.error]
    assert all(after[f"gwlb/targets {name}"] > known[f"gwlb/targets {name}"] for name in lab.firewalls)


def conntrack(lab: Lab, ports: Iterable[int]) -> list[str]:
    """Return the connections of these client ports that the load balancer gives to a target."""
    zones = endpoint_zones(lab.topology)["gwlb"].values()
    rows = bridges.appctl("dpctl/dump-conntrack", bridges.datapath_name(lab.journal.datapath)).splitlines()
    wanted = [f"sport={port}," for port in ports]
    marked = [row for row in rows if re.search(r"mark=(?!0\b)", row) and any(each in row for each in wanted)]
    return [row for row in marked if int(re.findall(r"zone=(\d+)", row)[0]) in zones]


@dataclass(frozen=True)
class Reset:
    """A RST to an end of a flow, and that end's own segment before it."""

    frame: Ether
    segment: Ether

    @property
    def client_port(self) -> int:
        """Of its flow; the server's is :data:`PORT`."""
        tcp = self.frame[TCP]
        port: int = tcp.dport if tcp.sport == PORT else tcp.sport
        return port

    def is_the_answer(self) -> bool:
        """RFC 9293, 3.10.7.1: a segment with an ACK is answered with <SEQ=SEG.ACK><CTL=RST>; checksums hold."""
        built = Ether(bytes(self.frame))
        del built[IP].chksum, built[TCP].chksum
        tcp, answered = self.frame[TCP], self.segment[TCP]
        return (
            (tcp.flags, tcp.seq, tcp.ack, self.frame[IP].len) == ("R", answered.ack, 0, 40)
            and (self.frame[IP].src, self.frame[IP].dst) == (self.segment[IP].dst, self.segment[IP].src)
            and (tcp.sport, tcp.dport) == (answered.dport, answered.sport)
            and bytes(built) == bytes(self.frame)
        )


class Resets:
    """The RSTs that come to a node, while this is open."""

    def __init__(self, node: Host) -> None:
        self.address = str(node.address)
        self.tap = Tap(node.pid, "eth0")
        self.latest: dict[tuple[int, int], Ether] = {}
        self.found: list[Reset] = []

    def read(self) -> list[Reset]:
        for _, data in self.tap.read():
            frame = Ether(data)
            if TCP not in frame:
                continue
            tcp = frame[TCP]
            if frame[IP].src == self.address:
                self.latest[tcp.sport, tcp.dport] = frame
            elif "R" in tcp.flags and (segment := self.latest.get((tcp.dport, tcp.sport))):
                self.found.append(Reset(frame, segment))
        return self.found

    def of(self, flows: set[int]) -> list[Reset]:
        """Return those of flows by their client's ports: a flow of a test before may still be ending."""
        return [one for one in self.read() if one.client_port in flows]

    def ports(self, flows: set[int]) -> set[int]:
        return {one.client_port for one in self.of(flows)}

    def __enter__(self) -> Resets:
        return self

    def __exit__(self, *_: object) -> None:
        self.tap.__exit__(None, None, None)


def unhealthy(lab: Lab, name: str) -> None:
    lab.firewalls[name].kill(meant=True)
    lab.wait_target(name, "unhealthy")


def deregistered(lab: Lab, name: str) -> None:
    lab.manage(lambda service: service.deregister("gwlb", [name]))
    lab.wait_target(name, "unused")


@pytest.mark.parametrize(("event", "leave"), [("on_unhealthy", unhealthy), ("on_deregistration", deregistered)])
def test_the_flows_of_a_target_that_leaves_are_reset(lab: Lab, event: str, leave: Callable[[Lab, str], None]) -> None:
    """The RST goes to the sender of the packet that met it, and to nobody else: that can be the server."""
    wanted = {f"send_tcp_reset.{event}.enabled": "true", DELAY: "0"}
    web1, app2 = lab.host("web1"), lab.host("app2")
    # A record a second: the client has its answer, and has said so, before it sends the next.
    slowly = {"interval": 1.0, "gap": 2.0}
    with (
        lab.attributes("gwlb", wanted),
        Resets(web1) as client,
        Resets(app2) as server,
        east_west(lab, **slowly) as traffic,
    ):
        traffic.wait_established()
        before = serving(lab, 24)
        leaving = most(before)
        victims = client_ports(before[leaving], web1.address)
        mine = client_ports(set[FlowKey]().union(*before.values()), web1.address)
        counted = lab.endpoint_counters()["reset"]
        assert len(conntrack(lab, victims)) >= len(victims)
        leave(lab, leaving)
        lab.wait(lambda: client.ports(mine) | server.ports(mine) == victims, "the resets")
        traffic.wait(lambda status: status.alive == 24 - len(client.ports(mine)), "the ends of flows")
        assert conntrack(lab, victims) == []
        assert lab.endpoint_counters()["reset"] - counted >= len(victims)
        assert {name: flows for name, flows in serving(lab, 24 - len(victims)).items() if flows} == {
            name: flows for name, flows in before.items() if flows and name != leaving
        }
        found, told = client.of(mine) + server.of(mine), client.ports(mine)
    if lab.firewalls[leaving].process.poll() is not None:
        lab.firewalls[leaving].start()
    register(lab, leaving)
    assert {one.client_port for one in found} == victims
    assert all(one.is_the_answer() for one in found)
    died = {flow.local_port: flow.cause for flow in traffic.report.flows if flow.died}
    assert died == dict.fromkeys(told, RESET)


def client_ports(flows: Iterable[FlowKey], client: IPv4Address) -> set[int]:
    return {port for _, ends in flows for address, port in ends if address == str(client)}


def test_an_idle_time_out_that_is_changed_is_for_new_flows(lab: Lab) -> None:
    """A flow that is idle for longer is reset; flows from before the change keep theirs, as conntrack has it."""
    shorter = {"tcp.idle_timeout.seconds": "60", "send_tcp_reset.on_idle_timeout.enabled": "true"}
    assert idle_timeouts(lab) == {scaled(350, TIME_SCALE)}
    pause = {"tcp": 4, "interval": 3.0, "gap": 3.5}
    with Resets(lab.host("web1")) as client, east_west(lab, **pause) as old:
        now = old.wait_established()
        old.wait(lambda status: status.received >= now.received + 2 * 4 * 64, "records after pauses")
        with lab.attributes("gwlb", shorter):
            assert lab.wait(lambda: idle_timeouts(lab) == {scaled(60, TIME_SCALE)}, "conntrack's new time-outs")
            counted = lab.endpoint_counters()["reset"]
            with east_west(lab, **pause) as traffic:
                traffic.wait(lambda status: status.established == 4 and not status.alive, "the resets")
            assert lab.endpoint_counters()["reset"] - counted >= 4
            assert lab.flow_counters()["gwlb/connections reset unknown"] >= 4
            now = old.status()
            old.wait(lambda status: status.received >= now.received + 2 * 4 * 64, "the old flows' records after pauses")
            assert old.status().alive == 4
        mine = {flow.local_port for flow in traffic.report.flows}
        found = client.of(mine)
    assert idle_timeouts(lab) == {scaled(350, TIME_SCALE)}
    assert survived(old)
    assert conntrack(lab, mine) == []
    assert {one.client_port for one in found} == mine
    assert {flow.cause for flow in traffic.report.flows} == {RESET}
    assert all(one.is_the_answer() for one in found)


def idle_timeouts(lab: Lab) -> set[int]:
    """Return the time-outs of established connections in the endpoints' zones, as Open vSwitch has them."""
    rows = bridges.vsctl("list-zone-tp", lab.journal.datapath).splitlines()
    zones = {f"Zone:{zone}," for zone in endpoint_zones(lab.topology)["gwlb"].values()}
    mine = [row for row in rows if row.split()[0] in zones]
    assert len(mine) == len(zones)
    return {int(number) for row in mine for number in re.findall(r"tcp_established=(\d+)", row)}


# -- who gets new flows ----------------------------------------------------------------------------------------------


def dealt(lab: Lab, count: int) -> dict[tuple[int, int], str]:
    """Send a datagram of each of *count* flows, and return which firewall each went to, by its ports."""
    zone = endpoint_zones(lab.topology)["gwlb"][INBOUND]
    bridges.appctl("dpctl/flush-conntrack", f"zone={zone}")
    taps = {name: Tap(lab.host(name).pid, "eth0") for name in lab.firewalls}
    found: dict[tuple[int, int], str] = {}

    def all_seen() -> bool:
        for name, tap in taps.items():
            for _, data in tap.read():
                frame = parse_frame(data)
                if frame and frame.inner_protocol == 17 and frame.inner_destination == lab.host("web1").address:
                    assert found.setdefault(frame.inner_ports, name) == name
        return len(found) == count

    try:
        datagrams.send(lab.host("client"), PUBLIC, count, 1000)
        lab.wait(all_seen, f"{count} flows")
    finally:
        for tap in taps.values():
            tap.__exit__(None, None, None)
    return found


def test_new_flows_are_balanced_and_a_target_less_moves_its_share_alone(lab: Lab) -> None:
    count = 400
    shares = Counter(dealt(lab, count).values())
    assert shares.keys() == {"fw1", "fw2"}  # of the endpoint's zone
    assert min(shares.values()) > count / 2 * 0.7
    # Slow flows: on a slow machine, looking at each packet takes longer than others send one.
    slow = {"interval": 1.0, "gap": 2.0}
    with lab.attributes("gwlb", CROSS_ZONE | {DELAY: "50"}), east_west(lab, **slow) as traffic:
        lab.wait(lambda: set(slots(lab, "a")) == set(lab.firewalls), "zone a to give flows to all targets")
        traffic.wait_established()
        earlier, first = slots(lab, "a"), dealt(lab, count)
        shares = Counter(first.values())
        assert shares.keys() == set(lab.firewalls)
        assert min(shares.values()) > count / 4 * 0.6
        lab.manage(lambda service: service.deregister("gwlb", ["fw3"]))
        later = slots(lab, "a")
        moved = {number for number in range(SLOTS) if earlier[number] != later[number]}
        assert moved == {number for number, name in enumerate(earlier) if name == "fw3"}
        assert len(moved) == SLOTS // 4
        second = dealt(lab, count)
        assert {flow for flow in first if first[flow] != second[flow]} == {
            flow for flow, name in first.items() if name == "fw3"
        }
        assert max(Counter(second.values()).values()) < count / 3 * 1.4
        lab.wait_target("fw3", "unused")
        register(lab, "fw3")
    assert survived(traffic)


# -- stickiness of fewer fields --------------------------------------------------------------------------------------


def learned(lab: Lab) -> dict[str, tuple[float, int]]:
    """Return (age in seconds, hard time-out) of each learned flow by what it matches."""
    command = ["ovs-ofctl", "-O", "OpenFlow15", "dump-flows", bridges.bridge_name("gwlb"), f"table={STICKY}"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rows = re.findall(r"duration=([\d.]+)s.*?hard_timeout=(\d+),.*?(priority=\S+)", text)
    return {match: (float(age), int(timeout)) for age, timeout, match in rows}


@pytest.mark.parametrize(
    ("kind", "flows", "timeouts"),
    [
        ("source_ip_dest_ip_proto", 4, {scaled(350, TIME_SCALE), scaled(NON_TCP, TIME_SCALE)}),
        ("source_ip_dest_ip", 2, {scaled(350, TIME_SCALE)}),
    ],
)
def test_flows_of_a_pair_stick_to_one_firewall(lab: Lab, kind: str, flows: int, timeouts: set[int]) -> None:
    client, web1 = lab.host("client"), lab.host("web1")
    wanted = {"stickiness.enabled": "true", "stickiness.type": kind}
    settings = Settings(tcp=16, udp=8, connect_every=0.1, connect_timeout=20, dead_after=LONG)
    with lab.attributes("att-sec", {"ApplianceModeSupport": "disable"}), lab.attributes("gwlb", wanted):
        with keep(client, web1, PUBLIC, settings=settings) as traffic:
            traffic.wait_established()
            first = learned(lab)
            assert len(first) == flows
            assert {timeout for _, timeout in first.values()} == timeouts
            lab.controller.kill()
            lab.controller.start()
            lab.wait(lambda: lab.controller.in_sync(len(lab.fabric.elements)), "the controller to be back")
            assert all(switch["changes"] == 0 for switch in lab.controller.status()["switches"].values())
            oldest = min(timeouts) + 1
            lab.wait(lambda: min(age for age, _ in learned(lab).values()) > oldest, "flows that outlive their time-out")
            assert learned(lab).keys() == first.keys()
            assert all(learned(lab)[match][0] > age for match, (age, _) in first.items())
            now = traffic.status()
            traffic.wait(lambda status: status.connected > now.connected + 10, "new connections")
            homes = {protocol: homes_of(lab, protocol) for protocol in ("tcp", "udp")}
        assert survived(traffic)
        assert not [one for one in traffic.report.connections if one.error]
        assert all(len(home) == 1 for home in homes.values()), homes
        if kind == "source_ip_dest_ip":
            assert homes["tcp"] == homes["udp"]
        lab.wait(lambda: not learned(lab), "the switch to forget")
        assert lab.settled()


def homes_of(lab: Lab, protocol: str) -> set[str]:
    """Return the firewalls that have seen packets, both ways, of the internet client's sessions."""
    source = str(lab.host("client").address)
    return {
        name
        for name, firewall in lab.firewalls.items()
        for session in firewall.control.sessions(source=source, protocol=protocol, destination_port=8080)
        if session["packets_sent"] and session["packets_received"]
    }


# -- the processes die, requests are refused -------------------------------------------------------------------------


def contents(lab: Lab) -> list[bytes]:
    return [(lab.directory / name).read_bytes() for name in (TOPOLOGY, STATE)]


def test_killed_and_started_both_processes_go_on_and_no_flow_is_lost(lab: Lab) -> None:
    assert lab.management is not None
    with lab.attributes("gwlb", {DELAY: "500"}), east_west(lab, connect_every=0.05, connect_timeout=20) as traffic:
        traffic.wait_established()
        lab.manage(lambda service: service.deregister("gwlb", ["fw1"]))
        before, ends = (contents(lab)[0], slots(lab, "a")), draining(lab)
        assert ends.keys() == {"fw1"}
        for service in (lab.management, lab.controller):
            service.kill()
        gone = traffic.status()
        traffic.wait(lambda status: status.connected > gone.connected + 20, "connections without them")
        lab.controller.start()
        lab.management.start()
        lab.wait(lambda: listens(lab) and lab.settled(), "both to be back")
        assert (contents(lab)[0], slots(lab, "a")) == before
        assert draining(lab) in (ends, {})  # not begun anew …
        changes = {name: switch["changes"] for name, switch in lab.controller.status()["switches"].items()}
        if draining(lab):  # on a slow machine, its end may have changed something
            assert set(changes.values()) == {0}
        lab.wait_target("fw1", "unused")
        assert unused_since(lab, "fw1") >= ends["fw1"]  # … nor cut short
        register(lab, "fw1")
    assert survived(traffic)
    assert not [one for one in traffic.report.connections if one.error]


def listens(lab: Lab) -> bool:
    assert lab.management is not None
    return bool(lab.management.status().get("port"))


def draining(lab: Lab) -> dict[str, float]:
    """Return when draining ends, on the machine's clock, as the service has written it down."""
    file = lab.directory / "state.service.json"
    found: dict[str, float] = json.loads(file.read_text())["draining"]["gwlb"]
    return found


def unused_since(lab: Lab, target: str) -> float:
    """Return when a target's draining ended, on the machine's clock."""
    times = [event["time"] for event in lab.events() if (event["kind"], event["resource"]) == ("health", target)]
    return float(times[-1]) - (time.time() - time.monotonic())


@pytest.mark.parametrize(
    ("resource", "values", "words"),
    [
        (
            "gwlb",
            {"tcp.idle_timeout.seconds": "59"},
            "Attribute value '59' for 'tcp.idle_timeout.seconds' must be between 60 and 6000",
        ),
        (
            "gwlb",
            {"HealthCheckIntervalSeconds": "600"},
            "Value '600' at 'healthCheckIntervalSeconds' failed to satisfy constraint: "
            "Member must have value less than or equal to 300",
        ),
        (
            "gwlb",
            {"HealthCheckPath": "/x", "target_failover.on_unhealthy": "rebalance"},
            "target_failover.on_unhealthy and target_failover.on_deregistration must have the same value",
        ),
        (
            "gwlb",
            {"stickiness.enabled": "true"},
            "3-tuple stickiness is not supported with Transit Gateway appliance mode (att-sec)",
        ),
        (
            "gwlb",
            {"send_tcp_reset.on_unhealthy.enabled": "true", **REBALANCE},
            "send_tcp_reset.on_unhealthy.enabled needs 5-tuple stickiness and no_rebalance",
        ),
    ],
)
def test_what_is_refused_changes_nothing(lab: Lab, resource: str, values: dict[str, str], words: str) -> None:
    before, changes = contents(lab), changed(lab)
    with pytest.raises(RequestError, match=re.escape(words)):
        lab.manage(lambda service: service.set_attributes(resource, values))
    assert (contents(lab), changed(lab)) == (before, changes)


def changed(lab: Lab) -> dict[str, int]:
    return {name: switch["changes"] for name, switch in lab.controller.status()["switches"].items()}


@pytest.mark.parametrize(
    ("text", "error"), [("{", "state.json: "), ('{"gwlb": {"targets": 5}}', "state.json: gwlb.targets: ")]
)
def test_a_wrong_state_file_changes_nothing(lab: Lab, text: str, error: str) -> None:
    file: Path = lab.directory / STATE
    before, changes = file.read_bytes(), changed(lab)
    with east_west(lab, connect_every=0.05, connect_timeout=20) as traffic:
        traffic.wait_established()
        try:
            file.write_text(text)
            told = lab.wait(lambda: lab.controller.status()["state_error"], "the controller to refuse it")
        finally:
            file.write_bytes(before)
        lab.wait(lambda: not lab.controller.status()["state_error"], "the controller to take the right one")
    assert told.startswith(error)
    assert changed(lab) == changes
    assert survived(traffic)
    assert not [one for one in traffic.report.connections if one.error]
