"""The OpenFlow library: os-ken, or the original Ryu. The only module that imports either.

os-ken is the maintained continuation of Ryu and the default; ``BUMPWIRE_OPENFLOW=ryu`` (or os-ken's absence) takes the
original. What is guarded against here, so that the application needs not know:

* os-ken's native hub never reports a switch that disconnects, and ends an application's event loop silently when one
  handler raises (``hub.TaskExit`` is ``Exception`` there). Its eventlet hub has neither defect and is the original
  Ryu's only one, so it is always taken.
* ``OpenFlowController`` cannot choose a free port and listens on all addresses: ``Listener`` replaces it.
* Both libraries read past the end of a group description and of a copy-field action, and order a match so that
  Nicira's fields come before what they presuppose (OpenFlow 1.5).
* The original Ryu needs a constant that newer eventlets do not have, and knows no packet registers.

OpenFlow 1.5 is spoken, the first version in which a group says how it selects.
"""

from __future__ import annotations

import importlib
import importlib.metadata as metadata
import itertools
import os
import socket
import struct
import warnings
from collections.abc import Callable, Collection, Iterable, Sequence
from types import ModuleType
from typing import Any, TypeVar

from controllers.difference import Change, Operation
from controllers.flows import (
    ETHERTYPE_IP,
    NAT_PORTS,
    Action,
    Ct,
    DecTtl,
    Flow,
    Foreign,
    GotoTable,
    Group,
    Learn,
    Match,
    Move,
    Multipath,
    Nat,
    Output,
    Program,
    Resubmit,
    SelectGroup,
    SetField,
    Value,
)


def load() -> tuple[str, Callable[[str], ModuleType]]:
    """Return the library's package, and the function that imports a module of it."""
    os.environ["OSKEN_HUB_TYPE"] = "eventlet"
    # Names are never looked up; dnspython alone would take a fifth of a second to import.
    os.environ.setdefault("EVENTLET_NO_GREENDNS", "yes")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # eventlet says that it is deprecated
        package = os.environ.get("BUMPWIRE_OPENFLOW", "os_ken").replace("-", "_")
        if package == "os_ken":
            try:
                importlib.import_module("os_ken.lib.hub")
            except ImportError:
                package = "ryu"
        if package == "ryu":
            importlib.import_module("eventlet.wsgi").ALREADY_HANDLED = b""  # type: ignore[attr-defined]
        importlib.import_module(f"{package}.controller.ofp_handler")
    return package, lambda name: importlib.import_module(f"{package}.{name}")


PACKAGE, library = load()
LIBRARY = f"{PACKAGE.replace('_', '-')} {metadata.version(PACKAGE.replace('_', '-'))}"

app_manager: Any = library("base.app_manager")
connection: Any = library("controller.controller")
events: Any = library("controller.ofp_event")
states: Any = library("controller.handler")
hub: Any = library("lib.hub")
nicira: Any = library("ofproto.nicira_ext")
ofproto: Any = library("ofproto.ofproto_v1_5")
parser: Any = library("ofproto.ofproto_v1_5_parser")
Handshake: Any = library("controller.ofp_handler").OFPHandler
Application: Any = app_manager.OSKenApp if PACKAGE == "os_ken" else app_manager.RyuApp

Method = TypeVar("Method", bound=Callable[..., None])


def handles(kinds: Sequence[Any], state: Any) -> Callable[[Method], Method]:
    """Return the decorator of an application's method that takes events of *kinds* from switches in *state*."""
    decorator: Callable[[Method], Method] = states.set_ev_cls(list(kinds), state)
    return decorator


NTR_EXPERIMENTER, NTR_SELECTION_METHOD = 0x154D, 1
HASH_L4 = 0
#: Multipath's hash, ``NX_HASH_FIELDS_SYMMETRIC_L3L4_UDP``: newer than both libraries.
SYMMETRIC_L3L4_UDP = 3
ANSWER_WITHIN = 10.0
#: The tables that a controller can see: Open vSwitch keeps the last for itself.
TABLES = 254


