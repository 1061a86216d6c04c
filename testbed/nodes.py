"""The lab's Mininet nodes: hosts and appliances in namespaces of their own, and the bridges as Mininet sees them.

Mininet makes the namespaces, runs the processes and gives the prompt. The interfaces come from one netlink socket and
the bridges from one ``ovs-vsctl`` transaction, because Mininet's own ways take several processes for each.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from mininet.link import Intf, Link
from mininet.net import Mininet
from mininet.node import Host as MininetHost
from mininet.node import OVSSwitch
from pyroute2 import IPRoute

#: MTU in bytes of every link; a host's own interface may be set lower (AWS's limit on an interface is 9,001).
LINK_MTU = 9001
#: Seconds that a packet waits at most wherever a rate is emulated: a shallow buffer whose length is in time, so that it
#: adds the same delay at any rate. It drops at its tail: a fair queue would hide that flows hurt each other.
BUFFER = 0.05
#: Bytes that a queue has room for in any case, and that may pass at once: TCP's first window, ten packets.
LEAST = 15_000
#: Characters of a line: a terminal cuts it at 4,096 (termios(3), "canonical mode"), and Mininet adds some.
LINE = 4000


class Host:
    """A node of the lab: an instance, an internet host, an appliance, or a load balancer's own namespace."""

    def __init__(self, node: MininetHost, address: IPv4Address) -> None:
        self.name: str = node.name
        self.pid: int = node.pid
        self.address = address
        self._node = node

    def popen(self, command: Sequence[str], **keywords: Any) -> subprocess.Popen[Any]:
        """Start *command* in this node; keywords as for :class:`subprocess.Popen`. Its id is the command's own."""
        process: subprocess.Popen[Any] = self._node.popen(list(command), **keywords)
        return process

    def run(self, command: Sequence[str], timeout: float = 30) -> subprocess.CompletedProcess[str]:
        """Run *command* in this node to its end. Raises subprocess.TimeoutExpired after *timeout* seconds."""
        process = self.popen(command, stdin=subprocess.DEVNULL, text=True)
        try:
            output, errors = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            process.wait()
            raise
        return subprocess.CompletedProcess(list(command), process.returncode, output, errors)


class Bridge(OVSSwitch):  # type: ignore[misc]
    """A bridge that exists already, for Mininet's prompt (``dpctl``, ``net``, ``links``)."""

    def start(self, controllers: object) -> None:
        pass

    def stop(self, deleteIntfs: bool = True) -> None:  # Mininet's spelling
        pass


class Interface(Intf):  # type: ignore[misc]
    """An interface that exists already and needs no further commands."""

    def config(self, **_params: object) -> dict[str, object]:
        return {}


def new_network() -> Mininet:
    """Return an empty Mininet network.

    Its one-time initialization is skipped: it raises a dozen of the system's settings and never puts them back.
    """
    Mininet.inited = True
    return Mininet(topo=None, build=False, controller=None, link=Link, intf=Interface, host=MininetHost)


def veth(
    netlink: IPRoute,
    one: tuple[int | None, str, str],
    other: tuple[int | None, str, str],
    mtu: int = LINK_MTU,
) -> None:
    """Make a veth pair; each end is (process id of the namespace or None for the root's, name, MAC address)."""

    def end(pid: int | None, name: str, mac: str) -> dict[str, Any]:
        return {"ifname": name, "address": mac, "mtu": mtu} | ({"net_ns_pid": pid} if pid else {})

    netlink.link("add", kind="veth", peer=end(*other), **end(*one))


def register_link(network: Mininet, one: tuple[Any, str, int | None], other: tuple[Any, str, int | None]) -> None:
    """Tell Mininet of a link that exists; each end is (node, interface's name, port number or None)."""
    network.addLink(
        one[0],
        other[0],
        port1=one[2],
        port2=other[2],
        intfName1=one[1],
        intfName2=other[1],
        cls=RegisteredLink,
    )


class RegisteredLink(Link):  # type: ignore[misc]
    """A link that exists already."""

    @classmethod
    def makeIntfPair(cls, *_arguments: object, **_keywords: object) -> None:
        pass


def no_offload(interface_name: str) -> str:
    """Return the command after which the interface carries real packets, with checksums in them."""
    return f"ethtool -K {interface_name} tx off rx off tso off gso off gro off > /dev/null"


def steer(interface_name: str, processors: int) -> str:
    """Return the command by which any of the processors receives the interface's packets (receive packet steering).

    Without it, the sender's processor carries a packet through all veth pairs up to the receiver. Frames that firewalls
    return are steered on the kernel datapath: there it is 1.2 times as fast for one flow. On the userspace datapath it
    is slower, because another process, Open vSwitch's, takes over anyway.
    """
    words, mask = [], (1 << processors) - 1
    while mask:
        words.append(f"{mask & 0xFFFFFFFF:x}")
        mask >>= 32
    file = f"/sys/class/net/{interface_name}/queues/rx-0/rps_cpus"
    return f"if [ -w {file} ]; then echo {','.join(reversed(words))} > {file}; fi"


def no_ipv6(interface: str) -> None:
    """Keep the machine itself from speaking IPv6 by a switch's port: its router solicitations are not the lab's."""
    setting = Path(f"/proc/sys/net/ipv6/conf/{interface}/disable_ipv6")
    if setting.exists():
        setting.write_text("1")


def token_bucket(interface_name: str, rate: float) -> list[str]:
    """Return the command that lets an interface send at most *rate* bit/s.

    A packet waits :data:`BUFFER` at most, then the queue is full and drops it. It is given in bytes: in tbf's own
    ``latency`` the burst, which passes in 10 ms, comes on top.
    """
    burst, limit = (max(LEAST, int(rate / 8 * seconds)) for seconds in (0.01, BUFFER))
    return f"tc qdisc replace dev {interface_name} root tbf rate {int(rate)}bit burst {burst} limit {limit}".split()


def configure(nodes: Sequence[tuple[MininetHost, Sequence[str]]]) -> None:
    """Run each node's commands in its shell, all nodes at once. Raises RuntimeError with what a node printed."""
    pending = [(node, command_lines(commands)) for node, commands in nodes if commands]
    while pending:
        for node, lines in pending:
            node.sendCmd(lines[0])
        for node, _ in pending:
            output = node.waitOutput().strip()
            if output:
                raise RuntimeError(f"{node.name}: {output}")
        pending = [(node, lines[1:]) for node, lines in pending if lines[1:]]


def command_lines(commands: Iterable[str]) -> list[str]:
    """Join commands into as few lines as a shell on a terminal reads whole."""
    lines: list[str] = []
    for command in commands:
        if lines and len(lines[-1]) + len(command) < LINE:
            lines[-1] += f" && {command}"
        else:
            lines.append(command)
    return lines
