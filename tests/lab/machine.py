"""What a lab could leave behind on the machine, as one comparable picture."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any


def output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def picture() -> dict[str, Any]:
    """Bridges and their datapath rows, interfaces, namespaces, BPF programs, settings and files, as they are now."""
    settings = {}
    for folder in ("/proc/sys/net/core", "/proc/sys/net/ipv4", "/proc/sys/vm"):
        for file in Path(folder).iterdir():
            if file.is_file() and os.access(file, os.R_OK) and file.name not in {"somaxconn_now"}:
                try:
                    settings[str(file)] = file.read_text()
                except OSError:
                    continue
    return {
        "bridges": sorted(output("ovs-vsctl", "list-br").split()),
        "datapaths": output("ovs-vsctl", "get", "open_vswitch", ".", "datapaths"),
        "interfaces": sorted(entry["ifname"] for entry in json.loads(output("ip", "-json", "link"))),
        "namespaces": namespaces(),
        "programs": sorted(entry["id"] for entry in json.loads(output("bpftool", "--json", "prog", "show"))),
        "pinned": sorted(str(path) for path in Path("/sys/fs/bpf").rglob("*")) if Path("/sys/fs/bpf").exists() else [],
        "settings": settings,
        "files": sorted(str(path) for path in Path("/run/bumpwire").rglob("*") if path.name != "lock"),
    }


def namespaces() -> list[str]:
    found = set()
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                found.add(os.readlink(f"/proc/{entry.name}/ns/net"))
            except OSError:
                continue
    return sorted(found)
