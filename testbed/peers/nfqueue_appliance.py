"""An inspecting appliance with NFQUEUE: Linux forwards, Python judges each packet.

The kernel turns GENEVE packets around with two NAT rules (the hairpin of AWS's samples for Gateway Load Balancers) and
asks this program for a verdict on each. Run as ``python -m testbed.peers.nfqueue_appliance GWLB_ADDRESS OWN_ADDRESS``.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from netfilterqueue import NetfilterQueue, Packet

QUEUE = 1
BLOCKED_PORT = 23
#: Outer IPv4 and UDP headers, GENEVE's base header and AWS's three options, in bytes.
ENCAPSULATION = 20 + 8 + 8 + 32


def judge(packet: Packet) -> None:
    """Accept the packet unless it belongs to a telnet connection."""
    data = packet.get_payload()
    inner = data[ENCAPSULATION:]
    header = (inner[0] & 15) * 4
    ports = (int.from_bytes(inner[header : header + 2], "big"), int.from_bytes(inner[header + 2 : header + 4], "big"))
    if inner[9] == 6 and BLOCKED_PORT in ports:
        packet.drop()
    else:
        packet.accept()


def main(gwlb: str, own: str) -> None:
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    geneve = ["-p", "udp", "--dport", "6081"]
    for rule in (
        ["-t", "nat", "-A", "PREROUTING", *geneve, "-s", gwlb, "-d", own, "-j", "DNAT", "--to-destination", gwlb],
        ["-t", "nat", "-A", "POSTROUTING", *geneve, "-s", gwlb, "-d", gwlb, "-j", "MASQUERADE"],
        ["-A", "FORWARD", *geneve, "-j", "NFQUEUE", "--queue-num", str(QUEUE)],
    ):
        subprocess.run(["iptables", *rule], check=True)
    queue = NetfilterQueue()
    # The headers are enough for a verdict, and the binding's buffer ends at 4,096 bytes.
    queue.bind(QUEUE, judge, max_len=4096, range=256)
    queue.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
