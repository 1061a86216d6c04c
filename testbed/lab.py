"""A running lab: the topology built out of Mininet nodes and Open vSwitch bridges, with its controller and firewalls.

::

    with Lab(load_topology("gwlb")) as lab:
        lab.host("web1").run(["ping", "-c1", str(lab.host("app2").address)])

One lab runs on a machine at a time. Leaving the block takes it down by the journal, as ``bumpwire down`` does.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from types import TracebackType
from typing import IO, TypeVar

from mininet.node import Host as MininetHost
from pyroute2 import IPRoute

from controllers.compiler import compile_topology
from controllers.conntrack import zone_timeouts
from testbed import bridges, doctor, geneve_endpoint, nodes, openvswitch
from testbed.controller import ControllerProcess
from testbed.errors import MachineError
from testbed.firewall import Appliance, Firewall, firewall_configuration
from testbed.journal import Journal, lock, new_journal, read_journal
from testbed.nodes import Host
from testbed.teardown import take_down
from topologies.fabric import Fabric, PortKind, build_fabric, mac_address, node_addresses
from topologies.model import Topology

#: Seconds that the parts of a lab are given to come up before the lab gives up; emulated machines are slow.
PATIENCE = 60.0

#: What a lab cannot be built without, by the doctor's names.
NEEDS = ("root", "Open vSwitch", "Mininet", "BPF", "iproute2", "ethtool")

T = TypeVar("T")


class Lab:
    """One lab. ``datapath`` forces ``system`` or ``netdev``.

    ``appliance`` returns the command that the named appliance runs in place of the firewall. Entering raises
    MachineError where the machine cannot, or where a lab is running.
    """

    def __init__(
        self,
        topology: Topology,
        datapath: str | None = None,
        appliance: Callable[[Lab, str], list[str]] | None = None,
    ) -> None:
        self.topology = topology
        self.fabric: Fabric = build_fabric(topology)
        self.programs = compile_topology(topology)
        self.datapath = datapath
        self.appliance = appliance
        self.network = nodes.new_network()
        self.hosts: dict[str, Host] = {}
        self.firewalls: dict[str, Firewall] = {}
        self.appliances: dict[str, Appliance] = {}
        self._lock: IO[str] | None = None
        self.journal: Journal
        self.controller: ControllerProcess

    # -- up and down ---------------------------------------------------------------------------------------------

    def __enter__(self) -> Lab:
        self._lock = lock()
        left = read_journal()
        if self._lock is None:
            name = f"{left.topology}, process {left.pid}" if left else "being started"
            raise MachineError(f"a lab is running already ({name}): leave it, or take it down with `bumpwire down`")
        try:
            doctor.require(*NEEDS)
            if left:
                take_down(left)
            openvswitch.ensure_running()
            self.datapath = self.datapath or doctor.datapath()
            self.journal = new_journal(self.topology.name, self.datapath)
            self._build()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with uninterrupted():
            for appliance in self.appliances.values():
                appliance.end()
            for appliance in self.appliances.values():
                appliance.wait()
            if hasattr(self, "journal"):
                take_down(self.journal)
            for node in self.network.values():
                node.cleanup()
            if self._lock:
                self._lock.close()

    def _build(self) -> None:
        """Build the lab; what takes long is started first and waited for last."""
        topology_file = self.directory / "topology.yaml"
        topology_file.write_text(self.topology.model_dump_json(indent=1))
        self.controller = ControllerProcess(topology_file, self.directory)
        self._build_nodes()
        self._build_links()
        nodes.configure(list(self._commands()))
        self._start_appliances()
        self.endpoints = {name: self._build_endpoint(name) for name in self.topology.gateway_load_balancers}
        bridges.create(self.journal, self.fabric, self.wait(self.controller.port, "the controller's port"))
        bridges.set_zone_timeouts(self.journal, zone_timeouts(self.topology))
        self.wait(lambda: self.controller.in_sync(len(self.fabric.elements)), "the controller to install the tables")
        for firewall in self.firewalls.values():
            self.wait(firewall.ready, f"{firewall.name} to start")

    def wait(self, condition: Callable[[], T | None], what: str, patience: float = PATIENCE, broken: bool = False) -> T:
        """Poll *condition* until it returns something true, and return that.

        Raises MachineError when *patience* seconds pass and, unless the lab is meant to be *broken*, as soon as a part
        of it has died.
        """
        deadline = time.monotonic() + patience
        while not (result := condition()):
            if not broken and (problems := self.problems()):
                raise MachineError(problems[0])
            if time.monotonic() > deadline:
                raise MachineError(f"waited {patience:.0f} s for {what} in vain")
            time.sleep(0.005)
        return result

    # -- parts of the build --------------------------------------------------------------------------------------

    def _addresses(self) -> Iterator[tuple[str, IPv4Address]]:
        for vpc in self.topology.vpcs.values():
            yield from ((name, instance.address) for name, instance in vpc.instances.items())
        for gwlb_name, gwlb in self.topology.gateway_load_balancers.items():
            yield gwlb_name, next(iter(gwlb.subnets.values()))
            yield from ((name, appliance.address) for name, appliance in gwlb.appliances.items())
        yield from ((name, host.address) for name, host in self.topology.internet.items())

    def _build_nodes(self) -> None:
        for name, address in self._addresses():
            self.hosts[name] = Host(self.network.addHost(name), address)
        self.journal.nodes = {name: host.pid for name, host in self.hosts.items()}
        self.journal.save()
        for element in self.fabric.elements.values():
            self.network.addSwitch(bridges.bridge_name(element.name), cls=nodes.Bridge, dpid=f"{element.dpid:016x}")

    def _build_links(self) -> None:
        network = self.network
        to_bridges = [
            (element, port)
            for element in self.fabric.elements.values()
            for port in element.ports.values()
            if port.peer is None
        ]
        self.journal.interfaces = [port.name for _, port in to_bridges]
        self.journal.save()
        with IPRoute() as netlink:
            for element, port in to_bridges:
                inner = "plain" if port.kind is PortKind.GENEVE else "eth0"
                host = self.hosts[port.resource]
                nodes.veth(
                    netlink,
                    (None, port.name, mac_address(port.name)),
                    (host.pid, inner, mac_address(host.name)),
                )
                netlink.link("set", index=netlink.link_lookup(ifname=port.name)[0], state="up")
                bridge = network[bridges.bridge_name(element.name)]
                nodes.register_link(network, (network[host.name], inner, None), (bridge, port.name, port.number))
            for link in self.fabric.appliance_links:
                gwlb, appliance = self.hosts[link.gwlb], self.hosts[link.appliance]
                nodes.veth(
                    netlink,
                    (gwlb.pid, link.appliance, mac_address(f"{link.gwlb}/{link.appliance}")),
                    (appliance.pid, "eth0", mac_address(link.appliance)),
                )
                nodes.register_link(
                    network,
                    (network[link.gwlb], link.appliance, None),
                    (network[link.appliance], "eth0", None),
                )

    def _commands(self) -> Iterator[tuple[MininetHost, list[str]]]:
        """Yield each node with the commands that configure it."""
        for vpc in self.topology.vpcs.values():
            for name, instance in vpc.instances.items():
                yield self._host_commands(name, instance.address, vpc.subnets[instance.subnet].cidr)
        for name, host in self.topology.internet.items():
            yield self._host_commands(name, host.address, IPv4Network((host.address, 24), strict=False))
        for gwlb_name, gwlb in self.topology.gateway_load_balancers.items():
            addresses = node_addresses(self.topology, gwlb)
            vpc = self.topology.vpcs[gwlb.vpc]
            balancer = [*START_NODE, "ip link set plain arp off up", no_offload("plain")]
            balancer += [f"ip address add {address}/32 dev lo" for address in addresses.values()]
            for name, appliance in gwlb.appliances.items():
                subnet = vpc.subnets[appliance.subnet]
                source = addresses.get(subnet.az, next(iter(addresses.values())))
                balancer += [
                    f"ip link set {name} up",
                    f"ip route add {appliance.address}/32 dev {name} src {source}",
                    no_offload(name),
                ]
                yield (
                    self.network[name],
                    [
                        *START_NODE,
                        f"ip address add {appliance.address}/32 dev eth0",
                        "ip link set eth0 up",
                        *(f"ip route add {address}/32 dev eth0" for address in addresses.values()),
                        no_offload("eth0"),
                    ],
                )
            yield self.network[gwlb_name], balancer

    def _host_commands(self, name: str, address: IPv4Address, subnet: IPv4Network) -> tuple[MininetHost, list[str]]:
        return self.network[name], [
            *START_NODE,
            f"ip address add {address}/{subnet.prefixlen} dev eth0",
            f"ip link set eth0 mtu {self.topology.mtu} up",
            f"ip route add default via {subnet[1]}",
            no_offload("eth0"),
        ]

    def _build_endpoint(self, gwlb: str) -> geneve_endpoint.GeneveEndpoint:
        configuration = geneve_endpoint.endpoint_configuration(self.topology, self.fabric, gwlb)
        return geneve_endpoint.GeneveEndpoint.load(self.hosts[gwlb].pid, configuration)

    def _start_appliances(self) -> None:
        for gwlb in self.topology.gateway_load_balancers.values():
            for name in gwlb.appliances:
                host, directory = self.hosts[name], self.directory / name
                if self.appliance:
                    self.appliances[name] = Appliance(host, self.appliance(self, name), directory)
                else:
                    firewall = Firewall(host, self.firewall_command(name), directory)
                    self.appliances[name] = self.firewalls[name] = firewall

    def firewall_command(self, name: str) -> list[str]:
        """Write the configuration of firewall *name* and return the command that runs it."""
        file = self.directory / f"{name}.yaml"
        file.write_text(json.dumps(firewall_configuration(self.topology, name, self.directory), indent=1))
        return [sys.executable, "-m", "firewall_vnf", "--config", str(file)]

    # -- what a scenario asks ------------------------------------------------------------------------------------

    @property
    def directory(self) -> Path:
        """Where this lab's sockets, configuration and logs are; gone with it."""
        return self.journal.directory

    def host(self, name: str) -> Host:
        """Return the node of that name. Raises KeyError where there is none."""
        return self.hosts[name]

    def flow_counters(self) -> dict[str, int]:
        """Return the packets that each forwarding decision was made for, by its name, all bridges together."""
        bridges.appctl("revalidator/wait")  # Open vSwitch brings its counters up to date in passes
        names = {flow.cookie: flow.decision for program in self.programs.values() for flow in program.flows}
        counters = dict.fromkeys(names.values(), 0)
        for element in self.fabric.elements:
            for cookie, packets in bridges.flow_packets(bridges.bridge_name(element)):
                if cookie in names:
                    counters[names[cookie]] += packets
        return counters

    def endpoint_counters(self) -> dict[str, int]:
        """Return the GENEVE endpoints' counters by name, all load balancers together."""
        totals: dict[str, int] = {}
        for endpoint in self.endpoints.values():
            for name, value in endpoint.counters().items():
                totals[name] = totals.get(name, 0) + value
        return totals

    def problems(self) -> list[str]:
        """Return a line for every part of the lab that has died; empty when all is well."""
        parts: list[ControllerProcess | Appliance] = [self.controller, *self.appliances.values()]
        return [problem for part in parts if (problem := part.problem())]


#: What every node starts with. IPv6's own chatter would disturb counters that are compared with what was sent.
START_NODE = [
    "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6",
    "ip link set lo up",
]


def no_offload(interface_name: str) -> str:
    """Return the command after which the interface carries real packets, with checksums in them."""
    return f"ethtool -K {interface_name} tx off rx off tso off gso off gro off > /dev/null"


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold back Ctrl-C and SIGTERM while a lab is taken down."""
    held = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in held.items():
            signal.signal(number, handler)


def end_running_lab() -> str:
    """End the lab that runs and remove what one left behind; return a line that says what was done.

    Raises MachineError when a running lab does not end.
    """
    left = read_journal()
    held = lock()
    if held is None and left is not None:
        os.kill(left.pid, signal.SIGTERM)
    deadline = time.monotonic() + PATIENCE
    while held is None:
        if time.monotonic() > deadline:
            raise MachineError(f"the lab does not end: kill process {left.pid if left else '?'} and repeat")
        time.sleep(0.05)
        held = lock()
    with held:
        left = read_journal()
        if left is None:
            return "nothing is left"
        take_down(left)
        return f"took down what the lab {left.topology} had left behind"
