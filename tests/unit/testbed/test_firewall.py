"""What a firewall of the lab is configured with."""

from __future__ import annotations

from ipaddress import IPv4Address
from pathlib import Path

import pytest

from firewall_vnf.config import Config
from firewall_vnf.session import Timers
from testbed.errors import RequestError
from testbed.firewall import firewall_configuration
from topologies.loader import load_topology

MANAGEMENT = IPv4Address("169.254.1.3")


def test_the_firewall_accepts_what_the_lab_writes(tmp_path: Path) -> None:
    config = Config.model_validate(firewall_configuration(load_topology("gwlb"), "fw3", tmp_path, MANAGEMENT, 1))
    assert str(config.address) == "10.100.1.21"
    assert sorted(set(config.zones.values())) == ["inbound-spoke1", "inbound-spoke2", "transit"]
    assert config.policy.is_file()
    assert config.management_address == MANAGEMENT
    assert config.timers == Timers()
    assert config.session_store is None


def test_scaled_time_is_that_of_sessions_but_not_of_handshakes(tmp_path: Path) -> None:
    written = firewall_configuration(load_topology("gwlb"), "fw3", tmp_path, MANAGEMENT, 60, "redis://169.254.1.0:6379")
    config = Config.model_validate(written)
    assert (config.timers.tcp, config.timers.tcp_half_closed, config.timers.udp) == (60, 2, 1)
    assert (config.timers.tcp_init, config.timers.tcp_handshake) == (Timers().tcp_init, Timers().tcp_handshake)
    assert config.metrics_interval == 0.5
    assert str(config.session_store).startswith("redis://169.254.1.0:6379")


def test_a_topology_without_a_policy_is_a_wrong_request(tmp_path: Path) -> None:
    topology = load_topology("gwlb").model_copy(update={"firewalls": None})
    with pytest.raises(RequestError, match=r"^topology gwlb: fw1 has no policy; name a file in firewalls\.policy$"):
        firewall_configuration(topology, "fw1", tmp_path, MANAGEMENT, 1)
