"""Transit VPC: firewalls behind IPsec tunnels share the flows, but no flow is faster than its tunnel.

The Transit Gateway spreads flows over all tunnels that BGP has a route by (ECMP). The way back is spread as well: only
its own address (source NAT) leads a flow's answers to the firewall that knows the flow.

What happens without source NAT is shown twice, because Linux is kinder than AWS promises to be. Its ECMP hash sorts
addresses and ports before it hashes (``flow_hash_from_keys``), and its seed is one of the whole kernel until 6.11
(``net.ipv4.fib_multipath_hash_seed``): both directions of a flow choose the same tunnel, on one router or on two, and
every flow lives. AWS says nothing of the kind of VPN attachments: symmetric choice is what appliance mode is for, which
VPN attachments do not have. So the second time the router hashes the source alone, which is another on the way back.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

from pydantic import Field

from testbed.comparison.calibration import tunnel_scale
from testbed.comparison.headroom import Headroom, sample
from testbed.comparison.model import Settings
from testbed.errors import MachineError
from testbed.lab import Lab
from testbed.nodes import Host
from testbed.probes import source_log
from testbed.probes.child import program
from testbed.results import Table
from testbed.run import Run
from testbed.scenario import main
from testbed.timeline import Event, Kind, failures
from testbed.vpn import site
from testbed.vpn.bgp import HOLD, BgpSpeaker
from testbed.vpn.ipsec import TunnelEnd, wait_ready
from testbed.vpn.tunnel import MSS, MTU, RATE, Side, shaping
from topologies.fabric import tunnels, tunnels_of, vpn_router
from topologies.loader import load_topology
from topologies.model import Topology
from topologies.sizing import with_firewalls

PORT = 80
MARKER = "PLAINTEXTMARKER"
#: What may be on the internet: ESP, plain or in UDP, and IKE.
ENCRYPTED = "esp or udp port 4500 or udp port 500 or arp"
SYN = "tcp[tcpflags] & (tcp-syn|tcp-ack) == tcp-syn"
#: ECMP by source address, protocol and source port, which are others on the way back (Linux's ip-sysctl, hash fields).
BY_SOURCE = "net.ipv4.fib_multipath_hash_fields=0x15"
#: What BGP and a busy machine may add to the hold time, in seconds.
SLACK = 3.0
#: The parts of its tunnel's limit that one flow gets: headers are not counted, a burst adds to it.
LEAST, MOST = 0.6, 1.05


def story(
    run: Run,
    firewalls: Annotated[int, Field(ge=1, le=8)] = 2,
    requests: int = 24,
    flows: int = 8,
    streams: int = 8,
    rate_scale: float | None = None,
    time_scale: float = 10,
) -> None:
    """Tell it with so many *firewalls*; *requests*, *flows* and *streams* are for each of them.

    *rate_scale* is that of the tunnels' 1.25 Gbit/s; None: what this machine carries in all of them at once.
    """
    plan = with_firewalls(load_topology("vpn-ecmp"), firewalls)
    with run.lab(plan, time_scale=time_scale) as lab:
        with run.chapter("tunnels"):
            show_tunnels(run, lab)
        with run.chapter("many flows"):
            spread(run, lab, requests * firewalls)
        with run.chapter("rate"):
            try:
                scale = rate_scale or calibrate(run, lab, streams * firewalls)
            except MachineError as error:
                run.check("this machine carries all tunnels at once", False, str(error))
            else:
                run.results.manifest["rate_scale"] = scale
                compare_rates(run, lab, streams * firewalls, RATE * scale)
        with run.chapter("a tunnel dies"):
            cut(run, lab, requests * firewalls)
        if firewalls > 1:
            with run.chapter("a firewall dies"):
                die(run, lab, flows * firewalls)
    if firewalls > 1:
        with run.lab(without_source_nat(plan), time_scale=time_scale) as lab, run.chapter("without source NAT"):
            lose(run, lab, flows * firewalls)


def show_tunnels(run: Run, lab: Lab) -> None:
    """Show the SAs, the BGP sessions and the Transit Gateway's routes; try how long a packet may be."""
    found = {name: end.sa() for name, end in ends(lab).items()}
    rows = [(name, sa.state, sa.ike, sa.esp) for name, sa in found.items() if sa]
    run.results.tables.append(Table("IPsec SAs", ("end", "state", "IKE", "ESP"), tuple(rows)))
    good = [name for name, sa in found.items() if sa and sa.established and sa.esp.startswith("AES_GCM")]
    run.check("every tunnel is up with AES-GCM", len(good) == len(found), f"{len(good)} of {len(found)} ends")

    speakers = {name: part for name, part in lab.tunnels.items() if isinstance(part, BgpSpeaker)}
    sessions = [(name, one) for name, speaker in speakers.items() for one in speaker.sessions()]
    table = tuple((name, one.name, str(one.neighbor), one.state, str(one.imported)) for name, one in sessions)
    run.results.tables.append(Table("BGP sessions", ("router", "tunnel", "neighbor", "state", "routes"), table))
    wanted = len(found)
    up = sum(one.established for _, one in sessions)
    run.check("every BGP session is up", up == len(sessions) == wanted, f"{up} of {wanted}")

    every = [plan.name for plan in tunnels(lab.topology)]
    routes = speakers[vpn_router("tgw")].routes()
    told = tuple((str(one.network), one.session, " ".join(map(str, one.path))) for one in routes)
    run.results.tables.append(Table("the Transit Gateway's routes", ("network", "next hop", "AS path"), told))
    hops = next_hops(lab)
    run.check("all tunnels are next hops of the default route", hops == every, ", ".join(hops))

    router = lab.host(vpn_router("tgw"))
    for length, passes in ((MTU, True), (MTU + 1, False)):
        through = [plan.name for plan in tunnels(lab.topology) if pings(router, str(plan.inside[2]), length)]
        words = f"a packet of {length:,} bytes {'passes' if passes else 'does not pass'}"
        run.check(words, through == (every if passes else []), f"it passed {', '.join(through) or 'no tunnel'}")


