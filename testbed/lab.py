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
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from types import TracebackType
from typing import IO, Any, TypeVar

from mininet.node import Host as MininetHost
from pyroute2 import IPRoute

from controllers.compiler import compile_topology
from controllers.conntrack import zone_timeouts
from controllers.desired import file_digest
from controllers.flows import Program
from controllers.management.client import Management
from controllers.state import State
from firewall_vnf.libbpf import BpfError
from testbed import bridges, doctor, geneve_endpoint, management, nodes, openvswitch, routed_firewall
from testbed.controller import ControllerProcess
from testbed.errors import MachineError, RequestError
from testbed.firewall import Appliance, Firewall, ScaledFirewall, firewall_configuration
from testbed.haproxy import HaproxyProcess
from testbed.journal import Journal, lock, new_journal, read_journal
from testbed.load_balancer import load_balancer
from testbed.management import ManagementProcess, management_addresses
from testbed.nodes import Host, no_offload, steer
from testbed.routed_firewall import HA_PORTS
from testbed.running import refusals
from testbed.service import STATE, TOPOLOGY, Part
from testbed.teardown import take_down
from testbed.vpn import site
from testbed.vpn.bgp import BgpSpeaker
from testbed.vpn.ipsec import TunnelEnd, wait_ready
from topologies.defaults import scaling_instances
from topologies.fabric import (
    Fabric,
    balancer_of,
    build_fabric,
    internet_addresses,
    mac_address,
    node_addresses,
    vpn_router,
    zone_of,
)
from topologies.model import HighAvailability, Topology

#: Seconds that the parts of a lab are given to come up before the lab gives up; emulated machines are slow.
PATIENCE = 60.0
#: Seconds after which a lab that does not end is told to once more.
TELL_AGAIN = 10.0

#: What a lab cannot be built without, by the doctor's names.
NEEDS = ("root", "Open vSwitch", "Mininet", "BPF", "iproute2", "ethtool")

T = TypeVar("T")


