"""Link monitoring: a firewall of a pair that has a data interface down hands over.

The failure condition is "any", PAN-OS's default (administrator's guide, "HA Link and Path Monitoring").
"""

from __future__ import annotations

import fcntl
import socket
import struct
from collections.abc import Iterable

SIOCGIFFLAGS = 0x8913  # linux/sockios.h
IFF_RUNNING = 0x40  # linux/if.h


def failed_links(interfaces: Iterable[str]) -> str:
    """Return which of the *interfaces* of this network namespace have no link, in words; nothing if all have."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        down = [name for name in interfaces if not _is_up(any_socket, name)]
    return f"no link: {', '.join(down)}" if down else ""


def _is_up(any_socket: socket.socket, name: str) -> bool:
    try:
        answer = fcntl.ioctl(any_socket, SIOCGIFFLAGS, struct.pack("16s16x", name.encode()))
    except OSError:  # there is no such interface
        return False
    return bool(struct.unpack_from("16xH", answer)[0] & IFF_RUNNING)
