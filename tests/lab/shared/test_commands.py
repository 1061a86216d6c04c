"""The commands that look at a running lab, as a person runs them."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from scapy.contrib.geneve import GENEVE
from scapy.layers.inet import ICMP
from scapy.utils import rdpcap

from testbed.lab import Lab

pytestmark = pytest.mark.lab


def bumpwire(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "testbed", *words], capture_output=True, text=True, check=False)


@pytest.fixture
def pinging(lab: Lab) -> Iterator[str]:
    """A ping from web1 to app2; the firewall that has it."""
    client, server, before = lab.host("web1"), lab.host("app2"), time.time()
    ping = client.popen(["ping", "-i", "0.2", "-c", "3000", str(server.address)])

    def inspecting() -> str | None:
        for name, firewall in lab.firewalls.items():
            for session in firewall.control.sessions(application="ping", source=str(client.address)):
                if session["start_time"] > before:  # those of pings before linger
                    return name
        return None

    yield lab.wait(inspecting, "a ping")
    ping.kill()
    ping.communicate()


def test_sessions_of_all_firewalls_and_of_one(lab: Lab, pinging: str) -> None:
    everything = bumpwire("sessions", "--json")
    assert everything.returncode == 0, everything.stderr
    assert list(json.loads(everything.stdout)) == list(lab.firewalls)
    one = bumpwire("sessions", pinging)
    assert "ping              ACTIVE   FLOW" in one.stdout
    assert f"{lab.host('web1').address}[" in one.stdout
    counters = bumpwire("sessions", pinging, "--counters")
    assert "pkt_recv" in counters.stdout


def test_sessions_of_no_firewall_is_a_wrong_request(lab: Lab) -> None:
    answer = bumpwire("sessions", "web1")
    assert answer.returncode == 2
    assert answer.stderr == "bumpwire: web1 is no firewall of the running lab: it has fw1, fw2, fw3, fw4\n"


def test_a_capture_of_a_firewalls_link_holds_geneve(lab: Lab, pinging: str, tmp_path: Path) -> None:
    file = tmp_path / "link.pcapng"
    answer = bumpwire("capture", f"gwlb-{pinging}", "--count", "10", "--write", str(file))
    assert answer.returncode == 0, answer.stderr
    packets = rdpcap(str(file))
    assert len(packets) == 10
    assert any(GENEVE in packet and ICMP in packet for packet in packets)


def test_a_capture_of_an_instance_holds_what_it_sent(lab: Lab, pinging: str, tmp_path: Path) -> None:
    file = tmp_path / "web1.pcapng"
    answer = bumpwire("capture", "web1", "--count", "4", "--filter", "icmp", "--write", str(file))
    assert answer.returncode == 0, answer.stderr
    assert all(ICMP in packet and GENEVE not in packet for packet in rdpcap(str(file)))


def test_a_patch_port_is_no_link_to_capture(lab: Lab) -> None:
    answer = bumpwire("capture", "tgw.att-spoke1-a")
    assert answer.returncode == 2
    assert "inside Open vSwitch" in answer.stderr
