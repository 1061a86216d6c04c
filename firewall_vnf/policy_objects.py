"""The objects that rules name, resolved: addresses and ports as ranges, applications as names.

All problems of a file are collected, so that it is put right in one go.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address, ip_interface
from typing import Generic, TypeVar

from firewall_vnf.applications import APPLICATIONS
from firewall_vnf.packet import TCP, UDP
from firewall_vnf.policy_file import ANY, APPLICATION_DEFAULT, NAME, PolicyError, PolicyForm, suggestion
from firewall_vnf.ranges import ADDRESSES, PORTS, Ranges, complement, number, union

#: Stands for all IP protocols without an identification of their own.
OTHER_PROTOCOL = 0
DEFAULT_RULES = ("intrazone-default", "interzone-default")

Service = tuple[int, Ranges]
Value = TypeVar("Value")


@dataclass(frozen=True)
class Selector:
    """What a rule matches. Zones None: any. ``traffic`` maps application and IP protocol to destination ports.

    The protocol is ICMP, ICMPv6, TCP, UDP or :data:`OTHER_PROTOCOL`; those without ports have all.
    """

    zones_from: frozenset[str] | None
    zones_to: frozenset[str] | None
    sources: Ranges
    destinations: Ranges
    traffic: Mapping[tuple[str, int], Ranges]


class Objects(Generic[Value]):
    """Objects of one kind, and groups of them.

    ``parse`` turns an object's text into its value. It returns None where only names of objects are possible, and
    raises ValueError with what is wrong and what to do. An object that is wrong is reported once, in ``problems``,
    and counts as empty from there on.
    """

    def __init__(
        self,
        kind: str,
        texts: Mapping[str, str],
        groups: Mapping[str, tuple[str, ...]],
        parse: Callable[[str], Value | None],
        problems: list[str],
    ) -> None:
        self._kind, self._parse, self._problems, self._groups = kind, parse, problems, groups
        self._known = [*texts, *groups]
        self._values: dict[str, list[Value]] = {}
        for name, text in texts.items():
            self._values[name] = self._literal(text, f"{kind} {name!r}")
        for name in groups:
            if name in texts:
                problems.append(f"{kind} group {name!r}: there is {kind} {name!r} too; rename one")
            else:
                self._expand(name, ())
        for name in {ANY, APPLICATION_DEFAULT}.intersection(self._values):
            problems.append(f"{kind} {name!r}: the name has a meaning in rules; rename it")

    def resolve(self, names: tuple[str, ...], place: str) -> list[Value] | None:
        """The values of a rule's field, None for any."""
        if names == (ANY,):
            return None
        for name in names:
            if name in (ANY, APPLICATION_DEFAULT):
                self._problems.append(f"{place}: {name!r} stands alone; remove it or the others")
                return []
        return [value for name in names for value in self._member(name, place)]

    def _expand(self, name: str, path: tuple[str, ...]) -> None:
        if name in self._values:
            return
        if name in path:
            cycle = " -> ".join((*path[path.index(name) :], name))
            self._problems.append(f"{self._kind} group {name!r} contains itself: {cycle}; break the cycle")
            self._values[name] = []
            return
        for member in self._groups[name]:
            if member in self._groups:
                self._expand(member, (*path, name))
        place = f"{self._kind} group {name!r}"
        values = [value for member in self._groups[name] for value in self._member(member, place)]
        self._values.setdefault(name, values)

    def _member(self, name: str, place: str) -> list[Value]:
        if name in self._values:
            return self._values[name]
        return self._unknown(name, place) if re.match(NAME, name) else self._literal(name, place)

    def _literal(self, text: str, place: str) -> list[Value]:
        try:
            value = self._parse(text)
        except ValueError as error:
            self._problems.append(f"{place}: {error}")
            return []
        return self._unknown(text, place) if value is None else [value]

    def _unknown(self, name: str, place: str) -> list[Value]:
        self._problems.append(f"{place}: unknown {self._kind} {name!r}{suggestion(name, self._known)}")
        return []


