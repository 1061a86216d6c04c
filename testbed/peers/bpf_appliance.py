"""The bare appliance in BPF: the kernel turns every GENEVE frame around, and nothing looks into any.

What a firewall's offload can reach at most. Run as ``python -m testbed.peers.bpf_appliance``.
"""

from __future__ import annotations

import signal
import socket
from pathlib import Path

from firewall_vnf import libbpf
from firewall_vnf.bpf_object import find_program

SOURCE = Path(__file__).parents[1] / "bpf" / "turn_around.c"
INTERFACE = "eth0"


def main() -> None:
    index = socket.if_nametoindex(INTERFACE)
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    with libbpf.Object(find_program(SOURCE)) as loaded:
        libbpf.attach(loaded.program("turn_around"), index)
    try:
        signal.sigwait((signal.SIGINT, signal.SIGTERM))
    finally:
        libbpf.detach(index)


if __name__ == "__main__":
    main()
