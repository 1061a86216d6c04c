"""YAML to :class:`~topologies.model.Topology`; every error is one line: file, line, place, what, what to do.

::

    gwlb.yaml:23: vpcs.spoke1.route_tables.igw-edge.routes: 10.200.0.16/29 is not a whole subnet; use 10.200.0.16/28 …

A file is read in four steps: YAML's syntax, the model's shape (pydantic), what is left out
(:mod:`topologies.defaults`), AWS's rules (:mod:`topologies.validation`). All errors of a step are reported together.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from topologies import catalogue
from topologies.defaults import fill
from topologies.model import Topology
from topologies.problem import Place, Problem, did_you_mean
from topologies.validation import validate

#: Of a YAML file; deeper is a mistake, or an alias that contains itself.
MAX_DEPTH = 12
#: What is wrong with a text that has not the form of its key, and what to do; without a line here it is a name.
FORMS = {
    "az": ("is not an Availability Zone", "use one letter, a to f"),
    "owner": ("is not an account number", "write 12 digits in quotes"),
    "allowed_principals": (
        "is not a principal",
        'write an account number, arn:aws:iam::ACCOUNT:root or "*", in quotes',
    ),
    "path": ("is not a URL's path", "begin with / and use no space"),
    "matcher": ("is no list of HTTP codes", "write them as 200 or 200,302 or 200-399"),
    "name_prefix": ("cannot begin a name", "use up to 9 lower-case letters and dashes, a letter first"),
}


class TopologyError(Exception):
    """A topology that cannot be used. ``problems`` holds one line each, ``str()`` is all of them."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(self.problems))


def load_topology(path_or_name: str | Path) -> Topology:
    """Return a YAML file's topology, or a packaged one's by name: valid, with defaults filled in.

    Raises TopologyError with every problem of the first step that found one.
    """
    path = find(path_or_name)
    return parse(read(path), path)


def find(path_or_name: str | Path) -> Path:
    """Return the file of a topology. Raises TopologyError, with suggestions, where there is none."""
    packaged = catalogue.packaged()
    name = str(path_or_name)
    if name in packaged:
        return packaged[name]
    if Path(name).is_file():
        return Path(name)
    if "/" in name or name.endswith((".yaml", ".yml")):
        raise TopologyError([f"no file {name}; packaged topologies go by name: {', '.join(packaged)}"])
    raise TopologyError([f"no topology {name!r}; {did_you_mean(name, packaged)} (or give the path of a YAML file)"])


def read(path: Path) -> str:
    """Return a file's text, its bytes in UTF-8. Raises TopologyError."""
    try:
        return path.read_bytes().decode()
    except (OSError, UnicodeDecodeError) as error:
        raise TopologyError([f"{path}: cannot be read: {error}"]) from None


def parse(text: str, path: Path) -> Topology:
    """Return the topology that *text*, the content of *path*, describes. Raises TopologyError."""
    source = Source(path.name)
    topology = fill(from_json(text) or from_yaml(text, source))
    problems = validate(topology)
    if topology.firewalls:
        policy = (path.parent / topology.firewalls.policy).resolve()
        if not policy.is_file():
            remedy = "a policy's path is relative to the topology's file"
            problems.append(Problem(("firewalls", "policy"), f"no file {topology.firewalls.policy}", remedy))
        firewalls = topology.firewalls.model_copy(update={"policy": str(policy)})
        topology = topology.model_copy(update={"firewalls": firewalls})
    if problems:
        if not source.lines:
            source.read(text)
        raise source.error(problems)
    return topology


def from_json(text: str) -> Topology | None:
    """Return the topology that a JSON text holds, None if it is no JSON or no topology.

    A running lab's file is JSON, which the model reads in a fraction of the time that YAML takes.
    """
    try:
        return Topology.model_validate_json(text) if text.startswith("{") else None
    except ValidationError:
        return None  # as YAML it is told what is wrong, and where


def from_yaml(text: str, source: Source) -> Topology:
    """Return the topology that a YAML text describes, before anything is filled in. Raises TopologyError."""
    document = source.read(text)
    try:
        return Topology.model_validate(document)
    except ValidationError as error:
        raise source.error(shape_problem(details) for details in error.errors()) from None


