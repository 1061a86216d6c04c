"""What a wrong policy file is answered with: the texts are part of the product."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firewall_vnf.policy import Policy, PolicyError

ERRORS = {
    # syntax and form
    "rules: [": "fw.yaml:1: not valid YAML: expected the node content, but found '<stream end>'",
    "zones: [a]\nzones: [b]": "fw.yaml:2: not valid YAML: 'zones' is there twice; remove or rename one",
    "addresses:\n  web: 10.0.0.1\n  web: 10.0.0.2": (
        "fw.yaml:3: not valid YAML: 'web' is there twice; remove or rename one"
    ),
    "": "fw.yaml: not a policy: write sections such as zones: and rules:",
    "rule: []": "fw.yaml: top level: unknown key 'rule'; did you mean 'rules'?",
    "rules: 3": "fw.yaml: rules: 3 is not a list; see the example of the format",
    "rules: [3]": "fw.yaml: rule number 1: 3 is not a mapping; see the example of the format",
    "rules: [{name: web, acton: allow, action: allow}]": (
        "fw.yaml: rule 'web': unknown key 'acton'; did you mean 'action'?"
    ),
    "{[a]: b}": "fw.yaml:1: not valid YAML: found unhashable key",
    "[" * 3000: "fw.yaml: nested too deeply; a policy needs four levels",
    "rules: [{action: allow}]": "fw.yaml: rule number 1: 'name' is missing; add it",
    "rules: [{name: web}]": "fw.yaml: rule 'web': 'action' is missing; add it",
    "rules: [{name: web, action: alow}]": "fw.yaml: rule 'web', action: unknown action 'alow'; did you mean 'allow'?",
    "rules: [{name: web, action: xyz}]": (
        "fw.yaml: rule 'web', action: unknown action 'xyz'; "
        "known are allow, deny, drop, reset-client, reset-server, reset-both"
    ),
    "rules: [{name: web, action: allow, log_end: 7}]": "fw.yaml: rule 'web', log_end: 7 is neither true nor false",
    "rules: [{name: 7, action: allow}]": (
        "fw.yaml: rule number 1, name: 7 is not text; put it in quotes if it is meant as text"
    ),
    "zones: [2nd]": (
        "fw.yaml: zones.0: '2nd' is no name: begin with a letter, then letters, digits and ._- up to 63 characters"
    ),
    "defaults: {intrazone: {acton: deny}}": (
        "fw.yaml: defaults.intrazone: 'action' is missing; add it\n"
        "fw.yaml: defaults.intrazone: unknown key 'acton'; did you mean 'action'?"
    ),
    # objects
    "addresses: {web: 10.0.0}": (
        "fw.yaml: address 'web': '10.0.0' is no address; write 10.0.0.1, 10.0.0.0/24 or 10.0.0.1-10.0.0.9"
    ),
    "addresses: {web: 10.0.0.1/24}": (
        "fw.yaml: address 'web': '10.0.0.1/24' has host bits set; did you mean '10.0.0.0/24'?"
    ),
    "addresses: {web: 10.0.0.9-10.0.0.1}": (
        "fw.yaml: address 'web': '10.0.0.9-10.0.0.1' ends before it begins; swap the two addresses"
    ),
    "address_groups: {web: []}": "fw.yaml: address_groups.web: is empty; name something, or leave it out",
    "address_groups: {web: [a]}": "fw.yaml: address group 'web': unknown address 'a'; known are web",
    "address_groups: {a: [b], b: [c], c: [b]}": (
        "fw.yaml: address group 'b' contains itself: b -> c -> b; break the cycle"
    ),
    "addresses: {web: 10.0.0.1}\naddress_groups: {web: [web]}": (
        "fw.yaml: address group 'web': there is address 'web' too; rename one"
    ),
    "addresses: {any: 10.0.0.1}": "fw.yaml: address 'any': the name has a meaning in rules; rename it",
    "application_groups: {ssh: [dns]}": "fw.yaml: application group 'ssh': there is application 'ssh' too; rename one",
    "application_groups: {web: [webbrowsing]}": (
        "fw.yaml: application group 'web': unknown application 'webbrowsing'; did you mean 'web-browsing'?"
    ),
    "services: {web: http}": (
        "fw.yaml: service 'web': 'http' is no service; write tcp/80, udp/53,123 or tcp/8000-8100"
    ),
    "services: {web: icmp/8}": (
        "fw.yaml: service 'web': 'icmp/8' is no service; write tcp/80, udp/53,123 or tcp/8000-8100"
    ),
    "services: {web: tcp/80-}": (
        "fw.yaml: service 'web': 'tcp/80-' is no service; write tcp/80, udp/53,123 or tcp/8000-8100"
    ),
    "services: {web: tcp/0}": "fw.yaml: service 'web': 'tcp/0': ports are 1 to 65535, the lower one first",
    "services: {web: tcp/90-80}": "fw.yaml: service 'web': 'tcp/90-80': ports are 1 to 65535, the lower one first",
    # rules
    "addresses: {spoke1: 10.0.0.0/8}\nrules: [{name: web, source: spoek1, action: allow}]": (
        "fw.yaml: rule 'web', source: unknown address 'spoek1'; did you mean 'spoke1'?"
    ),
    "rules: [{name: web, destination: 10.0.0.300, action: allow}]": (
        "fw.yaml: rule 'web', destination: '10.0.0.300' is no address; write 10.0.0.1, 10.0.0.0/24 or 10.0.0.1-10.0.0.9"
    ),
    "zones: [transit]\nrules: [{name: web, from: transitt, action: allow}]": (
        "fw.yaml: rule 'web', from: unknown zone 'transitt'; did you mean 'transit'?"
    ),
    "rules: [{name: web, to: transit, action: allow}]": (
        "fw.yaml: rule 'web', to: unknown zone 'transit'; none are defined"
    ),
    "rules: [{name: web, service: [any, tcp/80], action: allow}]": (
        "fw.yaml: rule 'web', service: 'any' stands alone; remove it or the others"
    ),
    "rules: [{name: web, service: [application-default, tcp/80], action: allow}]": (
        "fw.yaml: rule 'web', service: 'application-default' stands alone; remove it or the others"
    ),
    "rules: [{name: web, negate_source: true, action: allow}]": (
        "fw.yaml: rule 'web', source: nothing is left of any when negated; name addresses"
    ),
    "rules: [{name: web, action: allow}, {name: web, disabled: true, action: deny}]": (
        "fw.yaml: rule 'web', name: there is a rule of this name before; rename one"
    ),
    "rules: [{name: intrazone-default, action: deny}]": (
        "fw.yaml: rule 'intrazone-default', name: it is a default rule's, to be set under defaults; rename this one"
    ),
    # all at once, each only once
    "addresses: {web: x}\naddress_groups: {g: [web]}\nrules: [{name: r, source: [g, web], action: deny, to: z}]": (
        "fw.yaml: address 'web': 'x' is no address; write 10.0.0.1, 10.0.0.0/24 or 10.0.0.1-10.0.0.9\n"
        "fw.yaml: rule 'r', to: unknown zone 'z'; none are defined"
    ),
}

WARNINGS = {
    "rules: [{name: all, service: any, action: deny}, {name: web, application: web-browsing, action: allow}]": (
        "fw.yaml: rule 'web' never matches: rule 'all' before it shadows it"
    ),
    "rules: [{name: ping, application: ping, service: tcp/80, action: allow}]": (
        "fw.yaml: rule 'ping' never matches: none of its applications uses its services"
    ),
    "rules: [{name: x, application: unknown-tcp, action: allow}]": (
        "fw.yaml: rule 'x' never matches: none of its applications uses its services"
    ),
}

SILENT = [
    "rules: [{name: all, service: any, action: deny, disabled: true}, {name: web, action: allow}]",
    "rules: [{name: half, source: 0.0.0.0/1, service: any, action: deny}, {name: web, action: allow}]",
    "zones: [a]\nrules: [{name: a, from: a, service: any, action: deny}, {name: web, action: allow}]",
    "rules: [{name: standard, action: deny}, {name: web, application: web-browsing, service: any, action: allow}]",
]


@pytest.mark.parametrize(("text", "message"), ERRORS.items())
def test_errors(text: str, message: str) -> None:
    with pytest.raises(PolicyError) as caught:
        Policy.parse(text, "fw.yaml")
    assert str(caught.value) == message
    assert caught.value.problems == tuple(message.split("\n"))


@pytest.mark.parametrize(("text", "warning"), WARNINGS.items())
def test_warnings(text: str, warning: str) -> None:
    assert Policy.parse(text, "fw.yaml").warnings == (warning,)


@pytest.mark.parametrize("text", SILENT)
def test_no_warning(text: str) -> None:
    assert Policy.parse(text).warnings == ()


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "fw.yaml"
    with pytest.raises(PolicyError) as caught:
        Policy.load(path)
    assert str(caught.value) == f"{path}: cannot read the policy: No such file or directory"


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    path = tmp_path / "fw.yaml"
    path.write_bytes(b"zones: [\xff]")
    with pytest.raises(PolicyError) as caught:
        Policy.load(path)
    assert str(caught.value) == f"{path}: not UTF-8 text at byte 8; save it as UTF-8"


PIECES = (
    "zones|rules|addresses|any|- |: |{|}|[|]|,|\n|  |name|action|allow|source|10.0.0.1|tcp/80|-|&a|*a|!!x|'|\t|\0|<<"
)


@given(st.one_of(st.text(), st.lists(st.sampled_from(PIECES.split("|"))).map("".join)))
def test_any_text_is_a_policy_or_an_error_of_whole_lines(text: str) -> None:
    problems: tuple[str, ...] = ()
    try:
        Policy.parse(text, "fw.yaml")
    except PolicyError as error:
        problems = error.problems or ("no problem named",)
    assert all(problem.startswith("fw.yaml") and "\n" not in problem for problem in problems)
