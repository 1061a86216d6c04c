"""What a lab created and changed on this machine, written down before it happens.

``/run/bumpwire/lab.json`` is enough to take a lab down after its process was killed at any moment: nothing that a lab
makes is found by guessing a name that somebody else may use as well.

* Processes carry a token in their environment, which their children inherit; namespaces end with their processes.
* Bridges carry the token in ``external_ids``.
* Interfaces of the root namespace and settings of the system are listed here before they are made or changed.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO

from testbed.errors import MachineError

RUN_DIRECTORY = Path("/run/bumpwire")
#: The environment variable by which a lab's processes are known.
TOKEN_VARIABLE = "BUMPWIRE_LAB"


@dataclass
class Journal:
    """The record of the one lab of this machine.

    ``nodes`` maps a node's name to the process whose namespaces it lives in, ``settings`` a file under ``/proc/sys`` to
    the value that it had. ``datapath`` is Open vSwitch's ``system`` or ``netdev``; ``zones`` are the conntrack zones
    that the lab uses in it.
    """

    token: str
    pid: int
    topology: str
    datapath: str
    interfaces: list[str] = field(default_factory=list)
    zones: list[int] = field(default_factory=list)
    nodes: dict[str, int] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)

    @property
    def directory(self) -> Path:
        """Where the lab keeps its sockets, configuration and logs while it runs."""
        return RUN_DIRECTORY / "lab"

    def save(self) -> None:
        """Write the record to disk in one step."""
        temporary = RUN_DIRECTORY / "lab.json.new"
        temporary.write_text(json.dumps(asdict(self), indent=1))
        temporary.replace(RUN_DIRECTORY / "lab.json")

    def remove(self) -> None:
        (RUN_DIRECTORY / "lab.json").unlink(missing_ok=True)

    def change_setting(self, path: str, value: str) -> None:
        """Write *value* to the file *path*, having noted what was there; leave it where it may not be written.

        That is so in a container with a network of its own; `bumpwire doctor` says what it costs.
        """
        if not os.access(path, os.W_OK):
            return
        self.settings.setdefault(path, Path(path).read_text().strip())
        self.save()
        Path(path).write_text(value)

    def restore_settings(self) -> None:
        for path, value in self.settings.items():
            Path(path).write_text(value)
        self.settings.clear()
        self.save()


def new_journal(topology: str, datapath: str) -> Journal:
    """Start a record; from here on all children of this process carry its token."""
    journal = Journal(secrets.token_hex(8), os.getpid(), topology, datapath)
    os.environ[TOKEN_VARIABLE] = journal.token
    journal.directory.mkdir(parents=True)
    journal.save()
    return journal


def read_journal() -> Journal | None:
    """Return the record of the lab that runs, or that was left behind; None when there is neither."""
    try:
        return Journal(**json.loads((RUN_DIRECTORY / "lab.json").read_text()))
    except FileNotFoundError:
        return None


def lock() -> IO[str] | None:
    """Take the machine's lab lock; it is held until the returned file is closed or this process ends.

    Returns None when another lab holds it. Raises MachineError where the directory cannot be made.
    """
    try:
        RUN_DIRECTORY.mkdir(exist_ok=True)
        file = (RUN_DIRECTORY / "lock").open("w")
    except PermissionError:
        raise MachineError("needs root: run it with sudo") from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file
