"""One more application: what it takes is what makes it reachable, and nothing that would not be missed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from firewall_vnf.policy_file import read_policy
from testbed.comparison.application import PORT, differences, one_more, with_rule
from testbed.comparison.model import Application
from topologies.applications import with_application
from topologies.loader import load_topology
from topologies.model import Topology
from topologies.sizing import with_firewalls
from topologies.validation import validate

ROUTED = ("gwlb", "vpn-ecmp", "active-passive")


@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("name", ROUTED)
def test_where_routes_lead_to_the_servers_a_rule_is_enough(name: str, count: int) -> None:
    topology = with_firewalls(load_topology(name), count)
    assert with_application(topology, PORT) == topology
    assert one_more(topology) == Application(policy_rules=1, nat_rules=0, listeners=0)


@pytest.mark.parametrize("count", [1, 4, 8])
def test_the_sandwich_takes_a_listener_on_both_sides_and_nat_on_every_firewall(count: int) -> None:
    topology = with_firewalls(load_topology("sandwich"), count)
    assert not validate(with_application(topology, PORT))
    assert one_more(topology) == Application(policy_rules=1, nat_rules=count, listeners=2)


def servers(document: dict[str, Any], balancer: str, port: int) -> set[tuple[str, int]]:
    """Return the instances and ports that a load balancer's port leads to; none where one of the ways leads nowhere."""
    vpc = document["vpcs"]["app"]
    listener = vpc["load_balancers"].get(balancer, {"listeners": {}})["listeners"].get(port)
    found = set()
    for target in listener["targets"] if listener else ():
        step = (target, listener["target_port"])
        if target in vpc["firewalls"]:
            rule = vpc["firewalls"][target]["destination_nat"].get(listener["target_port"])
            step = (rule["target"], rule["port"]) if rule else ("", 0)
        beyond = servers(document, *step) if step[0] not in vpc["instances"] else {step}
        if not beyond:
            return set()
        found |= beyond
    return found


def test_all_that_it_takes_is_needed_and_enough() -> None:
    topology = load_topology("sandwich")
    document = with_application(topology, PORT).model_dump()
    assert servers(topology.model_dump(), "nlb", PORT) == set()
    assert servers(document, "nlb", PORT) == {("web1", PORT), ("web2", PORT)}
    assert servers(document, "nlb", 80) == {("web1", 80), ("web2", 80)}
    vpc = document["vpcs"]["app"]
    added = [vpc["load_balancers"][name]["listeners"] for name in ("nlb", "internal")]
    added += [firewall["destination_nat"] for firewall in vpc["firewalls"].values()]
    for section in added:
        item = section.pop(PORT)
        assert servers(document, "nlb", PORT) == set()
        section[PORT] = item


def test_a_port_can_be_taken() -> None:
    topology = load_topology("sandwich")
    with pytest.raises(ValueError, match="load balancer nlb has a listener on port 80; choose another port"):
        with_application(topology, 80)
    with pytest.raises(ValueError, match="firewall fw1 has a NAT rule for port 8081; choose another port"):
        with_application(topology, 8081)


@pytest.mark.parametrize("name", [*ROUTED, "sandwich"])
def test_the_further_application_has_a_rule_of_its_own(name: str) -> None:
    topology = load_topology(name)
    assert topology.firewalls is not None
    policy = read_policy(Path(topology.firewalls.policy))
    more = with_rule(policy, PORT)
    (added,) = set(more.rules) - set(policy.rules)
    assert (added.service, added.action) == ((f"tcp/{PORT}",), policy.rules[0].action)


def test_differences_name_their_section() -> None:
    before = {"listeners": {80: {"port": 1}, 81: {"port": 2}}, "rules": {"a": 1}}
    after = {"listeners": {80: {"port": 1}, 82: {"port": 2}}, "rules": {"a": 2, "b": 1}}
    assert sorted(differences(before, after)) == ["listeners", "listeners", "rules", "rules"]
    assert list(differences(before, before)) == []


def test_a_topology_without_a_policy() -> None:
    with pytest.raises(ValueError, match="topology empty has no policy"):
        one_more(Topology(name="empty", vpcs={}))
