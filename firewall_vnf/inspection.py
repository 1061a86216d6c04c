"""Content inspection: the hook for looking into what an allowed session carries.

A new inspection is a class of about 20 lines (:mod:`firewall_vnf.inspections.block_word` is the example), named in
the firewall's configuration as ``module:Class``. The engine makes one object of it for each session whose rule says
``inspect: true`` and whose application is in :attr:`Inspection.applications`, so state between packets is kept in
``self`` and goes with the session.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, ClassVar

from firewall_vnf.applications import APPLICATIONS, Action

if TYPE_CHECKING:
    from firewall_vnf.session import Session


class InspectionError(Exception):
    """One line: which inspection, what is wrong with it, what to do."""


@dataclass(frozen=True)
class Finding:
    """What an inspection found: ``threat`` for the threat log, ``action`` for the session.

    ``Action.ALLOW`` logs only (PAN-OS's "alert"), all others end the session as a rule's action would.
    """

    threat: str
    action: Action


class Inspection:
    """Base of all inspections. Subclasses take no constructor arguments."""

    #: Names of :data:`firewall_vnf.applications.APPLICATIONS` that are looked into.
    applications: ClassVar[frozenset[str]]

    def inspect(self, session: Session, direction: int, payload: bytes | memoryview) -> Finding | None:
        """Look at the payload of one packet of ``session``, before it is sent on.

        ``direction`` is 0 from client to server and 1 back. ``payload`` is what TCP or UDP carries, in the order of
        arrival; it is only valid during the call: copy what is kept. The bytes are hostile.
        """
        raise NotImplementedError


def load_inspections(names: Iterable[str]) -> tuple[type[Inspection], ...]:
    """Import the classes named ``module:Class``, in order. Raises :class:`InspectionError` for the first bad name."""
    return tuple(_load(name) for name in names)


def _load(name: str) -> type[Inspection]:
    module_name, _, class_name = name.partition(":")
    if not all(part.isidentifier() for part in (*module_name.split("."), class_name)):
        raise InspectionError(f"inspection {name!r}: write it as module:Class, e.g. my_checks.words:BlockWord")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # the module is the user's: whatever its import raises, say which module it was
        hint = "" if not isinstance(error, ModuleNotFoundError) else "; is its directory on PYTHONPATH?"
        raise InspectionError(f"inspection {name!r}: cannot import {module_name}: {error}{hint}") from error
    inspections = {
        key: value
        for key, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, Inspection) and value is not Inspection
    }
    if class_name not in inspections:
        found = ", ".join(sorted(inspections)) or "none"
        raise InspectionError(
            f"inspection {name!r}: {module_name} has no subclass of Inspection of that name; it has: {found}"
        )
    inspection = inspections[class_name]
    applications: frozenset[str] = getattr(inspection, "applications", frozenset())
    if not applications:
        raise InspectionError(f"inspection {name!r}: set applications = frozenset({{...}}) to what it looks into")
    for application in applications:
        if application not in APPLICATIONS:
            close = get_close_matches(application, APPLICATIONS, 1)
            hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(APPLICATIONS)}"
            raise InspectionError(f"inspection {name!r}: unknown application {application!r}; {hint}")
    return inspection
