"""Link monitoring on this machine's own interfaces; a lost link under traffic is told by the story active-passive."""

from __future__ import annotations

import fcntl
import struct

import pytest

from firewall_vnf.link_monitor import failed_links


def test_an_interface_that_is_missing_has_no_link() -> None:
    assert failed_links(["absent0", "absent1"]) == "no link: absent0, absent1"
    assert failed_links([]) == ""


@pytest.mark.parametrize(("flags", "failure"), [(0x1043, ""), (0x1003, "no link: trust"), (0x1002, "no link: trust")])
def test_the_link_is_what_the_kernel_says_is_running(flags: int, failure: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """UP, BROADCAST, MULTICAST, with and without RUNNING: a port that is up without a peer has no link."""

    def ioctl(_socket: object, _request: int, argument: bytes) -> bytes:
        assert argument.rstrip(b"\0") == b"trust"
        return argument[:16] + struct.pack("H", flags) + bytes(14)

    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    assert failed_links(["trust"]) == failure
