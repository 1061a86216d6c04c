"""The diagrams show all that a topology has, and nothing lies over another."""

from __future__ import annotations

import re
from itertools import combinations
from pathlib import Path
from xml.etree import ElementTree

import pytest

from topologies.catalogue import packaged
from topologies.diagram import Box, lay_out, mermaid, svg
from topologies.loader import load_topology
from topologies.model import Topology
from topologies.validation import named


@pytest.fixture(scope="module", params=packaged())
def drawn(request: pytest.FixtureRequest) -> Topology:
    return load_topology(request.param)


@pytest.fixture(scope="module")
def gwlb() -> Topology:
    return load_topology("gwlb")


def test_the_svg_names_everything(drawn: Topology) -> None:
    root = ElementTree.fromstring(svg(drawn))
    shown = " ".join(text for element in root.iter() if (text := element.text) and element.tag.endswith("text"))
    for name, _ in named(drawn):
        assert {name, f"{name}-trust"} & set(shown.split()), name
    for vpc in drawn.vpcs.values():
        assert str(vpc.cidr) in shown
        for subnet_name, subnet in vpc.subnets.items():
            assert subnet_name in shown
            assert str(subnet.cidr) in shown


def test_the_svg_is_self_contained(gwlb: Topology) -> None:
    text = svg(gwlb)
    assert not re.search(r"href=|url\((?!#)|https?://(?!www\.w3\.org/2000/svg)", text)


def test_words_are_escaped(gwlb: Topology) -> None:
    topology = gwlb.model_copy(update={"description": "<b> & co"})
    assert "&lt;b&gt; &amp; co" in svg(topology)
    ElementTree.fromstring(svg(topology))


def overlap(one: Box, other: Box) -> bool:
    across = min(one.x + one.width, other.x + other.width) > max(one.x, other.x)
    return across and min(one.bottom, other.bottom) > max(one.y, other.y)


def test_boxes_lie_beside_each_other(drawn: Topology) -> None:
    layout = lay_out(drawn)
    chips = [box for *_, box in layout.chips]
    balancers = list(layout.balancers.values())
    for group in (layout.vpcs.values(), [*layout.subnets.values(), *balancers], chips, layout.transit.values()):
        assert not any(overlap(one, other) for one, other in combinations(group, 2))
    everything = [*layout.vpcs.values(), *layout.transit.values(), layout.internet]
    assert not any(overlap(one, other) for one, other in combinations(everything, 2))
    assert all(box.x + box.width <= layout.width and box.bottom <= layout.height for box in everything)


def test_the_vpc_of_the_firewalls_is_in_the_middle(gwlb: Topology) -> None:
    assert list(lay_out(gwlb).vpcs) == ["spoke1", "security", "spoke2"]


def test_mermaid_has_a_node_for_everything_and_every_edge_ends_at_one(drawn: Topology) -> None:
    text = mermaid(drawn)
    assert text.count("subgraph ") == len(re.findall(r"^\s+end$", text, re.MULTILINE))
    nodes = set(re.findall(r"^\s+(?:subgraph )?(\w+)[\[({]", text, re.MULTILINE))
    edges = re.findall(r"^  (\w+) (?:<-->|-\. PrivateLink \.->|<-- GENEVE -->) (\w+)$", text, re.MULTILINE)
    assert {end for edge in edges for end in edge} <= nodes
    # Internet gateways, endpoints, registered firewalls, attachments' interfaces.
    assert (
        len(edges)
        == {
            "gwlb": 3 + 6 + 4 + 6,
            "autoscale": 0 + 2 + 2 + 6,
            "active-passive": 1 + 6,
            "sandwich": 1,
            "vpn-ecmp": 1 + 4,
        }[drawn.name]
    )
    for name, place in named(drawn):
        assert f'"{name}' in text or f" {name}" in text, place


def test_what_carries_nothing_says_so(gwlb: Topology) -> None:
    document = gwlb.model_dump()
    document["gateway_load_balancers"]["gwlb"]["endpoint_service"] |= {
        "acceptance_required": True,
        "rejected": ["gwlbe1-b"],
    }
    document["gateway_load_balancers"]["gwlb"]["target_group"]["targets"] = ("fw1",)
    topology = Topology.model_validate(document)
    for picture in (svg(topology), mermaid(topology)):
        assert (picture.count("pendingAcceptance"), picture.count("rejected"), picture.count("not registered")) == (
            5,
            1,
            3,
        )
        assert "auto scaling" not in picture
    scaled = load_topology("autoscale")
    assert "auto scaling group gwlb-asg of 2 to 6" in svg(scaled)
    layout = lay_out(scaled)
    assert layout.subnets["security", "data-a"].y > layout.balancers["gwlb"].bottom, "idle firewalls are not public"


def test_a_topology_of_one_vpc_is_drawn() -> None:
    topology = Topology.model_validate({"name": "one", "vpcs": {"one": {"cidr": "10.0.0.0/16"}}})
    ElementTree.fromstring(svg(topology))
    assert mermaid(topology).startswith("flowchart TB\n")


@pytest.mark.parametrize("name", ["gwlb", "vpn-ecmp", "active-passive", "sandwich"])
def test_the_documentation_draws_the_architectures_as_they_are(name: str) -> None:
    text = (Path(__file__).parents[3] / "docs/architectures.md").read_text()
    section = text.partition(f"(`{name}`)\n")[2]
    drawn = re.search(r"```mermaid\n(.*?)```", section, re.DOTALL)
    assert drawn is not None
    assert drawn[1].strip() == mermaid(load_topology(name)).strip(), f"paste `bumpwire show {name} --mermaid` there"
