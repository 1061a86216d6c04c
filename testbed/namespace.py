"""Do something in another process's network namespace, from this process.

A network namespace belongs to a thread, so the work is done in a thread of its own, which ends with it. What it makes
stays in that namespace: sockets, and child processes. Files are this process's own: a Mininet node has a ``/sys`` of
its own, which is not seen.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from testbed.errors import MachineError

CLONE_NEWNET = 0x40000000  # linux/sched.h
SIOCGIFHWADDR = 0x8927  # linux/sockios.h

T = TypeVar("T")


def in_namespace(pid: int, call: Callable[[], T]) -> T:
    """Call *call* in the network namespace of process *pid* and return what it returns, or raise what it raises.

    Raises MachineError when the process has ended or this process is not root.
    """

    def enter_and_call() -> T:
        try:
            descriptor = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise MachineError(f"process {pid} has ended, and its network namespace with it") from None
        except PermissionError:
            raise MachineError("needs root: run it with sudo") from None
        try:
            enter(descriptor)
        finally:
            os.close(descriptor)
        return call()

    with ThreadPoolExecutor(max_workers=1) as threads:
        return threads.submit(enter_and_call).result()


def enter(descriptor: int) -> None:
    """Move this thread to an open namespace; ``os.setns`` came with Python 3.12."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, CLONE_NEWNET):
        raise MachineError(f"cannot enter a network namespace: {os.strerror(ctypes.get_errno())}; run it with sudo")


def interface_index(interface: str) -> int:
    """Return the index of an interface of this thread's namespace. Raises MachineError where there is none."""
    try:
        return socket.if_nametoindex(interface)
    except OSError:
        raise MachineError(f"interface {interface}: there is none in this network namespace") from None


def interface_address(interface: str) -> str:
    """Return the MAC address of an interface of this thread's namespace. Raises MachineError where there is none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        try:
            request = fcntl.ioctl(any_socket, SIOCGIFHWADDR, struct.pack("=16s24x", interface.encode()))
        except OSError as error:
            raise MachineError(f"interface {interface}: {error.strerror}") from None
    return request[18:24].hex(":")  # struct ifreq: the name, the address family, the address
