"""Judges name every violation, and nothing else; witnesses read what tools and the kernel say."""

from __future__ import annotations

import os
import socket
from dataclasses import replace
from typing import Any

import pytest

from testbed.invariants import (
    DESCRIPTOR_SLACK,
    MEMORY_SLACK,
    Footprint,
    Ledger,
    at_two_firewalls,
    broken_flows,
    datagrams,
    growth,
    lost_connections,
    packets,
    resident,
    surplus,
    zone_entries,
)
from testbed.probes.flows import Connection, Flow


def test_the_ledger_counts_looks_and_violations_and_tells_the_first() -> None:
    ledger = Ledger(["good", "bad", "forgotten"])
    ledger.look("good", [])
    ledger.look("bad", [])
    ledger.look("bad", ["one", "two"])
    ledger.look("bad", ["three", "four"])
    assert [(check.name, check.passed, check.detail) for check in ledger.checks()] == [
        ("good", True, "looked at 1 times"),
        ("bad", False, "looked at 3 times, violated 2; one; two; three"),
        ("forgotten", False, "never looked at"),
    ]
    with pytest.raises(KeyError):
        ledger.look("unheard of", [])


def session(source: tuple[str, int], destination: tuple[str, int], sent: int, received: int = 0) -> dict[str, Any]:
    names = ("source", "source_port", "destination", "destination_port")
    return dict(zip(names, (*source, *destination), strict=True)) | {
        "protocol": "tcp",
        "packets_sent": sent,
        "packets_received": received,
    }


WEB, APP = ("10.200.0.20", 40000), ("10.250.0.52", 8080)


def test_a_flow_at_one_firewall_is_right() -> None:
    before = {"fw1": packets([session(WEB, APP, 5, 5)]), "fw2": packets([])}
    after = {"fw1": packets([session(WEB, APP, 9, 9)]), "fw2": packets([])}
    assert at_two_firewalls(before, after) == []


def test_the_two_directions_at_two_firewalls_are_found() -> None:
    before = {"fw1": packets([session(WEB, APP, 5)]), "fw2": packets([])}
    after = {"fw1": packets([session(WEB, APP, 9)]), "fw2": packets([session(APP, WEB, 1)])}
    assert at_two_firewalls(before, after) == ["tcp 10.200.0.20:40000 ↔ 10.250.0.52:8080 at fw1 and fw2"]


def test_a_session_that_only_lingers_is_no_violation() -> None:
    old = packets([session(WEB, APP, 5, 5)])
    before = {"fw1": old, "fw2": packets([])}
    assert at_two_firewalls(before, {"fw1": old, "fw2": packets([session(WEB, APP, 1)])}) == []


def test_a_firewall_that_was_not_read_before_says_nothing() -> None:
    now = packets([session(WEB, APP, 5, 5)])
    assert at_two_firewalls({"fw1": packets([])}, {"fw1": now, "fw2": now}) == []


FLOW = Flow("tcp", 40000, 0.0, 0.1, None, None, 10, 10, ())


def test_only_flows_of_broken_firewalls_may_die() -> None:
    dead = replace(FLOW, local_port=40001, died=5.0, cause="time-out")
    ports = {"fw1": {40000}, "fw2": {40001}}
    assert broken_flows([FLOW, dead], ports, ["fw2"]) == []
    assert broken_flows([FLOW, dead], ports, ["fw1"]) == ["tcp port 40001 at fw2 died of time-out"]
    assert broken_flows([FLOW], {}, ["fw1"]) == ["tcp port 40000 was at no firewall"]


@pytest.mark.parametrize(
    ("started", "ended", "lost"), [(1.0, 5.0, True), (1.0, 10.0, False), (12.0, 13.0, False), (21.0, 25.0, True)]
)
def test_connections_may_fail_while_a_firewall_is_in_trouble(started: float, ended: float, lost: bool) -> None:
    failed = Connection(50000, started, ended, "time-out")
    assert lost_connections([failed, replace(failed, error=None)], [(10.0, 20.0)]) == (
        ["port 50000: time-out"] if lost else []
    )


REST = Footprint(
    memory={"fw1": 40 << 20},
    descriptors={"fw1": 12},
    flows={"gwlb": (60, 60)},
    groups={"gwlb": (2, 2)},
    entries={"gwlb's interfaces": (4, 4)},
    conntrack={1: (90, 100)},
)


def test_a_lab_at_rest_holds_what_it_should() -> None:
    assert surplus(REST) == []


def test_every_surplus_is_named() -> None:
    wrong = Footprint(
        flows={"gwlb": (61, 60)},
        groups={"gwlb": (1, 2)},
        entries={"gwlb's interfaces": (5, 4)},
        conntrack={1: (101, 100)},
        packet_ins=3,
    )
    assert surplus(wrong) == [
        "gwlb: 61 flows instead of 60",
        "gwlb: 1 groups instead of 2",
        "gwlb's interfaces: 5 map entries instead of 4",
        "conntrack zone 1: 101 entries, more than 100",
        "3 packets went to the controller",
    ]


def test_growth_has_bounds() -> None:
    most = replace(REST, memory={"fw1": (60 << 20) + MEMORY_SLACK}, descriptors={"fw1": 12 + DESCRIPTOR_SLACK})
    assert growth(REST, most) == []
    more = replace(REST, memory={"fw1": (62 << 20) + MEMORY_SLACK}, descriptors={"fw1": 13 + DESCRIPTOR_SLACK})
    assert growth(REST, more) == ["fw1: 40 MiB grew to 94 MiB", "fw1: 12 descriptors grew to 29"]


def test_conntrack_entries_are_counted_by_zone() -> None:
    dump = "tcp,orig=(src=10.0.0.1),reply=(src=10.0.0.2),zone=3,mark=1\nudp,orig=(src=10.0.0.1),zone=3\nicmp,zone=12\n"
    assert zone_entries(dump) == {3: 2, 12: 1}


def test_the_memory_of_a_process_is_read() -> None:
    assert 1 << 20 < resident(os.getpid()) < 1 << 40


def test_a_datagram_that_arrives_is_counted_even_where_nobody_wants_it() -> None:
    before = datagrams(os.getpid())
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        address = free.getsockname()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"bumpwire", address)
    assert datagrams(os.getpid()) > before
