"""The compiled tables on a real Open vSwitch that is the test's own: no root, no interface, no other lab's connections.

The controller's own process installs the programs; the switches' datapath is Open vSwitch's dummy one, with its real
lookup, groups and conntrack. A bridge of the test's plays the hosts and a firewall that turns everything around.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.l2 import ARP, Ether

from controllers.compiler import compile_topology
from controllers.conntrack import nat_zones
from controllers.statistics import Count, Statistics, statistics_file
from topologies.fabric import ROUTER_MAC, Element, build_fabric, endpoint_index, mac_address
from topologies.loader import load_topology
from topologies.walk import Hop, hosts, walks

SCHEMA = Path("/usr/share/openvswitch/vswitch.ovsschema")
pytestmark = pytest.mark.skipif(
    not (shutil.which("ovs-vswitchd") and SCHEMA.exists()), reason="Open vSwitch is not installed"
)

TOPOLOGY = load_topology("gwlb")
FABRIC = build_fabric(TOPOLOGY)
PROGRAMS = compile_topology(TOPOLOGY)
DECISIONS = {flow.cookie: flow.decision for program in PROGRAMS.values() for flow in program.flows}
ADDRESSES = {name: str(address) for name, address in hosts(TOPOLOGY).items()}
#: What a packet meets besides the walk's hops: classification, and the load balancer's own choices.
BESIDES = re.compile(
    r"/(interfaces|attachments|connections|commit|sources|ports) |/endpoints from GENEVE|/appliance-mode att-sec$"
)
#: Every test has connections of its own.
PORTS = itertools.count(20000)
WORLD = "world"


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


def succeeds(*command: str) -> bool:
    return subprocess.run(command, check=False, capture_output=True, timeout=60).returncode == 0


def wait_for(condition: Callable[[], Any], what: str, seconds: float = 60) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.02)
    return found


@dataclass
class ControllerProcess:
    """``python -m controllers`` on a free port."""

    status_file: Path
    process: subprocess.Popen[bytes] = field(init=False)

    def __post_init__(self) -> None:
        command = [sys.executable, "-m", "controllers", "--topology", "gwlb", "--status", str(self.status_file)]
        command += ["--datapath", "dummy"]
        self.process = subprocess.Popen(command)
        wait_for(self.status_file.exists, "the controller's status file")

    def status(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(self.status_file.read_text())
        return content

    def wait_in_sync(self) -> dict[str, Any]:
        wait_for(lambda: all(s["in_sync"] for s in self.status()["switches"].values()), "all switches in sync")
        return self.status()


@dataclass
class World:
    """The bridges, and the port of the test's own bridge that leads to each host and to the GENEVE port."""

    controller: ControllerProcess
    ports: dict[str, int]
    counted: Counter[str] | None = None

    def point_at(self, controller: ControllerProcess) -> None:
        self.controller = controller
        target = f"tcp:127.0.0.1:{controller.status()['port']}"
        run("ovs-vsctl", *(word for name in FABRIC.elements for word in ("--", "set-controller", name, target)))

    def send(self, host: str, packet: Any) -> None:
        """Let a host send a packet to its router."""
        frame = packet if Ether in packet else Ether(src=mac_address(host), dst=ROUTER_MAC) / packet
        text = f"in_port=LOCAL, packet={bytes(frame).hex()}, actions=output:{self.ports[host]}"
        run("ovs-ofctl", "-O", "OpenFlow15", "packet-out", WORLD, text)

    def counts(self) -> Counter[str]:
        """Return the packets of each decision, and of each host's arrivals as ``to HOST``."""
        run("ovs-appctl", "revalidator/wait")
        counted: Counter[str] = Counter()
        for name in [*FABRIC.elements, WORLD]:
            for line in run("ovs-ofctl", "-O", "OpenFlow15", "dump-flows", name).splitlines():
                found = re.search(r"cookie=(0x[0-9a-f]+),.* n_packets=(\d+)", line)
                if found:
                    cookie = int(found[1], 16)
                    counted[DECISIONS.get(cookie) or self.arrival(cookie)] += int(found[2])
        return counted

    def arrival(self, cookie: int) -> str:
        return next((f"to {name}" for name, port in self.ports.items() if port == cookie), "other")

    def met(self, host: str, *packets: Any) -> Counter[str]:
        """Return what the packets of a host met."""
        before = self.counted or self.counts()
        for packet in packets:
            self.send(host, packet)
        self.counted = self.counts()
        return self.counted - before


