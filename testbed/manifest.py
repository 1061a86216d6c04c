"""What a result was measured with: versions, machine, settings. Without it, no figure can be repeated."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

#: The directory of the checkout, where there is one.
ROOT = Path(__file__).resolve().parents[1]


def machine() -> dict[str, Any]:
    """Return the versions and the machine; None for what is not there. ``memory`` is in bytes."""
    return {
        "bumpwire": _package("bumpwire"),
        "python": platform.python_version(),
        "openvswitch": _first_version(["ovs-vswitchd", "--version"]),
        "mininet": _mininet(),
        "os-ken": _package("os-ken"),
        "iperf3": _first_version(["iperf3", "--version"]),
        "kernel": platform.release(),
        "system": _system(),
        "cpu": cpu_model(_read("/proc/cpuinfo")) or platform.machine(),
        "cpus": len(os.sched_getaffinity(0)),
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "congestion_control": _read("/proc/sys/net/ipv4/tcp_congestion_control").strip() or None,
        "git": git_revision(ROOT),
    }


def cpu_model(cpuinfo: str) -> str | None:
    """Return the processor's name from the text of ``/proc/cpuinfo``."""
    match = re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    return match[1] if match else None


def git_revision(directory: Path) -> dict[str, Any] | None:
    """Return ``{"revision", "dirty"}`` of a checkout; None for a directory that is none."""
    # Root reads a checkout that is somebody else's.
    git = ["git", "-c", "safe.directory=*", "-C", str(directory)]
    revision = _output([*git, "rev-parse", "HEAD"])
    if not revision:
        return None
    return {"revision": revision.strip(), "dirty": bool(_output([*git, "status", "--porcelain"]))}


def _package(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _mininet() -> str | None:
    try:
        from mininet.net import VERSION
    except ImportError:
        return None
    return str(VERSION)


def _system() -> str | None:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME")
    except OSError:
        return None


def _first_version(command: Sequence[str]) -> str | None:
    match = re.search(r"\d+\.\d+(\.\d+)*", _output(command) or "")
    return match[0] if match else None


def _output(command: Sequence[str]) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
