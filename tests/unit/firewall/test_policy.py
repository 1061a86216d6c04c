"""The compiled policy: against a naive evaluation of random policies, case by case, and the policies that ship."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from firewall_vnf.applications import APPLICATIONS, NOT_IDENTIFIED
from firewall_vnf.packet import ICMP, TCP, UDP
from firewall_vnf.policy import Action, Policy, Rule
from firewall_vnf.policy_file import schema

ROOT = Path(__file__).parents[3]
GRE = 47


def address(text: str) -> int:
    return int(IPv4Address(text))


# --- random policies against a naive evaluation ---------------------------------------------------------------------

ZONES = ["a", "b"]
ADDRESSES = {"host": "10.0.0.2", "net": "10.0.0.0/30", "pool": "10.0.0.3-10.0.0.5", "all": "0.0.0.0/0"}
ADDRESS_GROUPS = {"inner": ["host"], "outer": ["inner", "pool"]}
SERVICES = {"low": "tcp/20-80", "odd": "udp/53,5201", "one": "tcp/5201"}
SERVICE_GROUPS = {"both": ["low", "odd"]}
APPLICATION_GROUPS = {"names": ["dns", "ntp"], "more": ["names", "ssh", "unknown-tcp"]}
PROTOCOLS = {"tcp": TCP, "udp": UDP}


def some(*names: str) -> st.SearchStrategy[list[str]]:
    return st.one_of(st.just(["any"]), st.lists(st.sampled_from(names), min_size=1, max_size=3))


@st.composite
def rules(draw: st.DrawFn) -> dict[str, Any]:
    source, destination = draw(some(*ADDRESSES, *ADDRESS_GROUPS)), draw(some(*ADDRESSES, *ADDRESS_GROUPS, "10.0.0.7"))
    return {
        "from": draw(some(*ZONES)),
        "to": draw(some(*ZONES)),
        "source": source,
        "negate_source": source != ["any"] and draw(st.booleans()),
        "destination": destination,
        "negate_destination": destination != ["any"] and draw(st.booleans()),
        "application": draw(some(*APPLICATIONS, *APPLICATION_GROUPS)),
        "service": draw(st.one_of(st.just(["application-default"]), some(*SERVICES, *SERVICE_GROUPS, "tcp/22"))),
        "action": draw(st.sampled_from([action.value for action in Action])),
        "disabled": draw(st.integers(0, 9)) == 0,
    }


policies = st.builds(
    lambda listed, defaults: {
        "zones": ZONES,
        "addresses": ADDRESSES,
        "address_groups": ADDRESS_GROUPS,
        "services": SERVICES,
        "service_groups": SERVICE_GROUPS,
        "application_groups": APPLICATION_GROUPS,
        "rules": [{"name": f"rule {number}", **rule} for number, rule in enumerate(listed)],
        "defaults": {name: {"action": action} for name, action in defaults.items()},
    },
    st.lists(rules(), max_size=8),
    st.fixed_dictionaries({name: st.sampled_from(["allow", "deny"]) for name in ("intrazone", "interzone")}),
)

packets = st.tuples(
    st.sampled_from([*ZONES, "c"]),
    st.sampled_from([*ZONES, "c"]),
    st.integers(address("10.0.0.0"), address("10.0.0.8")),
    st.integers(address("10.0.0.0"), address("10.0.0.8")),
    st.sampled_from([ICMP, TCP, UDP, GRE]),
    st.sampled_from([0, 19, 20, 22, 53, 80, 81, 123, 443, 5201, 65535]),
)


def members(names: list[str], groups: dict[str, list[str]]) -> list[str]:
    return [leaf for name in names for leaf in (members(groups[name], groups) if name in groups else [name])]


def holds(names: list[str], negated: bool, number: int) -> bool:
    if names == ["any"]:
        return True
    found = False
    for name in members(names, ADDRESS_GROUPS):
        text = ADDRESSES.get(name, name)
        if "-" in text:
            first, last = text.split("-")
            found |= IPv4Address(first) <= IPv4Address(number) <= IPv4Address(last)
        else:
            found |= IPv4Address(number) in IPv4Network(text)
    return found != negated


def serves(names: list[str], application: str, protocol: int, port: int) -> bool:
    if names == ["any"]:
        return True
    if names == ["application-default"]:
        return any(p == protocol and low <= port <= high for p, low, high in APPLICATIONS[application].ports)
    for name in members(names, SERVICE_GROUPS):
        text = SERVICES.get(name, name)
        for part in text.split("/")[1].split(","):
            first, *last = part.split("-")
            if PROTOCOLS[text.split("/")[0]] == protocol and int(first) <= port <= int((last or [first])[0]):
                return True
    return False


def evaluate(policy: dict[str, Any], packet: tuple[str, str, int, int, int, int], application: str) -> tuple[int, str]:
    """Position and name of the first rule that matches, read from the file as a person would."""
    zone_from, zone_to, source, destination, protocol, port = packet
    for position, rule in enumerate(policy["rules"]):
        if (
            not rule["disabled"]
            and (rule["from"] == ["any"] or zone_from in rule["from"])
            and (rule["to"] == ["any"] or zone_to in rule["to"])
            and holds(rule["source"], rule["negate_source"], source)
            and holds(rule["destination"], rule["negate_destination"], destination)
            and (rule["application"] == ["any"] or application in members(rule["application"], APPLICATION_GROUPS))
            and serves(rule["service"], application, protocol, port)
        ):
            return position, rule["name"]
    kind = "intrazone" if zone_from == zone_to else "interzone"
    return len(policy["rules"]), f"{kind}-default"


def carried(protocol: int) -> list[str]:
    return [a.name for a in APPLICATIONS.values() if protocol in a.protocols or (protocol == GRE and not a.protocols)]


@given(policies, st.lists(packets, min_size=1, max_size=20))
def test_the_first_matching_rule_decides(file: dict[str, Any], examples: list[Any]) -> None:
    policy = Policy.parse(yaml.safe_dump(file))
    for packet in examples:
        zone_from, zone_to, source, destination, protocol, port = packet
        for application in carried(protocol):
            rule = policy.match(zone_from, zone_to, source, destination, protocol, 40000, port, application)
            assert rule.name == evaluate(file, packet, application)[1]


@given(policies, packets, st.sampled_from([None, *NOT_IDENTIFIED]))
def test_an_unidentified_session_goes_on_while_it_may_become_allowed(
    file: dict[str, Any], packet: Any, application: str | None
) -> None:
    policy = Policy.parse(yaml.safe_dump(file))
    actions = {rule.name: rule.action for rule in policy.rules}
    zone_from, zone_to, source, destination, protocol, port = packet
    outcomes = [evaluate(file, packet, name) for name in carried(protocol)]
    allowing = [outcome for outcome in outcomes if actions[outcome[1]] is Action.ALLOW]
    expected = min(allowing)[1] if allowing else max(outcomes)[1]
    assert policy.match(zone_from, zone_to, source, destination, protocol, 40000, port, application).name == expected


@given(policies)
@settings(max_examples=50)
def test_a_rule_warned_about_never_decides(file: dict[str, Any]) -> None:
    policy = Policy.parse(yaml.safe_dump(file))
    warned = {warning.split("'")[1] for warning in policy.warnings}
    for zone_from in (*ZONES, "c"):
        for protocol, port in ((TCP, 22), (TCP, 5201), (UDP, 53), (ICMP, 0), (GRE, 0)):
            for source in range(address("10.0.0.1"), address("10.0.0.7")):
                for application in carried(protocol):
                    rule = policy.match(zone_from, "a", source, address("10.0.0.2"), protocol, 1, port, application)
                    assert rule.name not in warned


# --- cases ----------------------------------------------------------------------------------------------------------


def first(text: str, *, application: str | None, protocol: int = TCP, port: int = 22, zone_to: str = "a") -> str:
    policy = Policy.parse("zones: [a, b]\n" + text)
    return policy.match("a", zone_to, address("10.0.0.1"), address("10.0.0.2"), protocol, 1, port, application).name


def test_defaults_are_allow_within_a_zone_and_deny_between_zones() -> None:
    policy = Policy.parse("{}")
    assert policy.rules == (
        Rule("intrazone-default", Action.ALLOW, log_start=False, log_end=False),
        Rule("interzone-default", Action.DENY, log_start=False, log_end=False),
    )
    assert first("", application="ssh") == "intrazone-default"
    assert first("", application="ssh", zone_to="b") == "interzone-default"


def test_defaults_can_be_overridden() -> None:
    policy = Policy.parse("defaults: {intrazone: {action: reset-both, log_end: true}}")
    assert policy.rules[0] == Rule("intrazone-default", Action.RESET_BOTH, log_start=False, log_end=True)
    assert policy.rules[1].action is Action.DENY


def test_the_action_words_are_pan_os_words() -> None:
    words = ["allow", "deny", "drop", "reset-client", "reset-server", "reset-both"]
    text = "rules:\n" + "".join(f"- {{name: r{word}, application: ssh, action: {word}}}\n" for word in words)
    assert [rule.action.value for rule in Policy.parse(text).rules[:-2]] == words


def test_a_rule_left_empty_is_any_on_standard_ports_logged_at_the_end() -> None:
    text = "rules: [{name: r, action: allow}]\ndefaults: {intrazone: {action: deny}}"
    assert Policy.parse(text).rules[0] == Rule("r", Action.ALLOW, log_start=False, log_end=True, inspect=False)
    assert first(text, application="ssh", port=22) == "r"
    assert first(text, application="ssh", port=2222) == "intrazone-default"
    assert first(text, application="unknown-tcp", port=22) == "intrazone-default"
    assert first(text, application="ping", protocol=ICMP, port=0) == "r"
    assert first(text, application="unknown-ip", protocol=GRE, port=0) == "intrazone-default"


DENY_SSH = "rules: [{name: no-ssh, application: ssh, service: any, action: deny}, %s]"


@pytest.mark.parametrize(
    ("rest", "application", "expected"),
    [
        ("{name: rest, service: any, action: allow}", None, "rest"),
        ("{name: rest, service: any, action: allow}", "insufficient-data", "rest"),
        ("{name: rest, service: any, action: allow}", "ssh", "no-ssh"),
        ("{name: rest, service: any, action: drop}", None, "rest"),
        ("{name: rest, application: ssh, action: allow}, {name: last, service: any, action: drop}", None, "last"),
        ("{name: rest, application: ssl, action: allow}, {name: last, service: any, action: drop}", None, "last"),
        ("{name: rest, application: ssl, service: tcp/22, action: allow}", None, "rest"),
    ],
)
def test_the_first_packet(rest: str, application: str | None, expected: str) -> None:
    assert first(DENY_SSH % rest, application=application) == expected


# --- the policies that ship -----------------------------------------------------------------------------------------

GWLB = Policy.load(ROOT / "topologies/policies/gwlb.yaml")
SEED = Policy.load(ROOT / "topologies/policies/seed.yaml")
CLIENT, SERVER = "203.0.113.10", "198.51.100.10"
WEB1, APP1, WEB2, APP2 = "10.200.0.20", "10.200.1.52", "10.250.1.20", "10.250.0.52"


@pytest.mark.parametrize(
    ("policy", "zone", "source", "destination", "application", "protocol", "port", "expected"),
    [
        (GWLB, "inbound-spoke1", CLIENT, WEB1, "web-browsing", TCP, 80, "inbound-web"),
        (GWLB, "inbound-spoke1", CLIENT, WEB1, "ssh", TCP, 22, "inbound-services"),
        (GWLB, "inbound-spoke1", CLIENT, WEB1, "iperf3", UDP, 5201, "inbound-services"),
        (GWLB, "inbound-spoke2", CLIENT, WEB2, "ping", ICMP, 0, "inbound-services"),
        (GWLB, "inbound-spoke1", CLIENT, WEB1, "ssh", TCP, 80, "deny-all"),
        (GWLB, "inbound-spoke1", CLIENT, WEB1, "mysql", TCP, 3306, "deny-all"),
        (GWLB, "inbound-spoke1", CLIENT, APP1, "web-browsing", TCP, 80, "deny-all"),
        (GWLB, "inbound-spoke1", APP2, WEB1, "web-browsing", TCP, 80, "deny-all"),
        (GWLB, "inbound-spoke1", WEB1, SERVER, "ssl", TCP, 443, "outbound"),
        (GWLB, "transit", APP1, SERVER, "web-browsing", TCP, 80, "outbound"),
        (GWLB, "transit", APP1, SERVER, "dns", UDP, 53, "outbound"),
        (GWLB, "transit", APP1, SERVER, "iperf3", TCP, 5201, "outbound"),
        (GWLB, "transit", APP1, SERVER, "ftp", TCP, 21, "deny-all"),
        (GWLB, "transit", WEB1, APP2, "ssh", TCP, 22, "east-west"),
        (GWLB, "transit", WEB1, APP2, "iperf3", TCP, 5201, "east-west"),
        (GWLB, "transit", WEB1, APP2, "ping", ICMP, 0, "east-west"),
        (GWLB, "transit", WEB1, APP2, "icmp", ICMP, 0, "deny-all"),
        (GWLB, "transit", WEB1, APP2, "unknown-tcp", TCP, 8080, "east-west-in-house"),
        (GWLB, "transit", WEB1, APP2, "unknown-tcp", TCP, 8081, "deny-all"),
        (GWLB, "transit", WEB1, APP2, None, TCP, 22, "east-west"),
        (GWLB, "transit", WEB1, APP2, None, TCP, 23, "deny-all"),
        (GWLB, "transit", "10.100.0.5", APP2, "ssh", TCP, 22, "deny-all"),
        (SEED, "transit", WEB1, APP2, "ssh", TCP, 22, "allow-ssh"),
        (SEED, "transit", WEB1, APP2, None, TCP, 22, "allow-ssh"),
        (SEED, "transit", APP2, WEB1, "ssh", TCP, 22, "allow-ssh"),
        (SEED, "transit", APP2, WEB1, "ssh", TCP, 2222, "deny-all"),
        (SEED, "transit", WEB1, APP2, "mysql", TCP, 3306, "deny-all"),
        (SEED, "transit", WEB1, APP2, "ping", ICMP, 0, "block-icmp"),
        (SEED, "transit", WEB1, APP2, "icmp", ICMP, 0, "block-icmp"),
        (SEED, "transit", WEB1, APP2, None, ICMP, 0, "block-icmp"),
        (SEED, "transit", WEB1, APP2, "iperf3", TCP, 5201, "deny-all"),
        (SEED, "inbound-spoke1", CLIENT, WEB1, "web-browsing", TCP, 80, "inbound-web"),
        (SEED, "transit", APP1, SERVER, "ssl", TCP, 443, "outbound"),
    ],
)
def test_the_policies_that_ship(
    policy: Policy,
    zone: str,
    source: str,
    destination: str,
    application: str | None,
    protocol: int,
    port: int,
    expected: str,
) -> None:
    rule = policy.match(zone, zone, address(source), address(destination), protocol, 40000, port, application)
    assert rule.name == expected


@pytest.mark.parametrize("policy", [GWLB, SEED])
def test_the_policies_that_ship_end_with_a_logged_denial_and_have_no_warning(policy: Policy) -> None:
    assert policy.warnings == ()
    assert policy.rules[-3] == Rule("deny-all", Action.DENY, log_start=False, log_end=True)


def test_the_policies_declare_the_zones_of_the_topology() -> None:
    topology = yaml.safe_load((ROOT / "topologies/gwlb.yaml").read_text())
    zones = set(topology["firewalls"]["zones"].values())
    assert GWLB.zones == SEED.zones == zones


def test_the_schema_is_the_models() -> None:
    """Renew it with: python -m firewall_vnf.policy_file > firewall_vnf/policy.schema.json"""
    assert (ROOT / "firewall_vnf/policy.schema.json").read_text() == schema()
