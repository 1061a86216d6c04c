"""The way of a packet, computed from the model: hop by hop, each with the table and the route that decided.

A hop is one forwarding decision, and its name is that of the compiled flow (see :mod:`topologies.decision`). Where a
hash of the flow chooses (the zone in appliance mode, the firewall behind a load balancer) the model cannot know the
outcome: the hop lists all ``alternatives``, of which a flow meets exactly one. A zone changes the hops that follow, so
:func:`walks` returns one walk for each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from ipaddress import IPv4Address
from typing import Optional

from topologies.decision import decision
from topologies.endpoint_service import EndpointState, endpoint_state
from topologies.fabric import INTERNET, vpn_router, zone_of
from topologies.model import RoutedFirewall, Topology, Vpc, interface_name
from topologies.problem import did_you_mean
from topologies.routing import (
    Origin,
    Route,
    TargetKind,
    attachment_table,
    ecmp,
    exit_zones,
    gateway_table,
    gateway_zones,
    gwlb_targets,
    longest_first,
    lookup,
    subnet_table,
    tgw_routes,
    vpc_attachment,
    vpc_routes,
    vpn_table,
)

Step = Callable[[], Optional["Step"]]


@dataclass(frozen=True)
class Packet:
    """The addresses of a packet, as they are before a hop."""

    source: IPv4Address
    destination: IPv4Address


@dataclass(frozen=True)
class Hop:
    """One forwarding decision. ``destination`` is a route's prefix, or words; ``target`` is where the packet goes."""

    element: str
    table: str
    destination: str
    target: str
    why: str
    packet: Packet
    az: str | None = None
    alternatives: tuple[str, ...] = ()
    dropped: bool = False

    @property
    def decision(self) -> str:
        return decision(self.element, self.table, self.destination)


def walk(topology: Topology, source: str, destination: str, az: str | None = None, reply: bool = False) -> list[Hop]:
    """Return the hops of a packet from *source* to *destination*, or of the reply to it, back from there.

    *source* is the name of an instance or internet host, *destination* is one too, or an IPv4 address. From the
    internet an instance is addressed by its public address. *az* is the zone that appliance mode chooses, where it
    chooses; the attachment's first if None. The last hop delivers, or is ``dropped`` and says why. Where the packet
    does not arrive, the walk of its reply is empty. Raises ValueError for an unknown host or zone.
    """
    walker = Walker(topology, az)
    hops = walker.walk(source, destination)
    if not reply:
        return hops
    if hops[-1].dropped:
        return []
    arrived = walker.packet
    answering = Walker(topology, az, walker.translated)
    return answering.send(hops[-1].target, Packet(arrived.destination, arrived.source))


def walks(topology: Topology, source: str, destination: str, reply: bool = False) -> list[list[Hop]]:
    """Return a walk for each zone that appliance mode could choose; one walk, where it chooses none."""
    first = walk(topology, source, destination, reply=reply)
    zones = sorted({zone_of(vpc, subnet) for vpc in topology.vpcs.values() for subnet in vpc.subnets})
    found = [first]
    for az in zones:
        other = walk(topology, source, destination, az, reply)
        if other not in found:
            found.append(other)
    return found


def inspections(hops: list[Hop]) -> list[str]:
    """Return the endpoints through which a walk was inspected, in its order.

    Both directions of a flow meet the same firewalls only where one list is the reverse of the other.
    """
    return [hop.destination for hop in hops if hop.table == "returned"]


def hosts(topology: Topology) -> dict[str, IPv4Address]:
    """Return the addresses of all instances and load balancers (private) and internet hosts, by name."""
    found = {name: host.address for vpc in topology.vpcs.values() for name, host in vpc.hosts.items()}
    return found | {name: host.address for name, host in topology.internet.items()}


