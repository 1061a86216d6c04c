"""The VPN attachments of a lab: what of the model each tunnel and router is, and its processes on the lab's nodes."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Callable, Iterator, Mapping
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from pyroute2 import IPRoute

from testbed import nodes
from testbed.nodes import Host, no_offload
from testbed.vpn.bgp import BgpSpeaker, bird_conf
from testbed.vpn.ipsec import TunnelEnd
from testbed.vpn.tunnel import MTU, OUT_OF, RATE, Connection, Side, Tunnel, end_commands, router_commands
from topologies.fabric import ROUTER_MAC, TunnelPlan, mac_address, tunnels, vpn_router
from topologies.model import Topology, Vpc

#: The VPN router's interface to the Transit Gateway's bridge, and the addresses there, which nobody else sees.
TO_BRIDGE = "tgw"
TRANSFER, NEXT_HOP = IPv4Address("169.254.15.1"), IPv4Address("169.254.15.2")
#: BGP's hold time has 3 s at least, so its 30 s are divided by no more.
LARGEST_BGP_SCALE = 10.0


def tunnel_of(topology: Topology, plan: TunnelPlan) -> Tunnel:
    """Return a tunnel of the plan; its pre-shared key is derived from its name, as all ids are."""
    secret = hashlib.blake2b(f"{topology.name}/{plan.name}".encode(), digest_size=16).hexdigest()
    return Tunnel(plan.name, *plan.addresses, plan.inside, f"psk.{secret}")


def connections(topology: Topology) -> dict[str, list[Connection]]:
    """Return the VPN connections of each Transit Gateway that has any."""
    found: dict[str, list[Connection]] = {}
    for tgw, gateway in topology.transit_gateways.items():
        for name in gateway.vpn_attachments:
            plans = [plan for plan in tunnels(topology) if plan.attachment == name]
            found.setdefault(tgw, []).append(Connection(name, tuple(tunnel_of(topology, plan) for plan in plans)))
    return found


def side_nodes(topology: Topology) -> Iterator[tuple[Tunnel, Side, str, str]]:
    """Yield each end of each tunnel: the tunnel, whose end, and the names of the end's and of its router's nodes."""
    for plan in tunnels(topology):
        tunnel = tunnel_of(topology, plan)
        firewall = topology.transit_gateways[plan.tgw].vpn_attachments[plan.attachment].firewall
        yield tunnel, Side.AMAZON, plan.ends[0], vpn_router(plan.tgw)
        yield tunnel, Side.CUSTOMER, plan.ends[1], firewall


def join(netlink: IPRoute, topology: Topology, hosts: Mapping[str, Host]) -> None:
    """Make the links between tunnels' ends and their routers."""
    for tunnel, _, end, router in side_nodes(topology):
        there = (hosts[router].pid, tunnel.name, mac_address(f"{router}/{tunnel.name}"))
        nodes.veth(netlink, there, (hosts[end].pid, "inside", mac_address(f"{end}/inside")), mtu=MTU)


def commands(topology: Topology) -> Iterator[tuple[str, list[str]]]:
    """Yield the names of nodes, with commands that configure them. The firewalls are routers already."""
    for tunnel, side, end, _ in side_nodes(topology):
        outside = IPv4Network((tunnel.outside(side), 24), strict=False)
        yield end, [*texts(end_commands(tunnel, side, outside[1])), no_offload("outside"), no_offload("inside")]
    for tgw, found in connections(topology).items():
        every = [tunnel for connection in found for tunnel in connection.tunnels]
        # What comes out of a tunnel goes to the bridge, which answers no ARP.
        bridge = [
            no_offload(TO_BRIDGE),
            f"ip link set {TO_BRIDGE} arp off mtu {topology.mtu} up",
            f"ip address add {TRANSFER}/32 dev {TO_BRIDGE}",
            f"ip neighbour add {NEXT_HOP} lladdr {ROUTER_MAC} dev {TO_BRIDGE}",
        ]
        # Only what comes out of a tunnel may go to the VPCs; what comes from them goes into one.
        bridge += [f"ip rule add pref {OUT_OF} iif {tunnel.name} lookup {OUT_OF}" for tunnel in every]
        for vpc in attached(topology, tgw).values():
            bridge.append(f"ip route add {vpc.cidr} via {NEXT_HOP} dev {TO_BRIDGE} onlink table {OUT_OF}")
        yield vpn_router(tgw), [*texts(router_commands(every, Side.AMAZON)), *bridge]
        for connection in found:
            yield firewall_of(topology, tgw, connection), texts(router_commands(connection.tunnels, Side.CUSTOMER))


def start(
    topology: Topology,
    hosts: Mapping[str, Host],
    directory: Path,
    *,
    kernel_esp: Callable[[], bool],
    rate_scale: float,
    time_scale: float,
) -> dict[str, TunnelEnd | BgpSpeaker]:
    """Start the charon of each tunnel's end and the BIRD of each router; return them by name."""
    parts: dict[str, TunnelEnd | BgpSpeaker] = {}
    if not any(gateway.vpn_attachments for gateway in topology.transit_gateways.values()):
        return parts
    in_kernel = kernel_esp()
    scale = min(time_scale, LARGEST_BGP_SCALE)
    # Those that wait first: what the others send too early, they send again after a while only.
    for tunnel, side, end, _ in sorted(side_nodes(topology), key=lambda found: found[1] is Side.CUSTOMER):
        parts[end] = TunnelEnd(
            tunnel,
            side,
            hosts[end].pid,
            directory,
            kernel_esp=in_kernel,
            rate=RATE * rate_scale,
            time_scale=scale,
        )
    for tgw, found in connections(topology).items():
        router = vpn_router(tgw)
        announced = [vpc.cidr for vpc in attached(topology, tgw).values()]
        configuration = bird_conf(found, Side.AMAZON, announced, scale)
        parts[router] = BgpSpeaker(router, hosts[router].pid, configuration, directory)
        for connection in found:
            name = firewall_of(topology, tgw, connection)
            firewall = next(vpc.firewalls[name] for vpc in topology.vpcs.values() if name in vpc.firewalls)
            own = IPv4Network((firewall.trust.address, 32))
            advertised = topology.transit_gateways[tgw].vpn_attachments[connection.name].advertises
            configuration = bird_conf([connection], Side.CUSTOMER, [*advertised, own], scale)
            parts[f"{name}-bgp"] = BgpSpeaker(name, hosts[name].pid, configuration, directory)
    return parts


def attached(topology: Topology, tgw: str) -> dict[str, Vpc]:
    """Return the VPCs that a Transit Gateway is attached to, by name."""
    return {item.vpc: topology.vpcs[item.vpc] for item in topology.transit_gateways[tgw].attachments.values()}


def firewall_of(topology: Topology, tgw: str, connection: Connection) -> str:
    return topology.transit_gateways[tgw].vpn_attachments[connection.name].firewall


def texts(found: list[list[str]]) -> list[str]:
    return [shlex.join(command) for command in found]
