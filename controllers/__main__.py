"""``python -m controllers --topology FILE --state FILE --port PORT --status FILE``: the lab's controller process.

Listens for switches on loopback (port 0: any free one, see the status file). SIGTERM and SIGINT end it. SIGHUP, or a
change of a file, loads what has changed and applies the difference; a file that is wrong changes nothing and is
reported in the log and the status file. SIGHUP without any change reads all switches again and repairs them. Exits
with 2 when the first files are wrong, 3 when the port is taken.

``--state`` is what the management process has found out of the load balancers' targets (:mod:`controllers.state`);
without the option, or while there is no such file, every registered target counts as healthy. ``--time-scale`` divides
the idle time-outs that switches keep themselves.

The status file is replaced atomically whenever something changes::

    {"pid", "started": clock ticks since the boot, "port", "library",
     "topology", "topology_error": str | null, "state_error": str | null,
     "generation": how often files were taken, "topology_digest": of the file's bytes, "state_digest": the same | null,
     "unknown_switches": int,
     "switches": {ELEMENT: {"dpid": int, "connected": bool, "in_sync": bool,
                            "desired": digest, "installed": digest | null where that is not known,
                            "changed": Unix time | null, "changes": flows and groups changed since the start,
                            "packet_ins": int, "errors": [str]}}}

What load balancers carry is in a file beside it, ``STATUS.statistics.json`` (:mod:`controllers.statistics`).

So who has written a file waits until its digest is there and every switch is in sync.
"""

from __future__ import annotations

import argparse
import logging
import signal
import socket
import sys
from pathlib import Path

from controllers.app import Controller
from controllers.desired import Desired, Files
from controllers.ryu import start, stop, wait_readable
from controllers.state import StateError
from controllers.zones import ZoneError, set_zone_timeouts
from topologies.loader import TopologyError

#: How often the files are looked at, in seconds.
WATCH_INTERVAL = 0.5


def reload(application: Controller, files: Files, datapath: str | None) -> bool:
    """Let the switches become what the files want; return whether something new was taken."""
    try:
        desired = files.take()
    except (TopologyError, StateError) as error:
        application.reject(error)
        return True
    new = desired is not application.desired
    if desired.timeouts != application.desired.timeouts:
        set_timeouts(desired, datapath)
    application.want(desired)
    return new


def set_timeouts(desired: Desired, datapath: str | None) -> None:
    if datapath:
        try:
            set_zone_timeouts(datapath, desired.timeouts)
        except (OSError, ZoneError) as error:
            logging.getLogger("bumpwire.controller").error("conntrack's time-outs: %s", error)


def main(arguments: list[str] | None = None) -> int:
    """Run until SIGTERM or SIGINT; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m controllers", description="The lab's OpenFlow controller.")
    parser.add_argument("--topology", required=True, help="YAML file, or the name of a packaged topology")
    parser.add_argument("--state", type=Path, help="JSON file of the state of load balancers' targets")
    parser.add_argument("--time-scale", type=float, default=1.0, help="divides idle time-outs")
    parser.add_argument("--datapath", help="system or netdev: where connections idle out and are counted")
    parser.add_argument("--port", type=int, default=0, help="to listen on, on loopback; 0 is any free one")
    parser.add_argument("--status", type=Path, required=True, help="JSON file that says what is installed")
    options = parser.parse_args(arguments)
    if not options.time_scale > 0:
        parser.error(f"--time-scale: {options.time_scale:g} is not more than 0")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")

    # A signal wakes the loop through a socket: it may arrive at any instruction.
    wake, waker = socket.socketpair()
    for end in (wake, waker):
        end.setblocking(False)
    signal.set_wakeup_fd(waker.fileno())
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)

    files = Files(options.topology, options.state, options.time_scale)
    try:
        desired = files.take()
    except (TopologyError, StateError) as error:
        print(error, file=sys.stderr)
        return 2
    try:
        settings = {"status": options.status, "topology": options.topology, "datapath": options.datapath}
        application = start(Controller, options.port, desired=desired, **settings)
    except OSError as error:
        print(f"cannot listen on 127.0.0.1:{options.port}: {error.strerror or error}", file=sys.stderr)
        return 3

    set_timeouts(desired, options.datapath)  # they may have changed while no controller ran
    while True:
        signals = set(wake.recv(64)) if wait_readable(wake, WATCH_INTERVAL) else set()
        if signals & {signal.SIGTERM, signal.SIGINT}:
            stop()
            return 0
        asked = signal.SIGHUP in signals
        if (asked or files.touched()) and not reload(application, files, options.datapath) and asked:
            application.check()


if __name__ == "__main__":
    sys.exit(main())