def bridge_words(element: Element, target: str, ports: dict[str, int]) -> list[str]:
    name = element.name
    words = ["--", "add-br", name, "--", "set", "bridge", name, "datapath_type=dummy", "fail_mode=secure"]
    words += ["protocols=OpenFlow15", f"other_config:datapath-id={element.dpid:016x}"]
    words += ["--", "set-controller", name, target]
    for port in element.ports.values():
        here = f"{name}.{port.number}"
        if port.peer:
            peer = f"{port.peer[0]}.{port.peer[1]}"
        else:
            peer = f"{WORLD}.{element.name}.{port.number}"
            number = ports[port.resource] = len(ports) + 1
            words += patch(WORLD, peer, here, number)
        words += patch(name, here, peer, port.number)
    return words


def patch(name: str, port: str, peer: str, number: int) -> list[str]:
    return [
        *("--", "add-port", name, port),
        *("--", "set", "interface", port, "type=patch", f"options:peer={peer}", f"ofport_request={number}"),
    ]


def turn_around(geneve: int) -> list[str]:
    """Return the flows of a firewall that lets everything pass."""
    return [
        f"table=0,priority=20,in_port={geneve},dl_src=02:45:00:00:00:{index:02x}/ff:ff:ff:00:ff:ff "
        f"actions=move:NXM_OF_ETH_DST[]->NXM_OF_ETH_SRC[],set_field:02:45:00:00:00:{index:02x}->eth_dst,IN_PORT"
        for index in endpoint_index(TOPOLOGY).values()
    ]


