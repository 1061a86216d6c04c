"""Processes known again by their id and the time when they started, so that nothing else is ever signalled.

An id alone is given to another process some time after the first one has ended.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path


def started(pid: int) -> int | None:
    """Return when a process started, in clock ticks since the machine's boot; None if there is no such process.

    Source: proc(5), field 22 of ``/proc/PID/stat``.
    """
    try:
        _state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(rest[18])


def send_signal(pid: int, start: int, number: signal.Signals) -> bool:
    """Send a signal to the process with that id if it started at *start*; return whether there was one.

    Raises PermissionError where it is somebody else's.
    """
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        # The descriptor holds on to the process that is there now: what is looked up after it is of this one, or gone.
        if started(pid) != start:
            return False
        signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(pidfd)
    return True
