"""One UDP datagram for each of many flows, at a steady pace: what fills a flow table.

Nobody answers: a flow of a Gateway Load Balancer is sticky from its first packet on. The sender is a process on the
node: ``python -m testbed.probes.datagrams ADDRESS FLOWS RATE``.
"""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import IPv4Address

from testbed.probes.child import PATIENCE, Child, Node

#: Destination ports of one source port; both count from the first, below those that the system gives out by itself.
PORTS = 1000
FIRST_PORT = 20001
#: Datagrams sent between two looks at the clock.
BATCH = 20
LIMIT = 1_000_000


def send(client: Node, address: IPv4Address, flows: int, rate: float) -> None:
    """Send one datagram of each of *flows* flows to *address*, *rate* of them a second; again, the same flows.

    Raises ValueError for more flows than there are ports for, ProbeError when the sender fails.
    """
    if not 0 < flows <= LIMIT or rate <= 0:
        raise ValueError(f"{flows:,} flows, {rate:g} a second: there can be 1 to {LIMIT:,}, at more than 0 a second")
    command = [sys.executable, "-m", __name__, str(address), str(flows), str(rate)]
    title = f"datagrams {client.name} → {address}"
    with Child(client, title, command) as child:
        if code := child.wait(flows / rate + PATIENCE):
            raise child.failure(code)


def ports(flows: int) -> Iterator[tuple[int, int]]:
    """Yield source and destination port of so many flows, no two the same."""
    return ((FIRST_PORT + number // PORTS, FIRST_PORT + number % PORTS) for number in range(flows))


def run(address: str, flows: int, rate: float) -> None:
    """Send from this process; never ahead of the pace, so that no queue on the way overflows."""
    with ExitStack() as stack:
        senders: dict[int, socket.socket] = {}
        start = time.monotonic()
        for number, (source, destination) in enumerate(ports(flows)):
            if source not in senders:
                senders[source] = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
                senders[source].bind(("", source))
            if number % BATCH == 0:
                time.sleep(max(0.0, start + number / rate - time.monotonic()))
            senders[source].sendto(b"bumpwire", (address, destination))


if __name__ == "__main__":
    run(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