@pytest.fixture(scope="module")
def open_vswitch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Run a database server and a switch daemon in a directory of their own, found by OVS_RUNDIR."""
    directory = tmp_path_factory.mktemp("ovs")
    run("ovsdb-tool", "create", str(directory / "conf.db"), str(SCHEMA))
    socket = f"unix:{directory}/db.sock"
    with pytest.MonkeyPatch.context() as patched, contextlib.ExitStack() as daemons:
        for name in ("OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR"):
            patched.setenv(name, str(directory))
        quiet = ("-vconsole:emer", "-vsyslog:off", "--pidfile")
        for command in (
            ("ovsdb-server", str(directory / "conf.db"), f"--remote=p{socket}", *quiet),
            ("ovs-vswitchd", socket, "--enable-dummy=override", "--disable-system", *quiet),
        ):
            process = subprocess.Popen(command)
            daemons.callback(process.wait, 10)
            daemons.callback(process.terminate)
            pidfile = directory / f"{command[0]}.pid"
            wait_for(pidfile.exists, str(pidfile))
            if command[0] == "ovsdb-server":
                wait_for(lambda: succeeds("ovs-vsctl", "--no-wait", "init"), "the database to answer")
        yield


@pytest.fixture(scope="module")
def world(open_vswitch: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    controller = ControllerProcess(tmp_path_factory.mktemp("controller") / "first.json")
    made = World(controller, {})
    try:
        target = f"tcp:127.0.0.1:{controller.status()['port']}"
        words = ["--", "add-br", WORLD, "--", "set", "bridge", WORLD, "datapath_type=dummy", "fail_mode=secure"]
        for element in FABRIC.elements.values():
            words += bridge_words(element, target, made.ports)
        run("ovs-vsctl", *words)
        for number in made.ports.values():
            run("ovs-ofctl", "add-flow", WORLD, f"cookie={number},priority=1,in_port={number} actions=drop")
        for flow in turn_around(made.ports["gwlb"]):
            run("ovs-ofctl", "-O", "OpenFlow15", "add-flow", WORLD, flow)
        controller.wait_in_sync()
        yield made
    finally:
        made.controller.process.send_signal(signal.SIGTERM)
        assert made.controller.process.wait(10) == 0


def follows(met: Counter[str], hops: list[Hop]) -> bool:
    """Whether what a packet met is a walk: each hop or one of its alternatives, and no other forwarding decision."""
    choices = [set(hop.alternatives or (hop.decision,)) & set(met) for hop in hops]
    expected = {decision for choice in choices for decision in choice}
    others = {decision for decision in met if "/" in decision and not BESIDES.search(decision)} - expected
    return all(len(choice) == 1 for choice in choices) and not others


def syn(source: str, destination: str) -> Any:
    return IP(src=ADDRESSES[source], dst=destination) / TCP(sport=next(PORTS), dport=80, flags="S")


def target_of(met: Counter[str]) -> str:
    targets = [decision for decision in met if decision.startswith("gwlb/targets fw")]
    assert len(targets) == 1, met
    return targets[0].split()[1]


def public(host: str) -> str:
    addresses = [vpc.instances[host].public_address for vpc in TOPOLOGY.vpcs.values() if host in vpc.instances]
    return str(addresses[0] if addresses else ADDRESSES[host])


WAYS = [
    *((one, other) for one in ("web1", "app1") for other in ("web2", "app2")),
    *((f"{kind}{n}", "server") for n in (1, 2) for kind in ("web", "app")),
    *(("client", f"web{n}") for n in (1, 2)),
    ("app2", "web1"),
    ("web1", "app1"),
    ("client", "server"),
]


@pytest.mark.parametrize(("source", "destination"), WAYS)
def test_a_packet_takes_the_walk_of_the_model(world: World, source: str, destination: str) -> None:
    address = public(destination) if source == "client" else ADDRESSES[destination]
    met = world.met(source, syn(source, address))
    assert any(follows(met, hops) for hops in walks(TOPOLOGY, source, destination)), met
    assert met[f"to {destination}"] == 1


@pytest.mark.parametrize("_", range(6))
def test_both_directions_and_all_packets_of_a_flow_meet_one_firewall(world: World, _: int) -> None:
    sport = next(PORTS)
    one, other = ADDRESSES["web1"], ADDRESSES["app2"]
    there, back = {"sport": sport, "dport": 22}, {"sport": 22, "dport": sport}
    first = world.met("web1", IP(src=one, dst=other) / TCP(**there, flags="S", seq=1))
    answer = world.met("app2", IP(src=other, dst=one) / TCP(**back, flags="SA", seq=1, ack=2))
    rest = world.met("web1", *[IP(src=one, dst=other) / TCP(**there, flags="A", seq=2, ack=2)] * 3)
    assert target_of(first) == target_of(answer) == target_of(rest)
    assert (answer["to web1"], rest["to app2"]) == (1, 3)
    # The zone is one too: appliance mode.
    zones = [{d for d in met if re.search("appliance-mode att-sec-[ab]", d)} for met in (first, answer, rest)]
    assert zones[0] == zones[1] == zones[2]


def test_a_syn_on_a_known_connection_goes_where_the_connection_goes(world: World) -> None:
    """It is invalid to conntrack's TCP, whose mark it has all the same; AWS follows no sequence numbers."""
    one, other = ADDRESSES["web1"], ADDRESSES["app2"]
    port = next(PORTS)
    first = world.met("web1", IP(src=one, dst=other) / TCP(sport=port, dport=22, flags="S", seq=1))
    world.met("app2", IP(src=other, dst=one) / TCP(sport=22, dport=port, flags="SA", seq=1, ack=2))
    world.met("web1", IP(src=one, dst=other) / TCP(sport=port, dport=22, flags="A", seq=2, ack=2))
    again = world.met("web1", IP(src=one, dst=other) / TCP(sport=port, dport=22, flags="S", seq=900000000))
    assert target_of(again) == target_of(first)
    assert again["gwlb/connections known"] == 1
    assert again["to app2"] == 1