def parse_copy_field(cls: Any, buffer: bytes, offset: int) -> Any:
    pack, size = ofproto.OFP_ACTION_COPY_FIELD_PACK_STR, ofproto.OFP_ACTION_COPY_FIELD_SIZE
    _, length, bits, source_offset, destination_offset = struct.unpack_from(pack, buffer, offset)
    source, rest = parser.OFPOxmId.parse(buffer[offset + size : offset + length])
    destination, _ = parser.OFPOxmId.parse(rest)
    action = cls(bits, source_offset, destination_offset, [source, destination])
    action.len = length
    return action


def parse_group_description(original: Any) -> Callable[[Any, bytes, int], Any]:
    def parse(cls: Any, buffer: bytes, offset: int) -> Any:
        (length,) = struct.unpack_from("!H", buffer, offset)
        return original(bytes(buffer[offset : offset + length]), 0)

    return parse


if "xreg0" not in {field.name for field in ofproto.oxm_types}:
    fields: Any = library("ofproto.oxm_fields")
    long = library("lib.type_desc").Int8
    ofproto.oxm_types += [fields.PacketRegs(f"xreg{number}", number, long) for number in range(8)]
    fields.generate(ofproto.__name__)
parser.OFPActionCopyField.parser = classmethod(parse_copy_field)
parser.OFPGroupDescStats.parser = classmethod(parse_group_description(parser.OFPGroupDescStats.parser))


# -- encoding and decoding ------------------------------------------------------------------------------------------

WIDTHS = {"eth": 48, "arp_sha": 48, "arp_tha": 48, "ip_proto": 8}


def width(field: str) -> int:
    return WIDTHS.get(field, WIDTHS.get(field.partition("_")[0], 32))


def encode_action(action: Action) -> Any:
    if isinstance(action, Output):
        return parser.OFPActionOutput(action.port, 0)
    if isinstance(action, SetField):
        return parser.OFPActionSetField(**{action.field: action.value})
    if isinstance(action, Move):
        return parser.OFPActionCopyField(width(action.source), 0, 0, [action.source, action.destination])
    if isinstance(action, DecTtl):
        return parser.OFPActionDecNwTtl()
    if isinstance(action, SelectGroup):
        return parser.OFPActionGroup(action.group)
    if isinstance(action, Resubmit):
        return parser.NXActionResubmitTable(table_id=action.table)
    if isinstance(action, Multipath):
        whole = nicira.ofs_nbits(0, 31)
        links, modulo = action.links - 1, nicira.NX_MP_ALG_MODULO_N
        return parser.NXActionMultipath(SYMMETRIC_L3L4_UDP, 0, modulo, links, 0, whole, action.destination)
    if isinstance(action, Ct):
        nested = [encode_nat(action.nat)] if action.nat else []
        nested += [encode_action(Move(action.mark, "ct_mark"))] if action.mark else []
        fixed = isinstance(action.zone, int)
        return parser.NXActionCT(
            flags=nicira.NX_CT_F_COMMIT if action.commit else 0,
            zone_src="" if fixed else action.zone,
            zone_ofs_nbits=action.zone if fixed else nicira.ofs_nbits(0, 15),
            recirc_table=0xFF if action.table is None else action.table,
            alg=0,
            actions=nested,
        )
    if isinstance(action, Learn):
        return encode_learn(action)
    raise TypeError(f"{action} is no action of an action list")


NX_NAT_SOURCE = 1


def encode_nat(nat: Nat) -> Any:
    if nat.source is None:
        return parser.NXActionNAT(flags=0)
    first, last = NAT_PORTS
    # A range of one address is sent as its first only: so it is read back.
    return parser.NXActionNAT(NX_NAT_SOURCE, range_ipv4_min=nat.source, range_proto_min=first, range_proto_max=last)


