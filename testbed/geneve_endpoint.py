"""The GENEVE endpoint of a Gateway Load Balancer: what its BPF program (``bpf/geneve_endpoint.c``) must know.

That is every appliance, for the life of the lab: whether one is registered, or draining, is a matter of OpenFlow's.

What it needs of the load balancer's network namespace, before :meth:`GeneveEndpoint.load`:

* an interface ``plain``, the far end of the veth pair whose other end is the GENEVE port of the load balancer's bridge;
* for each appliance an interface with the appliance's name, whose other end is in the appliance's namespace, with MTU
  8,568 or more on both ends: 68 bytes of header around 8,500 (AWS Gateway Load Balancer guide, "MTU");
* for health checks, which are the kernel's: the nodes' addresses (on ``lo``) and a route to each appliance;
* no segmentation offload at the senders. Packets not yet segmented are dropped and counted.

The program is attached to all these interfaces and goes with them.
"""

from __future__ import annotations

import os
import secrets
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path
from types import TracebackType

from firewall_vnf import libbpf
from firewall_vnf.bpf_object import compile_program, counter_meanings
from testbed.errors import MachineError
from testbed.namespace import in_namespace, interface_address, interface_index
from topologies.fabric import Fabric, endpoint_index, mac_address, node_addresses
from topologies.ids import endpoint_ids, endpoint_number
from topologies.model import Topology

SOURCE = Path(__file__).parent / "bpf" / "geneve_endpoint.c"
PROGRAM = "geneve_endpoint"
PLAIN = "plain"
#: Bytes of the largest inner packet (AWS Gateway Load Balancer guide, "MTU").
MAX_INNER = 8500

# The structures of the C source. "=": native byte order without padding; addresses and ids are bytes as on the wire.
INDEX = struct.Struct("=I")
CONFIG = struct.Struct("=2I8s32s")  # plain, max_inner, key, nodes
TARGET = struct.Struct("=4sI6s6s")
TRAFFIC = struct.Struct("=4Q")
COUNTER = struct.Struct("=Q")


@dataclass(frozen=True)
class Target:
    """An appliance. ``interface`` is the load balancer's end of its link, ``mac`` the appliance's own."""

    address: IPv4Address
    mac: str
    interface: str


@dataclass(frozen=True)
class EndpointConfiguration:
    """What an endpoint starts with.

    ``nodes`` maps the number of an AZ (a = 1) to the address of its load balancer node, ``endpoints`` a GWLBE's index
    to its id (64 bits), ``targets`` an appliance's index to the appliance, registered or not. ``key`` (8 bytes) makes
    the flow cookies this lab's own.
    """

    nodes: dict[int, IPv4Address]
    endpoints: dict[int, int]
    targets: dict[int, Target]
    max_inner: int = MAX_INNER
    key: bytes = field(default_factory=lambda: secrets.token_bytes(8), repr=False)


@dataclass(frozen=True)
class TargetTraffic:
    """Packets, and bytes of inner IP packets, that were sent to a target and that came back from it."""

    packets_sent: int
    bytes_sent: int
    packets_returned: int
    bytes_returned: int


def zone_number(az: str) -> int:
    """Return the number of an AZ's load balancer node: a = 1."""
    return ord(az) - ord("a") + 1


def endpoint_configuration(topology: Topology, fabric: Fabric, gwlb: str) -> EndpointConfiguration:
    """Return what the endpoint of load balancer *gwlb* starts with. Raises KeyError where there is none."""
    balancer = topology.gateway_load_balancers[gwlb]
    ids, indices = endpoint_ids(topology), endpoint_index(topology)
    ours = [
        name for vpc in topology.vpcs.values() for name, endpoint in vpc.endpoints.items() if endpoint.service == gwlb
    ]
    return EndpointConfiguration(
        nodes={zone_number(az): address for az, address in node_addresses(topology, balancer).items()},
        endpoints={indices[name]: endpoint_number(ids[name]) for name in ours},
        targets={
            link.index: Target(balancer.appliances[link.appliance].address, mac_address(link.appliance), link.appliance)
            for link in fabric.appliance_links
            if link.gwlb == gwlb
        },
        max_inner=topology.mtu,
    )


