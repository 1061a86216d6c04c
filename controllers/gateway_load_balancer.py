"""A Gateway Load Balancer: sends a flow of a VPC endpoint to one target, both directions, for the flow's life.

The flow table is conntrack, one zone for each endpoint; ``ct_mark`` is the flow's target. A packet of a known flow
follows the mark whatever conntrack's state says: AWS's load balancer follows no sequence numbers either, so a SYN on
a known connection goes where the connection goes, and a SYN on a closed one is a new flow. A new flow takes a slot of
the select group of the endpoint's zone. A TCP packet of an unknown flow is dropped unless it is a SYN. A packet that
conntrack finds invalid and that has no mark (a wrong checksum, an ICMP answer to no request) is dropped.

Facts: AWS GWLB guide, introduction (5-tuple stickiness, both directions to one target; 3-tuple where there are no
ports), target groups (cross-zone off: a node uses the targets of its own zone; IP fragmentation is not supported; a
deregistered target keeps its flows), listeners (a non-SYN packet of an expired flow is dropped).
"""

from __future__ import annotations

from controllers.flows import (
    IP,
    TCP,
    Action,
    Ct,
    GotoTable,
    Group,
    Move,
    Output,
    Pipeline,
    Program,
    Resubmit,
    SelectGroup,
    SetField,
    ct_state,
    mac,
    match,
    tcp_flags,
)
from controllers.layout import AZ, az_number
from controllers.slots import deal
from topologies.decision import decision
from topologies.fabric import ApplianceLink, Element, PortKind, endpoint_index
from topologies.model import Topology
from topologies.routing import gwlb_targets

ENDPOINTS, CONNECTIONS, COMMIT, TARGETS, RETURNED = 0, 1, 2, 3, 4

#: The endpoint's index, which is its conntrack zone, and the target's.
ENDPOINT, TARGET = "reg2", "reg3"

#: Frames between the bridge and the GENEVE endpoint: see docs/architecture.md, "Plain frames".
ENDPOINT_MAC, TARGET_MAC = 0x02_45_00_00_00_00, 0x02_47_00_00_00_00


def compile_gateway_load_balancer(topology: Topology, element: Element, links: list[ApplianceLink]) -> Program:
    """Return the program of a load balancer's bridge. *links* number its targets."""
    name = element.name
    balancer = topology.gateway_load_balancers[name]
    indices = {link.appliance: link.index for link in links if link.gwlb == name}
    endpoints = endpoint_index(topology)
    geneve = element.port(PortKind.GENEVE, name).number
    pipeline = Pipeline()
    flow = pipeline.flow

    pipeline.table(ENDPOINTS, "endpoints", decision(name, "endpoints", "not IPv4"))
    flow(decision(name, "endpoints", "fragment"), ENDPOINTS, 40, match(IP, ip_frag=(1, 1)))
    flow(decision(name, "endpoints", "from GENEVE"), ENDPOINTS, 10, match(IP, in_port=geneve), GotoTable(RETURNED))
    pipeline.table(RETURNED, "returned", decision(name, "returned", "no such endpoint"))
    for port in element.ports.values():
        if port.kind is PortKind.ENDPOINT:
            index, az = endpoints[port.resource], az_number(str(port.az))
            flow(
                decision(name, "endpoints", port.resource),
                ENDPOINTS,
                10,
                match(IP, in_port=port.number),
                SetField("eth_src", mac(ENDPOINT_MAC | az << 16 | index)),
                SetField(AZ, az),
                SetField(ENDPOINT, index),
                Ct(index, table=CONNECTIONS),
            )
            back = match(eth_dst=mac(ENDPOINT_MAC | index))
            flow(decision(name, "returned", port.resource), RETURNED, 10, back, Output(port.number))

    pipeline.table(CONNECTIONS, "connections", decision(name, "connections", "untracked"))
    known = match(ct_state=ct_state("+trk"))
    flow(decision(name, "connections", "known"), CONNECTIONS, 10, known, Move("ct_mark", TARGET), GotoTable(TARGETS))
    # "New" would say less than "without a mark": conntrack calls a flow new until its first answer.
    unknown = match(IP, ct_state=ct_state("+trk"), ct_mark=0)
    segment = match(dict(unknown.fields), ip_proto=TCP)
    invalid = match(dict(unknown.fields), ct_state=ct_state("+trk+inv"))
    flow(decision(name, "connections", "invalid"), CONNECTIONS, 50, invalid)
    flow(decision(name, "connections", "not a SYN"), CONNECTIONS, 30, segment)
    for zone in sorted({str(port.az) for port in element.ports.values() if port.kind is PortKind.ENDPOINT}):
        number = az_number(zone)
        targets = gwlb_targets(topology, name, zone)
        slots = deal(targets)
        choice: tuple[Action, ...] = (SelectGroup(number),) if slots else ()
        decided = decision(name, "connections", f"new in {zone}" if slots else f"no target in {zone}")
        syn = match(dict(segment.fields), {AZ: number}, tcp_flags=tcp_flags("+syn-ack"))
        flow(decided, CONNECTIONS, 40, syn, *choice)
        flow(decided, CONNECTIONS, 20, match(dict(unknown.fields), {AZ: number}), *choice)
        if slots:
            buckets = tuple((SetField(TARGET, indices[target]), Resubmit(COMMIT)) for target in slots)
            pipeline.group(Group(number, buckets))

    # Open vSwitch drops a commit inside a bucket without a word, so a bucket resubmits to this.
    pipeline.table(COMMIT, "commit", decision(name, "commit", "not IPv4"))
    remember = Ct(ENDPOINT, commit=True, mark=TARGET)
    flow(decision(name, "commit", "new connection"), COMMIT, 10, match(IP), remember, GotoTable(TARGETS))

    pipeline.table(TARGETS, "targets", decision(name, "targets", "not registered"))
    for target in balancer.target_group.targets:
        index = indices[target]
        to_target = SetField("eth_dst", mac(TARGET_MAC | index)), Output(geneve)
        flow(decision(name, "targets", target), TARGETS, 10, match({TARGET: index}), *to_target)
    return pipeline.program()