def _address(text: str) -> Ranges:
    first, dash, last = text.partition("-")
    try:
        if dash:
            start, end = ip_address(first.strip()), ip_address(last.strip())
            if start.version != end.version:
                raise ValueError
        else:
            interface = ip_interface(text)
            start, end = interface.network[0], interface.network[-1]
    except ValueError:
        raise ValueError(f"{text!r} is no address; write 10.0.0.1, 10.0.0.0/24 or 10.0.0.1-10.0.0.9") from None
    low, high = number(start), number(end)
    if low > high:
        raise ValueError(f"{text!r} ends before it begins; swap the two addresses")
    if not dash and interface.ip != start:
        raise ValueError(f"{text!r} has host bits set; did you mean {str(interface.network)!r}?")
    return ((low, high),)


_SERVICE = re.compile(r"(tcp|udp)/(\d{1,5}(-\d{1,5})?(,\d{1,5}(-\d{1,5})?)*)", re.ASCII)


def _service(text: str) -> Service:
    form = _SERVICE.fullmatch(text.replace(" ", ""))
    if not form:
        raise ValueError(f"{text!r} is no service; write tcp/80, udp/53,123 or tcp/8000-8100")
    ranges = []
    for part in form[2].split(","):
        first, _, last = part.partition("-")
        low, high = int(first), int(last or first)
        if not 0 < low <= high <= 65535:
            raise ValueError(f"{text!r}: ports are 1 to 65535, the lower one first")
        ranges.append((low, high))
    return (TCP if form[1] == "tcp" else UDP), union(ranges)


def resolve_rules(form: PolicyForm, file: str) -> list[Selector]:
    """What each rule of ``form.rules`` matches. Raises :class:`PolicyError` with all problems; ``file`` names it."""
    problems: list[str] = []
    addresses = Objects("address", form.addresses, form.address_groups, _address, problems)
    services = Objects("service", form.services, form.service_groups, _service, problems)
    known = {name: name for name in APPLICATIONS}
    applications = Objects("application", known, form.application_groups, known.get, problems)
    declared: dict[str, str] = {zone: zone for zone in form.zones}
    zone_objects = Objects("zone", declared, {}, declared.get, problems)

    def zones(names: tuple[str, ...], place: str) -> frozenset[str] | None:
        found = zone_objects.resolve(names, place)
        return None if found is None else frozenset(found)

    def side(names: tuple[str, ...], negate: bool, place: str) -> Ranges:
        found = addresses.resolve(names, place)
        if found is None:
            if negate:
                problems.append(f"{place}: nothing is left of any when negated; name addresses")
            return ADDRESSES
        ranges = union(pair for value in found for pair in value)
        return complement(ranges, ADDRESSES) if negate else ranges

    selectors: list[Selector] = []
    seen: set[str] = set()
    for rule in form.rules:
        place = f"rule {rule.name!r}"
        if rule.name in DEFAULT_RULES:
            problems.append(f"{place}, name: it is a default rule's, to be set under defaults; rename this one")
        elif rule.name in seen:
            problems.append(f"{place}, name: there is a rule of this name before; rename one")
        seen.add(rule.name)
        found = applications.resolve(rule.application, f"{place}, application")
        standard = rule.service == (APPLICATION_DEFAULT,)
        ports = None if standard else services.resolve(rule.service, f"{place}, service")
        selectors.append(
            Selector(
                zones(rule.zones_from, f"{place}, from"),
                zones(rule.zones_to, f"{place}, to"),
                side(rule.source, rule.negate_source, f"{place}, source"),
                side(rule.destination, rule.negate_destination, f"{place}, destination"),
                _traffic(APPLICATIONS if found is None else found, ports, standard),
            )
        )
    if problems:
        raise PolicyError(f"{file}: {problem}" for problem in problems)
    return selectors


def _traffic(
    applications: Iterable[str], services: list[Service] | None, standard: bool
) -> dict[tuple[str, int], Ranges]:
    """Ports by application and protocol; ``services`` None: the standard ones, or any."""
    traffic = {}
    for name in applications:
        application = APPLICATIONS[name]
        for protocol in application.protocols or (OTHER_PROTOCOL,):
            if standard:
                ports = union((first, last) for carrier, first, last in application.ports if carrier == protocol)
            elif services is None:
                ports = PORTS
            else:
                ports = union(pair for carrier, ranges in services if carrier == protocol for pair in ranges)
            if ports:
                traffic[name, protocol] = ports
    return traffic
