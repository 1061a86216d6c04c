"""BGP over the tunnels: BIRD's configuration, its state, and its process in a router's network namespace.

Timers are those of AWS's sample configurations: keepalive 10 s, hold 30 s. Sessions are multihop sessions for BIRD,
as the tunnel's ends take from the TTL. Equal routes become one route of the kernel with many next hops (ECMP, ``merge
paths``).
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from testbed.errors import RequestError
from testbed.probes.child import program
from testbed.service import Part, last_line
from testbed.vpn.tunnel import Connection, Side, other

#: Seconds of AWS, and the shortest hold time that BGP knows (RFC 4271, 4.2).
KEEPALIVE, HOLD, SHORTEST_HOLD = 10, 30, 3
#: Seconds that BIRD may take to answer on its socket.
ANSWER = 5.0


def bird_conf(
    connections: Iterable[Connection], side: Side, announced: Sequence[IPv4Network], time_scale: float = 1
) -> str:
    """Return ``bird.conf`` of a side's router: a session a tunnel, which announces *announced*.

    Intervals are divided by *time_scale*. Raises RequestError where the hold time would be below 3 s, or without a
    tunnel.
    """
    connections = list(connections)
    hold = HOLD / time_scale
    if hold < SHORTEST_HOLD:
        raise RequestError(f"time scale {time_scale:g}: BGP's hold time has at least 3 s; choose 10 or less")
    tunnels = [(connection, tunnel) for connection in connections for tunnel in connection.tunnels]
    if not tunnels:
        raise RequestError("BGP: there is no tunnel to speak over; give at least one connection")
    routes = "".join(f"  route {network} unreachable;\n" for network in announced)
    sessions = "".join(
        f"""protocol bgp '{tunnel.name}' from tunnel {{
  local {tunnel.address(side).ip} as {connection.asn(side)};
  neighbor {tunnel.address(other(side)).ip} as {connection.asn(other(side))};
}}
"""
        for connection, tunnel in tunnels
    )
    return f"""log stderr {{ error, fatal, bug }};
router id {tunnels[0][1].address(side).ip};
protocol device {{
  scan time 1;
}}
protocol direct {{
  ipv4;
  interface {", ".join(f'"{tunnel.name}"' for _, tunnel in tunnels)};
}}
protocol kernel {{
  merge paths yes limit 64;
  ipv4 {{
    import none;
    export where source = RTS_BGP;
  }};
}}
protocol static announced {{
  ipv4;
{routes}}}
template bgp tunnel {{
  multihop;
  keepalive time {max(1, round(KEEPALIVE / time_scale))};
  hold time {round(hold)};
  connect delay time 1;
  connect retry time {max(1, round(KEEPALIVE / time_scale))};
  error wait time 1, {max(1, round(KEEPALIVE / time_scale))};
  ipv4 {{
    import all;
    export where source = RTS_STATIC;
    next hop self;
  }};
}}
{sessions}"""


@dataclass(frozen=True)
class Session:
    """A BGP session, as ``birdc show protocols all`` has it; ``imported`` is the number of routes that it brought."""

    name: str
    state: str
    neighbor: IPv4Address | None
    imported: int

    @property
    def established(self) -> bool:
        """Whether routes are exchanged."""
        return self.state == "Established"


@dataclass(frozen=True)
class Route:
    """One way to a network that a session brought, with the ASNs on it, the nearest first."""

    network: IPv4Network
    session: str
    path: tuple[int, ...]
    best: bool


def parse_protocols(text: str) -> list[Session]:
    """Return the BGP sessions in the output of ``birdc show protocols all``."""
    sessions = []
    for block in re.split(r"\n(?=\S)", text):
        if not (head := re.match(r"(\S+)\s+BGP\s", block)):
            continue
        state = re.search(r"BGP state:\s+(\S+)", block)
        neighbor = re.search(r"Neighbor address:\s+(\S+)", block)
        imported = re.search(r"Routes:\s+(\d+) imported", block)
        sessions.append(
            Session(
                head[1],
                state[1] if state else "Down",
                IPv4Address(neighbor[1]) if neighbor else None,
                int(imported[1]) if imported else 0,
            )
        )
    return sessions


def parse_routes(text: str) -> list[Route]:
    """Return BGP's routes in the output of ``birdc show route``, which names a network at its first way only."""
    routes, network = [], ""
    for line in text.splitlines():
        found = re.match(r"(\S*)\s+unicast \[(\S+) [^]]*\] (\* )?.*\[([^]]*)[ie?]\]", line)
        if head := re.match(r"(\d+\.\S+)\s", line):
            network = head[1]
        if found:
            path = tuple(int(asn) for asn in re.findall(r"\d+", found[4]))
            routes.append(Route(IPv4Network(network), found[2], path, bool(found[3])))
    return routes


class BgpSpeaker(Part):
    """BIRD with *configuration* in the network namespace of process *pid*; files: *directory*/NAME.bird.*"""

    def __init__(self, name: str, pid: int, configuration: str, directory: Path) -> None:
        self.name = name
        self.log = directory / f"{name}.bird.log"
        self._pid = pid
        self._configuration = directory / f"{name}.bird.conf"
        self._socket = directory / f"{name}.bird.ctl"
        self._configuration.write_text(configuration)
        self.start()

    def start(self) -> None:
        """Start BIRD. Raises MachineError where it is missing."""
        self._socket.unlink(missing_ok=True)
        command = ["nsenter", "-t", str(self._pid), "-n", program("bird"), "-f"]
        command += ["-c", str(self._configuration), "-s", str(self._socket)]
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def ready(self) -> bool:
        """Whether all its sessions are established and have brought their routes, which takes a moment more."""
        sessions = self.sessions()
        return bool(sessions) and all(session.established and session.imported for session in sessions)

    def sessions(self) -> list[Session]:
        """Return its sessions; none where BIRD does not answer."""
        return parse_protocols(self.ask("show protocols all"))

    def routes(self) -> list[Route]:
        """Return the routes that its sessions brought; none where BIRD does not answer."""
        return parse_routes(self.ask("show route"))

    def ask(self, command: str) -> str:
        """Return what ``birdc`` says to a command; empty where BIRD does not answer."""
        if not self._socket.exists():
            return ""
        try:
            said = subprocess.run(
                [program("birdc"), "-s", str(self._socket), *command.split()],
                capture_output=True,
                text=True,
                timeout=ANSWER,
            )
        except subprocess.TimeoutExpired:
            return ""
        return said.stdout if said.returncode == 0 else ""

    def problem(self) -> str | None:
        """Return a line when BIRD is gone, with the last line of its log."""
        code = self.process.poll()
        return None if code is None else f"BIRD of {self.name} ended with {code}: {last_line(self.log)}"
