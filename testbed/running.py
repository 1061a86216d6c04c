"""The lab that runs on this machine, as other processes find it: by its journal and its status files."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING

from testbed.errors import MachineError, RequestError
from testbed.journal import Journal, read_journal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from controllers.management.client import Management


def running_lab() -> Journal:
    """Return the journal of the running lab. Raises MachineError when there is none."""
    journal = read_journal()
    if journal is None:
        raise MachineError("no lab is running: start one with `bumpwire up`")
    return journal


def management() -> Management:
    """Return a client of the running lab's managed service. Raises MachineError when there is no such service."""
    from controllers.management.client import Management

    try:
        port = json.loads((running_lab().directory / "management.json").read_text())["port"]
    except (FileNotFoundError, KeyError, ValueError):
        raise MachineError("the running lab is not managed, or not yet: wait until it is built") from None
    return Management(port)


@contextmanager
def refusals() -> Iterator[None]:
    """Let what the service refuses be a wrong request (one line, exit 2), and its silence the machine's fault (3)."""
    from controllers.management.client import ManagementError, NoAnswerError

    try:
        yield
    except NoAnswerError as error:
        raise MachineError(str(error)) from None
    except ManagementError as error:
        raise RequestError(str(error)) from None
