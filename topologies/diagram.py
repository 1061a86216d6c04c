"""A topology drawn: SVG for a slide, mermaid for a page. Drawn from the objects that the lab is built from.

The layout is that of the product's own pictures: the internet above, VPCs side by side with a column for each
Availability Zone, the VPC of the firewalls in the middle, the Transit Gateway below. Subnets of one role are on one
height, so that the endpoints of all VPCs reach their load balancer along one line.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from xml.sax.saxutils import escape

from topologies.defaults import scaling_group_name
from topologies.endpoint_service import EndpointState, endpoint_state
from topologies.model import GatewayLoadBalancer, LoadBalancer, Topology, Vpc, interface_name
from topologies.routing import attachment_table, gateway_table, vpn_table

INSTANCE, NAT, ENDPOINT, NODE, FIREWALL, ATTACHMENT = "instance", "nat", "endpoint", "node", "firewall", "attachment"
ELB = "balancer"
COLOURS = {
    INSTANCE: "#2563eb",
    ELB: "#7c3aed",
    NAT: "#0d9488",
    ENDPOINT: "#7c3aed",
    NODE: "#7c3aed",
    FIREWALL: "#dc4a1e",
    ATTACHMENT: "#475569",
}
LEGEND = {
    INSTANCE: "instance",
    ELB: "load balancer",
    NAT: "NAT gateway",
    ENDPOINT: "GWLB endpoint and node",
    FIREWALL: "firewall",
    ATTACHMENT: "attachment interface",
}
#: Rows of a VPC, from the top. The load balancers' lines are between the second and the third.
PUBLIC, ENDPOINTS, PRIVATE, ATTACHMENTS = range(4)


@dataclass(frozen=True)
class Resident:
    """What is in a subnet. ``name`` is the resource's; ``lines`` are shown below it."""

    kind: str
    name: str
    lines: tuple[str, ...] = ()


def residents(topology: Topology, vpc_name: str, subnet: str) -> Iterator[Resident]:
    """Yield what is in a subnet, in the order of the topology."""
    vpc = topology.vpcs[vpc_name]
    for name, instance in vpc.hosts.items():
        if instance.subnet == subnet:
            outside = (f"public {instance.public_address}",) if instance.public_address else ()
            lines = str(instance.address), *outside
            if isinstance(instance, LoadBalancer):
                ports = (f"{port}: {', '.join(at.targets)}" for port, at in instance.listeners.items())
                yield Resident(ELB, name, (*lines, instance.type, *ports))
            else:
                yield Resident(INSTANCE, name, lines)
    for name, firewall in vpc.firewalls.items():
        for part, item in firewall.interfaces.items():
            if item.subnet == subnet:
                moving = (f"{address} moves" for address in item.secondary_addresses)
                public = (f"public {address}" for address in item.addresses.values() if address)
                pairs = (f"pair {pair}" for pair, both in vpc.high_availability.items() if name in both.firewalls)
                lines = (str(item.address), *moving, *public, *(pairs if part == "trust" else ()))
                yield Resident(FIREWALL, interface_name(name, part), lines)
    for name, gateway in vpc.nat_gateways.items():
        if gateway.subnet == subnet:
            yield Resident(NAT, name, (str(gateway.address), f"public {gateway.public_address}"))
    for name, endpoint in vpc.endpoints.items():
        if endpoint.subnet == subnet:
            state = endpoint_state(topology, name)
            yield Resident(ENDPOINT, name, () if state is EndpointState.AVAILABLE else (state.value,))
    for name, gwlb in topology.gateway_load_balancers.items():
        if gwlb.vpc == vpc_name and subnet in gwlb.subnets:
            yield Resident(NODE, f"{name} node", (str(gwlb.subnets[subnet]),))
        for appliance_name, appliance in gwlb.appliances.items():
            if gwlb.vpc == vpc_name and appliance.subnet == subnet:
                idle = () if appliance_name in gwlb.target_group.targets else ("not registered",)
                yield Resident(FIREWALL, appliance_name, (str(appliance.address), *idle))
    for tgw in topology.transit_gateways.values():
        for name, attachment in tgw.attachments.items():
            if attachment.vpc == vpc_name and subnet in attachment.subnets:
                yield Resident(ATTACHMENT, name)