def spread(run: Run, lab: Lab, requests: int) -> None:
    """Make many flows: who carries them, whom the application sees, and what an eavesdropper does."""
    web1, app2 = lab.host("web1"), lab.host("app2")
    router, tunnels_there = vpn_router("tgw"), [plan.name for plan in tunnels(lab.topology)]
    outside = [(name, "outside") for name in ends(lab)]
    links = [*outside, *((router, name) for name in tunnels_there), ("web1", "eth0"), ("app2", "eth0")]
    with source_log.application(app2, PORT), captured(lab, links) as files:
        answers = source_log.request(web1, app2.address, PORT, count=requests, label=MARKER)
    run.check("every request was answered", len(answers.seen) == requests, ", ".join(set(answers.failed)))
    by_tunnel = {name: len(read(files[router, name], f"src {web1.address} and {SYN}")) for name in tunnels_there}
    for name, count in by_tunnel.items():
        run.measure("flows into a tunnel", count, "flows", tunnel=name)
    run.check("flows spread over all tunnels", min(by_tunnel.values()) > 0, f"at least {min(by_tunnel.values())} each")

    trusted = {firewall.trust.address: name for name, firewall in lab.topology.vpcs["security"].firewalls.items()}
    by = Counter(trusted.get(seen.peer, str(seen.peer)) for seen in answers.seen)
    told = ", ".join(f"{name}: {number}" for name, number in sorted(by.items()))
    run.check("the application saw firewalls, not its client", by.keys() == set(trusted.values()), told)

    open_ = [packet for link in outside for packet in read(files[link], f"not ({ENCRYPTED})")]
    run.check("on the internet there is nothing but IPsec", not open_, "; ".join(open_[:3]))
    empty = [link[0] for link in outside if not read(files[link], "esp or udp port 4500")]
    run.check("and each tunnel's end has some", not empty, ", ".join(empty))
    readable = [link[0] for link in outside if MARKER.encode() in files[link].read_bytes()]
    run.check("the requests cannot be read there", not readable, ", ".join(readable))
    run.check("the client's own link has them", MARKER.encode() in files["web1", "eth0"].read_bytes())
    syns = read(files["app2", "eth0"], f"dst {app2.address} and {SYN}")
    sizes = {line.partition("mss ")[2].partition(",")[0] for line in syns}
    run.check(f"the MSS is clamped to {MSS:,}", sizes == {str(MSS)}, f"the server saw {', '.join(sorted(sizes))}")


def calibrate(run: Run, lab: Lab, streams: int) -> float:
    """Return the rate scale at which this machine carries all tunnels, of what it carries before they are limited."""
    carried = run.iperf3(lab.host("web1"), lab.host("app2"), seconds=2, streams=streams).bits_per_second
    return tunnel_scale(carried, len(tunnels(lab.topology)), RATE)


