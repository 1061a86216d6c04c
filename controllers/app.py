"""The Ryu application: keeps every switch at the program that the model compiles to.

Connect, read what the switch holds, take the difference, send it as one bundle, read again. Nothing is sent when
nothing differs, so the controller can be killed and restarted under traffic. What was read is known from then on: a
later change is sent at once, and only the switches that it concerns are asked. It acts on events and configuration,
never on packets: a packet that a switch does send is counted in the status file, where it should be 0.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from controllers.counting import Counting
from controllers.desired import Desired
from controllers.difference import difference
from controllers.flows import Program
from controllers.process import started
from controllers.ryu import LIBRARY, Application, Switch, SwitchError, events, handles, hub, states
from controllers.state import StateError
from controllers.statistics import statistics_file
from topologies.loader import TopologyError

LOG = logging.getLogger("bumpwire.controller")
ERRORS_KEPT = 20
#: Changes within this time, in seconds, are written to the status file once.
STATUS_DELAY = 0.02


@dataclass
class State:
    """What the status file says of a switch. ``desired`` and ``installed`` are digests; ``changed`` is a Unix time.

    ``installed`` is None where it is not known: before the first reading, and while changes are on their way.
    """

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


@dataclass
class Connection:
    """A connected switch. ``work`` is set when it is to be brought to its program; ``known`` is what it holds, as read.

    Without ``known`` it is to be read first.
    """

    switch: Switch
    work: Any = field(default_factory=hub.Event)
    known: Program | None = None


class Controller(Application):  # type: ignore[misc]
    """``desired`` is what to install, ``status`` the file that says what is. See :func:`Controller.status`.

    ``datapath`` is for :class:`~controllers.counting.Counting`.
    """

    def __init__(
        self,
        *args: Any,
        port: int,
        desired: Desired,
        status: Path,
        topology: str,
        datapath: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.port = port
        self.status_file = status
        self.topology = topology
        self.error: TopologyError | StateError | None = None
        self.desired = Desired({}, {})
        self.states: dict[str, State] = {}
        self.connections: dict[int, Connection] = {}
        self.unknown = 0
        self._dirty = hub.Event()
        self._counting = Counting(lambda: self.desired, self.switches, statistics_file(status), datapath)
        self.want(desired)

    def start(self) -> None:
        super().start()
        self.write_status()
        hub.spawn(self._write_status_forever)
        hub.spawn(self._counting.run)

    # -- what shall be -----------------------------------------------------------------------------------------------

    def want(self, desired: Desired) -> None:
        """Replace the desired state; every switch that is not what it shall be is brought to it."""
        before, self.desired = self.desired, desired
        self.error = None
        self.states = {name: self._state_of(name, dpid) for dpid, name in desired.names.items()}
        for name, state in self.states.items():
            if not state.desired or desired.programs[name] is not before.programs.get(name):
                state.desired = desired.programs[name].digest
                state.in_sync = state.connected and state.desired == state.installed
        for dpid, connection in list(self.connections.items()):
            if dpid not in desired.names:
                self._refuse(connection.switch)
            elif not self.states[desired.names[dpid]].in_sync:
                connection.work.set()
        self._dirty.set()

    def reject(self, error: TopologyError | StateError) -> None:
        """Note why new files were not taken."""
        LOG.error("%s", error)
        self.error = error
        self._dirty.set()

    def check(self) -> None:
        """Read every switch again, and repair it."""
        for connection in self.connections.values():
            connection.known = None
            connection.work.set()

    def _state_of(self, name: str, dpid: int) -> State:
        known = self.states.get(name)
        return known if known and known.dpid == dpid else State(dpid, connected=dpid in self.connections)

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
        connection = self.connections[switch.dpid] = Connection(switch)
        state = self.states[name]
        state.connected, state.in_sync, state.installed = True, False, None
        connection.work.set()
        hub.spawn(self._keep, connection)
        self._dirty.set()

    def _refuse(self, switch: Switch) -> None:
        LOG.error("switch with datapath id %016x is not in topology %s: refused", switch.dpid, self.topology)
        self.unknown += 1
        self.connections.pop(switch.dpid, None)
        switch.close()
        self._dirty.set()

    def _disconnected(self, datapath: Any) -> None:
        connection = self._connection(datapath)
        if connection is None:
            return  # an older connection of a switch that is back already
        del self.connections[datapath.id]
        connection.work.set()
        state = self._state(datapath.id)
        if state:
            LOG.warning("%s disconnected", self.desired.names[datapath.id])
            state.connected = state.in_sync = False
        self._dirty.set()

    def _connection(self, datapath: Any) -> Connection | None:
        connection = self.connections.get(datapath.id)
        return connection if connection and connection.switch.datapath is datapath else None

    def _state(self, dpid: int) -> State | None:
        return self.states.get(self.desired.names.get(dpid, ""))

    def switches(self) -> dict[str, Switch]:
        """Return the switches that are in sync, by their element's name."""
        synchronised = {state.dpid: name for name, state in self.states.items() if state.in_sync}
        return {synchronised[dpid]: one.switch for dpid, one in self.connections.items() if dpid in synchronised}

    # -- a switch is brought to its program --------------------------------------------------------------------------

    def _keep(self, connection: Connection) -> None:
        """Synchronise a switch whenever there is work, until it is gone."""
        dpid = connection.switch.dpid
        while True:
            connection.work.wait()
            connection.work.clear()
            name = self.desired.names.get(dpid)
            if self.connections.get(dpid) is not connection or name is None:
                return
            state = self.states[name]
            try:
                self._synchronise(name, connection, state)
            except SwitchError as error:
                if self.connections.get(dpid) is connection:
                    state.in_sync, state.installed = False, None
                self._failed(connection, error)
            self._dirty.set()

    def _failed(self, connection: Connection, error: SwitchError) -> None:
        """Report an error of a switch that is still there."""
        dpid = connection.switch.dpid
        state = self._state(dpid)
        if state and self.connections.get(dpid) is connection:
            LOG.error("%s: %s", self.desired.names[dpid], error)
            state.errors.append(str(error))
            self._dirty.set()

    def _synchronise(self, name: str, connection: Connection, state: State) -> None:
        program, digest = self.desired.programs[name], state.desired
        if state.installed != digest:
            # Otherwise a switch on its way to B would count as in sync as soon as A, what it held, is desired again.
            state.installed, state.in_sync = None, False
        known, connection.known = connection.known, None
        if known is not None:
            try:
                self._change(name, connection.switch, state, known, program)
            except SwitchError as error:
                LOG.warning("%s is read again, it is not what it was: %s", name, error)
                known = None
        if known is None:
            self._change(name, connection.switch, state, connection.switch.read(program.learned), program)
        connection.known = program
        state.installed = digest
        state.in_sync = digest == state.desired

    def _change(self, name: str, switch: Switch, state: State, installed: Program, program: Program) -> None:
        """Lead a switch from what it holds to its program. Raises SwitchError where it does not get there."""
        changes = difference(installed, program)
        if not changes:
            return
        switch.apply(changes)
        state.changed = time.time()
        state.changes += len(changes)
        LOG.info("%s: %d changes", name, len(changes))
        left = difference(switch.read(program.learned), program)
        if left:
            raise SwitchError(f"the switch holds not what it was sent; first: {left[0]}")

    # -- messages ----------------------------------------------------------------------------------------------------

    @handles(
        [
            events.EventOFPAggregateStatsReply,
            events.EventOFPFlowDescStatsReply,
            events.EventOFPGroupDescStatsReply,
            events.EventOFPBarrierReply,
            events.EventOFPBundleCtrlMsg,
            events.EventOFPErrorMsg,
        ],
        states.MAIN_DISPATCHER,
    )
    def replied(self, event: Any) -> None:
        connection = self._connection(event.msg.datapath)
        if connection is None:
            return
        try:
            connection.switch.received(event.msg)
        except SwitchError as error:
            self._failed(connection, error)

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
            "started": started(os.getpid()),
            "port": self.port,
            "library": LIBRARY,
            "topology": self.topology,
            "topology_error": str(self.error) if isinstance(self.error, TopologyError) else None,
            "state_error": str(self.error) if isinstance(self.error, StateError) else None,
            "generation": self.desired.generation,
            "topology_digest": self.desired.topology_digest,
            "state_digest": self.desired.state_digest,
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
