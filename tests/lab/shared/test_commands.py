"""The commands that look at a running lab, as a person runs them."""

from __future__ import annotations

import json
import subprocess
import sys
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
def pinging(lab: Lab) -> Iterator[None]:
    ping = lab.host("web1").popen(["ping", "-i", "0.2", "-c", "3000", str(lab.host("app2").address)])
    lab.wait(
        lambda: any(firewall.control.sessions(application="ping") for firewall in lab.firewalls.values()), "a ping"
    )
    yield
    ping.kill()
    ping.communicate()


def inspecting(lab: Lab) -> str:
    """Return the firewall that has web1's ping."""
    web1 = str(lab.host("web1").address)
    return next(
        name for name, firewall in lab.firewalls.items() if firewall.control.sessions(application="ping", source=web1)
    )


def test_sessions_of_all_firewalls_and_of_one(lab: Lab, pinging: None) -> None:
    everything = bumpwire("sessions", "--json")
    assert everything.returncode == 0, everything.stderr
    assert list(json.loads(everything.stdout)) == list(lab.firewalls)
    one = bumpwire("sessions", inspecting(lab))
    assert "ping              ACTIVE   FLOW" in one.stdout
    assert f"{lab.host('web1').address}[" in one.stdout
    counters = bumpwire("sessions", inspecting(lab), "--counters")
    assert "pkt_recv" in counters.stdout


def test_sessions_of_no_firewall_is_a_wrong_request(lab: Lab) -> None:
    answer = bumpwire("sessions", "web1")
    assert answer.returncode == 2
    assert answer.stderr == "bumpwire: web1 is no firewall of the running lab: it has fw1, fw2, fw3, fw4\n"


def test_a_capture_of_a_firewalls_link_holds_geneve(lab: Lab, pinging: None, tmp_path: Path) -> None:
    file = tmp_path / "link.pcapng"
    answer = bumpwire("capture", f"gwlb-{inspecting(lab)}", "--count", "10", "--write", str(file))
    assert answer.returncode == 0, answer.stderr
    packets = rdpcap(str(file))
    assert len(packets) == 10
    assert any(GENEVE in packet and ICMP in packet for packet in packets)


def test_a_capture_of_an_instance_holds_what_it_sent(lab: Lab, pinging: None, tmp_path: Path) -> None:
    file = tmp_path / "web1.pcapng"
    answer = bumpwire("capture", "web1", "--count", "4", "--filter", "icmp", "--write", str(file))
    assert answer.returncode == 0, answer.stderr
    assert all(ICMP in packet and GENEVE not in packet for packet in rdpcap(str(file)))


def test_a_patch_port_is_no_link_to_capture(lab: Lab) -> None:
    answer = bumpwire("capture", "tgw.att-spoke1-a")
    assert answer.returncode == 2
    assert "inside Open vSwitch" in answer.stderr
