"""The part of the cloud's API that a pair of firewalls needs at a failover: which interface has what, without I/O.

Calls have the names and parameters of AWS's EC2 API. Ids are names: an interface is ``fw1-trust``, an instance is a
routed firewall, a route table is ``VPC/TABLE``. A call is checked when it is made and takes effect later, as in the
cloud; of two calls for the same thing the last one wins, also over one that has not taken effect yet.

AWS publishes no time. Palo Alto Networks' documentation of 8.0 and 8.1 gives 20 s to over a minute for the move of
interfaces, and calls that of secondary addresses faster without a number. :data:`DELAYS` are this lab's choices: 10 s
out of 5 to 20 s for addresses, 40 s out of 20 to 60 s for interfaces; a pair's ``api_delay_seconds`` replaces them.

An interface that moves takes its addresses along, and the routes to it; the model has it change places with the one
that was there. Until it is attached, the model leaves a detached interface where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from topologies.model import HighAvailability, NetworkInterface, RouteTable, Topology, interface_name

#: Seconds that a failover takes in the cloud, by what moves.
DELAYS = {"secondary-ip": 10.0, "interface": 40.0}


class CallRefusedError(Exception):
    """A call that cannot be granted: one line, AWS's error code first."""


class Place(NamedTuple):
    """Where an interface is in the model: a slot of a firewall, ``untrust`` or ``trust``."""

    vpc: str
    firewall: str
    part: str

    @property
    def target(self) -> str:
        return interface_name(self.firewall, self.part)


