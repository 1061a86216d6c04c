"""Sandwich: firewalls between two load balancers scale, but the application no longer sees who its client is.

Each firewall sends a port on to the internal load balancer (destination NAT) from its own address (source NAT), or the
answer would not come back to it. An Application Load Balancer tells the client in X-Forwarded-For; nothing else does.
"""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from ipaddress import IPv4Address
from typing import Annotated

from pydantic import Field

from testbed.comparison.application import one_more
from testbed.lab import Lab
from testbed.probes import source_log
from testbed.results import Table
from testbed.run import Run
from testbed.scenario import main
from topologies.loader import load_topology
from topologies.sizing import with_firewalls

PORT = 80


def story(
    run: Run, firewalls: Annotated[int, Field(ge=1, le=8)] = 2, requests: int = 16, time_scale: float = 60
) -> None:
    """Tell it with so many *firewalls*, and *requests* for each of them."""
    requests *= firewalls
    with (
        run.lab(with_firewalls(load_topology("sandwich"), firewalls), time_scale=time_scale) as lab,
        ExitStack() as stack,
    ):
        client, vpc = lab.host("client"), lab.topology.vpcs["app"]
        trusted = {firewall.trust.address: name for name, firewall in vpc.firewalls.items()}
        for name in vpc.instances:
            stack.enter_context(source_log.application(lab.host(name), PORT))
        lab.wait(lab.balanced, "all targets to be healthy")

        for name, kind in (("nlb", "Network Load Balancer"), ("alb", "Application Load Balancer")):
            balancer = vpc.load_balancers[name]
            address = balancer.public_address
            assert address is not None
            with run.chapter(kind):
                answers = source_log.request(client, address, PORT, count=requests)
                seen = answers.seen
                run.check("every request was answered", len(seen) == requests, ", ".join(set(answers.failed)))
                by = Counter(trusted.get(one.peer, str(one.peer)) for one in seen)
                told = ", ".join(f"{name}: {number}" for name, number in sorted(by.items()))
                run.check("the application saw a firewall, not its client", by.keys() <= set(trusted.values()), told)
                run.check("every firewall had a share", len(by) == len(trusted), told)
                forwarded = {one.forwarded_for for one in seen}
                expected: set[tuple[IPv4Address, ...]] = {(client.address,)} if name == "alb" else {()}
                words = "the client is only in X-Forwarded-For" if name == "alb" else "the client is nowhere"
                run.check(words, forwarded == expected, f"X-Forwarded-For: {forwarded}")
                rule = vpc.firewalls["fw1"].destination_nat[balancer.listeners[PORT].target_port]
                sources = inbound(lab, rule.port)
                known = {client.address} if name == "nlb" else {balancer.address}
                words = "the firewalls saw the " + ("client" if name == "nlb" else "load balancer, not the client")
                run.check(words, sources == known, ", ".join(map(str, sources)))
                run.results.tables.append(
                    Table(
                        f"{kind}: who sees whom",
                        ("at", "the source is"),
                        (
                            (name, str(client.address)),
                            ("firewalls", ", ".join(sorted(map(str, sources)))),
                            ("application", ", ".join(sorted({str(one.peer) for one in seen}))),
                        ),
                    )
                )
        run.results.tables.append(nat_table(lab))
        if firewalls > 1:
            with run.chapter("a firewall dies"):
                die(run, lab)
        more = one_more(lab.topology)
        run.measure("listeners for one more application", more.listeners, "")
        run.measure("NAT rules for one more application", more.nat_rules, "")


def die(run: Run, lab: Lab) -> None:
    """Kill a firewall: its connections are lost, the health check takes it out, the rest goes on."""
    client, vpc = lab.host("client"), lab.topology.vpcs["app"]
    address = vpc.load_balancers["alb"].public_address
    assert address is not None
    lab.firewalls["fw1"].kill(meant=True)
    lab.wait(lambda: states(lab, "alb", "fw1") == {"unhealthy"}, "the load balancer to take fw1 out")
    others = {firewall.trust.address for name, firewall in vpc.firewalls.items() if name != "fw1"}
    count = 10 * len(others)
    answers = source_log.request(client, address, PORT, count=count)
    peers = {one.peer for one in answers.seen}
    run.check("new requests are answered", len(answers.seen) == count, ", ".join(set(answers.failed)))
    run.check("by the other firewalls alone", peers == others, ", ".join(map(str, peers)))
    lab.firewalls["fw1"].start()
    lab.wait(lambda: states(lab, "alb", "fw1") == {"healthy"}, "fw1 to be taken back")


def inbound(lab: Lab, port: int) -> set[IPv4Address]:
    """Return whom the firewalls see in requests to a *port* of the internal load balancer, after destination NAT.

    A load balancer's health checks have no application.
    """
    return {
        IPv4Address(session["source"])
        for firewall in lab.firewalls.values()
        for session in firewall.control.sessions(application="web-browsing", destination_port=port)
    }


def states(lab: Lab, balancer: str, target: str) -> set[str]:
    return {one.state for one in lab.balancers[balancer].targets() if one.target == target}


def nat_table(lab: Lab) -> Table:
    """Return the NAT rules of a firewall, with what they counted."""
    text = lab.host("fw1").run(["iptables", "-t", "nat", "-L", "-v", "-n", "-x"]).stdout
    rows = [line.split() for line in text.splitlines() if " to:" in line]
    return Table("NAT of fw1", ("packets", "rule", "of", "to"), tuple((r[0], r[2], r[9], r[-1]) for r in rows))


if __name__ == "__main__":
    main(__file__)