def row_of(vpc: Vpc, subnet: str, inside: list[Resident]) -> int:
    """Return the row that a subnet belongs to, by its role."""
    kinds = {resident.kind for resident in inside}
    edge = gateway_table(vpc)
    public = edge is not None and vpc.subnets[subnet].cidr in vpc.route_tables[edge].routes
    outside = any(line.startswith("public") for resident in inside for line in resident.lines)
    untrusted = any(item.untrust.subnet == subnet for item in vpc.firewalls.values())
    if NAT in kinds or public or outside or untrusted:
        return PUBLIC
    if ENDPOINT in kinds:
        return ENDPOINTS
    return ATTACHMENTS if kinds == {ATTACHMENT} else PRIVATE


# -- mermaid -----------------------------------------------------------------------------------------------------


def mermaid(topology: Topology) -> str:
    """Return a mermaid flowchart."""
    lines = ["flowchart TB", '  subgraph internet["Internet"]']
    lines += [f'    {key(name)}(["{name}<br/>{host.address}"])' for name, host in topology.internet.items()]
    lines += ["  end"]
    edges = []
    for vpc_name, vpc in topology.vpcs.items():
        lines.append(f'  subgraph {key(vpc_name)}["VPC {vpc_name} {vpc.cidr}"]')
        if vpc.internet_gateway:
            lines.append(f'    {key(vpc.internet_gateway)}(("{vpc.internet_gateway}"))')
            edges.append(f"  internet <--> {key(vpc.internet_gateway)}")
        for subnet_name in vpc.subnets:
            inside = list(residents(topology, vpc_name, subnet_name))
            if not inside:
                continue
            lines.append(f'    subgraph {key(vpc_name, subnet_name)}["{subnet_name}"]')
            for resident in inside:
                # An attachment and a load balancer have an interface in several subnets.
                unique = key(resident.name, subnet_name)
                label = "<br/>".join((resident.name, *resident.lines))
                lines.append(f'      {unique}["{label}"]:::{resident.kind}')
                edges += mermaid_edges(topology, vpc, resident, unique)
            lines.append("    end")
        for name, gwlb in topology.gateway_load_balancers.items():
            if gwlb.vpc == vpc_name:
                group = scaling(name, gwlb)
                lines.append(f'    {key(name)}{{{{"Gateway Load Balancer {name}{"<br/>" * bool(group)}{group}"}}}}')
        lines.append("  end")
    lines += [f'  {key(name)}{{{{"Transit Gateway {name}"}}}}' for name in topology.transit_gateways]
    styles = [f"  classDef {kind} stroke:{colour},stroke-width:2px" for kind, colour in COLOURS.items()]
    return "\n".join([*lines, *edges, *styles]) + "\n"


def mermaid_edges(topology: Topology, vpc: Vpc, resident: Resident, unique: str) -> Iterator[str]:
    if resident.kind == ENDPOINT:
        yield f"  {unique} -. PrivateLink .-> {key(vpc.endpoints[resident.name].service)}"
    for name, gwlb in topology.gateway_load_balancers.items():
        if resident.name in gwlb.target_group.targets:
            yield f"  {key(name)} <-- GENEVE --> {unique}"
    for name, tgw in topology.transit_gateways.items():
        if resident.name in tgw.attachments:
            yield f"  {unique} <--> {key(name)}"
        for vpn, attachment in tgw.vpn_attachments.items():
            if resident.name == interface_name(attachment.firewall, "trust"):
                yield f'  {unique} <-. "{vpn}: IPsec, BGP" .-> {key(name)}'


def scaling(name: str, gwlb: GatewayLoadBalancer) -> str:
    """Return the words for a load balancer's auto scaling group; none without one."""
    group = gwlb.auto_scaling_group
    return f"auto scaling group {scaling_group_name(name)} of {group.min_size} to {group.max_size}" if group else ""