class Source:
    """A YAML text and the line of each of its places."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.lines: dict[Place, int] = {}
        self.problems: list[Problem] = []

    def read(self, text: str) -> Any:
        """Return the text's content as dictionaries, lists and scalars. Raises TopologyError."""
        loader = yaml.SafeLoader(text)
        try:
            root = loader.get_single_node()
            content = self._content(loader, root, ()) if root else None
        except yaml.MarkedYAMLError as error:
            line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
            what = " ".join(filter(None, [error.context, error.problem]))
            raise TopologyError([f"{self.name}{line}: not YAML: {what}"]) from None
        except yaml.YAMLError as error:
            raise TopologyError([f"{self.name}: not YAML: {str(error).splitlines()[0]}"]) from None
        finally:
            loader.dispose()
        if not isinstance(content, dict):
            raise TopologyError([f"{self.name}: no topology in it; it begins with `name:` and `vpcs:`"])
        if self.problems:
            raise self.error(self.problems)
        return content

    def _content(self, loader: yaml.SafeLoader, node: yaml.Node, place: Place) -> Any:
        self.lines.setdefault(place, node.start_mark.line + 1)
        if len(place) > MAX_DEPTH:
            raise yaml.constructor.ConstructorError(None, None, "nested too deeply", node.start_mark)
        if isinstance(node, yaml.SequenceNode):
            return [self._content(loader, item, (*place, str(index))) for index, item in enumerate(node.value)]
        if not isinstance(node, yaml.MappingNode):
            return loader.construct_object(node)
        content: dict[str, Any] = {}
        for key_node, value in node.value:
            # A key is text even where YAML 1.1 reads a truth value or a number: `no`, `on`, `12`.
            key = str(key_node.value)
            where = (*place, key)
            if where in self.lines:
                what = f"is there twice, first in line {self.lines[where]}"
                self.problems.append(Problem(where, what, "keep one", line=key_node.start_mark.line + 1))
                continue
            self.lines[where] = key_node.start_mark.line + 1
            content[key] = self._content(loader, value, where)
        return content

    def error(self, problems: Iterable[Problem]) -> TopologyError:
        """Return the error that says, line by line, what the problems are, in the file's order."""
        located = sorted(
            (problem.line or self._line((*problem.place, problem.key)), str(problem)) for problem in problems
        )
        return TopologyError(f"{self.name}:{line}: {text}" for line, text in located)

    def _line(self, place: Place) -> int:
        while place not in self.lines:
            place = place[:-1]
        return self.lines[place]


def shape_problem(details: ErrorDetails) -> Problem:
    """Return pydantic's error in the words of the field."""
    *parts, last = (str(part) for part in without_tags(details["loc"]) if part != "[key]")
    above, place, value = tuple(parts), (*parts, last), details["input"]
    field = next((part for part in reversed(place) if not part.isdigit()), "")  # of a list, the list's key
    at, key = (above, last) if details["loc"][-1] == "[key]" else (place, "")
    match details["type"]:
        case "missing":
            return Problem(above, f"{last} is missing", "add it")
        case "extra_forbidden":
            return Problem(above, f"unknown key {last!r}", did_you_mean(last, fields(above)), last)
        case "string_pattern_mismatch" if field in FORMS:
            what, remedy = FORMS[field]
            return Problem(place, f"{value!r} {what}", remedy)
        case "string_pattern_mismatch":
            remedy = (
                "use up to 12 lower-case letters, digits and dashes, a letter first (bw-NAME is an interface's name)"
            )
            return Problem(at, f"{value!r} is not a name", remedy, key)
        case "string_type" if isinstance(value, (int, float)):
            return Problem(place, f"{value} is not text", "put it in quotes")
        case "union_tag_not_found" | "union_tag_invalid":
            return Problem(place, "no type that a scaling policy has", "set `type` to target-tracking or step", "type")
        case "ip_v4_network" | "ip_v4_address" as kind:
            return Problem(at, *address_problem(value, kind), key)
        case "dict_type" | "model_type":
            return Problem(place, f"{shown(value)} is not a mapping", "write its keys and values below it")
        case _:
            return Problem(place, f"{shown(value)} {details['msg'].removeprefix('Input ')}", "correct it")


def without_tags(location: tuple[int | str, ...]) -> list[int | str]:
    """Return pydantic's place without the type of a scaling policy, which it puts after the policy's name."""
    return [part for index, part in enumerate(location) if index < 2 or location[index - 2] != "scaling_policies"]


def address_problem(value: Any, kind: str) -> tuple[str, str]:
    """Return what is wrong with an address or network, and what to do."""
    if kind == "ip_v4_address":
        return f"{shown(value)} is not an IPv4 address", "write one as 10.200.0.20"
    try:
        network = IPv4Network(value, strict=False)
    except (ValueError, TypeError):
        return f"{shown(value)} is not an IPv4 network", "write one as 10.200.0.0/16"
    return f"{value} is an address within a network", f"write the network, {network}"


def shown(value: Any) -> str:
    """Return a value as it may stand in a line: short."""
    if isinstance(value, (dict, list)):
        return "a mapping" if isinstance(value, dict) else "a list"
    return "nothing" if value is None else repr(value)


def fields(place: Place) -> list[str]:
    """Return the keys that the model allows at a place, by walking the model along the place's parts."""
    models: list[type[BaseModel]] = [Topology]
    for part in place:
        for model in models:
            if part in model.model_fields:  # the other parts are resources' names
                models = list(models_in(model.model_fields[part].annotation)) or models
                break
    return list(dict.fromkeys(field for model in models for field in model.model_fields))


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the models that a type is made of."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from models_in(part)