class Parameters(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class AssignPrivateIpAddresses(Parameters):
    interface: str = Field(alias="NetworkInterfaceId")
    addresses: tuple[IPv4Address, ...] = Field(alias="PrivateIpAddresses", min_length=1)
    reassign: bool = Field(default=False, alias="AllowReassignment")


class DetachNetworkInterface(Parameters):
    interface: str = Field(alias="NetworkInterfaceId")


class AttachNetworkInterface(Parameters):
    interface: str = Field(alias="NetworkInterfaceId")
    instance: str = Field(alias="InstanceId")


class ReplaceRoute(Parameters):
    table: str = Field(alias="RouteTableId")
    destination: IPv4Network = Field(alias="DestinationCidrBlock")
    interface: str = Field(alias="NetworkInterfaceId")


class DescribeNetworkInterfaces(Parameters):
    pass


class DescribeRouteTables(Parameters):
    pass


#: When it was made, the action, the parameters: JSON's plain types.
Call = tuple[float, str, dict[str, Any]]


@dataclass
class Change:
    """What will be done to the model: at *due*, seconds of the caller's clock; *text* says it. *call* asked for it."""

    call: Call
    due: float
    text: str
    apply: Callable[[Topology], Topology]


class NetworkInterfaces:
    """The routed firewalls' interfaces of a lab.

    *read* returns the model, *write* takes a changed one and a line that says what changed. *attachments* and *calls*
    are those of an earlier process, as the attributes have them: the places of interfaces that moved, and what is under
    way.
    """

    def __init__(
        self,
        read: Callable[[], Topology],
        write: Callable[[Topology, str], None],
        time_scale: float,
        attachments: Mapping[str, tuple[str, str, str]] | None = None,
        calls: Iterable[Call] = (),
    ) -> None:
        self._read, self._write, self._time_scale = read, write, time_scale
        self.attachments: dict[str, Place] = {
            place.target: place
            for vpc_name, vpc in read().vpcs.items()
            for firewall in vpc.firewalls
            for place in (Place(vpc_name, firewall, "untrust"), Place(vpc_name, firewall, "trust"))
        }
        self.attachments |= {name: Place(*place) for name, place in (attachments or {}).items()}
        self._detached: set[str] = set()
        self._pending: dict[tuple[str, str], Change] = {}
        for now, action, parameters in calls:
            self.call(action, parameters, now)

    @property
    def calls(self) -> list[Call]:
        """The calls that, made again, lead to what is detached and under way."""
        attaching = [name for kind, name in self._pending if kind == "interface"]
        detached: list[Call] = [
            (0.0, "DetachNetworkInterface", {"NetworkInterfaceId": name}) for name in (*self._detached, *attaching)
        ]
        pending = sorted((change.call for change in self._pending.values()), key=lambda call: call[0])
        return detached + [call for number, call in enumerate(pending) if call not in pending[:number]]

    def call(self, action: str, parameters: Mapping[str, Any], now: float) -> dict[str, Any]:
        """Do what AWS's *action* does; return the answer. Raises :class:`CallRefusedError`."""
        self._call = now, action, dict(parameters)
        try:
            match action:
                case "AssignPrivateIpAddresses":
                    return self._assign(AssignPrivateIpAddresses.model_validate(parameters), now)
                case "DetachNetworkInterface":
                    return self._detach(DetachNetworkInterface.model_validate(parameters))
                case "AttachNetworkInterface":
                    return self._attach(AttachNetworkInterface.model_validate(parameters), now)
                case "ReplaceRoute":
                    return self._replace_route(ReplaceRoute.model_validate(parameters), now)
                case "DescribeNetworkInterfaces":
                    DescribeNetworkInterfaces.model_validate(parameters)
                    return self._describe()
                case "DescribeRouteTables":
                    DescribeRouteTables.model_validate(parameters)
                    return self._describe_routes()
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"])
            raise CallRefusedError(f"InvalidParameterValue: {action}: {place}: {first['msg']}") from error
        raise CallRefusedError(f"InvalidAction: there is no action {action!r} here")

    def tick(self, now: float) -> None:
        """Let take effect what is due, in the order of its time."""
        due = sorted((item for item in self._pending.items() if item[1].due <= now), key=lambda item: item[1].due)
        for subject, change in due:
            del self._pending[subject]
            self._write(change.apply(self._read()), change.text)

    @property
    def due(self) -> float | None:
        """When the next change takes effect; None if none is under way."""
        return min((change.due for change in self._pending.values()), default=None)

    # -- the actions -------------------------------------------------------------------------------------------------

    def _assign(self, call: AssignPrivateIpAddresses, now: float) -> dict[str, Any]:
        place = self._place(call.interface)
        topology = self._read()
        vpc = topology.vpcs[place.vpc]
        subnet = vpc.subnets[self._interface(topology, place).subnet]
        holders = {address: name for name, item in vpc.interfaces.items() for address in item.addresses}
        primary = {item.address for item in vpc.interfaces.values()}
        for address in call.addresses:
            holder = holders.get(address, place.target)
            if address not in subnet.cidr:
                problem = f"{address} is not in {subnet.cidr}, the subnet of {call.interface}"
            elif address in primary:
                problem = f"{address} is the primary address of {holder}; only secondary ones move"
            elif holder != place.target and not call.reassign:
                problem = f"{address} is assigned to {holder}; allow its reassignment"
            else:
                continue
            raise CallRefusedError(f"InvalidParameterValue: {problem}")
        for address in call.addresses:
            text = f"AssignPrivateIpAddresses: {address} is {call.interface}'s"
            self._later(("address", str(address)), place, text, now, self._mover(call.interface, address))
        return {
            "NetworkInterfaceId": call.interface,
            "AssignedPrivateIpAddresses": [{"PrivateIpAddress": str(address)} for address in call.addresses],
        }

    def _mover(self, interface: str, address: IPv4Address) -> Callable[[Topology], Topology]:
        return lambda topology: move_address(topology, self.attachments[interface], address)

    def _detach(self, call: DetachNetworkInterface) -> dict[str, Any]:
        self._place(call.interface)
        if call.interface in self._detached:
            raise CallRefusedError(f"IncorrectState: {call.interface} is not attached")
        self._detached.add(call.interface)
        self._pending.pop(("interface", call.interface), None)
        return {"Return": True}

    def _attach(self, call: AttachNetworkInterface, now: float) -> dict[str, Any]:
        place = self._place(call.interface)
        if call.interface not in self._detached:
            raise CallRefusedError(
                f"InvalidNetworkInterface.InUse: {call.interface} is attached to {place.firewall}; detach it first"
            )
        vpc = self._read().vpcs[place.vpc]
        if call.instance not in vpc.firewalls:
            raise CallRefusedError(
                f"InvalidInstanceID.NotFound: {place.vpc} has no firewall {call.instance!r};"
                f" it has {', '.join(vpc.firewalls)}"
            )
        there = Place(place.vpc, call.instance, place.part)

        def apply(topology: Topology) -> Topology:
            here = self.attachments[call.interface]
            other = next(name for name, at in self.attachments.items() if at == there)
            self.attachments |= {call.interface: there, other: here}
            return exchange_interfaces(topology, here, there)

        self._detached.discard(call.interface)
        text = f"AttachNetworkInterface: {call.interface} is attached to {call.instance}"
        self._later(("interface", call.interface), there, text, now, apply)
        return {"AttachmentId": f"{call.interface}/{call.instance}"}

    def _replace_route(self, call: ReplaceRoute, now: float) -> dict[str, Any]:
        place = self._place(call.interface)
        vpc_name, _, table = call.table.partition("/")
        topology = self._read()
        vpc = topology.vpcs.get(vpc_name)
        if vpc is None or table not in vpc.route_tables:
            raise CallRefusedError(f"InvalidRouteTableID.NotFound: {call.table!r}; write VPC/TABLE")
        if vpc_name != place.vpc:
            raise CallRefusedError(f"InvalidParameterValue: {call.interface} is in {place.vpc}, not in {vpc_name}")
        if call.destination not in vpc.route_tables[table].routes:
            raise CallRefusedError(
                f"InvalidParameterValue: there is no route {call.destination} in {call.table} to replace"
            )

        def apply(topology: Topology) -> Topology:
            target = self.attachments[call.interface].target
            return with_routes(topology, vpc_name, table, {call.destination: target})

        text = f"ReplaceRoute: {call.destination} in {call.table} leads to {call.interface}"
        self._later(("route", f"{call.table} {call.destination}"), place, text, now, apply)
        return {"Return": True}

    def _describe(self) -> dict[str, Any]:
        topology = self._read()
        found = []
        for name, place in self.attachments.items():
            item = self._interface(topology, place)
            description: dict[str, Any] = {
                "NetworkInterfaceId": name,
                "SubnetId": item.subnet,
                "Status": "available" if name in self._detached else "in-use",
                "PrivateIpAddresses": [
                    {"PrivateIpAddress": str(address), "Primary": address == item.address}
                    | ({"Association": {"PublicIp": str(public)}} if public else {})
                    for address, public in item.addresses.items()
                ],
            }
            if name not in self._detached:
                description["Attachment"] = {"InstanceId": place.firewall, "Status": "attached"}
            found.append(description)
        return {"NetworkInterfaces": found}

    def _describe_routes(self) -> dict[str, Any]:
        """Describe the tables in which a route leads to a firewall, with those routes."""
        names = {place.target: name for name, place in self.attachments.items()}
        found = []
        for vpc_name, vpc in self._read().vpcs.items():
            for table_name, table in vpc.route_tables.items():
                routes = [
                    {"DestinationCidrBlock": str(destination), "NetworkInterfaceId": names[target]}
                    for destination, target in table.routes.items()
                    if target in names
                ]
                if routes:
                    found.append({"RouteTableId": f"{vpc_name}/{table_name}", "VpcId": vpc_name, "Routes": routes})
        return {"RouteTables": found}

    # -- parts -------------------------------------------------------------------------------------------------------

    def _place(self, interface: str) -> Place:
        if interface not in self.attachments:
            raise CallRefusedError(
                f"InvalidNetworkInterfaceID.NotFound: there is no interface {interface!r};"
                f" there are {', '.join(self.attachments) or 'none'}"
            )
        return self.attachments[interface]

    def _interface(self, topology: Topology, place: Place) -> NetworkInterface:
        return topology.vpcs[place.vpc].firewalls[place.firewall].interfaces[place.part]

    def _later(
        self, subject: tuple[str, str], place: Place, text: str, now: float, apply: Callable[[Topology], Topology]
    ) -> None:
        pairs = self._read().vpcs[place.vpc].high_availability.values()
        delay = next((pair_delay(pair) for pair in pairs if place.firewall in pair.firewalls), DELAYS["secondary-ip"])
        self._pending[subject] = Change(self._call, now + delay / self._time_scale, text, apply)


def pair_delay(pair: HighAvailability) -> float:
    """Return how long the cloud takes for a failover of the pair, in seconds."""
    return DELAYS[pair.move] if pair.api_delay_seconds is None else pair.api_delay_seconds


def move_address(topology: Topology, place: Place, address: IPv4Address) -> Topology:
    """Return the topology with a secondary address, and its public one, at *place* and nowhere else in the VPC."""
    vpc = topology.vpcs[place.vpc]
    public: IPv4Address | None = None
    for name, firewall in vpc.firewalls.items():
        for part, item in firewall.interfaces.items():
            if address in item.secondary_addresses:
                public = item.secondary_addresses[address]
                rest = {one: other for one, other in item.secondary_addresses.items() if one != address}
                topology = with_interface(topology, Place(place.vpc, name, part), with_secondary(item, rest))
    item = topology.vpcs[place.vpc].firewalls[place.firewall].interfaces[place.part]
    return with_interface(topology, place, with_secondary(item, {**item.secondary_addresses, address: public}))


def exchange_interfaces(topology: Topology, one: Place, other: Place) -> Topology:
    """Return the topology with two interfaces of a VPC in each other's place; routes follow them."""
    vpc = topology.vpcs[one.vpc]
    first = vpc.firewalls[one.firewall].interfaces[one.part]
    second = vpc.firewalls[other.firewall].interfaces[other.part]
    topology = with_interface(with_interface(topology, one, second), other, first)
    turned = {one.target: other.target, other.target: one.target}
    for name, table in vpc.route_tables.items():
        changed = {where: turned[target] for where, target in table.routes.items() if target in turned}
        topology = with_routes(topology, one.vpc, name, changed) if changed else topology
    return topology


def with_secondary(item: NetworkInterface, addresses: dict[IPv4Address, IPv4Address | None]) -> NetworkInterface:
    """Return the interface with these secondary addresses."""
    return item.model_copy(update={"secondary_addresses": addresses})


def with_interface(topology: Topology, place: Place, item: NetworkInterface) -> Topology:
    """Return the topology with *item* at *place*."""
    firewalls = topology.vpcs[place.vpc].firewalls
    firewall = firewalls[place.firewall].model_copy(update={place.part: item})
    return with_vpc(topology, place.vpc, "firewalls", {**firewalls, place.firewall: firewall})


def with_routes(topology: Topology, vpc_name: str, table: str, routes: dict[IPv4Network, str]) -> Topology:
    """Return the topology with these routes in place of a table's for the same destinations."""
    tables: dict[str, RouteTable] = topology.vpcs[vpc_name].route_tables
    changed = tables[table].model_copy(update={"routes": {**tables[table].routes, **routes}})
    return with_vpc(topology, vpc_name, "route_tables", {**tables, table: changed})


def with_vpc(topology: Topology, name: str, part: str, content: object) -> Topology:
    """Return the topology with another *part* in a VPC."""
    vpc = topology.vpcs[name].model_copy(update={part: content})
    return topology.model_copy(update={"vpcs": {**topology.vpcs, name: vpc}})
