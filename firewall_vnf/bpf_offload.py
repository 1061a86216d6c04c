"""Session offload behind a GWLB: a tc program on the data interface (``bpf/session_offload.c``) and its maps.

===========  ========================================================================================================
``flows``    a hash map: endpoint, inner addresses, ports, protocol → index of the session and direction; an entry a
             direction
``sessions`` an array: last packet, time-out; for each direction packets, bytes and TCP's last numbers
``firewall`` one entry: the lease, and the address of the interface
``counters`` what became of the interface's frames, per CPU
===========  ========================================================================================================

``sessions`` and ``firewall`` are shared memory, so that a look and the lease cost no system call. A session is taken
back by deleting its flows. A program that is running then may still carry a packet: its count is known when a grace
period of the kernel has passed, see :func:`~firewall_vnf.libbpf.wait_for_programs`. Commits and operators wait for
that; after a FIN the session has its last counts a second later.

The program is on the interface, not in a file system: it goes with the interface, and with
:meth:`BpfOffload.close`. What a killed firewall leaves carries nothing when its lease is over, and the next one takes
its place.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from ipaddress import IPv4Address
from itertools import islice
from pathlib import Path

from firewall_vnf import libbpf
from firewall_vnf.bpf_object import counter_meanings, find_program
from firewall_vnf.libbpf import BpfError
from firewall_vnf.offload import LEASE, Offload
from firewall_vnf.packet import TCP, split_key
from firewall_vnf.session import Session

SOURCE = Path(__file__).parent / "bpf" / "session_offload.c"
PROGRAM = "session_offload"

# The structures of the C source. In native mode a number of 64 bits is read and written whole.
FLOW = struct.Struct("=8s16s16s4sBB2x")
SESSION = struct.Struct("2Q" + 2 * "2Q3I4x")
TIMES = struct.Struct("2Q")
LEASE_END = struct.Struct("Q")
INDEX = struct.Struct("I")
COUNTER = struct.Struct("Q")
NANOSECONDS = 1e9
#: Seconds after which no program can still be running that had found a flow before it was deleted.
GRACE = 1.0


def flow_key(endpoint: int, source: bytes, destination: bytes, ports: bytes, protocol: int) -> bytes:
    """Return the key of a flow; addresses of 4 or 16 bytes, ports as in the packet: source, destination."""
    version = 4 if len(source) == 4 else 6
    return FLOW.pack(endpoint.to_bytes(8, "big"), source, destination, ports, protocol, version)


class BpfProgram:
    """The program, loaded and attached to nothing, with room for so many *sessions*. Raises BpfError."""

    def __init__(self, sessions: int, address: IPv4Address | None = None) -> None:
        libbpf.wait_for_programs()  # whoever cannot may not take back
        entries = {"flows": 2 * sessions, "sessions": sessions}
        with libbpf.Object(find_program(SOURCE), entries) as loaded:
            self.descriptor = os.dup(loaded.program(PROGRAM))
        self._maps = libbpf.maps_of_program(self.descriptor)
        self.flows = self._maps["flows"]
        self._counters = self._maps["counters"]
        self._numbers = {name: INDEX.pack(number) for number, name in enumerate(counter_meanings(SOURCE))}
        self.memory = self._maps["sessions"].memory()
        self._firewall = self._maps["firewall"].memory()
        self._firewall[LEASE_END.size : LEASE_END.size + 4] = address.packed if address else bytes(4)

    def renew(self, until: float) -> None:
        """Let the program carry packets until then, seconds of the monotonic clock."""
        LEASE_END.pack_into(self._firewall, 0, int(until * NANOSECONDS))

    def counter(self, name: str) -> int:
        """Return one of the counters of the C source, all CPUs together."""
        return sum(COUNTER.unpack(value)[0] for value in self._counters.lookup_all(self._numbers[name]))

    def close(self) -> None:
        self.memory.close()
        self._firewall.close()
        for each in self._maps.values():
            each.close()
        os.close(self.descriptor)


class _Place:
    """Where a session is in the program's maps, what was accounted of it, and when that is final once it has left."""

    __slots__ = ("due", "index", "keys", "known")

    def __init__(self, index: int, session: Session) -> None:
        self.index = index
        self.keys = [
            flow_key(session.endpoint.id, source, destination, rest[:4], session.protocol)
            for source, destination, rest in map(split_key, (session.key, session.reverse))
        ]
        self.known = (0, 0, 0, 0)
        self.due = 0.0


