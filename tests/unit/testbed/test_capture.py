"""Links of a lab by name, and what is said of names that are none."""

from __future__ import annotations

import os

import pytest

from testbed.capture import Link, find_link, links
from testbed.errors import RequestError
from topologies.fabric import Fabric, build_fabric
from topologies.loader import load_topology

NAMES = ["web1", "app1", "web2", "app2", "gwlb", "fw1", "fw2", "fw3", "fw4", "client", "server"]
NODES = {name: number for number, name in enumerate(NAMES, start=100)}


@pytest.fixture(scope="module")
def fabric() -> Fabric:
    return build_fabric(load_topology("gwlb"))


def test_every_node_and_every_appliance_link_has_a_name(fabric: Fabric) -> None:
    found = links(fabric, NODES)
    assert set(found) == {*NAMES, "gwlb-fw1", "gwlb-fw2", "gwlb-fw3", "gwlb-fw4"}
    assert found["web1"] == Link("web1", NODES["web1"], "eth0")
    assert found["fw1"] == Link("fw1", NODES["fw1"], "eth0")
    assert found["gwlb"] == Link("gwlb", os.getpid(), "gv-gwlb")
    assert found["gwlb-fw3"] == Link("gwlb-fw3", NODES["fw3"], "eth0")


def test_the_interface_of_the_root_namespace_names_the_link_too(fabric: Fabric) -> None:
    assert find_link("bw-web1", fabric, links(fabric, NODES)).name == "web1"


INSIDE = "is a port between bridges, inside Open vSwitch, with no interface to capture on; near it are"
ALL = "web1, app1, web2, app2, gwlb, fw1, fw2, fw3, fw4, client, server, gwlb-fw1, gwlb-fw2, gwlb-fw3, gwlb-fw4"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("gwlbe3-a", f"capture: gwlbe3-a {INSIDE} gwlb, gwlb-fw1, gwlb-fw2, gwlb-fw3, gwlb-fw4"),
        ("att-spoke1", f"capture: att-spoke1 {INSIDE} web1, app1"),
        ("tgw.att-spoke2-b", f"capture: tgw.att-spoke2-b {INSIDE} web2, app2"),
        ("igw1", f"capture: igw1 {INSIDE} client, server, web1, app1"),
        ("wbe1", f"capture: no link wbe1; did you mean web1? links of this lab: {ALL}"),
        ("", f"capture: no link ; links of this lab: {ALL}"),
    ],
)
def test_what_is_no_link_is_answered_with_the_nearest(fabric: Fabric, name: str, text: str) -> None:
    with pytest.raises(RequestError) as raised:
        find_link(name, fabric, links(fabric, NODES))
    assert str(raised.value) == text


def test_a_port_far_from_every_host_has_a_nearest_link(fabric: Fabric) -> None:
    """Neither the Transit Gateway nor the security VPC has a host: the search goes on one bridge further."""
    with pytest.raises(RequestError) as raised:
        find_link("att-sec", fabric, links(fabric, NODES))
    near = str(raised.value).split("near it are ")[1].split(", ")
    assert {"gwlb", "gwlb-fw1", "web1", "app2", "client"} <= set(near)
