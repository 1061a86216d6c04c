"""YAML to :class:`~topologies.model.Topology`; every error is one line: file, line, place, what, what to do.

::

    gwlb.yaml:23: vpcs.spoke1.route_tables.igw-edge.routes: 10.200.0.16/29 is not a whole subnet; use 10.200.0.16/28
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path

import yaml
from pydantic import ValidationError

from topologies import catalogue
from topologies.model import Topology


class TopologyError(Exception):
    """A topology that cannot be used. ``problems`` holds one line each, ``str()`` is all of them."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(self.problems))


def load_topology(path_or_name: str | Path) -> Topology:
    """Return a YAML file's topology, or a packaged one's by name. Raises TopologyError with every problem found."""
    path = find(path_or_name)
    try:
        document = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise TopologyError([f"{path.name}: {error}"]) from None
    try:
        return Topology.model_validate(document)
    except ValidationError as error:
        raise TopologyError(
            f"{path.name}: {'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()
        ) from None


def find(path_or_name: str | Path) -> Path:
    """Return the file of a topology. Raises TopologyError, with suggestions, where there is none."""
    packaged = catalogue.packaged()
    name = str(path_or_name)
    if name in packaged:
        return packaged[name]
    if Path(name).is_file():
        return Path(name)
    close = difflib.get_close_matches(name, packaged, n=1)
    hint = f"did you mean {close[0]}?" if close else f"there are: {', '.join(packaged)}; or give a YAML file"
    raise TopologyError([f"no topology {name!r}; {hint}"])