class GeneveEndpoint:
    """The running endpoint of one load balancer: made with :meth:`load`, or found again with :meth:`find`.

    Changes are seen by the next packet. All methods raise MachineError when the namespace has gone.
    """

    def __init__(self, pid: int, program: int, maps: Mapping[str, libbpf.Map]) -> None:
        self.pid = pid
        self._program = program
        self._maps = maps

    @classmethod
    def load(cls, pid: int, configuration: EndpointConfiguration, plain: str = PLAIN) -> GeneveEndpoint:
        """Load the program into the network namespace of process *pid* and attach it to all interfaces.

        Raises BpfError where the kernel refuses, MachineError where an interface is missing.
        """
        plain_index = in_namespace(pid, lambda: interface_index(plain))
        with libbpf.Object(compile_program(SOURCE)) as loaded:
            program = os.dup(loaded.program(PROGRAM))
        endpoint = cls(pid, program, libbpf.maps_of_program(program))
        try:
            nodes = bytes(32)
            config = CONFIG.pack(plain_index, configuration.max_inner, configuration.key, nodes)
            endpoint._maps["config"].update(INDEX.pack(0), config)
            for zone, address in configuration.nodes.items():
                endpoint.set_node(zone, address)
            for index, number in configuration.endpoints.items():
                endpoint.set_endpoint(index, number)
            for index, target in configuration.targets.items():
                endpoint.set_target(index, target)
            endpoint.attach(plain)
        except BaseException:
            endpoint.close()
            raise
        return endpoint

    @classmethod
    def find(cls, pid: int, plain: str = PLAIN) -> GeneveEndpoint:
        """Find the endpoint that another process has loaded into the network namespace of process *pid*.

        Raises BpfError where there is none.
        """
        program = in_namespace(pid, lambda: libbpf.attached_program(interface_index(plain)))
        return cls(pid, program, libbpf.maps_of_program(program))

    def attach(self, interface: str) -> None:
        """Let the program have what comes from an interface."""
        in_namespace(self.pid, lambda: libbpf.attach(self._program, interface_index(interface)))

    def set_node(self, zone: int, address: IPv4Address) -> None:
        """Give the load balancer node of AZ number *zone* (1 to 7) its address."""
        config = self._maps["config"]
        known = bytearray(config.lookup(INDEX.pack(0)) or b"")
        offset = CONFIG.size - 32 + 4 * zone
        known[offset : offset + 4] = address.packed
        config.update(INDEX.pack(0), bytes(known))

    def set_endpoint(self, index: int, number: int) -> None:
        """Make the VPC endpoint with *index* known by its id, a number of 64 bits."""
        number_bytes = number.to_bytes(8, "big")
        self._maps["endpoint_index"].update(number_bytes, INDEX.pack(index))
        self._maps["endpoints"].update(INDEX.pack(index), number_bytes)

    def set_target(self, index: int, target: Target) -> None:
        """Make the appliance with *index* and its interface known.

        Raises MachineError where the interface is missing, or the index too high.
        """

        def identify() -> tuple[int, str]:
            return interface_index(target.interface), interface_address(target.interface)

        interface, own_mac = in_namespace(self.pid, identify)
        targets = self._maps["targets"]
        if index >= targets.max_entries:
            raise MachineError(f"target {index}: the GENEVE endpoint holds {targets.max_entries}")
        value = TARGET.pack(target.address.packed, interface, mac_bytes(target.mac), mac_bytes(own_mac))
        targets.update(INDEX.pack(index), value)
        self._maps["interfaces"].update(INDEX.pack(interface), INDEX.pack(index))
        self.attach(target.interface)

    def counters(self) -> dict[str, int]:
        """Return the packets counted by what became of them, by the names of the C source."""
        counters = self._maps["counters"]
        return {
            name: sum(COUNTER.unpack(value)[0] for value in counters.lookup_all(INDEX.pack(number)))
            for number, name in enumerate(counter_meanings(SOURCE))
        }

    def target_counters(self) -> dict[int, TargetTraffic]:
        """Return the traffic of each appliance by its index."""
        interfaces, traffic = self._maps["interfaces"], self._maps["target_traffic"]
        known = [index for interface in interfaces if (index := interfaces.lookup(interface))]
        result = {}
        for index in known:
            each_cpu = [TRAFFIC.unpack(value) for value in traffic.lookup_all(index)]
            result[INDEX.unpack(index)[0]] = TargetTraffic(*map(sum, zip(*each_cpu, strict=True)))
        return dict(sorted(result.items()))

    def entries(self) -> dict[str, int]:
        """Return how many entries each map holds; an array always holds all."""
        return {name: sum(1 for _ in each) for name, each in self._maps.items()}

    def close(self) -> None:
        """Let go of program and maps; what is attached stays."""
        os.close(self._program)
        for each in self._maps.values():
            each.close()

    def __enter__(self) -> GeneveEndpoint:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def mac_bytes(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))
