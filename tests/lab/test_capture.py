"""Captures of a link in a namespace of our own: a pcapng that Wireshark's tools read, bounded, whole after Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.capture import Captured, Link, capture
from testbed.errors import MachineError, RequestError

pytestmark = pytest.mark.lab

#: One UDP packet to each of two ports, ten times a second.
TRAFFIC = """
import socket, time
sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
while True:
    for port in (7001, 7002):
        try:
            sender.sendto(b"bump", ("127.0.0.1", port))
        except ConnectionRefusedError:
            pass
    time.sleep(0.1)
"""


@pytest.fixture(scope="module")
def link() -> Iterator[Link]:
    command = ["unshare", "--net", "sh", "-c", 'ip link set lo up; exec "$0" -c "$1"', sys.executable, TRAFFIC]
    process = subprocess.Popen(command)
    own = os.readlink("/proc/self/ns/net")
    while os.readlink(f"/proc/{process.pid}/ns/net") == own:
        time.sleep(0.005)
    yield Link("web1", process.pid, "lo")
    process.kill()
    process.wait()


def tool(*command: str | Path) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_the_file_is_a_pcapng_of_the_link_within_the_bounds(link: Link, tmp_path: Path) -> None:
    file = tmp_path / "web1.pcapng"
    assert capture(link, file, count=7, seconds=20, packet_filter="udp dst port 7002") == Captured(7, 0)
    about = tool("capinfos", file)
    assert "pcapng" in about.split("File type:")[1].splitlines()[0]
    assert "Capture comment:     bumpwire: link web1" in about
    assert "Name = web1" in about
    ports = tool("tshark", "-r", file, "-T", "fields", "-e", "udp.dstport").split()
    assert ports == ["7002"] * 7


def test_it_ends_after_the_given_seconds(link: Link, tmp_path: Path) -> None:
    start = time.monotonic()
    assert capture(link, tmp_path / "none.pcapng", count=1, seconds=1, packet_filter="port 9") == Captured(0, 0)
    assert 0.9 < time.monotonic() - start < 10
    assert "Number of packets:   0" in tool("capinfos", tmp_path / "none.pcapng")


def test_ctrl_c_leaves_a_whole_file(link: Link, tmp_path: Path) -> None:
    file = tmp_path / "interrupted.pcapng"
    program = (
        # A shell's background job ignores Ctrl-C, and so do its children.
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
        "from pathlib import Path; from testbed.capture import Link, capture;"
        f" print(capture(Link('web1', {link.pid}, 'lo'), Path('{file}'), 100000, 600).packets)"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 30
    while not (file.exists() and file.stat().st_size > 1000):  # packets have been written
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    packets = int(process.communicate(timeout=30)[0])
    assert process.returncode == 0
    assert packets > 0
    assert len(tool("tshark", "-r", file).splitlines()) == packets


def test_errors_say_what_and_where(link: Link, tmp_path: Path) -> None:
    file = tmp_path / "x.pcapng"
    with pytest.raises(RequestError) as wrong_filter:
        capture(link, file, 1, 1, packet_filter="port port")
    assert str(wrong_filter.value) == (
        "capture: --filter 'port port': can't parse filter expression: syntax error;"
        " its language is pcap-filter(7), for example 'udp port 6081'"
    )
    assert not file.exists()
    with pytest.raises(RequestError) as no_folder:
        capture(link, tmp_path / "none" / "x.pcapng", 1, 1)
    assert str(no_folder.value) == (
        f"capture: cannot write {tmp_path}/none/x.pcapng: No such file or directory; choose another with --write"
    )
    with pytest.raises(MachineError) as no_interface:
        capture(Link("web9", link.pid, "eth9"), file, 1, 1)
    assert str(no_interface.value) == 'capture on web9: dumpcap: There is no device named "eth9".'
    with pytest.raises(MachineError, match=r"^process 4194305 has ended, and its network namespace with it$"):
        capture(Link("web1", 4194305, "eth0"), file, 1, 1)


def test_dumpcap_is_asked_for(link: Link, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MachineError, match=r"^dumpcap is missing: apt install tshark$"):
        capture(link, tmp_path / "x.pcapng", 1, 1)