def decode_action(action: Any) -> Action:
    if isinstance(action, parser.OFPActionOutput):
        return Output(action.port)
    if isinstance(action, parser.OFPActionSetField):
        return SetField(action.key, action.value)
    if isinstance(action, parser.OFPActionCopyField):
        source, destination = (oxm.type for oxm in action.oxm_ids)
        whole = (action.n_bits, action.src_offset, action.dst_offset) == (width(source), 0, 0)
        return Move(source, destination) if whole else Foreign(str(action))
    if isinstance(action, parser.OFPActionDecNwTtl):
        return DecTtl()
    if isinstance(action, parser.OFPActionGroup):
        return SelectGroup(action.group_id)
    if isinstance(action, parser.NXActionResubmitTable):
        return Resubmit(action.table_id)
    if isinstance(action, parser.NXActionMultipath):
        decoded = Multipath(action.max_link + 1, action.dst)
        same = encode_action(decoded).serialize_body() == action.serialize_body()
        return decoded if same else Foreign(str(action))
    if isinstance(action, parser.NXActionCT):
        return decode_ct(action)
    if isinstance(action, parser.NXActionLearn):
        return decode_learn(action)
    return Foreign(str(action))


def decode_ct(action: Any) -> Action:
    nat = mark = None
    for nested in action.actions:
        if isinstance(nested, parser.NXActionNAT) and nat is None:
            nat = Nat(nested.range_ipv4_min or None)
        elif isinstance(nested, parser.OFPActionCopyField) and mark is None:
            mark = str(nested.oxm_ids[0].type)
    zone = action.zone_src or action.zone_ofs_nbits
    table = None if action.recirc_table == 0xFF else action.recirc_table
    decoded = Ct(zone, table, bool(action.flags & nicira.NX_CT_F_COMMIT), nat, mark)
    # Whatever else the action says shows in its bytes.
    same = encode_action(decoded).serialize_body() == action.serialize_body()
    return decoded if same else Foreign(str(action))


def encode_learn(learn: Learn) -> Any:
    specs = [parser.NXFlowSpecMatch(src=ETHERTYPE_IP, dst=subfield("eth_type"), n_bits=16)]
    for new, old in learn.fields:
        specs.append(parser.NXFlowSpecMatch(src=subfield(old), dst=subfield(new), n_bits=width(new)))
    specs += [parser.NXFlowSpecLoad(src=subfield(learn.load), dst=subfield(learn.load), n_bits=width(learn.load))]
    return parser.NXActionLearn(
        table_id=learn.table,
        specs=specs,
        hard_timeout=learn.timeout,
        priority=learn.priority,
        cookie=learn.cookie,
    )


def subfield(name: str) -> tuple[str, int]:
    """Return a whole field as Open vSwitch names it in a learn action: by its older number, where there is one."""
    return (name if name.startswith("reg") else f"{name}_nxm", 0)


def decode_learn(action: Any) -> Action:
    matches = [spec for spec in action.specs if isinstance(spec, parser.NXFlowSpecMatch)]
    loads = [spec.src[0] for spec in action.specs if isinstance(spec, parser.NXFlowSpecLoad)]
    fields = tuple(
        tuple(name.removesuffix("_nxm") for name, _ in (spec.dst, spec.src))
        for spec in matches
        if isinstance(spec.src, tuple)
    )
    decoded = Learn(
        action.table_id, action.priority, action.hard_timeout, action.cookie, fields, loads[0] if loads else ""
    )
    try:
        same = encode_learn(decoded).serialize_body() == action.serialize_body()
    except KeyError:
        same = False
    return decoded if same else Foreign(str(action))


def encode_instructions(actions: Sequence[Action]) -> list[Any]:
    last = actions[-1] if actions else None
    applied = [encode_action(action) for action in (actions[:-1] if isinstance(last, GotoTable) else actions)]
    instructions = [parser.OFPInstructionActions(ofproto.OFPIT_APPLY_ACTIONS, applied)] if applied else []
    return instructions + ([parser.OFPInstructionGotoTable(last.table)] if isinstance(last, GotoTable) else [])


def decode_instructions(instructions: Iterable[Any]) -> tuple[Action, ...]:
    actions: list[Action] = []
    for instruction in instructions:
        if isinstance(instruction, parser.OFPInstructionGotoTable):
            actions.append(GotoTable(instruction.table_id))
        elif getattr(instruction, "type", None) == ofproto.OFPIT_APPLY_ACTIONS:
            actions += map(decode_action, instruction.actions)
        else:
            actions.append(Foreign(str(instruction)))
    return tuple(actions)


