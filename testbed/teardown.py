"""Taking a lab down, from its journal alone: the same way after an orderly end, Ctrl-C or SIGKILL."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path

from testbed import bridges
from testbed.journal import TOKEN_VARIABLE, Journal


def take_down(journal: Journal) -> None:
    """Remove everything that *journal* names. Safe to repeat."""
    end_processes(journal.token)
    journal.restore_settings()
    bridges.remove(journal)
    remove_interfaces(journal.interfaces)
    shutil.rmtree(journal.directory, ignore_errors=True)
    journal.remove()


def end_processes(token: str) -> None:
    """Kill the lab's processes, and whatever else lives in their network namespaces, and wait until they are gone."""
    namespaces: set[str] = set()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        processes = lab_processes(token, namespaces)
        if not processes:
            return
        for pid in processes:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        reap(processes)
        time.sleep(0.005)  # a killed process needs a moment to vanish from /proc


def lab_processes(token: str, namespaces: set[str]) -> list[int]:
    """Return the living processes that carry *token*, or that live in a namespace of one; adds to *namespaces*.

    A process that cleared its environment (sshd's children do) is found by its namespace.
    """
    marker = f"{TOKEN_VARIABLE}={token}".encode()
    own = os.readlink("/proc/self/ns/net")
    marked, others = [], []
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            namespace = os.readlink(f"/proc/{entry.name}/ns/net")
            environment = Path(f"/proc/{entry.name}/environ").read_bytes()
        except OSError:  # it ended, or is a zombie
            continue
        if marker in environment.split(b"\0"):
            marked.append(int(entry.name))
            if namespace != own:
                namespaces.add(namespace)
        else:
            others.append((int(entry.name), namespace))
    return marked + [pid for pid, namespace in others if namespace in namespaces]


def reap(processes: list[int]) -> None:
    """Collect those of *processes* that are children of this one."""
    for pid in processes:
        try:
            os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            continue


def remove_interfaces(names: list[str]) -> None:
    """Delete the named interfaces of the root namespace where they still exist."""
    left = [name for name in names if Path("/sys/class/net", name).exists()]
    if not left:
        return
    from pyroute2 import IPRoute, NetlinkError

    with IPRoute() as netlink:
        for name in left:
            for index in netlink.link_lookup(ifname=name):
                try:
                    netlink.link("del", index=index)
                except NetlinkError:  # its namespace ended in the meantime and took it along
                    continue