def test_a_syn_that_is_sent_again_is_of_the_same_flow(world: World) -> None:
    packet = syn("web1", ADDRESSES["app2"])
    first, again = world.met("web1", packet), world.met("web1", packet, packet)
    assert target_of(first) == target_of(again)
    assert (first["gwlb/commit new connection"], again["gwlb/commit new connection"]) == (1, 0)


def test_a_syn_on_a_closed_connection_is_a_new_one(world: World) -> None:
    one, other = ADDRESSES["web1"], ADDRESSES["app2"]
    port = next(PORTS)
    world.met("web1", IP(src=one, dst=other) / TCP(sport=port, dport=22, flags="S", seq=1))
    world.met("app2", IP(src=other, dst=one) / TCP(sport=22, dport=port, flags="RA", seq=1, ack=2))
    again = world.met("web1", IP(src=one, dst=other) / TCP(sport=port, dport=22, flags="S", seq=5000))
    assert again["gwlb/commit new connection"] == 1
    assert again["to app2"] == 1


@pytest.mark.parametrize("flags", ["A", "SA", "FA", "R"])
def test_a_packet_of_an_unknown_connection_that_is_no_syn_is_dropped(world: World, flags: str) -> None:
    segment = TCP(sport=next(PORTS), dport=22, flags=flags, seq=1, ack=1)
    met = world.met("web1", IP(src=ADDRESSES["web1"], dst=ADDRESSES["app2"]) / segment)
    assert met["gwlb/connections not a SYN"] + met["gwlb/connections invalid"] == 1
    assert not [decision for decision in met if decision.startswith(("gwlb/targets", "to "))]


def test_udp_is_spread_by_its_ports_and_sticks(world: World) -> None:
    def packets(ports: range) -> list[Any]:
        return [IP(src=ADDRESSES["client"], dst=public("web1")) / UDP(sport=p, dport=5001) for p in ports]

    ports = range(first := next(PORTS), first + 24)
    met = world.met("client", *packets(ports))
    shares = {decision: n for decision, n in met.items() if decision.startswith("gwlb/targets")}
    assert set(shares) == {"gwlb/targets fw1", "gwlb/targets fw2"}
    assert min(shares.values()) >= 4
    again = world.met("client", *packets(ports))
    assert {decision: again[decision] for decision in shares} == shares
    assert again["gwlb/commit new connection"] == 0


def test_a_ping_is_answered_through_the_same_firewall(world: World) -> None:
    one, other = ADDRESSES["web1"], ADDRESSES["app2"]
    identifier = next(PORTS)
    there = world.met("web1", IP(src=one, dst=other) / ICMP(type=8, id=identifier, seq=1))
    back = world.met("app2", IP(src=other, dst=one) / ICMP(type=0, id=identifier, seq=1))
    assert target_of(there) == target_of(back)
    assert back["to web1"] == 1


def test_an_icmp_error_follows_the_flow_that_it_is_about(world: World) -> None:
    about = IP(src=ADDRESSES["client"], dst=public("web1")) / UDP(sport=next(PORTS), dport=9)
    there = world.met("client", about)
    about.dst = ADDRESSES["web1"]
    error = world.met("web1", IP(src=ADDRESSES["web1"], dst=ADDRESSES["client"]) / ICMP(type=3, code=3) / about)
    assert target_of(there) == target_of(error)
    assert error["to client"] == 1
    stray = IP(src=ADDRESSES["web1"], dst=ADDRESSES["client"]) / ICMP(type=3, code=3) / IP(src=ADDRESSES["client"])
    assert world.met("web1", stray / UDP())["gwlb/connections invalid"] == 1


def test_fragments_are_dropped_and_counted(world: World) -> None:
    first = IP(src=ADDRESSES["client"], dst=public("web1"), flags="MF") / UDP(sport=1, dport=2) / bytes(24)
    later = IP(src=ADDRESSES["client"], dst=public("web1"), frag=4, proto=17) / bytes(24)
    met = world.met("client", first, later)
    assert met["gwlb/endpoints fragment"] == 2
    assert met["to web1"] == 0


