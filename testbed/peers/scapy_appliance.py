"""An inspecting appliance in Scapy: sniff, dissect, decide, send back; ``python -m testbed.peers.scapy_appliance``.

It does what a first exercise does: every frame becomes a tree of objects, the inner packet is looked at, the outer
addresses are swapped, and the frame is built again.
"""

from __future__ import annotations

from scapy.config import conf
from scapy.contrib.geneve import GENEVE
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether
from scapy.packet import Packet
from scapy.sendrecv import sniff

INTERFACE = "eth0"
BLOCKED_PORT = 23


def turn_around(frame: Packet) -> Packet | None:
    """Return *frame* on its way back, or None for a telnet connection."""
    inner = frame[GENEVE].payload
    if inner.haslayer(TCP) and BLOCKED_PORT in (inner[TCP].sport, inner[TCP].dport):
        return None
    ethernet, ip = frame[Ether], frame[IP]
    ethernet.src, ethernet.dst = ethernet.dst, ethernet.src
    ip.src, ip.dst = ip.dst, ip.src
    return frame


def main() -> None:
    sending = conf.L2socket(iface=INTERFACE)

    def answer(frame: Packet) -> None:
        if GENEVE in frame and (back := turn_around(frame)) is not None:
            sending.send(back)

    sniff(iface=INTERFACE, filter="inbound and udp dst port 6081", prn=answer, store=False)


if __name__ == "__main__":
    main()
