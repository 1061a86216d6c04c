"""Security policy: the rules compiled, and the first that matches.

A rule matches zones, addresses, application and destination port. Compiled, each of these is an index from a value to
the set of rules that it satisfies, a bit mask with the first rule as lowest bit (Lakshman and Stiliadis, "High-speed
policy-based packet forwarding", 1998). A lookup is the lowest bit of the intersection; its time hardly depends on the
number of rules.

All GWLB traffic leaves by the zone it came from, so that ``intrazone-default`` (allow) is what decides where no rule
matches ("VM-Series integration with an AWS Gateway Load Balancer"): end a policy with a rule that denies.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from firewall_vnf.applications import APPLICATIONS, NOT_IDENTIFIED, Action
from firewall_vnf.packet import ICMP, ICMPV6, TCP, UDP
from firewall_vnf.policy_file import DefaultRuleForm, PolicyError, PolicyForm, parse_policy, read_policy
from firewall_vnf.policy_objects import DEFAULT_RULES, OTHER_PROTOCOL, Selector, resolve_rules
from firewall_vnf.ranges import Index, covers

__all__ = ["Action", "Policy", "PolicyError", "Rule"]


#: Of one protocol: where ranges of destination ports begin, and for each the different masks of its applications.
Undecided = tuple[list[int], list[tuple[int, ...]]]
#: IP protocols with an identification of their own.
_IDENTIFIED = (ICMP, TCP, UDP, ICMPV6)


@dataclass(frozen=True)
class Rule:
    """What the policy decided. Also the two default rules, ``intrazone-default`` and ``interzone-default``.

    ``inspect``: hand the payload of its sessions to the inspections. ``log_start``, ``log_end``: traffic log entries
    when its sessions start and end. ``offload_after``: the bytes of a session, both directions', from which it may be
    offloaded, and is not inspected any more unless they are 0; None where it may not be.
    """

    name: str
    action: Action
    log_start: bool
    log_end: bool
    inspect: bool = False
    offload_after: int | None = 0


class Policy:
    """An immutable policy, from a file by :meth:`load`, from text by :meth:`parse`.

    ``rules`` are the enabled ones in order and the two defaults; ``zones`` the declared ones; ``warnings`` lines about
    rules that can never match, in the form of :class:`PolicyError`'s.
    """

    __slots__ = (
        "_any_from",
        "_any_to",
        "_destinations",
        "_first_allowing",
        "_from",
        "_ports",
        "_sources",
        "_to",
        "_undecided",
        "rules",
        "warnings",
        "zones",
    )  # fmt: skip

    @classmethod
    def load(cls, path: str | Path) -> Policy:
        """Read a policy file. Raises :class:`PolicyError`, one line a problem."""
        path = Path(path)
        return cls(read_policy(path), path.name)

    @classmethod
    def parse(cls, text: str, file: str = "policy") -> Policy:
        """As :meth:`load`, from YAML text; ``file`` is its name in errors."""
        return cls(parse_policy(text, file), file)

    def __init__(self, form: PolicyForm, file: str) -> None:
        compiled = [
            (
                Rule(rule.name, rule.action, rule.log_start, rule.log_end, rule.inspect, rule.offload_after),
                selector,
            )
            for rule, selector in zip(form.rules, resolve_rules(form, file), strict=True)
            if not rule.disabled
        ]
        selectors = [selector for _, selector in compiled]
        defaults = zip(DEFAULT_RULES, (form.defaults.intrazone, form.defaults.interzone), strict=True)
        self.rules: tuple[Rule, ...] = (*(rule for rule, _ in compiled), *(_default(*item) for item in defaults))
        self.zones = frozenset(form.zones)
        self.warnings = tuple(f"{file}: {warning}" for warning in _unreachable(compiled))

        self._any_from, self._from = _zone_masks([selector.zones_from for selector in selectors])
        self._any_to, self._to = _zone_masks([selector.zones_to for selector in selectors])
        self._sources = Index([selector.sources for selector in selectors])
        self._destinations = Index([selector.destinations for selector in selectors])
        self._ports = {
            key: Index([selector.traffic.get(key, ()) for selector in selectors])
            for key in {key for selector in selectors for key in selector.traffic}
        }
        self._undecided = {
            protocol: _alternatives(self._ports, protocol) for protocol in (*_IDENTIFIED, OTHER_PROTOCOL)
        }
        # Every new session asks this, and sessions differ in their addresses more than in the rules left for them.
        self._first_allowing = lru_cache(maxsize=4096)(self._decide)

    def match(
        self,
        zone_from: str,
        zone_to: str,
        source: int,
        destination: int,
        protocol: int,
        source_port: int,
        destination_port: int,
        application: str | None,
    ) -> Rule:
        """The first rule that matches a session; addresses are numbers of :func:`firewall_vnf.ranges.number`,
        ``protocol`` the IP protocol's.

        Ports of protocols without any are 0. ``source_port`` decides nothing: services are destination ports.

        ``application`` None, or one of ``NOT_IDENTIFIED``: not known yet. Then the answer is the first rule that
        would allow one of the applications that it can still become, so that the session may go on until App-ID has
        told; if none is, the rule that refuses whatever it is (as PAN-OS does on a session's first packet: knowledge
        base, "Session setup: initial policy lookup on the six-tuple").
        """
        mask = (
            self._from.get(zone_from, self._any_from)
            & self._to.get(zone_to, self._any_to)
            & self._sources.mask(source)
            & self._destinations.mask(destination)
        )
        if protocol not in _IDENTIFIED:
            protocol = OTHER_PROTOCOL
        default = len(self.rules) - (2 if zone_from == zone_to else 1)
        if application is None or application in NOT_IDENTIFIED:
            segment = bisect_right(self._undecided[protocol][0], destination_port) - 1
            return self._first_allowing(mask, protocol, segment, default)
        ports = self._ports.get((application, protocol))
        mask = mask & ports.mask(destination_port) if ports else 0
        return self.rules[(mask & -mask).bit_length() - 1 if mask else default]

    def _decide(self, mask: int, protocol: int, segment: int, default: int) -> Rule:
        """Return what :meth:`match` does for an unknown application: of the rules in *mask*, for a range of ports."""
        decisions = []
        for ports in self._undecided[protocol][1][segment]:
            candidates = mask & ports
            decisions.append((candidates & -candidates).bit_length() - 1 if candidates else default)
        allowing = [position for position in decisions if self.rules[position].action is Action.ALLOW]
        return self.rules[min(allowing) if allowing else max(decisions)]


def _alternatives(indexes: dict[tuple[str, int], Index], protocol: int) -> Undecided:
    carried = [
        indexes.get((application.name, protocol), Index(()))
        for application in APPLICATIONS.values()
        if protocol in (application.protocols or (OTHER_PROTOCOL,))
    ]
    starts = sorted({start for index in carried for start in index.starts})
    return starts, [tuple({index.mask(start) for index in carried}) for start in starts]


def _default(name: str, form: DefaultRuleForm) -> Rule:
    return Rule(name, form.action, form.log_start, form.log_end)


def _zone_masks(zones: Sequence[frozenset[str] | None]) -> tuple[int, dict[str, int]]:
    """The rules for any zone, and those for each zone that some rule names."""
    anywhere = sum(1 << position for position, names in enumerate(zones) if names is None)
    masks: dict[str, int] = {}
    for position, names in enumerate(zones):
        for zone in names or ():
            masks[zone] = masks.get(zone, anywhere) | 1 << position
    return anywhere, masks


def _unreachable(compiled: Sequence[tuple[Rule, Selector]]) -> list[str]:
    """Rules whose services none of their applications uses, and rules that one before covers."""
    warnings = []
    for position, (rule, selector) in enumerate(compiled):
        if not selector.traffic:
            warnings.append(f"rule {rule.name!r} never matches: none of its applications uses its services")
            continue
        for earlier, wider in compiled[:position]:
            if _covers(wider, selector):
                warnings.append(f"rule {rule.name!r} never matches: rule {earlier.name!r} before it shadows it")
                break
    return warnings


def _covers(wider: Selector, selector: Selector) -> bool:
    return (
        (wider.zones_from is None or (selector.zones_from is not None and selector.zones_from <= wider.zones_from))
        and (wider.zones_to is None or (selector.zones_to is not None and selector.zones_to <= wider.zones_to))
        and covers(wider.sources, selector.sources)
        and covers(wider.destinations, selector.destinations)
        and all(covers(wider.traffic.get(key, ()), ports) for key, ports in selector.traffic.items())
    )