class Lab:
    """One lab. ``datapath`` forces ``system`` or ``netdev``; ``time_scale`` divides the managed service's intervals.

    ``appliance`` returns the command that the named appliance runs in place of the firewall; nothing is managed then:
    all targets count as healthy. ``firewall_settings`` are more settings of the load balancers' firewalls, in the form
    of :mod:`firewall_vnf.config`. Entering raises MachineError where the machine cannot, or where a lab is running.
    """

    def __init__(
        self,
        topology: Topology,
        datapath: str | None = None,
        appliance: Callable[[Lab, str], list[str]] | None = None,
        time_scale: float = 1.0,
        rate_scale: float = 0.1,
        firewall_settings: Mapping[str, Any] | None = None,
    ) -> None:
        self._topology = topology
        self._firewall_settings = dict(firewall_settings or {})
        self.fabric: Fabric = build_fabric(topology)
        self.datapath = datapath
        self.appliance = appliance
        self.time_scale = time_scale
        self.rate_scale = rate_scale
        self.management_addresses = management_addresses(self.fabric.managed)
        self._programs: dict[str, Program] = {}
        self._known: list[bytes] | None = None
        self.network = nodes.new_network()
        self.hosts: dict[str, Host] = {}
        self.firewalls: dict[str, Firewall] = {}
        self.appliances: dict[str, Appliance] = {}
        self.balancers: dict[str, HaproxyProcess] = {}
        self.tunnels: dict[str, TunnelEnd | BgpSpeaker] = {}
        self._lock: IO[str] | None = None
        self.journal: Journal
        self.controller: ControllerProcess
        self.management: ManagementProcess | None = None

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
            parts: list[Part] = [self.management] if self.management else []
            parts += [*self.appliances.values(), *self.balancers.values(), *self.tunnels.values()]
            for part in parts:
                part.end()
            for part in parts:
                part.wait()
            if hasattr(self, "journal"):
                take_down(self.journal)
            for node in self.network.values():
                node.cleanup()
            if self._lock:
                self._lock.close()

    def _build(self) -> None:
        """Build the lab; what takes long is started first and waited for last."""
        (self.directory / TOPOLOGY).write_text(self._topology.model_dump_json(indent=1))
        self.controller = ControllerProcess(self.directory, self.journal.datapath, self.time_scale)
        self._build_nodes()
        self._build_links()
        nodes.configure(list(self._commands()))
        if self._topology.firewalls and self._topology.firewalls.session_sharing:
            self._start_store()
        self.tunnels = site.start(
            self.topology,
            self.hosts,
            self.directory,
            kernel_esp=doctor.kernel_esp,
            rate_scale=self.rate_scale,
            time_scale=self.time_scale,
        )
        self._start_routed_firewalls()
        self._start_appliances()
        self.endpoints = {name: self._build_endpoint(name) for name in self.topology.gateway_load_balancers}
        bridges.create(self.journal, self.fabric, self.wait(self.controller.port, "the controller's port"))
        bridges.set_zone_timeouts(self.journal, zone_timeouts(self.topology, self.time_scale))
        self.wait(lambda: self.controller.in_sync(len(self.fabric.elements)), "the controller to install the tables")
        for pair in self._pairs():  # the first is there first, and becomes active
            first, second = pair.firewalls
            self.wait(self.firewalls[first].ready, f"{first} to start")
            self._start_firewall(second)
        for firewall in self.firewalls.values():
            if not isinstance(firewall, ScaledFirewall):
                self.wait(firewall.ready, f"{firewall.name} to start")
        wait_ready(part for part in self.tunnels.values() if isinstance(part, TunnelEnd))
        for name, part in self.tunnels.items():
            self.wait(part.ready, f"{name} to be up")
        self._start_balancers()  # now, so that their first health check finds the firewalls at work
        for balancer in self.balancers.values():
            self.wait(balancer.ready, f"load balancer {balancer.name} to listen")
        if self.management:
            self.wait(self.management.all_healthy, "all targets to be healthy")

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
            yield from ((name, host.address) for name, host in vpc.hosts.items())
            yield from ((name, firewall.trust.address) for name, firewall in vpc.firewalls.items())
        for gwlb_name, gwlb in self.topology.gateway_load_balancers.items():
            yield gwlb_name, next(iter(gwlb.subnets.values()))
            yield from ((name, appliance.address) for name, appliance in gwlb.appliances.items())
        if self.management_addresses:
            yield management.NODE, management.FIRST
        yield from internet_addresses(self.topology).items()
        yield from ((vpn_router(tgw), site.TRANSFER) for tgw in site.connections(self.topology))

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
                host = self.hosts[port.node]
                nodes.veth(
                    netlink,
                    (None, port.name, mac_address(port.name)),
                    (host.pid, port.inner, mac_address(port.resource)),
                )
                nodes.no_ipv6(port.name)
                netlink.link("set", index=netlink.link_lookup(ifname=port.name)[0], state="up")
                bridge = network[bridges.bridge_name(element.name)]
                nodes.register_link(network, (network[host.name], port.inner, None), (bridge, port.name, port.number))
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
            for pair in self._pairs():
                for ha_port in HA_PORTS:
                    one, other = (
                        (self.hosts[name].pid, ha_port, mac_address(f"{name}/{ha_port}")) for name in pair.firewalls
                    )
                    nodes.veth(netlink, one, other)
            site.join(netlink, self.topology, self.hosts)
            for name in self.fabric.managed:
                nodes.veth(
                    netlink,
                    (self.hosts[management.NODE].pid, name, mac_address(f"{management.NODE}/{name}")),
                    (self.hosts[name].pid, management.INTERFACE, mac_address(f"{name}/{management.INTERFACE}")),
                )
                nodes.register_link(
                    network,
                    (network[management.NODE], name, None),
                    (network[name], management.INTERFACE, None),
                )

    def _pairs(self) -> Iterator[HighAvailability]:
        for vpc in self.topology.vpcs.values():
            yield from vpc.high_availability.values()

    def _commands(self) -> Iterator[tuple[MininetHost, list[str]]]:
        """Yield each node with the commands that configure it."""
        tunnels = dict(site.commands(self.topology))
        for vpc in self.topology.vpcs.values():
            for name, resident in vpc.hosts.items():
                yield self._host_commands(name, resident.address, vpc.subnets[resident.subnet].cidr)
            for name in vpc.firewalls:
                commands = routed_firewall.node_commands(self.topology, vpc, name)
                manage = management.appliance_commands(self.management_addresses[name])
                yield self.network[name], [*START_NODE, *commands, *manage, *tunnels.pop(name, [])]
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
                if self.journal.datapath == "system":
                    balancer.append(steer(name, os.cpu_count() or 1))
                yield (
                    self.network[name],
                    [
                        *START_NODE,
                        f"ip address add {appliance.address}/32 dev eth0",
                        *connect_commands(addresses.values()),
                        no_offload("eth0"),
                        *management.appliance_commands(self.management_addresses[name]),
                    ],
                )
            yield self.network[gwlb_name], balancer
        yield from ((self.network[name], [*START_NODE, *commands]) for name, commands in tunnels.items())
        if self.management_addresses:
            yield self.network[management.NODE], [*START_NODE, *management.node_commands(self.management_addresses)]

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
        try:
            return geneve_endpoint.GeneveEndpoint.load(self.hosts[gwlb].pid, configuration)
        except BpfError as error:
            raise MachineError(str(error)) from error

    def _start_routed_firewalls(self) -> None:
        for vpc in self.topology.vpcs.values():
            for name in vpc.firewalls:
                settings = routed_firewall.configuration(
                    self.topology, vpc, name, self.directory, self.management_addresses[name], self.time_scale
                )
                self.firewalls[name] = Firewall(
                    self.hosts[name], self._firewall_process(name, settings), self.directory / name
                )
        later = [pair.firewalls[1] for pair in self._pairs()]
        for name in self.firewalls:
            if name not in later:
                self._start_firewall(name)

    def _start_firewall(self, name: str) -> None:
        self.appliances[name] = self.firewalls[name]
        self.appliances[name].start()

    def _start_balancers(self) -> None:
        for vpc in self.topology.vpcs.values():
            for name in vpc.load_balancers:
                played = load_balancer(vpc, name)
                self.balancers[name] = HaproxyProcess(self.hosts[name], played, self.directory, self.time_scale)

    def _start_appliances(self) -> None:
        commands: dict[str, list[str]] = {}
        for gwlb in self.topology.gateway_load_balancers.values():
            scaled = scaling_instances(gwlb)
            for name in gwlb.appliances:
                host, directory = self.hosts[name], self.directory / name
                if self.appliance:
                    self.appliances[name] = Appliance(host, self.appliance(self, name), directory)
                else:
                    commands[name] = self.firewall_command(name)
                    kind = ScaledFirewall if name in scaled else Firewall
                    self.appliances[name] = self.firewalls[name] = kind(host, commands[name], directory)
                if name not in scaled:
                    self.appliances[name].start()
        if commands or any(self._pairs()):
            self.management = ManagementProcess(
                self.directory,
                self.time_scale,
                {name: self.hosts[name].pid for name in self.topology.gateway_load_balancers},
                self.hosts[management.NODE].pid,
                {
                    name: {
                        "management_address": str(self.management_addresses[name]),
                        "command": ["mnexec", "-a", str(self.hosts[name].pid), *command],
                        "log": str(self.directory / name / "output.log"),
                    }
                    for name, command in commands.items()
                },
                cloud=any(self._pairs()),
            )

    def firewall_command(self, name: str) -> list[str]:
        """Write the configuration of firewall *name* and return the command that runs it."""
        store = management.STORE if self.topology.firewalls and self.topology.firewalls.session_sharing else None
        address = self.management_addresses[name]
        settings = firewall_configuration(self.topology, name, self.directory, address, self.time_scale, store)
        return self._firewall_process(name, settings | self._firewall_settings)

    def _firewall_process(self, name: str, settings: dict[str, Any]) -> list[str]:
        file = self.directory / f"{name}.yaml"
        file.write_text(json.dumps(settings, indent=1))
        return [sys.executable, "-m", "firewall_vnf", "--config", str(file)]

    def _start_store(self) -> None:
        """Start the store that firewalls share their sessions in."""
        address = str(management.FIRST)
        command = [
            "redis-server",
            "--bind",
            address,
            "--port",
            str(management.STORE_PORT),
            "--save",
            "",
            "--protected-mode",
            "no",
        ]
        with (self.directory / "redis.log").open("a") as log:
            self.hosts[management.NODE].popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    # -- what a scenario asks ------------------------------------------------------------------------------------

    @property
    def directory(self) -> Path:
        """Where this lab's sockets, configuration and logs are; gone with it."""
        return self.journal.directory

    @property
    def topology(self) -> Topology:
        """The cloud as it is now: what was built, with the changes since then."""
        return self._desired()[0]

    @property
    def programs(self) -> dict[str, Program]:
        """What the switches shall hold now, by the element's name."""
        return self._desired()[1]

    def _desired(self) -> tuple[Topology, dict[str, Program]]:
        """Return the topology and the programs of the lab's files, or of the model while there are none."""
        contents = [file.read_bytes() if file.exists() else b"" for file in self._files()]
        if contents != self._known:
            topology, state = contents or (b"", b"")
            self._topology = Topology.model_validate_json(topology) if topology else self._topology
            found = State.model_validate_json(state) if state else None
            self._programs = compile_topology(self._topology, found, self.time_scale)
            self._known = contents
        return self._topology, self._programs

    def _files(self) -> list[Path]:
        """Return the files of the model and of its targets' state; before the lab is built there are none."""
        return [self.directory / TOPOLOGY, self.directory / STATE] if hasattr(self, "journal") else []

    def host(self, name: str) -> Host:
        """Return the node of that name. Raises KeyError where there is none."""
        return self.hosts[name]

    def cut(self, appliance: str) -> None:
        """Take the link of *appliance* down; its process lives on."""
        nodes.configure([(self.network[appliance], ["ip link set eth0 down"])])

    def mend(self, appliance: str) -> None:
        """Bring the link of *appliance* up again."""
        addresses = node_addresses(self.topology, balancer_of(self.topology, appliance)).values()
        nodes.configure([(self.network[appliance], connect_commands(addresses))])

    def manage(self, change: Callable[[Management], T]) -> T:
        """Call *change* with a client of the management's API; return its result when all switches have followed.

        Raises RequestError for what the service refuses and where nothing is managed, MachineError when it is silent.
        """
        if self.management is None:
            raise RequestError("nothing is managed in a lab whose appliances are no firewalls")
        with refusals():
            result = change(self.management.client)
        self.wait(self.settled, "the switches to follow a change")
        return result

    @contextmanager
    def attributes(self, resource: str, values: Mapping[str, str]) -> Iterator[None]:
        """Have attributes of *resource*, by AWS's names, for the block; what they were is put back."""
        before = self.manage(lambda service: service.attributes(resource))
        self.manage(lambda service: service.set_attributes(resource, values))
        try:
            yield
        finally:
            self.manage(lambda service: service.set_attributes(resource, {name: before[name] for name in values}))

    def zone(self, appliance: str) -> str:
        """Return the AZ of *appliance*."""
        gwlb = balancer_of(self.topology, appliance)
        return zone_of(self.topology.vpcs[gwlb.vpc], gwlb.appliances[appliance].subnet)

    def balanced(self) -> bool:
        """Whether all targets of the VPCs' load balancers are healthy."""
        return all(one.state == "healthy" for balancer in self.balancers.values() for one in balancer.targets())

    def target_states(self, target: str) -> set[str]:
        """Return the states of *target*, ``healthy`` and so on, as the zones see it; nothing where it is no target."""
        assert self.management is not None, "targets have states where they are managed"
        service = self.management.client
        found = (entry for gwlb in self.topology.gateway_load_balancers for entry in service.health(gwlb))
        return {entry["state"] for entry in found if entry["target"] == target}

    def wait_target(self, target: str, state: str) -> None:
        """Wait until every zone sees *target* in that state (``unhealthy``, …), and all switches have followed."""
        self.wait(lambda: self.target_states(target) == {state}, f"{target} to be {state}")
        self.wait(self.settled, "the switches to follow")

    def detection_time(self, gwlb: str) -> float:
        """Return the seconds in which a load balancer's health checks find a failure, as configured and scaled."""
        check = self.topology.gateway_load_balancers[gwlb].target_group.health_check
        return check.interval_seconds * check.unhealthy_threshold_count / self.time_scale

    def events(self) -> list[dict[str, Any]]:
        """Return what the managed service has noted since the lab was built; nothing where nothing is managed."""
        return self.management.client.events() if self.management else []

    def settled(self) -> bool:
        """Whether the switches hold what the management wants."""
        status = self.controller.status()
        wanted = {f"{file.stem}_digest": file_digest(file.read_bytes()) for file in self._files() if file.exists()}
        return self.controller.in_sync(len(self.fabric.elements)) and wanted.items() <= status.items()

    def revalidate(self) -> None:
        """Wait until packets, too, meet what the switches hold: a cached decision outlives its tables by an instant.

        For those who judge every connection from a moment on; it takes up to a second.
        """
        bridges.revalidate()

    def flow_counters(self) -> dict[str, int]:
        """Return the packets that each forwarding decision was made for, by its name, all bridges together."""
        bridges.revalidate()
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
        parts: list[Part] = [self.controller, *self.appliances.values()]
        parts += [*self.balancers.values(), *self.tunnels.values()]
        if self.management:
            parts.append(self.management)
        return [problem for part in parts if (problem := part.problem())]


