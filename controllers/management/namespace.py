"""Sockets in another network namespace, for a process that stays in its own.

A network namespace belongs to a thread, a socket to the namespace that its thread was in when it was made. So the
thread enters, makes the socket and goes back at once: two system calls, and no other code of it runs in between.
"""

from __future__ import annotations

import ctypes
import os
import socket

CLONE_NEWNET = 0x40000000  # linux/sched.h
IP_BIND_ADDRESS_NO_PORT = 24  # linux/in.h


class NamespaceError(Exception):
    """A namespace that cannot be used: one line."""


class Namespace:
    """The network namespace of a file, ``/proc/PID/ns/net``; without one, the process's own.

    It is held open, so its sockets work for as long as this object lives. Raises NamespaceError.
    """

    def __init__(self, file: str | None = None) -> None:
        self.file = file
        self._descriptor: int | None = None
        if file is not None:
            self._home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            try:
                self._descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                os.close(self._home)
                raise NamespaceError(f"network namespace {file}: {error.strerror}") from None

    def socket(self, family: int = socket.AF_INET, kind: int = socket.SOCK_STREAM, address: str = "") -> socket.socket:
        """Return a new non-blocking socket of the namespace, bound to *address* if one is given.

        Raises NamespaceError when the namespace cannot be entered, OSError for all else.
        """
        if self._descriptor is None:
            made = socket.socket(family, kind)
        else:
            enter(self._descriptor, f"network namespace {self.file}")
            try:
                made = socket.socket(family, kind)
            finally:
                enter(self._home, "the network namespace that it came from")
        made.setblocking(False)
        if address:
            try:
                # The port is chosen when it connects: else those that wait in TIME-WAIT would use the ports up.
                made.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
                made.bind((address, 0))
            except OSError:
                made.close()
                raise
        return made

    def close(self) -> None:
        """Let go of the namespace."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            os.close(self._home)
            self._descriptor = None


def enter(descriptor: int, what: str) -> None:
    """Move this thread to an open namespace; ``os.setns`` came with Python 3.12."""
    if LIBC.setns(descriptor, CLONE_NEWNET):
        raise NamespaceError(f"cannot enter {what}: {os.strerror(ctypes.get_errno())}; run it as root")


LIBC = ctypes.CDLL(None, use_errno=True)
