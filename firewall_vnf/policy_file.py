"""The policy file: its YAML form.

::

    zones: [inbound, transit]
    addresses: {web1: 10.200.0.20, spokes: 10.200.0.0/16, pool: 10.0.0.5-10.0.0.9}
    address_groups: {servers: [web1, pool]}               # groups nest
    services: {high-ports: "tcp/8000-8100,9000"}
    service_groups: {measurement: [high-ports, udp-5201]}
    application_groups: {management: [ssh, ping]}
    rules:                                                # the first that matches decides
      - {name: web, from: inbound, to: inbound, destination: servers, application: web-browsing, action: allow}
    defaults: {intrazone: {action: deny, log_end: true}}  # overrides; else intrazone allow, interzone deny

What a rule leaves out is ``any``; a service left out is ``application-default`` (as in PAN-OS's form for a new rule).
In place of a name, a rule or group may have the address or service itself. A rule's ``offload`` says when the kernel
may carry its sessions without the firewall: ``after-app-id`` (default), ``{after: 64KiB}``, ``never``. Editors complete
it by ``policy.schema.json`` beside this module, which ``python -m firewall_vnf.policy_file`` prints.
"""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, ValidationError, WithJsonSchema
from pydantic_core import ErrorDetails, PydanticCustomError

from firewall_vnf.applications import APPLICATIONS, Action

ANY = "any"
APPLICATION_DEFAULT = "application-default"