#: What every node starts with. IPv6's own chatter would disturb counters that are compared with what was sent. Only
#: switches forward, but a new namespace takes over whether the machine does.
START_NODE = [
    "echo 0 > /proc/sys/net/ipv4/ip_forward",
    "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6",
    "ip link set lo up",
]


def connect_commands(balancer_nodes: Iterable[IPv4Address]) -> list[str]:
    """Return the commands that bring an appliance's data interface up; routes go when an interface goes down."""
    return ["ip link set eth0 up", *(f"ip route add {address}/32 dev eth0" for address in balancer_nodes)]


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
    deadline, again = time.monotonic() + PATIENCE, 0.0
    while (held := lock()) is None:
        now, left = time.monotonic(), read_journal()
        if now > deadline:
            raise MachineError(f"the lab does not end: kill process {left.pid if left else '?'} and repeat")
        if left is not None and now >= again:
            # More than once: Python's input() loses what a signal raises while it flushes its prompt.
            with suppress(ProcessLookupError):
                os.kill(left.pid, signal.SIGTERM)
            again = now + TELL_AGAIN
        time.sleep(0.05)
    with held:
        left = read_journal()
        if left is None:
            removed = bridges.running() and bridges.remove_abandoned()[0]
            return "removed what a lab left in Open vSwitch" if removed else "nothing is left"
        take_down(left)
        return f"took down what the lab {left.topology} had left behind"