def compare_rates(run: Run, lab: Lab, streams: int, limit: float) -> None:
    """Compare one stream with many, with tunnels so slow that this machine carries them all."""
    web1, app2 = lab.host("web1"), lab.host("app2")
    for name in ends(lab):
        for command in shaping(limit):
            lab.host(name).run(command)
    run.measure("rate of a tunnel", limit, "bit/s")
    before, counted = sample(), sent(lab)
    single = run.iperf3(web1, app2, seconds=3).bits_per_second
    undecided = limited_by_machine(Headroom.between(before, sample()))
    by_tunnel = {name: count - counted[name] for name, count in sent(lab).items()}
    used = [name for name, count in by_tunnel.items() if count > sum(by_tunnel.values()) / 10]
    run.check("a single flow uses one tunnel", len(used) == 1, ", ".join(used))
    told = f"{single / 1e6:.2f} of {limit / 1e6:.2f} Mbit/s"
    filled = LEAST * limit < single
    run.check("it fills the tunnel", filled, told if filled else told + undecided)
    run.check("and does not exceed it", single <= MOST * limit, told)
    before = sample()
    many = run.iperf3(web1, app2, seconds=4, streams=streams).bits_per_second
    headroom = Headroom.between(before, sample())
    run.measure("machine busy", 100 * (1 - headroom.idle_share), "%")
    told = f"{many / 1e6:.2f} Mbit/s, {many / single:.1f} times one stream"
    exceeded = many > 1.3 * limit
    told += "" if exceeded else limited_by_machine(headroom)
    run.check("many flows do: they have several tunnels", exceeded, told)


def limited_by_machine(headroom: Headroom) -> str:
    """Return what to add to a failed check of throughput: it shows nothing where the machine was the limit."""
    return "; not decided: this machine, and not a tunnel, was the limit" if headroom.exhausted(Settings()) else ""


def cut(run: Run, lab: Lab, requests: int) -> None:
    """Kill one end of a tunnel: BGP takes the tunnel out, and traffic goes on over the rest."""
    web1, app2, every = lab.host("web1"), lab.host("app2"), [plan.name for plan in tunnels(lab.topology)]
    victim = every[0]
    (end,) = (end for end in ends(lab).values() if end.tunnel.name == victim and end.side is Side.CUSTOMER)
    firewall = lab.tunnels["fw1-bgp"]
    assert isinstance(firewall, BgpSpeaker)
    broken = time.monotonic()
    end.kill()
    lab.wait(lambda: victim not in next_hops(lab), f"{victim} to leave the set", broken=True)
    gone(run, lab, broken)
    lab.wait(
        lambda: victim not in [one.name for one in firewall.sessions() if one.established], "fw1 to know", broken=True
    )
    with source_log.application(app2, PORT):
        answers = source_log.request(web1, app2.address, PORT, count=requests)
    run.check("new flows go over the others", len(answers.seen) == requests, ", ".join(set(answers.failed)))
    start = time.monotonic()
    end.start()
    wait_ready([end])
    lab.wait(lambda: next_hops(lab) == every, f"{victim} to be back")
    run.measure("back after", time.monotonic() - start, "s")


def die(run: Run, lab: Lab, count: int) -> None:
    """Kill a firewall with its tunnels: BGP takes it out, its flows are lost, the others live on."""
    web1, app2 = lab.host("web1"), lab.host("app2")
    victim, patience = "fw2", 4.0
    theirs = tunnels_of(lab.topology, victim)
    others = [plan.name for plan in tunnels(lab.topology) if plan.name not in theirs]
    charons = [end for end in ends(lab).values() if end.tunnel.name in theirs and end.side is Side.CUSTOMER]
    with run.flows(web1, app2, tcp=count, dead_after=patience) as traffic:
        ports = {
            name: {session["source_port"] for session in firewall.control.sessions(source=str(web1.address))}
            for name, firewall in lab.firewalls.items()
        }
        broken = time.monotonic()
        lab.firewalls[victim].kill(meant=True)
        for end in charons:
            end.kill()
        lab.wait(lambda: next_hops(lab) == others, f"the tunnels of {victim} to leave the set", broken=True)
        known = gone(run, lab, broken)
        traffic.wait(lambda status: status.time > known + patience + 2, "the flows' fate")
    happened = (
        Event(broken, Kind.FAILURE, f"{victim} dies"),
        Event(known, Kind.DETECTION, f"{victim}'s tunnels leave the set"),
    )
    line = run.timeline(f"{victim} dies", traffic, *happened)
    dead = {flow.local_port for flow in line.died()}
    lost = {flow.local_port for flow in line.flows} & ports[victim]
    told = f"{len(lost)} were on {victim}, {len(dead)} died"
    run.check("its flows are lost", set() < lost <= dead, told)
    if len(lab.firewalls) == 2:
        run.check("and no other", dead <= lost, told)
    else:  # the hash over fewer tunnels leads some flows of firewalls that are well to another
        run.measure("flows lost with other firewalls", len(dead - lost), "flows")
    new = line.started(known)
    failed = [one for one in new if one.error]
    run.check("new connections succeed by the others", bool(new) and not failed, failures(new))

    start = time.monotonic()
    lab.firewalls[victim].start()
    for end in charons:
        end.start()
    wait_ready(charons)
    every = [plan.name for plan in tunnels(lab.topology)]
    lab.wait(lambda: next_hops(lab) == every and lab.firewalls[victim].ready(), f"{victim} to be back")
    run.measure("back after", time.monotonic() - start, "s")