def test_a_nat_gateway_translates_and_lets_in_replies_only(world: World) -> None:
    question = syn("app1", ADDRESSES["server"])
    there = world.met("app1", question)
    gateway = next(d.split("/")[1].split()[0] for d in there if d.endswith(" snat"))
    nat = next(vpc.nat_gateways[gateway] for vpc in TOPOLOGY.vpcs.values() if gateway in vpc.nat_gateways)
    tracked = run("ovs-appctl", "dpctl/dump-conntrack", f"zone={nat_zones(TOPOLOGY)[gateway]}")
    ours = next(line for line in tracked.splitlines() if f"sport={question[TCP].sport}," in line)
    port = int(re.search(rf"reply=.*dst={nat.address},sport=80,dport=(\d+)", ours)[1])  # type: ignore[index]
    answer = IP(src=ADDRESSES["server"], dst=str(nat.public_address))
    back = world.met("server", answer / TCP(sport=80, dport=port, flags="SA", seq=1, ack=1))
    assert any(follows(back, hops) for hops in walks(TOPOLOGY, "app1", "server", reply=True)), back
    assert back["to app1"] == 1
    assert target_of(back) == target_of(there)
    unsolicited = world.met("server", answer / TCP(sport=81, dport=port, flags="S"))
    assert unsolicited["security/nat unsolicited"] == 1
    assert not [decision for decision in unsolicited if decision.startswith("to ")]


def test_a_spoofed_source_is_dropped(world: World) -> None:
    met = world.met("web1", IP(src="10.200.0.21", dst=ADDRESSES["app2"]) / UDP())
    assert met == {"spoke1/interfaces source check": 1}


def test_a_hop_limit_ends_at_the_transit_gateway_without_a_word_to_the_controller(world: World) -> None:
    met = world.met("web1", IP(src=ADDRESSES["web1"], dst=ADDRESSES["app2"], ttl=1) / UDP())
    assert met["tgw/ttl expired"] == 1
    states = world.controller.status()["switches"]
    assert {name: state["packet_ins"] for name, state in states.items()} == dict.fromkeys(states, 0)


@pytest.mark.parametrize(
    ("host", "asked", "answer"),
    [
        ("web1", "10.200.0.17", ROUTER_MAC),
        ("web1", "10.200.0.18", None),
        ("web1", ADDRESSES["web1"], None),
        ("web1", ADDRESSES["app1"], None),
        ("client", "203.0.113.1", ROUTER_MAC),
        ("client", ADDRESSES["client"], None),
    ],
)
def test_arp(world: World, host: str, asked: str, answer: str | None) -> None:
    own = mac_address(host)
    request = ARP(op=1, hwsrc=own, psrc=ADDRESSES[host], pdst=asked)
    wanted = f"arp,arp_op=2,arp_spa={asked},arp_tha={own},arp_tpa={ADDRESSES[host]},dl_dst={own}"
    answered = f"cookie=999,priority=30,in_port={world.ports[host]},{wanted}"
    run("ovs-ofctl", "add-flow", WORLD, f"{answered},arp_sha={answer or '00:00:00:00:00:01'} actions=drop")
    met = world.met(host, Ether(src=own, dst="ff:ff:ff:ff:ff:ff") / request)
    flows = run("ovs-ofctl", "dump-flows", WORLD, "cookie=999/-1")
    run("ovs-ofctl", "del-flows", WORLD, "cookie=999/-1")
    assert f"n_packets={1 if answer else 0}," in flows
    assert met[f"to {host}"] == 0


