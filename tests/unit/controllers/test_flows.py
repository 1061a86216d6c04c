"""Flows as data: canonical matches, the text of ovs-ofctl, keys and digests."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import pytest

from controllers.flows import (
    ARP,
    IP,
    TCP,
    Action,
    Ct,
    DecTtl,
    Flow,
    GotoTable,
    Group,
    Learn,
    Move,
    Multipath,
    Nat,
    Output,
    Pipeline,
    Program,
    Resubmit,
    SetField,
    Value,
    ct_state,
    mac,
    match,
    tcp_flags,
)
from topologies.decision import cookie


def test_equal_matches_are_equal_however_written() -> None:
    one = match(IP, in_port=1, ipv4_dst=IPv4Network("10.0.0.1/32"), ipv4_src=IPv4Network("0.0.0.0/0"))
    other = match({"in_port": 1}, IP, ipv4_dst=IPv4Address("10.0.0.1"), ipv4_src=None)
    assert one == other
    assert hash(one) == hash(other)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        (match(), ""),
        (match(IP), "ip"),
        (match(ARP, arp_op=1, arp_tpa="10.0.0.1"), "arp,arp_op=1,arp_tpa=10.0.0.1"),
        (match(IP, ipv4_dst=IPv4Network("10.0.0.0/8"), reg1=1), "ip,nw_dst=10.0.0.0/8,reg1=0x1"),
        (match(IP, ip_proto=TCP, tcp_flags=tcp_flags("+syn-ack")), "tcp,tcp_flags=+syn-ack"),
        (match(ct_state=ct_state("+trk+new-inv"), ct_mark=0), "ct_mark=0x0,ct_state=+new+trk-inv"),
        (match(IP, ip_frag=(1, 1)), "ip,nw_frag=yes"),
        (match(eth_dst=mac(0x024500000005)), "dl_dst=02:45:00:00:00:05"),
    ],
)
def test_a_match_has_the_text_of_ovs_ofctl(fields: object, text: str) -> None:
    assert str(fields) == text


@pytest.mark.parametrize(
    ("action", "text"),
    [
        (Output(3), "output:3"),
        (SetField("reg1", 2), "set_field:0x2->reg1"),
        (SetField("ipv4_src", "192.0.2.1"), "set_field:192.0.2.1->ipv4_src"),
        (Move("ct_mark", "reg3"), "move:ct_mark->reg3"),
        (DecTtl(), "dec_ttl"),
        (Multipath(2, "reg3"), "multipath(symmetric_l3l4+udp,0,modulo_n,2,0,reg3)"),
        (Ct(5, table=1), "ct(table=1,zone=5)"),
        (Ct("reg2", commit=True, mark="reg3"), "ct(commit,zone=reg2[0..15],exec(move:reg3->ct_mark))"),
        (
            Ct(7, table=15, commit=True, nat=Nat("10.0.0.1")),
            "ct(commit,table=15,zone=7,nat(src=10.0.0.1:1024-65535))",
        ),
        (
            Learn(7, 2, 350, 0x1F, (("reg2", "reg2"), ("ipv4_src", "ipv4_dst"), ("ip_proto", "ip_proto")), "reg3"),
            "learn(table=7,hard_timeout=350,priority=2,cookie=0x1f,eth_type=0x800,"
            "reg2[],nw_src[]=nw_dst[],nw_proto[],load:reg3[]->reg3[])",
        ),
        (Resubmit(2), "resubmit(,2)"),
        (GotoTable(240), "goto_table:240"),
    ],
)
def test_an_action_has_the_text_of_ovs_ofctl(action: Action, text: str) -> None:
    assert str(action) == text


def flow(decision: str = "a/b c", priority: int = 1, *actions: Action, fields: dict[str, Value] | None = None) -> Flow:
    return Flow(0, priority, match(fields or {}), actions, cookie(decision), decision)


def test_a_flow_equals_what_is_read_back_without_its_decision() -> None:
    sent = flow("a/b c", 1, Output(1))
    read = Flow(0, 1, match(), (Output(1),), cookie("a/b c"))
    assert sent == read
    assert str(sent) == f"cookie={cookie('a/b c'):#x}, table=0, priority=1 actions=output:1"


def test_a_digest_is_of_the_content_not_of_the_order() -> None:
    one, other = flow("a/b c", 1), flow("a/b d", 2)
    assert Program((one, other)).digest == Program((other, one)).digest
    assert Program((one,)).digest != Program((other,)).digest
    assert Program((one,)).digest != Program((one,), (Group(1, ((Output(1),),)),)).digest


def test_a_digest_is_not_of_what_the_switch_learned() -> None:
    learned = Flow(7, 2, match(), (Output(1),), 0)
    held = Program((flow(), learned), learned=frozenset({7}))
    assert held.digest == Program((flow(),)).digest
    assert held.digest != Program((flow(), learned)).digest


def test_a_group_has_the_text_of_ovs_ofctl() -> None:
    bucket = "bucket=bucket_id:0,weight:1,actions=output:1"
    one = Group(1, ((Output(1),),))
    assert str(one) == f"group_id=1,type=select,selection_method=dp_hash,{bucket}"
    assert str(Group(1, one.buckets, ("ipv4_src", "ipv4_dst"))) == (
        f"group_id=1,type=select,selection_method=hash,fields(nw_src,nw_dst),{bucket}"
    )


def test_two_decisions_on_one_match_are_a_bug_that_names_both() -> None:
    pipeline = Pipeline()
    pipeline.flow("a/b one", 0, 5, match(IP))
    with pytest.raises(ValueError, match=r"two flows match the same: 'a/b one' and 'a/b two': .*priority=5,ip"):
        pipeline.flow("a/b two", 0, 5, match(IP), Output(1))