class PolicyError(Exception):
    """One line for each problem: file, place, what is wrong, what to do. ``problems`` has them one by one."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


NAME = r"^[A-Za-z][A-Za-z0-9._ -]{0,62}$"
Name = Annotated[str, StringConstraints(pattern=NAME)]


def _one_or_many(value: object) -> object:
    return (value,) if isinstance(value, str) else value


def _names(of: Mapping[str, Any]) -> dict[str, Any]:
    return {"anyOf": [of, {"type": "array", "items": of, "minItems": 1}]}


_TEXT = {"type": "string"}
Names = Annotated[tuple[str, ...], Field(min_length=1), BeforeValidator(_one_or_many), WithJsonSchema(_names(_TEXT))]
ApplicationNames = Annotated[
    tuple[str, ...],
    Field(min_length=1),
    BeforeValidator(_one_or_many),
    WithJsonSchema(_names({"anyOf": [{"enum": [ANY, *APPLICATIONS]}, _TEXT]})),
]


_UNITS = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
AFTER_APP_ID, NEVER = "after-app-id", "never"


def _offload_after(value: object) -> int | None:
    """Return the bytes of a session after which it may be offloaded, None for never."""
    if value in (AFTER_APP_ID, NEVER):
        return 0 if value == AFTER_APP_ID else None
    if isinstance(value, dict) and list(value) == ["after"]:
        size = re.fullmatch(r"([1-9][0-9]{0,14}) ?(B|KiB|MiB|GiB)", str(value["after"]))
        if size:
            return int(size[1]) * _UNITS[size[2]]
    raise PydanticCustomError("offload", "write after-app-id, never, or after: and a size in B, KiB, MiB or GiB")


_SIZE = {"type": "string", "pattern": "^[1-9][0-9]{0,14} ?(B|KiB|MiB|GiB)$"}
_AFTER = {"type": "object", "properties": {"after": _SIZE}, "required": ["after"], "additionalProperties": False}
OffloadAfter = Annotated[
    int | None,
    BeforeValidator(_offload_after),
    WithJsonSchema({"anyOf": [{"enum": [AFTER_APP_ID, NEVER]}, _AFTER]}),
]


class _Form(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DefaultRuleForm(_Form):
    """``log_start`` and ``log_end``: a traffic log entry when a session starts and ends."""

    action: Action
    log_start: bool = False
    log_end: bool = False


class RuleForm(_Form):
    """``inspect``: the inspections of the firewall's configuration look into the sessions.

    ``offload_after`` is in bytes: 0 as soon as App-ID is final and no inspection looks any more, None for never. A
    limit ends the inspection, too.
    """

    name: Name
    description: str = ""
    disabled: bool = False
    zones_from: Names = Field(default=(ANY,), alias="from")
    zones_to: Names = Field(default=(ANY,), alias="to")
    source: Names = (ANY,)
    negate_source: bool = False
    destination: Names = (ANY,)
    negate_destination: bool = False
    application: ApplicationNames = (ANY,)
    service: Names = (APPLICATION_DEFAULT,)
    action: Action
    inspect: bool = False
    offload_after: OffloadAfter = Field(default=0, alias="offload", json_schema_extra={"default": AFTER_APP_ID})
    log_start: bool = False
    log_end: bool = True


class DefaultsForm(_Form):
    intrazone: DefaultRuleForm = DefaultRuleForm(action=Action.ALLOW)
    interzone: DefaultRuleForm = DefaultRuleForm(action=Action.DENY)


class PolicyForm(_Form):
    """Security policy of a firewall: objects, rules in order, the two default rules."""

    zones: tuple[Name, ...] = ()
    addresses: dict[Name, str] = {}
    address_groups: dict[Name, Names] = {}
    services: dict[Name, str] = {}
    service_groups: dict[Name, Names] = {}
    application_groups: dict[Name, ApplicationNames] = {}
    rules: tuple[RuleForm, ...] = ()
    defaults: DefaultsForm = DefaultsForm()


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML keeps the last of two equal keys without a word; here that is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                continue
            key = key_node.value
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key!r} is there twice; remove or rename one", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def read_policy(path: Path) -> PolicyForm:
    """Read and check the form of a policy file. Raises :class:`PolicyError` (also when there is no such file)."""
    try:
        return parse_policy(path.read_text(encoding="utf-8"), path.name)
    except OSError as error:
        raise PolicyError([f"{path}: cannot read the policy: {error.strerror}"]) from error
    except UnicodeDecodeError as error:
        raise PolicyError([f"{path}: not UTF-8 text at byte {error.start}; save it as UTF-8"]) from error


def parse_policy(text: str, name: str) -> PolicyForm:
    """As :func:`read_policy`, of a text; ``name`` stands for the file in errors."""
    try:
        data = yaml.load(text, _UniqueKeyLoader)
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise PolicyError([f"{name}{line}: not valid YAML: {error.problem}"]) from error
    except yaml.YAMLError as error:
        raise PolicyError([f"{name}: not valid YAML: {' '.join(str(error).split())}"]) from error
    except RecursionError as error:
        raise PolicyError([f"{name}: nested too deeply; a policy needs four levels"]) from error
    if not isinstance(data, dict):
        raise PolicyError([f"{name}: not a policy: write sections such as zones: and rules:"])
    try:
        return PolicyForm.model_validate(data)
    except ValidationError as error:
        raise PolicyError(f"{name}: {_place(item, data)}: {_explain(item)}" for item in error.errors()) from error


def _place(error: ErrorDetails, data: dict[str, Any]) -> str:
    """Rules by their name, everything else by its path."""
    path = [str(part) for part in error["loc"] if part != "[key]"]
    if error["type"] in ("extra_forbidden", "missing"):
        path.pop()
    if len(path) > 1 and path[0] == "rules":
        rule = data["rules"][int(path[1])]
        known = isinstance(rule, dict) and isinstance(rule.get("name"), str)
        path[:2] = [f"rule {rule['name']!r}" if known else f"rule number {int(path[1]) + 1}"]
        return ", ".join(path)
    return ".".join(path) or "top level"


_KEYS = {
    "rules": [info.alias or name for name, info in RuleForm.model_fields.items()],
    "defaults": [*DefaultsForm.model_fields, *DefaultRuleForm.model_fields],
    "": list(PolicyForm.model_fields),
}


def _explain(error: ErrorDetails) -> str:
    kind, location, value = error["type"], error["loc"], error["input"]
    if kind == "extra_forbidden":
        section = str(location[0]) if len(location) > 1 else ""
        return f"unknown key {str(location[-1])!r}{suggestion(str(location[-1]), _KEYS[section])}"
    if kind == "missing":
        return f"{location[-1]!r} is missing; add it"
    if kind == "enum":
        actions = [action.value for action in Action]
        return f"unknown action {value!r}{suggestion(str(value), actions)}"
    if kind == "too_short":
        return "is empty; name something, or leave it out"
    if kind == "string_pattern_mismatch":
        return f"{value!r} is no name: begin with a letter, then letters, digits and ._- up to 63 characters"
    if kind == "string_type":
        return f"{value!r} is not text; put it in quotes if it is meant as text"
    if kind in ("tuple_type", "dict_type", "model_type"):
        return f"{value!r} is not a {'list' if kind == 'tuple_type' else 'mapping'}; see the example of the format"
    if kind.startswith("bool_"):
        return f"{value!r} is neither true nor false"
    return f"{error['msg'][0].lower()}{error['msg'][1:]}, not {value!r}"


def suggestion(name: str, known: Iterable[str]) -> str:
    """The end of an error about an unknown ``name``: the likely one, else all."""
    known = list(known)
    close = get_close_matches(name, known, 1)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known are {', '.join(known)}" if known else "; none are defined"


def schema() -> str:
    """The JSON schema of the file, as text."""
    return json.dumps(PolicyForm.model_json_schema(), indent=2) + "\n"


if __name__ == "__main__":
    print(schema(), end="")