def address_for(topology: Topology, source: str, destination: str) -> IPv4Address:
    """Return the address by which a host reaches another: from the internet, an instance's public one, if it has one.

    Raises KeyError for a name that is no host's.
    """
    if source in topology.internet:
        for vpc in topology.vpcs.values():
            if destination in vpc.hosts:
                return vpc.hosts[destination].public_address or vpc.hosts[destination].address
    return hosts(topology)[destination]


class Walker:
    """Moves one packet. A step makes one decision, records the hop and returns the next step; None at the end.

    ``translated`` is, for each NAT gateway that the packet passed, the source address that it replaced.
    """

    def __init__(
        self, topology: Topology, az: str | None = None, translated: dict[str, IPv4Address] | None = None
    ) -> None:
        self.topology = topology
        self.az = az
        self.translated = dict(translated or {})
        self.hops: list[Hop] = []
        self.homes = {name: vpc_name for vpc_name, vpc in topology.vpcs.items() for name in vpc.interfaces}
        self.packet: Packet

    def walk(self, source: str, destination: str) -> list[Hop]:
        """Send a packet to a name or an address."""
        known = hosts(self.topology)
        zones = {subnet.az for vpc in self.topology.vpcs.values() for subnet in vpc.subnets.values()}
        if self.az is not None and self.az not in zones:
            raise ValueError(f"no AZ {self.az!r}; there are: {', '.join(sorted(zones))}")
        if source not in known:
            raise ValueError(f"no host {source!r}; {did_you_mean(source, known)}")
        try:
            named = destination in known
            address = address_for(self.topology, source, destination) if named else IPv4Address(destination)
        except ValueError:
            raise ValueError(f"no host {destination!r}; {did_you_mean(destination, known)}") from None
        return self.send(source, Packet(known[source], address))

    def send(self, source: str, packet: Packet) -> list[Hop]:
        """Send *packet* from a host and follow it to its end."""
        self.packet = packet
        step: Step | None = (lambda: self.instance(source)) if source in self.homes else self.internet
        while step:
            step = step()
        return self.hops

    def hop(self, element: str, table: str, destination: object, target: str, why: str, az: str | None = None) -> None:
        self.hops.append(Hop(element, table, str(destination), target, why, self.packet, az))

    def choice(self, element: str, table: str, names: list[str], chosen: str, why: str, az: str | None) -> None:
        """Record a hop where a hash chooses between *names*."""
        self.hop(element, table, chosen, chosen, why, az)
        self.hops[-1] = replace(self.hops[-1], alternatives=tuple(decision(element, table, name) for name in names))

    def drop(self, element: str, table: str, destination: object, why: str, az: str | None = None) -> None:
        self.hop(element, table, destination, "dropped", why, az)
        self.hops[-1] = replace(self.hops[-1], dropped=True)

    def looped(self) -> bool:
        """End the walk where the last hop has been made before: the model has no state that could end it."""
        if self.hops[-1] not in self.hops[:-1]:
            return False
        self.hops[-1] = replace(
            self.hops[-1], dropped=True, target="dropped", why="a routing loop: this was decided before"
        )
        return True

    # -- VPC -------------------------------------------------------------------------------------------------------

    def instance(self, name: str) -> Step | None:
        """What an instance sends: straight to a neighbour in its subnet, else to the subnet's route table."""
        vpc_name = self.homes[name]
        vpc = self.topology.vpcs[vpc_name]
        subnet = vpc.interfaces[name].subnet
        if self.packet.destination in vpc.subnets[subnet].cidr:
            self.hop(
                vpc_name,
                subnet,
                "same subnet",
                "local",
                "neighbours in a subnet cannot be steered",
                zone_of(vpc, subnet),
            )
            return lambda: self.delivery(vpc_name)
        return lambda: self.subnet(vpc_name, subnet)

    def subnet(self, vpc_name: str, subnet: str) -> Step | None:
        """What leaves a subnet through the implicit router meets the subnet's route table."""
        vpc = self.topology.vpcs[vpc_name]
        return self.route_table(vpc_name, subnet_table(vpc, subnet), zone_of(vpc, subnet))

    def route_table(self, vpc_name: str, table: str, az: str | None) -> Step | None:
        route = lookup(vpc_routes(self.topology, vpc_name, table), self.packet.destination)
        if route is None:
            self.drop(vpc_name, table, "no route", f"no route covers {self.packet.destination}", az)
            return None
        if route.kind is TargetKind.ENDPOINT:
            state = endpoint_state(self.topology, route.target)
            if state is not EndpointState.AVAILABLE:
                self.drop(vpc_name, table, route.destination, f"endpoint {route.target} is {state.value}", az)
                return None
        kind = "" if route.kind is TargetKind.LOCAL else f", {route.kind.value}"
        why = f"{route.origin.value} route{kind}"
        self.hop(vpc_name, table, route.destination, route.target, why, az)
        return None if self.looped() else self.target(vpc_name, route, az)

    def target(self, vpc_name: str, route: Route, az: str | None) -> Step | None:
        match route.kind:
            case TargetKind.LOCAL:
                return lambda: self.delivery(vpc_name)
            case TargetKind.ENDPOINT:
                return lambda: self.load_balancer(vpc_name, route.target)
            case TargetKind.INTERNET_GATEWAY:
                return lambda: self.to_internet(vpc_name)
            case TargetKind.NAT_GATEWAY:
                return lambda: self.source_nat(vpc_name, route.target)
            case TargetKind.TRANSIT_GATEWAY:
                return lambda: self.to_transit_gateway(vpc_name, route.target, az)
            case _:
                return lambda: self.forwarded(vpc_name, route.target)

    def delivery(self, vpc_name: str) -> Step | None:
        vpc = self.topology.vpcs[vpc_name]
        for name, item in vpc.interfaces.items():
            if self.packet.destination in item.addresses:
                kinds = {"instance": [*vpc.instances], "load balancer": [*vpc.load_balancers]}
                kind = next((kind for kind, found in kinds.items() if name in found), "firewall")
                self.hop(vpc_name, "delivery", name, name, f"the {kind}'s address", zone_of(vpc, item.subnet))
                return None if name in vpc.hosts else partial(self.to_firewall, vpc_name, name)
        for name, gateway in vpc.nat_gateways.items():
            if gateway.address == self.packet.destination:
                self.hop(vpc_name, "delivery", name, name, "the NAT gateway's address", zone_of(vpc, gateway.subnet))
                return lambda: self.reply(vpc_name, name)
        self.drop(vpc_name, "delivery", "no such host", f"nobody has {self.packet.destination}")
        return None

    # -- routed firewalls ------------------------------------------------------------------------------------------

    def forwarded(self, vpc_name: str, name: str) -> Step | None:
        """Through what forwards: an instance sends a packet on as it came, a routed firewall by its own routes."""
        vpc = self.topology.vpcs[vpc_name]
        if name in vpc.hosts:
            return lambda: self.subnet(vpc_name, vpc.hosts[name].subnet)
        firewall_name, firewall = self.firewall(vpc, name)
        for tgw, gateway in self.topology.transit_gateways.items():
            ends = [item for item in gateway.vpn_attachments.values() if item.firewall == firewall_name]
            if ends and any(self.packet.destination in other.cidr for other in self.topology.vpcs.values()):
                return lambda: self.out_of_tunnel(tgw, firewall_name)
        routes = [Route(prefix, part, TargetKind.INSTANCE, Origin.STATIC) for prefix, part in firewall.routes.items()]
        route = lookup(longest_first(routes), self.packet.destination)
        if route is None:
            self.drop(firewall_name, "routes", "no route", f"no route covers {self.packet.destination}")
            return None
        out = firewall.interfaces[route.target]
        az = zone_of(vpc, out.subnet)
        leaving = interface_name(firewall_name, route.target)
        self.hop(firewall_name, "routes", route.destination, leaving, "inspected", az)
        if self.looped():
            return None
        if route.target == "untrust" and firewall.source_nat:
            address = list(out.addresses)[-1]
            self.hop(firewall_name, "nat", "snat", str(address), "the source address is replaced", az)
            self.translated[firewall_name] = self.packet.source
            self.packet = replace(self.packet, source=address)
        return lambda: self.instance(leaving)

    def to_firewall(self, vpc_name: str, name: str) -> Step | None:
        """What comes to a routed firewall's own address is a reply to what it translated, or is dropped."""
        firewall_name, _ = self.firewall(self.topology.vpcs[vpc_name], name)
        client = self.translated.pop(firewall_name, None)
        if client is None:
            self.drop(firewall_name, "nat", "unsolicited", "no translation leads from this address on")
            return None
        self.hop(firewall_name, "nat", "reply", str(client), "the client's address is put back")
        self.packet = replace(self.packet, destination=client)
        return lambda: self.forwarded(vpc_name, name)

    @staticmethod
    def firewall(vpc: Vpc, interface: str) -> tuple[str, RoutedFirewall]:
        """Return the name of the routed firewall that an interface is of, and the firewall."""
        name = interface.split("-")[0]
        return name, vpc.firewalls[name]

    # -- gateways to the internet ----------------------------------------------------------------------------------

    def public_addresses(self, vpc_name: str) -> dict[IPv4Address, IPv4Address]:
        """Return the VPC's private addresses by public one."""
        vpc = self.topology.vpcs[vpc_name]
        pairs = (pair for item in vpc.interfaces.values() for pair in item.addresses.items())
        return {public: private for private, public in pairs if public} | {
            item.public_address: item.address for item in vpc.nat_gateways.values()
        }

    def to_internet(self, vpc_name: str) -> Step | None:
        gateway = str(self.topology.vpcs[vpc_name].internet_gateway)
        for public, private in self.public_addresses(vpc_name).items():
            if private == self.packet.source:
                self.hop(vpc_name, gateway, f"{private} to {public}", INTERNET, "1:1 NAT of the source address")
                self.packet = replace(self.packet, source=public)
                return self.internet
        self.drop(vpc_name, gateway, "no public address", f"{self.packet.source} has no public address")
        return None

    def internet(self) -> Step | None:
        """Public addresses are routed to their internet gateways and hosts; private ones nowhere."""
        address = self.packet.destination
        for name, host in self.topology.internet.items():
            if host.address == address:
                self.hop(INTERNET, "routes", f"{address}/32", name, "the host's address")
                return None
        for vpc_name, vpc in self.topology.vpcs.items():
            private = self.public_addresses(vpc_name).get(address)
            if vpc.internet_gateway and private:
                self.hop(
                    INTERNET, "routes", f"{address}/32", vpc.internet_gateway, f"a public address of VPC {vpc_name}"
                )
                return lambda: self.from_internet(vpc_name, address, private)
        self.drop(INTERNET, "routes", "no route", f"{address} is nobody's public address")
        return None

    def from_internet(self, vpc_name: str, public: IPv4Address, private: IPv4Address) -> Step | None:
        vpc = self.topology.vpcs[vpc_name]
        table = gateway_table(vpc)
        target = table or "local"
        self.hop(
            vpc_name, str(vpc.internet_gateway), f"{public} to {private}", target, "1:1 NAT of the destination address"
        )
        self.packet = replace(self.packet, destination=private)
        if self.looped():
            return None
        return (lambda: self.route_table(vpc_name, table, None)) if table else (lambda: self.delivery(vpc_name))

    def source_nat(self, vpc_name: str, name: str) -> Step | None:
        """A new connection through a NAT gateway; the gateway's own subnet decides where it goes on."""
        vpc = self.topology.vpcs[vpc_name]
        gateway = vpc.nat_gateways[name]
        self.hop(
            vpc_name, name, "snat", str(gateway.address), "the source address is replaced", zone_of(vpc, gateway.subnet)
        )
        if self.looped():
            return None
        self.translated[name] = self.packet.source
        self.packet = replace(self.packet, source=gateway.address)
        return lambda: self.subnet(vpc_name, gateway.subnet)

    def reply(self, vpc_name: str, name: str) -> Step | None:
        """What comes to a NAT gateway's address is a reply, or is dropped."""
        gateway = self.topology.vpcs[vpc_name].nat_gateways[name]
        az = zone_of(self.topology.vpcs[vpc_name], gateway.subnet)
        client = self.translated.pop(name, None)
        if client is None:
            self.drop(vpc_name, "nat", "unsolicited", "a NAT gateway lets in replies only", az)
            return None
        self.hop(vpc_name, name, "reply", str(client), "the client's address is put back", az)
        self.packet = replace(self.packet, destination=client)
        return lambda: self.subnet(vpc_name, gateway.subnet)

    # -- Transit Gateway and Gateway Load Balancer -----------------------------------------------------------------

    def to_transit_gateway(self, vpc_name: str, tgw: str, az: str | None) -> Step | None:
        """The attachment that a packet comes by names the table; the route, the attachment that it leaves by."""
        gateway = self.topology.transit_gateways[tgw]
        attachment = vpc_attachment(self.topology, tgw, vpc_name)
        table = attachment_table(gateway, attachment) if attachment else None
        if attachment is None or table is None or az is None:
            self.drop(tgw, "attachments", "not associated", f"VPC {vpc_name} has no associated attachment here", az)
            return None
        return self.transit_route(tgw, table, f"{attachment}'s table", az)

    def transit_route(self, tgw: str, table: str, whose: str, az: str) -> Step | None:
        route = lookup(tgw_routes(self.topology, tgw, table), self.packet.destination)
        if route is None:
            self.drop(tgw, table, "no route", f"no route covers {self.packet.destination}", az)
            return None
        if route.kind is TargetKind.BLACKHOLE:
            self.drop(tgw, table, route.destination, "a blackhole route", az)
            return None
        self.hop(tgw, table, route.destination, route.target, f"{route.origin.value} route of {whose}", az)
        if self.looped():
            return None
        if route.kind is TargetKind.VPN:
            return lambda: self.into_tunnel(tgw, route)
        return lambda: self.from_transit_gateway(tgw, route.target, az)

    def into_tunnel(self, tgw: str, route: Route) -> Step | None:
        """A hash of the flow chooses between the tunnels of all firewalls; a reply goes to the firewall that has it."""
        gateway = self.topology.transit_gateways[tgw]
        homes = {gateway.vpn_attachments[name].firewall: name for name in ecmp(gateway, route.destination)}
        owners = [name for name, address in self.tunnel_addresses(homes).items() if address == self.packet.destination]
        names = [homes[name] for name in owners or homes]
        why = "the address of this firewall" if owners else "equal-cost routes: a hash of the flow chooses the tunnel"
        self.choice(vpn_router(tgw), "routes", names, names[0], why, None)
        firewall = gateway.vpn_attachments[names[0]].firewall
        return lambda: self.inspected_in_tunnel(tgw, firewall)

    def tunnel_addresses(self, firewalls: Iterable[str]) -> dict[str, IPv4Address]:
        """Return the addresses that firewalls of VPN attachments give to what they send back into a tunnel."""
        found = {name: item for vpc in self.topology.vpcs.values() for name, item in vpc.firewalls.items()}
        return {name: found[name].trust.address for name in firewalls}

    def inspected_in_tunnel(self, tgw: str, name: str) -> Step | None:
        """What came by a tunnel goes out by untrust, or back into a tunnel: both with the firewall's own address."""
        vpc_name, vpc = next((vpc_name, vpc) for vpc_name, vpc in self.topology.vpcs.items() if name in vpc.firewalls)
        firewall = vpc.firewalls[name]
        if self.packet.destination == firewall.trust.address:
            client = self.translated.pop(name, None)
            if client is None:
                self.drop(name, "nat", "unsolicited", "no translation leads from this address on")
                return None
            self.hop(name, "nat", "reply", str(client), "the client's address is put back")
            self.packet = replace(self.packet, destination=client)
            return lambda: self.out_of_tunnel(tgw, name)
        inside = any(self.packet.destination in other.cidr for other in self.topology.vpcs.values())
        if not inside:
            return lambda: self.forwarded(vpc_name, interface_name(name, "trust"))
        if firewall.source_nat:
            self.hop(name, "nat", "snat", str(firewall.trust.address), "the source address is replaced")
            self.translated[name] = self.packet.source
            self.packet = replace(self.packet, source=firewall.trust.address)
        return lambda: self.out_of_tunnel(tgw, name)

    def out_of_tunnel(self, tgw: str, name: str) -> Step | None:
        gateway = self.topology.transit_gateways[tgw]
        attachment = next(item for item, at in gateway.vpn_attachments.items() if at.firewall == name)
        self.hop(name, "routes", "BGP", attachment, "the Transit Gateway advertises its VPCs")
        table = vpn_table(gateway)
        if table is None:
            self.drop(tgw, "attachments", "not associated", "the VPN attachments are associated with no table")
            return None
        # What comes by a tunnel is in no zone; it is treated as if in the first.
        return self.transit_route(tgw, table, "the VPNs' table", gateway_zones(self.topology, tgw)[0])

    def from_transit_gateway(self, tgw: str, attachment: str, az: str) -> Step | None:
        item = self.topology.transit_gateways[tgw].attachments[attachment]
        zones = exit_zones(self.topology, tgw, attachment, az)
        if item.appliance_mode:
            zone = self.az if self.az in zones else zones[0]
            names = [f"{attachment}-{zone}" for zone in zones]
            why = "appliance mode: a hash of the flow chooses the zone, for both directions"
            self.choice(tgw, "appliance-mode", names, f"{attachment}-{zone}", why, az)
        else:
            zone = zones[0]
            why = "the zone is kept" if zone == az else f"{attachment} has no subnet in zone {az}"
            self.hop(tgw, "affinity", f"{attachment}-{zone}", f"{attachment}-{zone}", why, az)
        vpc = self.topology.vpcs[item.vpc]
        subnet = next(subnet for subnet in item.subnets if zone_of(vpc, subnet) == zone)
        return lambda: self.subnet(item.vpc, subnet)

    def load_balancer(self, vpc_name: str, endpoint: str) -> Step | None:
        """To a firewall and back: what comes out of an endpoint meets the route table of the endpoint's subnet."""
        vpc = self.topology.vpcs[vpc_name]
        item = vpc.endpoints[endpoint]
        az, gwlb = zone_of(vpc, item.subnet), item.service
        targets = gwlb_targets(self.topology, gwlb, az)
        self.hop(gwlb, "endpoints", endpoint, f"node {az}", f"{gwlb}'s node in the endpoint's zone", az)
        if not targets:
            everywhere = self.topology.gateway_load_balancers[gwlb].load_balancing.cross_zone.enabled
            why = "no firewall is registered" + ("" if everywhere else f" in zone {az}, and cross-zone is off")
            self.drop(gwlb, "connections", f"no target in {az}", why, az)
            return None
        self.choice(
            gwlb, "targets", targets, targets[0], "a hash of the flow chooses the firewall; GENEVE there and back", az
        )
        self.hop(gwlb, "returned", endpoint, endpoint, "back through the endpoint that it came from", az)
        return lambda: self.subnet(vpc_name, item.subnet)
