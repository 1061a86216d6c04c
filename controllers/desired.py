"""What all switches shall be, out of two files: the topology, and the state of the load balancers' targets.

A file is loaded only if its bytes have changed, and only what depends on it is compiled: how fast a failed target loses
its flows hangs on this.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from controllers.compiler import compile_element
from controllers.conntrack import endpoint_zones, zone_timeouts
from controllers.flows import Program
from controllers.state import State, StateError
from topologies.fabric import ElementKind, build_fabric
from topologies.loader import find, parse, read
from topologies.model import Topology


@dataclass(frozen=True)
class Desired:
    """Elements' names by datapath id, programs by name, and conntrack's time-outs by zone.

    A program that stays the same is the same object. ``endpoints`` are those of each load balancer, with their
    conntrack zones.

    ``generation`` counts from 1 how often files were taken. The digests are those of the files' bytes
    (:func:`file_digest`); that of the state is None where there is no such file.
    """

    names: Mapping[int, str]
    programs: Mapping[str, Program]
    timeouts: Mapping[int, Mapping[str, int]] = field(default_factory=dict)
    endpoints: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    generation: int = 0
    topology_digest: str | None = None
    state_digest: str | None = None


class Files:
    """The topology's file, or a packaged topology's name, and the file of the state, which need not exist."""

    def __init__(self, topology: str, state: Path | None = None, time_scale: float = 1.0) -> None:
        self.topology = topology
        self.state = state
        self.time_scale = time_scale
        self._model: Topology
        self._desired = Desired({}, {})
        self._stamps = self._look()

    def touched(self) -> bool:
        """Whether a file was written, replaced or removed since the files were last taken."""
        return self._look() != self._stamps

    def _look(self) -> list[tuple[int, ...] | None]:
        return [stamp(Path(self.topology)), stamp(self.state) if self.state else None]

    def take(self) -> Desired:
        """Return what the files want; where their bytes are the same as before, the same object.

        Without a state all registered targets are healthy. Raises TopologyError or StateError; nothing is taken then.
        """
        self._stamps = self._look()  # before reading, so that what is written meanwhile is seen the next time
        before, path = self._desired, find(self.topology)
        text, (state_digest, state) = read(path), read_state(self.state)
        digest = file_digest(text.encode())
        changed = digest != before.topology_digest
        if not changed and state_digest == before.state_digest:
            return before
        topology = parse(text, path) if changed else self._model
        fabric, known = build_fabric(topology), state or State.initial(topology)
        programs = dict(before.programs)
        for name, element in fabric.elements.items():
            if changed or element.kind is ElementKind.GATEWAY_LOAD_BALANCER:
                program = compile_element(topology, fabric, element, known, self.time_scale)
                if program != programs.get(name):
                    programs[name] = program
        names = {element.dpid: name for name, element in fabric.elements.items()}
        programs = {name: programs[name] for name in fabric.elements}
        timeouts = zone_timeouts(topology, self.time_scale)
        self._model = topology
        endpoints = endpoint_zones(topology)
        self._desired = Desired(names, programs, timeouts, endpoints, before.generation + 1, digest, state_digest)
        return self._desired


def file_digest(content: bytes) -> str:
    """Return what the status file calls a file's bytes."""
    return hashlib.blake2b(content, digest_size=8).hexdigest()


def stamp(path: Path) -> tuple[int, ...] | None:
    """Return what changes when a file is written or replaced; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size


def read_state(path: Path | None) -> tuple[str | None, State | None]:
    """Return the digest of a state's file, and the state; nothing where there is no file. Raises StateError."""
    try:
        return (file_digest(path.read_bytes()), State.load(path)) if path else (None, None)
    except FileNotFoundError:
        return None, None
    except OSError as error:
        raise StateError(f"{path}: cannot be read: {error}") from None