def test_what_load_balancers_carry_is_counted(world: World) -> None:
    file = statistics_file(world.controller.status_file)

    def counted(decision: str) -> int:
        found = Statistics.load(file)
        return found.decisions.get(decision, Count()).packets if found else -1

    def flows(endpoint: str) -> int:
        found = Statistics.load(file)
        return found.flows.get(endpoint, -1) if found else -1

    for zone in endpoint_index(TOPOLOGY).values():  # of tests before this one, which would end meanwhile
        run("ovs-appctl", "dpctl/flush-conntrack", f"zone={zone}")
    before = world.counts()
    wait_for(lambda: counted("gwlb/commit new connection") == before["gwlb/commit new connection"], "a count")
    world.counted = None
    met = world.met("web1", *(syn("web1", ADDRESSES["app2"]) for _ in range(5)))
    assert met["gwlb/commit new connection"] == 5
    after = before + met
    counts = [name for name in DECISIONS.values() if name.startswith("gwlb/")]
    wait_for(lambda: all(counted(name) == after[name] for name in counts), "the switch's own counts")
    zones = endpoint_index(TOPOLOGY)

    def tracked(endpoint: str) -> int:
        zone = f"zone={zones[endpoint]}"
        return len(run("ovs-appctl", "dpctl/dump-conntrack", "dummy@ovs-dummy", zone).splitlines())

    assert tracked("gwlbe3-a") + tracked("gwlbe3-b") >= 5
    wait_for(lambda: all(flows(name) == tracked(name) for name in zones), "the connections")
    # Of a 3-tuple flow both directions are learned.
    for way in ("nw_src=1.1.1.1,nw_dst=2.2.2.2", "nw_src=2.2.2.2,nw_dst=1.1.1.1"):
        learned = f"table=7,priority=3,reg2={zones['gwlbe1-a']},tcp,{way} actions=drop"
        run("ovs-ofctl", "-O", "OpenFlow15", "add-flow", "gwlb", learned)
    wait_for(lambda: flows("gwlbe1-a") == tracked("gwlbe1-a") + 1, "the learned flow")
    run("ovs-ofctl", "-O", "OpenFlow15", "del-flows", "gwlb", "table=7")
    wait_for(lambda: flows("gwlbe1-a") == tracked("gwlbe1-a"), "no learned flow")


def test_a_killed_controller_changes_nothing_and_a_new_one_finds_nothing_to_do(world: World, tmp_path: Path) -> None:
    def flows() -> list[str]:
        found = []
        for name in FABRIC.elements:
            dumped = run("ovs-ofctl", "-O", "OpenFlow15", "--no-stats", "dump-flows", name)
            found += sorted(line for line in dumped.splitlines() if "cookie" in line)
        return found

    before, counted = flows(), world.counts()
    world.controller.process.kill()
    world.controller.process.wait()
    assert flows() == before
    world.point_at(ControllerProcess(tmp_path / "second.json"))
    status = world.controller.wait_in_sync()
    assert {name: state["changes"] for name, state in status["switches"].items()} == dict.fromkeys(FABRIC.elements, 0)
    assert flows() == before
    assert not counted - world.counts()


def test_a_switch_that_was_tampered_with_is_repaired_and_nothing_else_touched(world: World) -> None:
    name = "spoke1"
    before = world.counts()
    run("ovs-ofctl", "-O", "OpenFlow15", "del-flows", "--strict", name, "table=12,priority=1,ip")
    run("ovs-ofctl", "-O", "OpenFlow15", "add-flow", name, "table=0,priority=99,udp actions=CONTROLLER")
    run("ovs-ofctl", "-O", "OpenFlow15", "add-flow", name, "table=1,idle_timeout=99,priority=0 actions=drop")
    changes = world.controller.status()["switches"]["spoke1"]["changes"]
    world.controller.process.send_signal(signal.SIGHUP)
    wait_for(lambda: world.controller.status()["switches"]["spoke1"]["changes"] == changes + 3, "three repairs")
    state = world.controller.wait_in_sync()["switches"]["spoke1"]
    assert state["installed"] == PROGRAMS["spoke1"].digest
    lost = before - world.counts()
    assert set(lost) <= {"spoke1/public-a 0.0.0.0/0", "spoke1/arp unanswered"}
