"""Proofs hold for a trip whose witnesses agree, and name what is wrong with any other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address
from typing import Any

import pytest
from scapy.contrib.geneve import GENEVE, GeneveOptions
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.l2 import ARP, Ether

from testbed import proofs
from testbed.results import Check
from testbed.trip import SeenSession, Trip, model_decisions, received
from testbed.wire import Frame, Option, parse_frame, pcap
from topologies.decision import decision
from topologies.ids import endpoint_ids, endpoint_number
from topologies.loader import load_topology
from topologies.walk import walks

GWLB = load_topology("gwlb")
WEB1, APP2, NODE, FW3 = map(IPv4Address, ("10.200.0.20", "10.250.0.52", "10.100.1.20", "10.100.1.21"))
ENDPOINT = endpoint_number(endpoint_ids(GWLB)["gwlbe3-b"])
COUNT = 5


def option(kind: int, data: bytes) -> Option:
    return Option(0x0108, kind, data)


OPTIONS = (option(1, ENDPOINT.to_bytes(8, "big")), option(2, bytes(8)), option(3, b"\x0a\xfe\xcd\xca"))
THERE = Frame(NODE, FW3, 50000, 6081, 0, 0x0800, OPTIONS, WEB1, APP2, 1, (0, 0))


def turned_around(frame: Frame) -> Frame:
    return replace(frame, source=frame.destination, destination=frame.source)


BACK = replace(THERE, inner_source=APP2, inner_destination=WEB1)


def trip() -> Trip:
    """Return a trip of 5 pings over zone b and fw3, in which all witnesses agree."""
    good = Trip(
        "web1",
        "app2",
        addresses={"web1": WEB1, "app2": APP2, "fw1": IPv4Address("10.100.0.21"), "fw3": FW3},
        endpoints={ENDPOINT: "gwlbe3-b"},
        forward=walks(GWLB, "web1", "app2"),
        back=walks(GWLB, "web1", "app2", reply=True),
        sent=COUNT,
        returned=COUNT,
        sessions=[SeenSession("fw3", 1, WEB1, APP2, "icmp", 7, 7, "ping", "east-west", "ACTIVE", (COUNT, COUNT))],
        frames={"fw1": [], "fw3": [THERE, turned_around(THERE), BACK, turned_around(BACK)] * COUNT},
    )
    rises = dict.fromkeys(model_decisions(GWLB), 0)
    for hops in (good.forward[1], good.back[1]):  # zone b
        for hop in hops:
            name = decision("gwlb", "targets", "fw3") if hop.table == "targets" else hop.decision
            rises[name] += COUNT
    good.rises = rises
    return good


def test_all_holds_when_the_witnesses_agree() -> None:
    good = trip()
    for proof in (
        proofs.followed_the_model,
        proofs.one_firewall_saw_both_directions,
        proofs.geneve_is_awss,
        proofs.nothing_reached_the_controller,
    ):
        check = proof(good)
        assert check.passed, check.detail


def failing(proof: Callable[[Trip], Check], **changes: Any) -> str:
    bad = trip()
    for name, value in changes.items():
        setattr(bad, name, value)
    check = proof(bad)
    assert not check.passed
    return check.detail


@pytest.mark.parametrize(
    ("name", "count", "message"),
    [
        ("tgw/spokes 0.0.0.0/0", 9, "tgw/spokes 0.0.0.0/0: 9 packets instead of 10"),
        ("tgw/appliance-mode att-sec-a", 1, "tgw/appliance-mode att-sec-a: 1 packets instead of 0"),
        ("gwlb/targets fw4", 2, "gwlb/targets fw4: 2 packets instead of 0"),
        ("internet/routes 192.0.2.11/32", 3, "internet/routes 192.0.2.11/32: 3 packets instead of 0"),
    ],
)
def test_a_decision_that_counts_otherwise_is_named(name: str, count: int, message: str) -> None:
    assert failing(proofs.followed_the_model, rises=dict(trip().rises) | {name: count}) == message


def test_a_decision_that_no_switch_has_is_named() -> None:
    rises = dict(trip().rises)
    del rises["tgw/spokes 0.0.0.0/0"]
    assert failing(proofs.followed_the_model, rises=rises) == "tgw/spokes 0.0.0.0/0: no switch has it"


def test_packets_that_were_not_inspected_are_noticed() -> None:
    assert failing(proofs.followed_the_model, sent=6) == "5 packets on the walk there, 6 arrived"


def test_no_packet_proves_nothing() -> None:
    none = dict.fromkeys(trip().rises, 0)
    detail = failing(proofs.followed_the_model, sent=0, returned=0, frames={"fw3": []}, rises=none)
    assert detail == "0 packets on the walk there, 0 arrived; 0 packets on the walk back, 0 arrived"


def test_a_session_that_saw_one_direction() -> None:
    session = replace(trip().sessions[0], packets=(5, 0))
    detail = failing(proofs.one_firewall_saw_both_directions, sessions=[session])
    assert detail == "fw3 saw 5 packets there and 0 back"


def test_a_flow_on_two_firewalls() -> None:
    session = trip().sessions[0]
    both = [session, replace(session, firewall="fw1")]
    assert "2 firewalls have a session" in failing(proofs.one_firewall_saw_both_directions, sessions=both)


def test_a_flow_on_two_links() -> None:
    frames = dict(trip().frames) | {"fw1": [THERE]}
    detail = failing(proofs.one_firewall_saw_both_directions, frames=frames)
    assert detail == "one flow on the links of fw1, fw3"


def test_no_session() -> None:
    assert failing(proofs.one_firewall_saw_both_directions, sessions=[]) == "no firewall has a session"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vni": 7}, "VNI 7"),
        ({"protocol": 0x6558}, "protocol 0x6558"),
        ({"destination_port": 6082}, "destination port 6082"),
        ({"options": OPTIONS[:2]}, "options ((264, 1, 8), (264, 2, 8))"),
        ({"options": (OPTIONS[0], OPTIONS[2], OPTIONS[1])}, "options ((264, 1, 8), (264, 3, 4), (264, 2, 8))"),
        ({"options": (*OPTIONS[:2], option(3, b"\0\0\0\1"))}, "2 cookies in one flow"),
        ({"source_port": 50001}, "10.100.1.20 → 10.100.1.21 port 50001: 1 frames, but 0 back"),
    ],
)
def test_frames_that_are_not_awss(change: dict[str, Any], message: str) -> None:
    frames = [*trip().frames["fw3"][1:], replace(THERE, **change)]
    assert message in failing(proofs.geneve_is_awss, frames={"fw3": frames})


def test_no_frame() -> None:
    assert failing(proofs.geneve_is_awss, frames={"fw3": []}) == "no GENEVE frame was captured"


def test_a_packet_to_the_controller() -> None:
    assert failing(proofs.nothing_reached_the_controller, packet_ins=2) == "2 packets"


def stopped() -> Trip:
    """Return a trip of which every packet came to fw3 and no further."""
    bad = trip()
    bad.sent = bad.returned = 0
    bad.frames = {"fw1": [], "fw3": [THERE] * COUNT}
    hops = bad.forward[1]
    index = [hop.table for hop in hops].index("targets")
    bad.rises = (
        dict.fromkeys(bad.rises, 0) | {hop.decision: COUNT for hop in hops[:index]} | {"gwlb/targets fw3": COUNT}
    )
    return bad


def test_a_firewall_that_stops_packets() -> None:
    check = proofs.stopped_at_the_firewall(stopped())
    assert (check.passed, check.detail) == (True, "5 packets reached a firewall, 0 arrived")


def test_a_packet_that_slips_through_a_firewall() -> None:
    leak = stopped()
    leak.rises = dict(leak.rises) | {"tgw/security 10.250.0.0/16": 1}
    check = proofs.stopped_at_the_firewall(leak)
    assert (check.passed, check.detail) == (False, "tgw/security 10.250.0.0/16: 1 packets instead of 0")


def test_packets_that_never_reached_a_firewall_were_not_stopped_by_it() -> None:
    lost = stopped()
    lost.frames = {"fw1": [], "fw3": []}
    lost.rises = dict.fromkeys(lost.rises, 0)
    check = proofs.stopped_at_the_firewall(lost)
    assert (check.passed, check.detail) == (False, "0 packets reached a firewall, 0 arrived")


# -- what the proofs are made of ------------------------------------------------------------------------------------


def test_a_path_table_has_the_zone_that_was_taken() -> None:
    rows = trip().path_table("the path").rows
    assert ("→ 6", "gwlb/targets fw3", trip().forward[1][5].why, "10 of 10") in rows
    assert not any("att-sec-a" in row[1] for row in rows)
    assert len(rows) == len(trip().forward[1]) + len(trip().back[1])


def test_a_captured_frame_is_taken_apart() -> None:
    options = [GeneveOptions(classid=0x0108, type=item.type, data=item.data) for item in OPTIONS]
    outer = (
        Ether() / IP(src=str(NODE), dst=str(FW3)) / UDP(sport=50000, dport=6081) / GENEVE(proto=0x0800, options=options)
    )
    inner = IP(src=str(WEB1), dst=str(APP2))
    assert parse_frame(bytes(outer / inner / ICMP())) == THERE
    frame = parse_frame(bytes(outer / inner / TCP(sport=1000, dport=80)))
    assert frame is not None
    assert frame.inner_ports == (1000, 80)
    assert frame.endpoint == ENDPOINT
    assert frame.cookie == 0x0AFECDCA
    reply = parse_frame(bytes(outer / IP(src=str(APP2), dst=str(WEB1)) / TCP(sport=80, dport=1000)))
    assert reply is not None
    assert reply.flow == frame.flow


@pytest.mark.parametrize("packet", [Ether() / ARP(), Ether() / IP() / UDP(dport=53), Ether() / IP() / TCP()])
def test_other_frames_are_not(packet: Any) -> None:
    assert parse_frame(bytes(packet)) is None


def test_a_capture_file_is_in_the_order_of_time() -> None:
    frames = [(2.5, bytes(Ether() / IP(len=1500))), (1.25, bytes(Ether() / IP() / UDP()))]
    content = pcap(frames)
    assert content[:4] == (0xA1B2C3D4).to_bytes(4, "little")
    first = content[24:40]
    assert [int.from_bytes(first[i : i + 4], "little") for i in (0, 4, 8, 12)] == [1, 250000, 42, 42]
    second = content[40 + 42 : 40 + 42 + 16]
    assert int.from_bytes(second[12:], "little") == 1514


def test_received_packets_of_the_kernels_table() -> None:
    table = "Ip: Forwarding DefaultTTL InReceives InHdrErrors\nIp: 1 64 4711 0\nIcmp: InMsgs\nIcmp: 3\n"
    assert received(table) == 4711
