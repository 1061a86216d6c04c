"""What goes over the wire: it comes back as what it was, and Open vSwitch's own decoder reads it as meant."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controllers import ryu
from controllers.compiler import compile_topology
from controllers.difference import Change, Operation
from controllers.flows import IP, Flow, Foreign, GotoTable, Group, Learn, Output, Program, match
from topologies.model import Topology

Variant = Callable[[Callable[[dict[str, Any]], None]], Topology]

learns = st.builds(
    Learn,
    table=st.integers(0, 253),
    priority=st.integers(0, 0xFFFF),
    timeout=st.integers(0, 0xFFFF),
    cookie=st.integers(0, (1 << 64) - 1),
    fields=st.lists(
        st.sampled_from(
            [("reg2", "reg2"), ("ipv4_src", "ipv4_dst"), ("ipv4_src", "ipv4_src"), ("ip_proto", "ip_proto")]
        ),
        max_size=4,
    ).map(tuple),
    load=st.sampled_from(["reg0", "reg3"]),
)


class Datapath:
    """What the library's messages ask of a switch."""

    ofproto, ofproto_parser = ryu.ofproto, ryu.parser


def message(item: Flow | Group) -> bytes:
    encoded = ryu.encode_change(Datapath(), Change(Operation.ADD, item))
    encoded.set_xid(1)
    encoded.serialize()
    return bytes(encoded.buf)


def reread(action: Any) -> Any:
    buffer = bytearray()
    action.serialize(buffer, 0)
    return ryu.parser.OFPAction.parser(bytes(buffer), 0)


@given(learns)
def test_a_learn_action_comes_back_as_it_was(learn: Learn) -> None:
    assert ryu.decode_action(reread(ryu.encode_action(learn))) == learn


@pytest.mark.parametrize(
    "odd",
    [
        {"idle_timeout": 5},
        {"flags": 1},
        {"fin_hard_timeout": 1},
        {"specs": []},
        {"specs": [ryu.parser.NXFlowSpecOutput(src=("reg3", 0), n_bits=32)]},
        {"specs": [ryu.parser.NXFlowSpecMatch(src=("vlan_tci", 0), dst=("vlan_tci", 0), n_bits=12)]},
    ],
)
def test_another_learn_action_is_foreign(odd: dict[str, Any]) -> None:
    ours = ryu.encode_action(Learn(7, 2, 350, 1, (("ipv4_src", "ipv4_dst"),), "reg3"))
    settings = {"table_id": 7, "priority": 2, "hard_timeout": 350, "cookie": 1, "specs": ours.specs} | odd
    assert isinstance(ryu.decode_action(reread(ryu.parser.NXActionLearn(**settings))), Foreign)


@pytest.mark.parametrize("fields", [(), ("ipv4_src", "ipv4_dst")])
def test_a_group_says_how_it_selects(fields: tuple[str, ...]) -> None:
    group = Group(1, ((Output(1),), (Output(2),)), fields)
    buckets = ryu.encode_group(Datapath(), ryu.ofproto.OFPGC_ADD, group).buckets
    properties = [ryu.selection_method(fields)]
    kind = ryu.ofproto.OFPGT_SELECT
    description = ryu.parser.OFPGroupDescStats(kind, 1, buckets=buckets, properties=properties)
    assert ryu.decode_group(description) == group
    other = ryu.parser.OFPGroupDescStats(kind, 1, buckets=buckets, properties=[ryu.selection_method(("ipv4_dst",))])
    assert ryu.decode_group(other) != group


class Recorded(ryu.Switch):
    """A switch that notes what it is asked, and answers nothing."""

    def exchange(self, messages: Any, names: Any) -> list[Any]:
        self.asked = [getattr(message, "table_id", None) for message in messages]
        assert len(self.asked) == len(names)
        return []


def test_learned_tables_are_not_read() -> None:
    datapath = Datapath()
    datapath.id = 1  # type: ignore[attr-defined]
    switch = Recorded(datapath)
    assert switch.read() == Program()
    assert switch.asked == [ryu.ofproto.OFPTT_ALL, None]
    switch.read({7, 253})
    assert switch.asked == [*(table for table in range(254) if table not in (7, 253)), None]


needs_ofctl = pytest.mark.skipif(not shutil.which("ovs-ofctl"), reason="Open vSwitch is not installed")


def ofctl(*words: str, given: str = "") -> str:
    """Run ``ovs-ofctl`` on text; these commands ask no switch."""
    return subprocess.run(["ovs-ofctl", *words], input=given, check=True, capture_output=True, text=True).stdout


def sticky(kind: str) -> Callable[[dict[str, Any]], None]:
    def edit(document: dict[str, Any]) -> None:
        gwlb = document["gateway_load_balancers"]["gwlb"]
        gwlb["target_group"]["stickiness"] = {"enabled": True, "type": kind}

    return edit


def resets(document: dict[str, Any]) -> None:
    gwlb = document["gateway_load_balancers"]["gwlb"]
    gwlb["send_tcp_reset"]["on_idle_timeout"]["enabled"] = True
    gwlb["target_group"]["send_tcp_reset"] = {"on_unhealthy": {"enabled": True}, "on_deregistration": {"enabled": True}}
    gwlb["target_group"]["targets"] = ["fw1", "fw3"]


VARIANTS = [lambda _: None, sticky("source_ip_dest_ip"), sticky("source_ip_dest_ip_proto"), resets]


@needs_ofctl
@pytest.mark.parametrize("edit", VARIANTS)
def test_open_vswitch_reads_every_message_as_the_text_says(variant: Variant, edit: Any) -> None:
    """Its decoder prints of the bytes that we send the same as of the text that we print."""
    program = compile_topology(variant(edit))["gwlb"]
    text = "\n".join(map(str, program.flows))
    parsed = ofctl("-O", "OpenFlow15", "parse-flows", "-", given=text).splitlines()
    meant = [line.partition("ADD ")[2] for line in parsed if line.startswith("OFPT_FLOW_MOD")]
    printed = [ofctl("ofp-print", message(flow).hex()).partition("ADD ")[2].strip() for flow in program.flows]
    assert printed == meant
    for group in program.groups:
        method = f"hash,fields({','.join(f.replace('v4', '') for f in group.fields)})" if group.fields else "dp_hash"
        assert f"selection_method={method},bucket=bucket_id:0," in ofctl("ofp-print", message(group).hex())


@needs_ofctl
def test_a_flow_that_is_wrong_would_be_seen() -> None:
    wrong = Flow(3, 1, match(IP), (Learn(7, 2, 1, 0, (("ipv4_src", "ipv4_dst"),), "reg3"), GotoTable(4)), 0)
    assert "NXM_OF_IP_SRC[]=NXM_OF_IP_DST[]" in ofctl("ofp-print", message(wrong).hex())
    with pytest.raises(subprocess.CalledProcessError):
        ofctl("-O", "OpenFlow15", "parse-flows", "-", given=str(wrong).replace("nw_src", "nowhere"))