def key(*names: str) -> str:
    """Return an id for mermaid: some plain words, such as ``end``, are its own."""
    return "_".join(("n", *names)).replace("-", "_").replace(" ", "_")


# -- SVG: places -------------------------------------------------------------------------------------------------

MARGIN, GAP, PAD = 32, 14, 16
COLUMN, CHIP, LINE = 196, 24, 13
TITLE, INTERNET_HEIGHT, VPC_GAP, VPC_HEAD, ZONE_HEAD = 56, 68, 58, 44, 24
BALANCER_GAP, BALANCER, TRANSIT_GAP, TRANSIT = 106, 42, 46, 66


@dataclass
class Box:
    x: float
    y: float
    width: float
    height: float

    @property
    def middle(self) -> float:
        return self.x + self.width / 2

    @property
    def bottom(self) -> float:
        return self.y + self.height


@dataclass
class Layout:
    """Where everything is. Subnets by (VPC, subnet), residents by (subnet's box, name) in ``chips``."""

    vpcs: dict[str, Box] = field(default_factory=dict)
    zones: dict[tuple[str, str], Box] = field(default_factory=dict)
    subnets: dict[tuple[str, str], Box] = field(default_factory=dict)
    chips: list[tuple[str, str, Resident, Box]] = field(default_factory=list)
    balancers: dict[str, Box] = field(default_factory=dict)
    transit: dict[str, Box] = field(default_factory=dict)
    internet: Box = field(default_factory=lambda: Box(0, 0, 0, 0))
    width: float = 0
    height: float = 0


def chip_height(resident: Resident) -> float:
    return CHIP + LINE * max(0, len(resident.lines) - 1)


def subnet_height(inside: list[Resident]) -> float:
    return 26 + sum(chip_height(resident) + 5 for resident in inside) + 4


def lay_out(topology: Topology) -> Layout:
    """Place a topology's boxes; lines follow from them."""
    layout = Layout()
    inside = {
        (vpc_name, subnet): list(residents(topology, vpc_name, subnet))
        for vpc_name, vpc in topology.vpcs.items()
        for subnet in vpc.subnets
    }
    # What one column holds in one row: its subnets, from the top.
    cells: dict[tuple[str, str, int], list[str]] = {}
    for (vpc_name, subnet), content in inside.items():
        vpc = topology.vpcs[vpc_name]
        cells.setdefault((vpc_name, vpc.subnets[subnet].az, row_of(vpc, subnet, content)), []).append(subnet)
    heights = [0.0] * 4
    for (vpc_name, _, row), subnets in cells.items():
        heights[row] = max(heights[row], sum(subnet_height(inside[vpc_name, subnet]) + 10 for subnet in subnets))

    top = MARGIN + TITLE + INTERNET_HEIGHT + VPC_GAP
    gap = BALANCER_GAP * len(topology.gateway_load_balancers)
    rows: list[float] = []
    y: float = top + VPC_HEAD + ZONE_HEAD
    for row, height in enumerate(heights):
        rows.append(y)
        y += height + (gap if row == ENDPOINTS else 0)
    bottom = y + PAD

    x = float(MARGIN)
    for vpc_name in firewalls_in_the_middle(topology):
        vpc = topology.vpcs[vpc_name]
        zones = sorted({subnet.az for subnet in vpc.subnets.values()})
        left = x + PAD
        for az in zones:
            layout.zones[vpc_name, az] = Box(left, top + VPC_HEAD, COLUMN, bottom - top - VPC_HEAD - PAD + 6)
            for row in range(4):
                place_subnets(layout, vpc_name, cells.get((vpc_name, az, row), []), inside, left, rows[row])
            left += COLUMN + GAP
        width = max(left - GAP + PAD - x, COLUMN)
        layout.vpcs[vpc_name] = Box(x, top, width, bottom - top)
        x += width + 2 * GAP
    layout.width = max(x - 2 * GAP, 640) + MARGIN
    layout.internet = Box(MARGIN, MARGIN + TITLE, layout.width - 2 * MARGIN, INTERNET_HEIGHT)
    y = rows[ENDPOINTS] + heights[ENDPOINTS] + 20
    for name, gwlb in topology.gateway_load_balancers.items():
        home = layout.vpcs[gwlb.vpc]
        layout.balancers[name] = Box(home.x + PAD - 6, y, home.width - 2 * PAD + 12, BALANCER)
        y += BALANCER_GAP
    y = bottom + TRANSIT_GAP
    for name, tgw in topology.transit_gateways.items():
        boxes = [layout.vpcs[attachment.vpc] for attachment in tgw.attachments.values()] or [layout.internet]
        left, right = min(box.x for box in boxes), max(box.x + box.width for box in boxes)
        layout.transit[name] = Box(left, y, right - left, TRANSIT)
        y += TRANSIT + TRANSIT_GAP
    layout.height = y - TRANSIT_GAP + MARGIN
    return layout