def encode_match(match: Match) -> Any:
    """Return a match whose prerequisites come first; the library would put Nicira's fields before them."""
    return parser.OFPMatch(_ordered_fields=sorted(match.fields, key=lambda field: field[0] not in PREREQUISITES))


PREREQUISITES = ("eth_type", "ip_proto")


def decode_match(match: Any) -> Match:
    """Return a match; Open vSwitch reports registers in pairs, as OpenFlow 1.5's packet registers (``xreg``)."""
    fields: dict[str, Value] = {}
    for name, value in match.items():
        if not name.startswith("xreg"):
            fields[name] = value
            continue
        bits, mask = value if isinstance(value, tuple) else (value, REGISTER << 32 | REGISTER)
        for place, shift in enumerate((32, 0)):
            half = mask >> shift & REGISTER
            if half:
                exact = bits >> shift & REGISTER
                fields[f"reg{2 * int(name[4:]) + place}"] = exact if half == REGISTER else (exact, half)
    return Match(tuple(sorted(fields.items())))


REGISTER = 0xFFFFFFFF


def decode_flow(description: Any) -> Flow:
    """Return a flow of a switch. One that expires, or asks for messages, is like none of ours."""
    actions = decode_instructions(description.instructions)
    for oddity in ("idle_timeout", "hard_timeout", "flags", "importance"):
        if getattr(description, oddity):
            actions += (Foreign(f"{oddity}={getattr(description, oddity)}"),)
    match = decode_match(description.match)
    return Flow(description.table_id, description.priority, match, actions, description.cookie)


def selection_method(fields: Sequence[str]) -> Any:
    """Return the group property that selects buckets by ``dp_hash`` with the L4 hash, or by ``hash`` of *fields*.

    Source: OVS, include/openflow/netronome-ext.h; the parameter's upper half is the algorithm, the lower the basis. A
    field is its header and a value of ones. The library takes words only: so the fields must be of whole words.
    """
    words = struct.unpack("!4I", (b"hash" if fields else b"dp_hash").ljust(16, b"\0"))
    masks = bytearray()
    for name in fields:
        number, ones, _ = ofproto.oxm_from_user(name, "255.255.255.255")
        ofproto.oxm_serialize(number, ones, None, masks, len(masks))
    return parser.OFPGroupPropExperimenter(
        ofproto.OFPGPT_EXPERIMENTER,
        experimenter=NTR_EXPERIMENTER,
        exp_type=NTR_SELECTION_METHOD,
        data=[0, *words, HASH_L4, 0, *struct.unpack(f"!{len(masks) // 4}I", masks)],
    )


def encode_group(datapath: Any, command: int, group: Group) -> Any:
    def weight() -> Any:
        return parser.OFPGroupBucketPropWeight(type_=ofproto.OFPGBPT_WEIGHT, weight=1)

    buckets = [
        parser.OFPBucket(number, [encode_action(action) for action in actions], [weight()])
        for number, actions in enumerate(group.buckets)
    ]
    if command == ofproto.OFPGC_DELETE:
        return parser.OFPGroupMod(datapath, command, ofproto.OFPGT_SELECT, group.id)
    return parser.OFPGroupMod(
        datapath, command, ofproto.OFPGT_SELECT, group.id, buckets=buckets, properties=[selection_method(group.fields)]
    )


def decode_group(description: Any) -> Group:
    buckets = tuple(tuple(map(decode_action, bucket.actions)) for bucket in description.buckets)
    plain = all(
        bucket.bucket_id == number and [p.weight for p in bucket.properties if hasattr(p, "weight")] == [1]
        for number, bucket in enumerate(description.buckets)
    )
    properties = [getattr(p, "data", None) for p in description.properties]
    fields = next((fields for fields in HASHED if properties == [selection_method(fields).data]), None)
    if description.type != ofproto.OFPGT_SELECT or not plain or fields is None:
        buckets = (*buckets, (Foreign(f"type={description.type}"),))
    return Group(description.group_id, buckets, fields or ())


#: The ways to hash that the compiler uses.
HASHED: tuple[tuple[str, ...], ...] = ((), ("ipv4_src", "ipv4_dst"))


