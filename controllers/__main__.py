"""``python -m controllers --topology FILE --port PORT --status FILE``: the lab's controller process.

Listens for switches on loopback (port 0: any free one, see the status file). SIGTERM and SIGINT end it. SIGHUP, or a
change of the topology file, loads the topology again and applies the difference; one that is wrong changes nothing and
is reported in the log and the status file. Exits with 2 when the first topology is wrong, 3 when the port is taken.

The status file is replaced atomically whenever something changes::

    {"pid", "port", "library", "topology", "topology_error": str | null, "unknown_switches": int,
     "switches": {ELEMENT: {"dpid": int, "connected": bool, "in_sync": bool,
                            "desired": digest, "installed": digest | null,
                            "changed": Unix time | null, "changes": flows and groups changed since the start,
                            "packet_ins": int, "errors": [str]}}}
"""

from __future__ import annotations

import argparse
import logging
import signal
import socket
import sys
from pathlib import Path

from controllers.app import Controller, Desired
from controllers.compiler import compile_topology
from controllers.ryu import start, stop, wait_readable
from topologies.fabric import build_fabric
from topologies.loader import TopologyError, load_topology

#: How often the topology file is looked at, in seconds.
WATCH_INTERVAL = 0.5


def desired_state(topology: str) -> Desired:
    """Return what the switches of a topology file shall be. Raises TopologyError."""
    model = load_topology(topology)
    names = {element.dpid: name for name, element in build_fabric(model).elements.items()}
    return Desired(names, compile_topology(model))


def modified(path: str) -> int | None:
    """Return when a file was last written; None where there is none, as for a packaged topology's name."""
    try:
        return Path(path).stat().st_mtime_ns
    except OSError:
        return None


def reload(application: Controller, topology: str) -> None:
    try:
        application.want(desired_state(topology))
    except TopologyError as error:
        application.reject(str(error))


def main(arguments: list[str] | None = None) -> int:
    """Run until SIGTERM or SIGINT; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m controllers", description="The lab's OpenFlow controller.")
    parser.add_argument("--topology", required=True, help="YAML file, or the name of a packaged topology")
    parser.add_argument("--port", type=int, default=0, help="to listen on, on loopback; 0 is any free one")
    parser.add_argument("--status", type=Path, required=True, help="JSON file that says what is installed")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")

    # A signal wakes the loop through a socket: it may arrive at any instruction.
    wake, waker = socket.socketpair()
    for end in (wake, waker):
        end.setblocking(False)
    signal.set_wakeup_fd(waker.fileno())
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)

    written = modified(options.topology)
    try:
        desired = desired_state(options.topology)
    except TopologyError as error:
        print(error, file=sys.stderr)
        return 2
    try:
        application = start(Controller, options.port, desired=desired, status=options.status, topology=options.topology)
    except OSError as error:
        print(f"cannot listen on 127.0.0.1:{options.port}: {error.strerror or error}", file=sys.stderr)
        return 3

    while True:
        signals = set(wake.recv(64)) if wait_readable(wake, WATCH_INTERVAL) else set()
        if signals & {signal.SIGTERM, signal.SIGINT}:
            stop()
            return 0
        now = modified(options.topology)
        if signal.SIGHUP in signals or now not in (written, None):
            written = now
            reload(application, options.topology)


if __name__ == "__main__":
    sys.exit(main())