class BpfOffload(Offload):
    """Has the *program* on *interface* carry sessions; a service of :class:`firewall_vnf.adapter.Loop`.

    *counters* are the firewall's. Raises BpfError when the kernel refuses.
    """

    #: A look costs no system call; so what the session tables say is hardly older than this.
    interval = 0.25

    def __init__(
        self,
        interface: str,
        program: BpfProgram,
        capacity: int,
        least_packets: int,
        counters: dict[str, int],
        timer: Callable[[], float] = time.perf_counter,
    ) -> None:
        super().__init__(timer)
        self.least_packets = least_packets
        self.sessions: dict[Session, _Place] = {}
        self._program, self._counters = program, counters
        self._free = list(range(capacity - 1, -1, -1))
        #: Sessions that are no longer carried, whose last counts may be missing.
        self._leaving: dict[Session, _Place] = {}
        self._left: deque[tuple[float, Session]] = deque()
        #: Sessions for which there was no room.
        self._refused: dict[Session, None] = {}
        self._interface = socket.if_nametoindex(interface)
        libbpf.attach(program.descriptor, self._interface)

    def register(self, poll: select.poll) -> None:
        """There is nothing to wait for."""

    def serve(self, descriptors: Sequence[int], now: float) -> None:
        """Renew the lease, which says that the loop goes round."""
        self._program.renew(now + LEASE)

    def total(self) -> tuple[int, int]:
        return self._program.counter("carried"), self._program.counter("bytes")

    def start(self, session: Session) -> None:
        if session in self.sessions:
            return
        place = self._leaving.pop(session, None) or self._new_place(session)
        if place is None:
            self._refuse(session)
            return
        memory, offset = self._program.memory, SESSION.size * place.index
        TIMES.pack_into(memory, offset, int(session.last * NANOSECONDS), int(session.timeout * NANOSECONDS))
        try:
            for way, key in enumerate(place.keys):
                self._program.flows.update(key, INDEX.pack(place.index << 1 | way))
        except BpfError:  # the kernel has no memory for it
            self._leaving[session] = place
            for key in place.keys:
                self._program.flows.delete(key)
            self._settle(session)
            self._refuse(session)
            return
        self.sessions[session] = place
        self._refused.pop(session, None)
        self._counters["session_offload"] += 1

    def look(self, now: float) -> Iterable[Session]:
        for session, place in self.sessions.items():
            self._read(session, place)
        while self._left and self._left[0][0] <= now:
            due, session = self._left.popleft()
            if session in self._leaving and self._leaving[session].due == due:
                self._settle(session)
        for session in list(islice(self._refused, len(self._free))):
            del self._refused[session]
            session.cleared = None  # so that its next packet asks again
        return ()

    def closing(self, session: Session, now: float) -> bool:
        place = self.sessions.pop(session)
        for key in place.keys:
            self._program.flows.delete(key)
        self._read(session, place)
        place.due = now + GRACE
        self._leaving[session] = place
        self._left.append((place.due, session))
        return True

    def take_back(self, sessions: Iterable[Session], now: float) -> None:
        chosen = []
        for session in sessions:
            if session in self.sessions:
                self.closing(session, now)
            if session in self._leaving:
                chosen.append(session)
        if chosen:
            libbpf.wait_for_programs()
        for session in chosen:
            self._settle(session)

    def take_all_back(self, now: float) -> None:
        self._program.renew(0)
        self.take_back([*self.sessions, *self._leaving], now)
        self._refused.clear()

    def ended(self, session: Session, now: float) -> None:
        self._refused.pop(session, None)
        if session in self.sessions:
            self.closing(session, now)
        if session in self._leaving:
            self._settle(session)

    def close(self) -> None:
        """Take the program off the interface."""
        libbpf.detach(self._interface)
        self._program.close()

    def _new_place(self, session: Session) -> _Place | None:
        if not self._free:
            return None
        place = _Place(self._free.pop(), session)
        SESSION.pack_into(self._program.memory, SESSION.size * place.index, *bytes(12))
        return place

    def _refuse(self, session: Session) -> None:
        if session not in self._refused:
            self._refused[session] = None
            self._counters["session_offload_full"] += 1

    def _settle(self, session: Session) -> None:
        """Account for the last that was carried of a session that has left, and give its place away."""
        place = self._leaving.pop(session)
        self._read(session, place, numbers=False)  # the engine has followed it since
        self._free.append(place.index)

    def _read(self, session: Session, place: _Place, numbers: bool = True) -> None:
        (
            last, _,
            sent, bytes_sent, client_next, client_ack, client_window,
            received, bytes_received, server_next, server_ack, server_window,
        ) = SESSION.unpack_from(self._program.memory, SESSION.size * place.index)  # fmt: skip
        known, place.known = place.known, (sent, bytes_sent, received, bytes_received)
        if place.known == known:
            return
        numbers = numbers and session.protocol == TCP
        if numbers and sent != known[0]:
            session.client_next, session.client_ack, session.client_window = client_next, client_ack, client_window
        if numbers and received != known[2]:
            session.server_next, session.server_ack, session.server_window = server_next, server_ack, server_window
        self.account(
            session,
            (sent - known[0], bytes_sent - known[1]),
            (received - known[2], bytes_received - known[3]),
            last / NANOSECONDS,
        )