def place_subnets(
    layout: Layout, vpc: str, subnets: list[str], inside: dict[tuple[str, str], list[Resident]], x: float, y: float
) -> None:
    """Stack subnets, and what is in each."""
    for subnet in subnets:
        content = inside[vpc, subnet]
        box = Box(x + 8, y, COLUMN - 16, subnet_height(content))
        layout.subnets[vpc, subnet] = box
        below = y + 26
        for resident in content:
            chip = Box(box.x + 7, below, box.width - 14, chip_height(resident))
            layout.chips.append((vpc, subnet, resident, chip))
            below += chip.height + 5
        y += box.height + 10


def firewalls_in_the_middle(topology: Topology) -> list[str]:
    """Return the VPCs' names with those of load balancers in the middle."""
    homes = {gwlb.vpc for gwlb in topology.gateway_load_balancers.values()}
    homes |= {name for name, vpc in topology.vpcs.items() if vpc.firewalls}
    central = [name for name in topology.vpcs if name in homes]
    others = [name for name in topology.vpcs if name not in homes]
    half = (len(others) + 1) // 2
    return [*others[:half], *central, *others[half:]]


# -- SVG: drawing ------------------------------------------------------------------------------------------------

STYLE = """
text { font-family: "Helvetica Neue", Helvetica, Arial, "Liberation Sans", sans-serif; font-size: 11px; fill: #0f172a }
.title { font-size: 22px; font-weight: bold } .subtitle { font-size: 13px; fill: #475569 }
.head { font-size: 14px; font-weight: bold } .bold { font-weight: bold } .small { font-size: 10px; fill: #475569 }
.white { fill: #ffffff } .middle { text-anchor: middle } .end { text-anchor: end }
.line { fill: none; stroke: #475569; stroke-width: 1.6 }
.link { fill: none; stroke: #7c3aed; stroke-width: 1.6; stroke-dasharray: 5 3 }
.geneve { fill: none; stroke: #dc4a1e; stroke-width: 2.2 }
"""
MARKER = (
    '<marker id="{0}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto-start-reverse">'
    '<path d="M0 0 L8 4 L0 8 z" fill="{1}"/></marker>'
)


def svg(topology: Topology) -> str:
    """Return a self-contained SVG picture."""
    layout = lay_out(topology)
    size = f"{layout.width:.0f} {layout.height:.0f}"
    arrows = {"line": "#475569", "link": "#7c3aed", "geneve": "#dc4a1e"}
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size}" width="{layout.width:.0f}" role="img">',
        f"<title>{escape(topology.name)}</title><style>{STYLE}</style>",
        f"<defs>{''.join(MARKER.format(*arrow) for arrow in arrows.items())}</defs>",
        f'<rect width="{layout.width:.0f}" height="{layout.height:.0f}" fill="#ffffff"/>',
        text(MARGIN, MARGIN + 12, topology.name, "title"),
        text(MARGIN, MARGIN + 34, topology.description, "subtitle"),
        *legend(layout),
        *draw_internet(topology, layout),
        *draw_vpcs(topology, layout),
        *draw_balancers(topology, layout),
        *draw_transit_gateways(topology, layout),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def rectangle(box: Box, fill: str, stroke: str, radius: float = 6, extra: str = "") -> str:
    place = f'x="{box.x:.1f}" y="{box.y:.1f}" width="{box.width:.1f}" height="{box.height:.1f}"'
    return f'<rect {place} rx="{radius}" fill="{fill}" stroke="{stroke}" {extra}/>'


