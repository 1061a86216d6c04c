"""ping: ICMP round trips between two nodes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Address

from testbed.probes.child import Child, Node, ProbeError, program

#: Seconds from one echo request to the next.
INTERVAL = 0.2
#: Seconds that a reply is waited for.
REPLY_TIMEOUT = 1


@dataclass(frozen=True)
class RoundTrips:
    """``sent`` and ``received`` echoes; round-trip times in seconds, None where no reply came.

    ``times`` are the replies' own, in the order of their arrival. ``ttl`` is the last reply's time to live.
    """

    sent: int
    received: int
    times: tuple[float, ...]
    minimum: float | None
    average: float | None
    maximum: float | None
    deviation: float | None
    ttl: int | None

    @property
    def loss(self) -> float:
        """The share of echoes without a reply, 0 to 1."""
        return 1 - self.received / self.sent


def measure(
    client: Node, server: Node, address: IPv4Address | None = None, *, count: int = 5, interval: float = INTERVAL
) -> RoundTrips:
    """Send *count* echo requests, one each *interval* seconds. That no reply comes is a result, not an error.

    Raises ProbeError when ping itself fails, as it does without a route.
    """
    address = address or server.address
    title = f"ping {client.name} → {server.name} ({address})"
    options = ["-n", "-c", str(count), "-i", f"{interval:g}", "-W", str(REPLY_TIMEOUT)]
    with Child(client, title, [program("ping"), *options, str(address)]) as child:
        code = child.wait(count * interval + REPLY_TIMEOUT + 10)
        if code not in (0, 1):  # 1: some or all replies are missing
            raise child.failure(code)
        return parse(child.output, title)


def parse(output: str, title: str = "ping") -> RoundTrips:
    """Return the round trips of iputils' output. Raises ProbeError where its summary is missing."""
    counts = re.search(r"(\d+) packets transmitted, (\d+) received", output)
    if not counts or counts[1] == "0":
        raise ProbeError(f"{title}: no summary in its output")
    rtt = re.search(r"^rtt min/avg/max/mdev = ([\d.]+)/([\d.]+)/([\d.]+)/([\d.]+) ms", output, re.MULTILINE)
    minimum, average, maximum, deviation = (float(text) / 1000 for text in rtt.groups()) if rtt else [None] * 4
    replies = re.findall(r"^\d+ bytes from .* ttl=(\d+) time=([\d.]+) ms$", output, re.MULTILINE)
    return RoundTrips(
        sent=int(counts[1]),
        received=int(counts[2]),
        times=tuple(float(time) / 1000 for _, time in replies),
        minimum=minimum,
        average=average,
        maximum=maximum,
        deviation=deviation,
        ttl=int(replies[-1][0]) if replies else None,
    )
