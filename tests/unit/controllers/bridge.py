"""A switch that is played: runs packets through a program, with connection tracking, groups and learned flows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from controllers.flows import (
    Action,
    Ct,
    Flow,
    GotoTable,
    Learn,
    Match,
    Move,
    Output,
    Program,
    Resubmit,
    SelectGroup,
    SetField,
    ct_state,
    tcp_flags,
)

Packet = dict[str, Any]
TRACKED, INVALID = ct_state("+trk")[0], ct_state("+trk+inv")[0]


@dataclass
class Sent:
    """What became of a packet: the ports that it left by and as what, and the decisions that it met."""

    outputs: list[tuple[int, Packet]] = field(default_factory=list)
    decisions: list[str] = field(default_factory=list)


@dataclass
class Bridge:
    """Holds connections by zone and ends, and learned flows. A packet is its fields; the group takes ``slot``."""

    program: Program
    connections: dict[object, int] = field(default_factory=dict)
    learned: dict[object, tuple[Match, Learn, int]] = field(default_factory=dict)
    slot: int = 0

    def send(self, packet: Packet) -> Sent:
        sent = Sent()
        self.table(0, {"reg1": 0, "reg2": 0, "reg3": 0, **packet}, sent)
        return sent

    def table(self, number: int, packet: Packet, sent: Sent) -> None:
        if number in self.program.learned:
            found = [item for item in self.learned.values() if covers(item[0], packet)]
            if found:
                _, learn, value = max(found, key=lambda item: item[1].priority)
                packet[learn.load] = value
            return
        flow: Flow = max(
            (flow for flow in self.program.flows if flow.table == number and covers(flow.match, packet)),
            key=lambda flow: flow.priority,
        )
        sent.decisions.append(flow.decision)
        self.act(flow.actions, packet, sent)

    def act(self, actions: tuple[Action, ...], packet: Packet, sent: Sent) -> None:
        for action in actions:
            if isinstance(action, SetField):
                packet[action.field] = action.value
            elif isinstance(action, Move):
                packet[action.destination] = packet[action.source]
            elif isinstance(action, Output):
                sent.outputs.append((action.port, dict(packet)))
            elif isinstance(action, GotoTable | Resubmit):
                self.table(action.table, packet, sent)
            elif isinstance(action, SelectGroup):
                group = next(group for group in self.program.groups if group.id == action.group)
                self.act(group.buckets[self.slot % len(group.buckets)], dict(packet), sent)
            elif isinstance(action, Learn):
                self.learn(action, packet)
            else:
                assert isinstance(action, Ct), action
                self.track(action, packet, sent)

    def track(self, action: Ct, packet: Packet, sent: Sent) -> None:
        zone = packet[action.zone] if isinstance(action.zone, str) else action.zone
        ports = frozenset({(packet["ipv4_src"], packet.get("src")), (packet["ipv4_dst"], packet.get("dst"))})
        key = zone, packet["ip_proto"], ports
        if action.commit and action.mark:
            self.connections[key] = packet[action.mark]
        if action.table is not None:
            packet["ct_mark"] = self.connections.get(key, 0)
            packet["ct_state"] = INVALID if packet.get("invalid") else TRACKED
            self.table(action.table, packet, sent)

    def learn(self, action: Learn, packet: Packet) -> None:
        fields = tuple(sorted((new, packet[old]) for new, old in action.fields))
        assert action.table in self.program.learned
        self.learned[action.priority, fields] = (Match(fields), action, packet[action.load])


def covers(match: Match, packet: Packet) -> bool:
    for name, wanted in match.fields:
        value = packet.get(name, 0)
        if isinstance(wanted, tuple):
            wanted, mask = wanted
            value &= mask
        if value != wanted:
            return False
    return True


def segment(port: int, source: str, destination: str, flags: str = "+syn", **fields: Any) -> Packet:
    """Return a TCP packet as it comes from an endpoint's port; ends are ``address:port``."""
    found = transport(port, 6, source, destination)
    return {**found, "tcp_flags": tcp_flags(flags)[0], **fields}


def datagram(port: int, source: str, destination: str) -> Packet:
    return transport(port, 17, source, destination)


def transport(port: int, protocol: int, source: str, destination: str) -> Packet:
    found: Packet = {"in_port": port, "eth_type": 0x0800, "ip_proto": protocol}
    for side, end in (("src", source), ("dst", destination)):
        found[f"ipv4_{side}"], found[side] = end.split(":")
    return found


def returned(port: int, target: int, endpoint: int) -> Packet:
    """Return a packet as it comes from the GENEVE port: from a target's index, for an endpoint's."""
    found = transport(port, 6, "10.0.0.1:1", "10.0.0.2:2")
    return {
        **found,
        "eth_src": f"02:47:00:00:{target >> 8:02x}:{target & 255:02x}",
        "eth_dst": f"02:45:00:00:00:{endpoint:02x}",
    }