def text(x: float, y: float, words: str, style: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{style}">{escape(words)}</text>'


def path(points: list[tuple[float, float]], style: str, start: bool = True, end: bool = True) -> str:
    """Return a line with arrowheads at its ends."""
    way = " L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    marks = (f' marker-start="url(#{style})"' if start else "") + (f' marker-end="url(#{style})"' if end else "")
    return f'<path d="M{way}" class="{style}"{marks}/>'


def draw_internet(topology: Topology, layout: Layout) -> Iterator[str]:
    box = layout.internet
    yield rectangle(box, "#f1f5f9", "#94a3b8", 30)
    yield text(box.x + 28, box.y + 40, "Internet", "head")
    x = box.x + 120
    for name, host in topology.internet.items():
        yield from chip(Resident(INSTANCE, name, (str(host.address),)), Box(x, box.y + 22, COLUMN - 26, CHIP))
        x += COLUMN
    for vpc_name, vpc in topology.vpcs.items():
        if vpc.internet_gateway:
            frame = layout.vpcs[vpc_name]
            yield path([(frame.middle, box.bottom + 1), (frame.middle, frame.y - 17)], "line")


def draw_vpcs(topology: Topology, layout: Layout) -> Iterator[str]:
    for name, box in layout.vpcs.items():
        vpc = topology.vpcs[name]
        yield rectangle(box, "#fbfefc", "#15803d", 8, 'stroke-width="2"')
        yield text(box.x + 14, box.y + 24, f"VPC {name}", "head")
        yield text(box.x + box.width - 14, box.y + 24, str(vpc.cidr), "end")
        if vpc.internet_gateway:
            yield f'<circle cx="{box.middle:.1f}" cy="{box.y:.1f}" r="16" fill="#15803d"/>'
            yield text(box.middle, box.y + 4, vpc.internet_gateway, "white bold middle small")
    for (_, az), box in layout.zones.items():
        yield rectangle(box, "none", "#94a3b8", 6, 'stroke-dasharray="4 4"')
        yield text(box.middle, box.y + 16, f"Availability Zone {az}", "small middle")
    for (vpc_name, subnet), box in layout.subnets.items():
        item = topology.vpcs[vpc_name].subnets[subnet]
        content = [resident for vpc, name, resident, _ in layout.chips if (vpc, name) == (vpc_name, subnet)]
        public = row_of(topology.vpcs[vpc_name], subnet, content) == PUBLIC
        yield rectangle(box, "#dcfce7" if public else "#e8f0fe", "#86b89a" if public else "#a8c0e8", 4)
        yield text(box.x + 8, box.y + 16, subnet, "bold")
        yield text(box.x + box.width - 8, box.y + 16, str(item.cidr), "small end")
    for _, _, resident, box in layout.chips:
        yield from chip(resident, box)


def chip(resident: Resident, box: Box) -> Iterator[str]:
    """A resource: a stripe in the colour of its kind, its name, its addresses."""
    yield rectangle(box, "#ffffff", "#cbd5e1", 3)
    yield rectangle(Box(box.x, box.y, 5, box.height), COLOURS[resident.kind], "none", 2)
    yield text(box.x + 12, box.y + 16, resident.name, "bold")
    for number, line in enumerate(resident.lines):
        yield text(box.x + box.width - 7, box.y + 16 + LINE * number, line, "small end")


def draw_balancers(topology: Topology, layout: Layout) -> Iterator[str]:
    """A load balancer between the endpoints above and the firewalls below it."""
    for name, box in layout.balancers.items():
        gwlb = topology.gateway_load_balancers[name]
        centre = box.y + box.height / 2
        for vpc_name, _, resident, place in layout.chips:
            if resident.kind != ENDPOINT or topology.vpcs[vpc_name].endpoints[resident.name].service != name:
                continue
            if vpc_name == gwlb.vpc:
                yield path([(place.middle, place.bottom), (place.middle, box.y - 1)], "link", start=False)
                continue
            side = box.x - 1 if place.middle < box.x else box.x + box.width + 1
            # The farther a column, the lower its line, so that none crosses another.
            y = box.y + min(4 + abs(side - place.middle) / 16, BALANCER - 8)
            yield path([(place.middle, place.bottom), (place.middle, y), (side, y)], "link", start=False)
        linked = dict.fromkeys(vpc for vpc, _, resident, _ in layout.chips if resident.kind == ENDPOINT)
        for vpc_name in (name for name in linked if name != gwlb.vpc):
            first = next(zone for (vpc, _), zone in layout.zones.items() if vpc == vpc_name)
            yield text(first.middle, box.bottom + 2, "PrivateLink", "small middle")
        for subnet in dict.fromkeys(gwlb.appliances[target].subnet for target in gwlb.target_group.targets):
            below = layout.subnets[gwlb.vpc, subnet]
            yield path([(below.middle, box.bottom + 1), (below.middle, below.y - 1)], "geneve")
            yield text(below.middle + 8, (box.bottom + below.y) / 2 + 4, "GENEVE", "small")
        yield rectangle(box, "#7c3aed", "#5b21b6", 8)
        cross = ", cross-zone" if gwlb.load_balancing.cross_zone.enabled else ""
        group = scaling(name, gwlb)
        yield text(
            box.middle, centre - 2 if group else centre + 5, f"Gateway Load Balancer {name}{cross}", "head white middle"
        )
        yield text(box.middle, centre + 13, group, "white middle")


def draw_transit_gateways(topology: Topology, layout: Layout) -> Iterator[str]:
    for name, box in layout.transit.items():
        tgw = topology.transit_gateways[name]
        for _, _, resident, place in layout.chips:
            if resident.kind == ATTACHMENT and resident.name in tgw.attachments:
                yield path([(place.middle, place.bottom), (place.middle, box.y - 1)], "line")
        yield from draw_tunnels(topology, layout, name, box)
        yield rectangle(box, "#1e293b", "#0f172a", 8)
        yield text(box.middle, box.y + 24, f"Transit Gateway {name}", "head white middle")
        for attachment_name, attachment in tgw.attachments.items():
            table = attachment_table(tgw, attachment_name)
            words = f"{attachment_name} · route table {table}" + (
                " · appliance mode" if attachment.appliance_mode else ""
            )
            yield text(layout.vpcs[attachment.vpc].middle, box.y + 48, words, "white middle")
        for vpc_name, vpc in topology.vpcs.items():
            vpns = [vpn for vpn, attachment in tgw.vpn_attachments.items() if attachment.firewall in vpc.firewalls]
            if vpns:
                words = f"{' '.join(vpns)} · route table {vpn_table(tgw)} · ECMP"
                yield text(layout.vpcs[vpc_name].middle, box.y + 48, words, "white middle")


def draw_tunnels(topology: Topology, layout: Layout, tgw: str, box: Box) -> Iterator[str]:
    """A VPN connection from its firewall to the Transit Gateway, beside the others."""
    attachments = topology.transit_gateways[tgw].vpn_attachments.values()
    ends = [interface_name(attachment.firewall, "trust") for attachment in attachments]
    places = [layout.subnets[vpc, subnet] for vpc, subnet, resident, _ in layout.chips if resident.name in ends]
    for number, place in enumerate(places, start=1):
        x = place.x + place.width * number / (len(places) + 1)
        yield path([(x, place.bottom + 1), (x, box.y - 1)], "link")
        yield text(x + 5, box.y - 8, "IPsec", "small")


def legend(layout: Layout) -> Iterator[str]:
    x = layout.width - MARGIN + 20
    shown = {INSTANCE, *(resident.kind for _, _, resident, _ in layout.chips)}
    for kind, words in reversed([item for item in LEGEND.items() if item[0] in shown]):
        x -= 5.4 * len(words) + 40
        yield rectangle(Box(x, MARGIN + 3, 12, 12), COLOURS[kind], "none", 2)
        yield text(x + 18, MARGIN + 13, words, "small")
