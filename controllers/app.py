"""The Ryu application: keeps every switch at the program that the model compiles to.

Connect, read what the switch holds, take the difference, send it as one bundle, read again. Nothing is sent when
nothing differs, so the controller can be killed and restarted under traffic. It acts on events and configuration,
never on packets: a packet that a switch does send is counted in the status file, where it should be 0.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from controllers.difference import difference
from controllers.flows import Program
from controllers.ryu import LIBRARY, Application, Switch, SwitchError, events, handles, hub, states

LOG = logging.getLogger("bumpwire.controller")
ERRORS_KEPT = 20
#: Changes within this time, in seconds, are written to the status file once.
STATUS_DELAY = 0.02


@dataclass(frozen=True)
class Desired:
    """What all switches shall be: elements' names by datapath id, and programs by name. Replaced as a whole."""

    names: Mapping[int, str]
    programs: Mapping[str, Program]


@dataclass
class State:
    """What the status file says of a switch. ``desired`` and ``installed`` are digests; ``changed`` is a Unix time."""

    dpid: int
    connected: bool = False
    in_sync: bool = False
    desired: str = ""
    installed: str | None = None
    changed: float | None = None
    changes: int = 0
    packet_ins: int = 0
    errors: deque[str] = field(default_factory=lambda: deque(maxlen=ERRORS_KEPT))

    def as_json(self) -> dict[str, Any]:
        return {**vars(self), "errors": list(self.errors)}


class Controller(Application):  # type: ignore[misc]
    """``desired`` is what to install, ``status`` the file that says what is. See :func:`Controller.status`."""

    def __init__(self, *args: Any, port: int, desired: Desired, status: Path, topology: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.port = port
        self.status_file = status
        self.topology = topology
        self.topology_error: str | None = None
        self.states: dict[str, State] = {}
        self.switches: dict[int, Switch] = {}
        self.unknown = 0
        self._work: dict[int, Any] = {}
        self._dirty = hub.Event()
        self.want(desired)

    def start(self) -> None:
        super().start()
        self.write_status()
        hub.spawn(self._write_status_forever)

    # -- what shall be -----------------------------------------------------------------------------------------------

    def want(self, desired: Desired) -> None:
        """Replace the desired state; every switch is read again and brought to it."""
        self.desired = desired
        self.topology_error = None
        self.states = {name: self.states.get(name) or State(dpid) for dpid, name in desired.names.items()}
        for name, state in self.states.items():
            state.desired = desired.programs[name].digest
            state.in_sync = state.connected and state.desired == state.installed
        for dpid, switch in list(self.switches.items()):
            if dpid not in desired.names:
                self._refuse(switch)
            else:
                self._work[dpid].set()
        self._dirty.set()

    def reject(self, error: str) -> None:
        """Note why a new topology was not taken."""
        LOG.error("%s", error)
        self.topology_error = error
        self._dirty.set()

    # -- switches come and go ----------------------------------------------------------------------------------------

    @handles([events.EventOFPStateChange], [states.MAIN_DISPATCHER, states.DEAD_DISPATCHER])
    def state_changed(self, event: Any) -> None:
        datapath = event.datapath
        if event.state == states.MAIN_DISPATCHER:
            self._connected(Switch(datapath))
        elif datapath.id is not None:
            self._disconnected(datapath)

    def _connected(self, switch: Switch) -> None:
        name = self.desired.names.get(switch.dpid)
        if name is None:
            self._refuse(switch)
            return
        LOG.info("%s connected", name)
        self.switches[switch.dpid] = switch
        self.states[name].connected = True
        work = self._work[switch.dpid] = hub.Event()
        work.set()
        hub.spawn(self._keep, switch, work)
        self._dirty.set()

    def _refuse(self, switch: Switch) -> None:
        LOG.error("switch with datapath id %016x is not in topology %s: refused", switch.dpid, self.topology)
        self.unknown += 1
        self.switches.pop(switch.dpid, None)
        switch.close()
        self._dirty.set()

    def _disconnected(self, datapath: Any) -> None:
        switch = self.switches.get(datapath.id)
        if switch is None or switch.datapath is not datapath:
            return  # an older connection of a switch that is back already
        del self.switches[switch.dpid]
        self._work.pop(switch.dpid).set()
        state = self._state(switch.dpid)
        if state:
            LOG.warning("%s disconnected", self.desired.names[switch.dpid])
            state.connected = state.in_sync = False
        self._dirty.set()

    def _state(self, dpid: int) -> State | None:
        return self.states.get(self.desired.names.get(dpid, ""))

    # -- a switch is brought to its program --------------------------------------------------------------------------

    def _keep(self, switch: Switch, work: Any) -> None:
        """Synchronise a switch whenever there is work, until it is gone."""
        while True:
            work.wait()
            work.clear()
            name = self.desired.names.get(switch.dpid)
            if self.switches.get(switch.dpid) is not switch or name is None:
                return
            state = self.states[name]
            try:
                self._synchronise(name, switch, state, self.desired.programs[name])
            except SwitchError as error:
                if self.switches.get(switch.dpid) is switch:
                    state.in_sync = False
                self._failed(switch, error)
            self._dirty.set()

    def _failed(self, switch: Switch, error: SwitchError) -> None:
        """Report an error of a switch that is still there."""
        state = self._state(switch.dpid)
        if state and self.switches.get(switch.dpid) is switch:
            LOG.error("%s: %s", self.desired.names[switch.dpid], error)
            state.errors.append(str(error))
            self._dirty.set()

    def _synchronise(self, name: str, switch: Switch, state: State, program: Program) -> None:
        installed = switch.read()
        changes = difference(installed, program)
        if changes:
            switch.apply(changes)
            installed = switch.read()
            state.changed = time.time()
            state.changes += len(changes)
            LOG.info("%s: %d changes", name, len(changes))
            left = difference(installed, program)
            if left:
                raise SwitchError(f"the switch holds not what it was sent; first: {left[0]}")
        state.installed = installed.digest
        state.in_sync = state.installed == state.desired

    # -- messages ----------------------------------------------------------------------------------------------------

    @handles(
        [
            events.EventOFPFlowDescStatsReply,
            events.EventOFPGroupDescStatsReply,
            events.EventOFPBarrierReply,
            events.EventOFPBundleCtrlMsg,
            events.EventOFPErrorMsg,
        ],
        states.MAIN_DISPATCHER,
    )
    def replied(self, event: Any) -> None:
        switch = self.switches.get(event.msg.datapath.id)
        if switch is None or switch.datapath is not event.msg.datapath:
            return
        try:
            switch.received(event.msg)
        except SwitchError as error:
            self._failed(switch, error)

    @handles([events.EventOFPPacketIn], states.MAIN_DISPATCHER)
    def packet_in(self, event: Any) -> None:
        state = self._state(event.msg.datapath.id)
        if state:
            state.packet_ins += 1
            self._dirty.set()

    # -- status ------------------------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """Return the status file's content."""
        return {
            "pid": os.getpid(),
            "port": self.port,
            "library": LIBRARY,
            "topology": self.topology,
            "topology_error": self.topology_error,
            "unknown_switches": self.unknown,
            "switches": {name: state.as_json() for name, state in self.states.items()},
        }

    def write_status(self) -> None:
        temporary = self.status_file.with_name(f"{self.status_file.name}.{os.getpid()}")
        temporary.write_text(json.dumps(self.status(), indent=1) + "\n")
        temporary.replace(self.status_file)

    def _write_status_forever(self) -> None:
        while True:
            self._dirty.wait()
            self._dirty.clear()
            self.write_status()
            hub.sleep(STATUS_DELAY)