def gone(run: Run, lab: Lab, broken: float) -> float:
    """Hold the time since *broken* against the hold time; return the time of now."""
    now = time.monotonic()
    hold = HOLD / min(lab.time_scale, site.LARGEST_BGP_SCALE)
    run.measure("detection", now - broken, "s")
    run.measure("hold time as configured", hold, "s")
    run.check("it leaves the set within the hold time", now - broken < hold + SLACK, f"{now - broken:.1f} s")
    return now


def lose(run: Run, lab: Lab, requests: int) -> None:
    """Make flows that keep their address: where the answer reaches another firewall, the flow dies."""
    web1, app2 = lab.host("web1"), lab.host("app2")
    with source_log.application(app2, PORT):
        alike = source_log.request(web1, app2.address, PORT, count=requests, timeout=1)
        before = strays(lab)
        lab.host(vpn_router("tgw")).run(["sysctl", "-qw", BY_SOURCE])
        answers = source_log.request(web1, app2.address, PORT, count=requests, timeout=1)
    for words, found in (("alike", alike), ("not alike", answers)):
        share = 100 * len(found.failed) / requests
        run.measure("flows that die", share, "%", **{"both directions hashed": words})
    told = f"{len(alike.failed)} of {requests} died, {before} packets were dropped"
    run.check("no flow dies while both directions take one tunnel", not alike.failed and not before, told)
    dropped = strays(lab) - before
    told = f"{len(answers.failed)} of {requests} died; firewalls that did not know them dropped {dropped} packets"
    run.check("flows die whose answers take another firewall", 0 < len(answers.failed) <= dropped, told)
    peers = {seen.peer for seen in (*alike.seen, *answers.seen)}
    run.check("others live, and keep their source", peers == {web1.address}, ", ".join(map(str, peers)))


def strays(lab: Lab) -> int:
    """Return the packets that firewalls dropped because they had no session for them."""
    return sum(firewall.control.counters().get("flow_tcp_non_syn_drop", 0) for firewall in lab.firewalls.values())


def without_source_nat(plan: Topology) -> Topology:
    """Return the topology with firewalls that translate no source."""
    document = plan.model_dump(mode="json", exclude_none=True)
    for vpc in document["vpcs"].values():
        for firewall in vpc.get("firewalls", {}).values():
            firewall["source_nat"] = False
    return Topology.model_validate(document)


def ends(lab: Lab) -> dict[str, TunnelEnd]:
    return {name: part for name, part in lab.tunnels.items() if isinstance(part, TunnelEnd)}


def next_hops(lab: Lab) -> list[str]:
    """Return the tunnels that the Transit Gateway's default route leads to."""
    routes = json.loads(lab.host(vpn_router("tgw")).run(["ip", "-json", "route", "show", "default"]).stdout or "[]")
    return sorted(hop["dev"] for route in routes for hop in route.get("nexthops", [route]))


def sent(lab: Lab) -> dict[str, int]:
    """Return the bytes that the Transit Gateway sent into each tunnel."""
    links = json.loads(lab.host(vpn_router("tgw")).run(["ip", "-json", "-s", "link", "show"]).stdout)
    names = {plan.name for plan in tunnels(lab.topology)}
    return {link["ifname"]: link["stats64"]["tx"]["bytes"] for link in links if link["ifname"] in names}


def pings(node: Host, address: str, length: int) -> bool:
    """Return whether a packet of that many bytes, which must not be fragmented, is answered."""
    size = str(length - 28)
    return " 0% packet loss" in node.run([program("ping"), "-c1", "-W2", "-M", "do", "-s", size, address]).stdout


@contextmanager
def captured(lab: Lab, links: list[tuple[str, str]]) -> Iterator[dict[tuple[str, str], Path]]:
    """Capture on interfaces of nodes while the block lasts; yield the files by node and interface."""
    files = {link: lab.directory / f"{'-'.join(link)}.pcap" for link in links}
    running = []
    try:
        for (name, interface), file in files.items():
            command = [program("tcpdump"), "--immediate-mode", "-U", "-Z", "root", "-i", interface, "-w", str(file)]
            running.append(lab.host(name).popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        lab.wait(lambda: all(file.exists() and file.stat().st_size for file in files.values()), "the captures")
        yield files
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait()


def read(file: Path, packet_filter: str) -> list[str]:
    """Return the packets of a capture that a filter lets through, a line each."""
    command = [program("tcpdump"), "-n", "-r", str(file), packet_filter]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


if __name__ == "__main__":
    main(__file__)
