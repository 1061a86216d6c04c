"""OpenFlow as data: matches, actions, flows, groups, and the program of a switch. No sockets, no library.

What the compiler writes and what is read back from a switch are the same types, so that they compare: every value has
one canonical form. Fields have the names of the OpenFlow specification (and Open vSwitch's where that has none);
``str()`` of everything is the syntax of ``ovs-ofctl``.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network

from topologies.decision import cookie

#: A number, an address in text, or (value, mask) of either. An exact value never carries a mask.
Value = int | str | tuple[int, int] | tuple[str, str]

IN_PORT = 0xFFFFFFF8
ETHERTYPE_IP, ETHERTYPE_ARP = 0x0800, 0x0806
ICMP, TCP, UDP = 1, 6, 17

IP: Mapping[str, Value] = {"eth_type": ETHERTYPE_IP}
ARP: Mapping[str, Value] = {"eth_type": ETHERTYPE_ARP}

#: Where a port number is translated to: all that are not privileged.
NAT_PORTS = (1024, 65535)

PROTOCOLS: dict[tuple[Value | None, Value | None], str] = {
    (ETHERTYPE_ARP, None): "arp",
    (ETHERTYPE_IP, None): "ip",
    (ETHERTYPE_IP, ICMP): "icmp",
    (ETHERTYPE_IP, TCP): "tcp",
    (ETHERTYPE_IP, UDP): "udp",
}
CT_STATES = ("new", "est", "rel", "rpl", "inv", "trk", "snat", "dnat")
TCP_FLAGS = ("fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr")


def flags(names: tuple[str, ...], text: str) -> tuple[int, int]:
    """Return (value, mask) of ``+new-inv``: the named bits that must be set, and clear."""
    value = mask = 0
    for sign, name in re.findall(r"([+-])([a-z]+)", text):
        bit = 1 << names.index(name)
        mask |= bit
        value |= bit if sign == "+" else 0
    return value, mask


def ct_state(text: str) -> tuple[int, int]:
    return flags(CT_STATES, text)


def tcp_flags(text: str) -> tuple[int, int]:
    return flags(TCP_FLAGS, text)


def mac(value: int) -> str:
    """Return a 48-bit number as a MAC address."""
    return value.to_bytes(6, "big").hex(":")


@dataclass(frozen=True)
class Match:
    """The fields that must hold, sorted by name. Make one with :func:`match`."""

    fields: tuple[tuple[str, Value], ...] = ()

    def __str__(self) -> str:
        fields = dict(self.fields)
        protocol = PROTOCOLS.get((fields.pop("eth_type", None), fields.pop("ip_proto", None)), "")
        return ",".join(filter(None, [protocol, *(field_text(name, value) for name, value in fields.items())]))


def match(*parts: Mapping[str, Value], **fields: Value | tuple[int, int] | IPv4Address | IPv4Network | None) -> Match:
    """Return the match of all *parts* and *fields*; a prefix of length 0, like None, matches everything."""
    canonical: dict[str, Value] = {}
    for part in parts:
        canonical.update(part)
    for name, value in fields.items():
        if isinstance(value, IPv4Network):
            if value.prefixlen == 32:
                canonical[name] = str(value.network_address)
            elif value.prefixlen:
                canonical[name] = (str(value.network_address), str(value.netmask))
        elif isinstance(value, IPv4Address):
            canonical[name] = str(value)
        elif value is not None:
            canonical[name] = value
    return Match(tuple(sorted(canonical.items())))


SHORT_NAMES = {
    "eth_src": "dl_src",
    "eth_dst": "dl_dst",
    "ipv4_src": "nw_src",
    "ipv4_dst": "nw_dst",
    "ip_frag": "nw_frag",
    "ip_proto": "nw_proto",
}


def field_text(name: str, value: Value) -> str:
    short = SHORT_NAMES.get(name, name)
    if name in ("ct_state", "tcp_flags") and isinstance(value, tuple):
        return f"{short}={flags_text(CT_STATES if name == 'ct_state' else TCP_FLAGS, value)}"
    if name == "ip_frag" and value == (1, 1):
        return f"{short}=yes"
    if isinstance(value, tuple):
        first, mask = value
        if isinstance(mask, str) and "." in mask:
            return f"{short}={IPv4Network(f'{first}/{mask}')}"
        return f"{short}={first:#x}/{mask:#x}" if isinstance(first, int) else f"{short}={first}/{mask}"
    if name.startswith(("reg", "ct_mark")):
        return f"{short}={value:#x}"
    return f"{short}={value}"


def flags_text(names: tuple[str, ...], value: tuple[int | str, int | str]) -> str:
    bits, mask = int(value[0]), int(value[1])
    marks = [("+" if bits >> n & 1 else "-") + name for n, name in enumerate(names) if mask >> n & 1]
    return "".join(sorted(marks))


@dataclass(frozen=True)
class Output:
    """Send out of a port; never out of the port that the packet came in by, except by ``IN_PORT``."""

    port: int

    def __str__(self) -> str:
        return "IN_PORT" if self.port == IN_PORT else f"output:{self.port}"


@dataclass(frozen=True)
class SetField:
    field: str
    value: Value

    def __str__(self) -> str:
        return f"set_field:{field_text(self.field, self.value).partition('=')[2]}->{self.field}"


@dataclass(frozen=True)
class Move:
    """Copy one whole field to another of the same width."""

    source: str
    destination: str

    def __str__(self) -> str:
        return f"move:{self.source}->{self.destination}"


@dataclass(frozen=True)
class DecTtl:
    def __str__(self) -> str:
        return "dec_ttl"


@dataclass(frozen=True)
class Multipath:
    """Hash the addresses, the protocol and the ports, the same in both directions, to 0 … ``links`` - 1."""

    links: int
    destination: str

    def __str__(self) -> str:
        return f"multipath(symmetric_l3l4+udp,0,modulo_n,{self.links},0,{self.destination})"


@dataclass(frozen=True)
class SelectGroup:
    group: int

    def __str__(self) -> str:
        return f"group:{self.group}"


@dataclass(frozen=True)
class Nat:
    """Source NAT to ``source`` and ``NAT_PORTS``; without a source, what the connection was given before."""

    source: str | None = None

    def __str__(self) -> str:
        return "nat" if self.source is None else "nat(src={}:{}-{})".format(self.source, *NAT_PORTS)


@dataclass(frozen=True)
class Ct:
    """Track the packet in a conntrack zone (a number, or the register that holds it), go on in ``table``.

    With ``commit`` the connection is remembered, and ``mark`` names the register that becomes its ``ct_mark``.
    """

    zone: int | str
    table: int | None = None
    commit: bool = False
    nat: Nat | None = None
    mark: str | None = None

    def __str__(self) -> str:
        words = [
            "commit" if self.commit else "",
            f"table={self.table}" if self.table is not None else "",
            f"zone={self.zone}" if isinstance(self.zone, int) else f"zone={self.zone}[0..15]",
            str(self.nat or ""),
            f"exec(move:{self.mark}->ct_mark)" if self.mark else "",
        ]
        return f"ct({','.join(filter(None, words))})"


@dataclass(frozen=True)
class Resubmit:
    """Look the packet up in another table: what a bucket can do, where a flow would ``GotoTable``."""

    table: int

    def __str__(self) -> str:
        return f"resubmit(,{self.table})"


@dataclass(frozen=True)
class Learn:
    """Let the switch itself add a flow to ``table``, which must be one of :attr:`Program.learned`.

    The new flow matches IPv4 packets in which each first field of ``fields`` has the value that the second one has in
    this packet, and loads the register ``load`` with its value of now. It goes ``timeout`` seconds after it was last
    learned: learning again is what keeps it. Source: ovs-actions(7), "learn"; OVS source, ofproto.c,
    ``ofproto_flow_mod_learn_refresh`` (it restarts the hard timeout).
    """

    table: int
    priority: int
    timeout: int
    cookie: int
    fields: tuple[tuple[str, str], ...]
    load: str

    def __str__(self) -> str:
        pairs = [(SHORT_NAMES.get(new, new), SHORT_NAMES.get(old, old)) for new, old in self.fields]
        words = [
            f"table={self.table},hard_timeout={self.timeout},priority={self.priority},cookie={self.cookie:#x}",
            f"eth_type={ETHERTYPE_IP:#x}",
            *(f"{new}[]" if new == old else f"{new}[]={old}[]" for new, old in pairs),
            f"load:{self.load}[]->{self.load}[]",
        ]
        return f"learn({','.join(words)})"


@dataclass(frozen=True)
class GotoTable:
    """Go on in a later table; the last action of a flow."""

    table: int

    def __str__(self) -> str:
        return f"goto_table:{self.table}"


@dataclass(frozen=True)
class Foreign:
    """Something read from a switch that the compiler never writes, so that it never equals what is desired."""

    text: str

    def __str__(self) -> str:
        return self.text


Action = Output | SetField | Move | DecTtl | Multipath | SelectGroup | Ct | Learn | Resubmit | GotoTable | Foreign


def actions_text(actions: Iterable[Action]) -> str:
    return ",".join(map(str, actions)) or "drop"


@dataclass(frozen=True)
class Flow:
    """A flow; without actions it drops. ``decision`` is known of compiled flows only, ``cookie`` of all."""

    table: int
    priority: int
    match: Match
    actions: tuple[Action, ...]
    cookie: int
    decision: str = field(default="", compare=False)

    @property
    def key(self) -> tuple[int, int, Match]:
        """What identifies a flow in a switch."""
        return self.table, self.priority, self.match

    def __str__(self) -> str:
        head = f"cookie={self.cookie:#x}, table={self.table}, priority={self.priority}"
        return f"{head}{',' if self.match.fields else ''}{self.match} actions={actions_text(self.actions)}"


@dataclass(frozen=True)
class Group:
    """A select group: buckets of equal weight, chosen by a hash of the 5-tuple, or of ``fields`` where there are any.

    Open vSwitch's selection method ``dp_hash`` with the L4 hash: addresses, protocol and ports, of UDP too (the
    symmetric L4 hash of its default leaves those out), in the datapath without a cache entry for each flow. With
    fields, its method ``hash``.
    Source: ovs-actions(7), "group"; OVS source, ofproto-dpif.c ``group_set_selection_method``.
    """

    id: int
    buckets: tuple[tuple[Action, ...], ...]
    fields: tuple[str, ...] = ()

    @property
    def key(self) -> int:
        return self.id

    def __str__(self) -> str:
        buckets = (f"bucket=bucket_id:{n},weight:1,actions={actions_text(b)}" for n, b in enumerate(self.buckets))
        fields = ",".join(SHORT_NAMES.get(name, name) for name in self.fields)
        method = f"hash,fields({fields})" if fields else "dp_hash"
        return f"group_id={self.id},type=select,selection_method={method},{','.join(buckets)}"


@dataclass(frozen=True)
class Program:
    """All that one switch shall hold, but for what it learns by itself, in the tables ``learned``.

    ``tables`` names the OpenFlow tables for readers.
    """

    flows: tuple[Flow, ...] = ()
    groups: tuple[Group, ...] = ()
    tables: Mapping[int, str] = field(default_factory=dict, compare=False)
    learned: frozenset[int] = field(default=frozenset(), compare=False)

    @property
    def digest(self) -> str:
        """The same for equal programs, in whatever order they were read, and whatever the switch learned."""
        flows = (flow for flow in self.flows if flow.table not in self.learned)
        lines = sorted(str(item) for item in (*flows, *self.groups))
        return hashlib.blake2b("\n".join(lines).encode(), digest_size=8).hexdigest()


class Pipeline:
    """Collects the flows and groups of one switch. A second flow with the key of an earlier one raises ValueError."""

    def __init__(self) -> None:
        self.flows: dict[tuple[int, int, Match], Flow] = {}
        self.groups: dict[int, Group] = {}
        self.tables: dict[int, str] = {}
        self.learned: set[int] = set()

    def table(self, number: int, name: str, miss: str) -> None:
        """Name a table, and let it drop what nothing else in it matches, for the decision *miss*."""
        self.tables[number] = name
        self.flow(miss, number, 0, match())

    def flow(self, decision: str, table: int, priority: int, match: Match, *actions: Action) -> None:
        flow = Flow(table, priority, match, actions, cookie(decision), decision)
        other = self.flows.setdefault(flow.key, flow)
        if other is not flow:
            raise ValueError(f"two flows match the same: {other.decision!r} and {decision!r}: {flow}")

    def group(self, group: Group) -> None:
        self.groups[group.id] = group

    def program(self) -> Program:
        flows = sorted(self.flows.values(), key=lambda flow: (flow.table, -flow.priority, str(flow.match)))
        groups = tuple(self.groups[n] for n in sorted(self.groups))
        return Program(tuple(flows), groups, self.tables, frozenset(self.learned))
