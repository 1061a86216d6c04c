"""iperf3: throughput, retransmissions, loss and jitter between two nodes.

A server is started for each measurement (``--one-off``) and reports in JSON, as the client does: the server's report
holds the address that it saw the client come from.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Any

from testbed.probes.child import Child, Node, ProbeError, last_line, program

#: iperf3's own port, so that a firewall's ``application-default`` holds.
PORT = 5201
#: The last interval of a test may be a few milliseconds: its rate says nothing.
SHORTEST_INTERVAL = 0.1
#: Seconds on top of the test's own for the handshakes and the exchange of results.
MARGIN = 20.0


@dataclass(frozen=True)
class Throughput:
    """One iperf3 test.

    ``bits_per_second`` is what the receiver got, in bits of payload per second. ``retransmissions`` are the sender's
    TCP segments, of about ``segments`` in all (None for UDP). ``lost_packets``, ``packets`` and ``jitter`` (seconds)
    are the receiver's, for UDP. ``intervals`` are (seconds since the start, bits per second), one for each second.
    ``peer`` is the client's address as the server saw it. ``client_report`` and ``server_report`` are iperf3's JSON
    as it came.
    """

    protocol: str
    streams: int
    seconds: float
    bits_per_second: float
    retransmissions: int | None
    segments: int | None
    packets: int | None
    lost_packets: int | None
    jitter: float | None
    congestion_control: str | None
    intervals: tuple[tuple[float, float], ...]
    peer: IPv4Address
    client_report: str
    server_report: str

    @property
    def retransmission_ratio(self) -> float:
        """The share of TCP segments that were sent again; 0 for UDP."""
        return (self.retransmissions or 0) / (self.segments or 1)


def measure(
    client: Node,
    server: Node,
    address: IPv4Address | None = None,
    *,
    seconds: float = 5,
    streams: int = 1,
    udp_rate: float | None = None,
    reverse: bool = False,
    port: int = PORT,
) -> Throughput:
    """Send from *client* to *server* for so many seconds; to *address* where it is not the server's own.

    *udp_rate* in bits per second for each stream makes it UDP; *reverse* lets the server send. Raises ProbeError.
    """
    options = ["--parallel", str(streams), "--connect-timeout", "5000"]
    if udp_rate is not None:
        options += ["--udp", "--bitrate", f"{udp_rate:.0f}"]
    if reverse:
        options += ["--reverse"]
    with started(client, server, address, seconds=seconds, options=options, port=port) as (sender, receiver):
        code = sender.wait(seconds + MARGIN)
        client_report = sender.output
        if code and not client_report.strip():
            raise sender.failure(code)
        read_report(client_report, sender.title)  # a client that failed leaves the server waiting
        receiver.wait(MARGIN)
        return parse(client_report, receiver.output, sender.title)


@contextmanager
def started(
    client: Node,
    server: Node,
    address: IPv4Address | None = None,
    *,
    seconds: float,
    options: Sequence[str] = (),
    port: int = PORT,
) -> Iterator[tuple[Child, Child]]:
    """Start a test, with more of the client's *options*, for the block; yield its client and its server."""
    address = address or server.address
    title = f"iperf3 {client.name} → {server.name} ({address})"
    common = [program("iperf3"), "-4", "--json", "--port", str(port)]
    with Child(server, f"{title}, server", [*common, "--server", "--one-off"]) as receiver:
        receiver.wait_listening(port)
        command = [*common, "--client", str(address), "--time", f"{seconds:g}", *options]
        with Child(client, title, command) as sender:
            yield sender, receiver


def read_report(text: str, title: str) -> dict[str, Any]:
    """Return iperf3's report. Raises ProbeError where it is no JSON object, or says that the test failed."""
    try:
        report = json.loads(text)
    except ValueError:
        report = None
    if not isinstance(report, dict):
        raise ProbeError(f"{title}: no JSON report, but {last_line(text)[:80]!r}")
    if error := report.get("error"):
        raise ProbeError(f"{title}: {error}")
    return report


def parse(client_report: str, server_report: str, title: str = "iperf3") -> Throughput:
    """Return what the two ends of one test reported in JSON. Raises ProbeError for an error or a malformed report."""
    client, server = read_report(client_report, title), read_report(server_report, f"{title}, server")
    try:
        test = client["start"]["test_start"]
        end = client["end"]
        udp = test["protocol"] == "UDP"
        loss = end["sum_received"] if "packets" in end.get("sum_received", {}) else end.get("sum", {})
        received = end.get("sum_received") or loss  # before iperf3 3.10, UDP has one sum: the sender's
        rate = float(received["bits_per_second"])
        if udp and received is end.get("sum") and loss["packets"]:
            rate *= 1 - loss["lost_packets"] / loss["packets"]
        receiver = client if test["reverse"] else server
        return Throughput(
            protocol=test["protocol"].lower(),
            streams=int(test["num_streams"]),
            seconds=float(received["seconds"]),
            bits_per_second=rate,
            retransmissions=None if udp else int(end["sum_sent"]["retransmits"]),
            segments=None if udp else math.ceil(end["sum_sent"]["bytes"] / client["start"]["tcp_mss_default"]),
            packets=int(loss["packets"]) if udp else None,
            lost_packets=int(loss["lost_packets"]) if udp else None,
            jitter=loss["jitter_ms"] / 1000 if udp else None,
            congestion_control=end.get("sender_tcp_congestion"),
            intervals=tuple(
                (float(interval["sum"]["end"]), float(interval["sum"]["bits_per_second"]))
                for interval in receiver["intervals"]
                if interval["sum"]["seconds"] > SHORTEST_INTERVAL
            ),
            peer=IPv4Address(server["start"]["accepted_connection"]["host"]),
            client_report=client_report,
            server_report=server_report,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ProbeError(f"{title}: the report lacks a value or has a wrong one ({error!r})") from None
