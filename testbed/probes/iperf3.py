"""iperf3: throughput, retransmissions, loss and jitter between two nodes.

A server is started for each measurement (``--one-off``) and reports in JSON, as the client does: the server's report
holds the address that it saw the client come from.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Any

from testbed.probes.child import Child, Node, ProbeError, program

#: iperf3's own port, so that a firewall's ``application-default`` holds.
PORT = 5201
#: Seconds on top of the test's own for the handshakes and the exchange of results.
MARGIN = 20.0


@dataclass(frozen=True)
class Throughput:
    """One iperf3 test.

    ``bits_per_second`` is what the receiver got, in bits of payload per second. ``retransmissions`` are the sender's
    TCP segments (None for UDP). ``lost_packets``, ``packets`` and ``jitter`` (seconds) are the receiver's, for UDP.
    ``intervals`` are (seconds since the start, bits per second), one for each second. ``peer`` is the client's
    address as the server saw it. ``client_report`` and ``server_report`` are iperf3's JSON as it came.
    """

    protocol: str
    streams: int
    seconds: float
    bits_per_second: float
    retransmissions: int | None
    packets: int | None
    lost_packets: int | None
    jitter: float | None
    congestion_control: str | None
    intervals: tuple[tuple[float, float], ...]
    peer: IPv4Address
    client_report: str
    server_report: str


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
    address = address or server.address
    title = f"iperf3 {client.name} → {server.name} ({address})"
    iperf3 = program("iperf3")
    options = ["--time", f"{seconds:g}", "--parallel", str(streams), "--connect-timeout", "5000"]
    if udp_rate is not None:
        options += ["--udp", "--bitrate", f"{udp_rate:.0f}"]
    if reverse:
        options += ["--reverse"]
    serve = [iperf3, "--server", "--one-off", "-4", "--json", "--port", str(port)]
    with Child(server, f"{title}, server", serve) as listener:
        listener.wait_listening(port)
        send = [iperf3, "--client", str(address), "-4", "--json", "--port", str(port), *options]
        with Child(client, title, send) as sender:
            code = sender.wait(seconds + MARGIN)
            if code and not sender.output.strip():
                raise sender.failure(code)
            report = read_report(sender.output, title)
        listener.wait(MARGIN)
        return parse(report, read_report(listener.output, listener.title), title, sender_output(report))


def read_report(text: str, title: str) -> dict[str, Any]:
    """Return iperf3's report. Raises ProbeError where it is no JSON object, or says that the test failed."""
    try:
        report = json.loads(text)
    except ValueError:
        report = None
    if not isinstance(report, dict):
        raise ProbeError(f"{title}: no JSON report, but {text.strip()[:80]!r}")
    if error := report.get("error"):
        raise ProbeError(f"{title}: {error}")
    return report
