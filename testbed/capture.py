"""Captures on a running lab: which links there are, and a pcapng file of one of them.

A link is named after the node at its end (``web1``, ``fw1``), or after the load balancer and the appliance that it
joins (``gwlb-fw1``: GENEVE as the endpoint sends and gets it). ``gwlb`` is the load balancer's link to its bridge, with
the plain frames. Both are captured where the endpoint's frames arrive: it hands them over to the far end of the link,
so at its own end only those are seen that come to it. The ports between bridges are inside Open vSwitch and have no
interface.

dumpcap captures, in the node's namespace. It writes into a file that this process has opened, because it gives up the
right to write in other users' folders.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from pathlib import Path

from testbed.errors import Error, MachineError, RequestError
from testbed.journal import read_journal
from testbed.namespace import in_namespace
from topologies.fabric import Element, Fabric, build_fabric, geneve_interface
from topologies.loader import load_topology

#: MiB between kernel and dumpcap: a tenth of a second of jumbo frames at 5 Gbit/s.
BUFFER = 64
INVALID_FILTER = "Invalid capture filter"


@dataclass(frozen=True)
class Link:
    """Where a link is captured: an interface in the network namespace of process ``pid``."""

    name: str
    pid: int
    interface: str


@dataclass(frozen=True)
class Captured:
    """How a capture ended: packets in the file, and packets that came too fast for it."""

    packets: int
    dropped: int


def links(fabric: Fabric, nodes: Mapping[str, int]) -> dict[str, Link]:
    """Return the links of a lab by name; *nodes* maps a node's name to the process of its namespace."""
    found = {name: Link(name, pid, "eth0") for name, pid in nodes.items()}
    for link in fabric.appliance_links:
        if link.gwlb in nodes:
            found[link.gwlb] = Link(link.gwlb, os.getpid(), geneve_interface(link.gwlb))
            name = f"{link.gwlb}-{link.appliance}"
            found[name] = Link(name, nodes[link.appliance], "eth0")
    return found


def running_link(name: str) -> Link:
    """Return a link of the lab that runs on this machine.

    Raises MachineError when none runs, RequestError when it has no such link.
    """
    journal = read_journal()
    if journal is None or not journal.nodes:
        raise MachineError("no lab is running: start one with `bumpwire up gwlb` and capture from another terminal")
    fabric = build_fabric(load_topology(str(journal.directory / "topology.yaml")))
    return find_link(name, fabric, links(fabric, journal.nodes))


def find_link(name: str, fabric: Fabric, known: Mapping[str, Link]) -> Link:
    """Return the link *name* of *known*. Raises RequestError, which names the nearest, when it is none."""
    name = name.removeprefix("bw-")
    if name in known:
        return known[name]
    for element in fabric.elements.values():
        for port in element.ports.values():
            if port.peer and name in (port.name, port.resource):
                near = ", ".join(nearest(fabric, element, fabric.elements[port.peer[0]], known))
                raise RequestError(
                    f"capture: {name} is a port between bridges, inside Open vSwitch, with no interface to capture on;"
                    f" near it are {near}"
                )
    alike = get_close_matches(name, known, n=1)
    meant = f"did you mean {alike[0]}? " if alike else ""
    raise RequestError(f"capture: no link {name}; {meant}links of this lab: {', '.join(known)}")


def nearest(fabric: Fabric, one: Element, other: Element, known: Mapping[str, Link]) -> list[str]:
    """Return the links that the fewest bridges lie between and the two elements of a port."""
    seen = level = {one.name, other.name}
    while level:
        ports = [port for name in sorted(level) for port in fabric.elements[name].ports.values()]
        found = [port.resource for port in ports if port.peer is None and port.resource in known]
        if found:
            return found + [f"{link.gwlb}-{link.appliance}" for link in fabric.appliance_links if link.gwlb in found]
        level = {port.peer[0] for port in ports if port.peer} - seen
        seen = seen | level
    return list(known)


def capture(link: Link, file: Path, count: int, seconds: int, packet_filter: str = "") -> Captured:
    """Write what passes on *link*, both directions, to *file* as pcapng, and return when one of the bounds is reached.

    *count* is in packets; *packet_filter* is in pcap-filter(7)'s language. Ctrl-C (KeyboardInterrupt) ends the capture
    with a valid file as well. Raises RequestError for a wrong filter or a file that cannot be written, MachineError
    when the link has gone or dumpcap is missing.
    """
    command = ["dumpcap", "-q", "-p", "-i", link.interface, "-B", str(BUFFER), "-w", "-"]
    command += ["-c", str(count), "-a", f"duration:{seconds}", "--capture-comment", f"bumpwire: link {link.name}"]
    # Wireshark shows the link's name; all nodes' own interfaces are called alike.
    command += ["--ifname", link.name, "--ifdescr", f"{link.interface} in the namespace of process {link.pid}"]
    command += ["-f", packet_filter] if packet_filter else []
    try:
        output = file.open("wb")
    except OSError as error:
        raise RequestError(f"capture: cannot write {file}: {error.strerror}; choose another with --write") from None
    with output:
        # Not in our process group: Ctrl-C is ours to pass on.
        start = partial(
            subprocess.Popen[str],
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            process = in_namespace(link.pid, start)
        except FileNotFoundError:
            raise MachineError("dumpcap is missing: apt install tshark") from None
        with process:
            said = _wait(process)
    if process.returncode:
        if not file.stat().st_size:
            file.unlink()
        raise _error(said, packet_filter, link)
    return Captured(*(int(match[1]) if (match := re.search(pattern, said)) else 0 for pattern in (CAPTURED, DROPPED)))


CAPTURED = r"Packets captured: (\d+)"
DROPPED = r"Packets received/dropped on interface .*: \d+/(\d+)"


def _wait(process: subprocess.Popen[str]) -> str:
    """Return what dumpcap said when it has ended, by itself or by Ctrl-C."""
    try:
        return process.communicate()[1]
    except KeyboardInterrupt:
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGINT)
        return process.communicate()[1]
    except BaseException:
        process.kill()
        raise


def _error(said: str, packet_filter: str, link: Link) -> Error:
    lines = [line for line in said.splitlines() if line and not line.startswith(("Capturing on", "File:"))]
    if INVALID_FILTER in said:
        reason = re.search(r"\((.*)\)", said)
        return RequestError(
            f"capture: --filter {packet_filter!r}: {reason[1] if reason else 'not valid'};"
            " its language is pcap-filter(7), for example 'udp port 6081'"
        )
    return MachineError(f"capture on {link.name}: {lines[0] if lines else 'the lab was taken down'}")