def encode_change(datapath: Any, change: Change) -> Any:
    """Return the flow or group modification of a change."""
    item = change.item
    if isinstance(item, Group):
        commands = {
            Operation.ADD: ofproto.OFPGC_ADD,
            Operation.MODIFY: ofproto.OFPGC_MODIFY,
            Operation.DELETE: ofproto.OFPGC_DELETE,
        }
        return encode_group(datapath, commands[change.operation], item)
    deleting = change.operation is Operation.DELETE
    return parser.OFPFlowMod(
        datapath,
        cookie=0 if deleting else item.cookie,
        table_id=item.table,
        command=ofproto.OFPFC_DELETE_STRICT if deleting else ofproto.OFPFC_ADD,
        priority=item.priority,
        out_port=ofproto.OFPP_ANY,
        out_group=ofproto.OFPG_ANY,
        match=encode_match(item.match),
        instructions=[] if deleting else encode_instructions(item.actions),
    )


# -- a connected switch ---------------------------------------------------------------------------------------------


class SwitchError(Exception):
    """A switch refused something, or does not answer. One line for each of its errors."""


class Switch:
    """A connected switch: reads its program, applies changes. Blocks the calling green thread only."""

    bundle_ids = itertools.count(1)

    def __init__(self, datapath: Any) -> None:
        self.datapath = datapath
        self.dpid = int(datapath.id)
        self._replies: list[Any] = []
        self._errors: list[str] = []
        self._sent: dict[int, str] = {}
        self._barrier: int | None = None
        self._answered = hub.Event()
        self._asked: dict[int, Any] = {}

    def close(self) -> None:
        self.datapath.close()

    def received(self, message: Any) -> None:
        """Take in a message that answers something. Raises SwitchError for an error that no request has caused."""
        if message.xid in self._asked:
            self._asked[message.xid].put(message)
            return
        if isinstance(message, parser.OFPErrorMsg):
            text = error_text(message)
            if message.xid not in self._sent:
                raise SwitchError(f"{text}: no request of ours")
            self._errors.append(f"{text}: {self._sent[message.xid]}")
        elif message.xid == self._barrier:
            self._answered.set()
        else:
            self._replies.append(message)

    def exchange(self, messages: Sequence[Any], names: Sequence[str]) -> list[Any]:
        """Send *messages* and return all replies to them. Raises SwitchError, which names the messages refused."""
        self._replies, self._errors = [], []
        self._answered.clear()
        barrier = parser.OFPBarrierRequest(self.datapath)
        self._barrier = self.datapath.set_xid(barrier)
        self._sent = {self.datapath.set_xid(message): name for message, name in zip(messages, names, strict=True)}
        for message in (*messages, barrier):
            self.datapath.send_msg(message)
        if not self._answered.wait(ANSWER_WITHIN):
            raise SwitchError(f"no answer within {ANSWER_WITHIN:g} s")
        if self._errors:
            raise SwitchError("; ".join(self._errors))
        return self._replies

    def aggregate(
        self, table: int = ofproto.OFPTT_ALL, match: Match = Match(), cookie: int | None = None
    ) -> tuple[int, int, int]:
        """Return the packets, the bytes and the number of the flows with that match at least, and that cookie.

        Can be asked while changes are on their way. Raises SwitchError.
        """
        mask = 0 if cookie is None else 2**64 - 1
        anything = (ofproto.OFPP_ANY, ofproto.OFPG_ANY, cookie or 0, mask, encode_match(match))
        request = parser.OFPAggregateStatsRequest(self.datapath, 0, table, *anything)
        answers = self._asked[self.datapath.set_xid(request)] = hub.Queue()
        try:
            self.datapath.send_msg(request)
            answer = answers.get(timeout=ANSWER_WITHIN)
        except hub.QueueEmpty:
            raise SwitchError(f"no answer within {ANSWER_WITHIN:g} s") from None
        finally:
            del self._asked[request.xid]
        if isinstance(answer, parser.OFPErrorMsg):
            raise SwitchError(f"{error_text(answer)}: count flows")
        stats = answer.body.stats
        return stats["packet_count"], stats["byte_count"], stats["flow_count"]

    def read(self, learned: Collection[int] = ()) -> Program:
        """Return the flows and groups that the switch holds, but for the flows of the tables *learned*.

        Those may be many: the other tables are then asked for one by one.
        """
        tables = [table for table in range(TABLES) if table not in learned] if learned else [ofproto.OFPTT_ALL]
        requests = [
            parser.OFPFlowDescStatsRequest(self.datapath, table_id=table, match=parser.OFPMatch()) for table in tables
        ]
        requests += [parser.OFPGroupDescStatsRequest(self.datapath)]
        flows, groups = [], []
        for reply in self.exchange(requests, [*["read flows"] * len(tables), "read groups"]):
            if isinstance(reply, parser.OFPFlowDescStatsReply):
                flows += [decode_flow(description) for description in reply.body]
            elif isinstance(reply, parser.OFPGroupDescStatsReply):
                groups += [decode_group(description) for description in reply.body]
        return Program(tuple(flows), tuple(groups))

    def apply(self, changes: Sequence[Change]) -> None:
        """Make all changes at once, in one atomic bundle: all of them, or with SwitchError none."""
        identifier = next(self.bundle_ids)
        kind = ofproto.OFPBF_ATOMIC | ofproto.OFPBF_ORDERED

        def control(type_: int) -> Any:
            return parser.OFPBundleCtrlMsg(self.datapath, identifier, type_, kind, [])

        messages = [control(ofproto.OFPBCT_OPEN_REQUEST)]
        for change in changes:
            inner = encode_change(self.datapath, change)
            messages.append(parser.OFPBundleAddMsg(self.datapath, identifier, kind, inner, []))
        messages.append(control(ofproto.OFPBCT_COMMIT_REQUEST))
        self.exchange(messages, ["open bundle", *map(str, changes), "commit bundle"])


def error_text(message: Any) -> str:
    """Return an error's type and code by their names in the specification."""
    type_ = ofproto.ofp_error_type_to_str(message.type)
    code = getattr(message, "code", None)
    return str(type_) if code is None else f"{type_} {ofproto.ofp_error_code_to_str(message.type, code)}"


# -- the process ----------------------------------------------------------------------------------------------------


class Listener(Handshake):  # type: ignore[misc]
    """The library's handshake application, listening on loopback only and on a port of our choice (0: any)."""

    def __init__(self, *args: Any, port: int = 0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.server = hub.StreamServer(("127.0.0.1", port), connection.datapath_connection_factory)
        self.port: int = self.server.server.getsockname()[1]

    def start(self) -> Any:
        Application.start(self)
        return hub.spawn(self.server.serve_forever)


def start(application: type[Any], port: int, **arguments: Any) -> Any:
    """Listen on loopback and start *application*, which is given ``port`` and *arguments*; return the application.

    Raises OSError when the port cannot be had.
    """
    settings = library("cfg").CONF
    settings([], project="bumpwire", default_config_files=[], default_config_dirs=[])
    # A switch that hangs is as dead as one that closes its connection.
    settings.set_override("echo_request_interval", 5.0)
    settings.set_override("maximum_unreplied_echo_requests", 3)
    manager = app_manager.AppManager.get_instance()
    application.OFP_VERSIONS = [ofproto.OFP_VERSION]
    listener = manager.instantiate(Listener, port=port)
    running = manager.instantiate(application, port=listener.port, **arguments)
    for each in (listener, running):
        thread = each.start()
        if thread is not None:
            each.set_main_thread(thread)
    return running


def stop() -> None:
    """End all applications."""
    app_manager.AppManager.get_instance().close()


def output(command: Sequence[str]) -> str:
    """Let green threads run until *command* has ended; return what it printed. Raises OSError if it cannot start."""
    green = importlib.import_module("eventlet.green.subprocess")
    process = green.Popen(command, stdout=green.PIPE, stderr=green.DEVNULL)
    printed: bytes = process.communicate()[0]
    return printed.decode()


def wait_readable(source: socket.socket, seconds: float) -> bool:
    """Let green threads run until *source* is readable, at most for some seconds. Returns whether it is."""
    try:
        importlib.import_module("eventlet.hubs").trampoline(
            source, read=True, timeout=seconds, timeout_exc=TimeoutError
        )
    except TimeoutError:
        return False
    return True
