"""What a firewall of the lab is configured with."""

from __future__ import annotations

from pathlib import Path

import pytest

from firewall_vnf.config import Config
from testbed.errors import RequestError
from testbed.firewall import firewall_configuration
from topologies.loader import load_topology


def test_the_firewall_accepts_what_the_lab_writes(tmp_path: Path) -> None:
    config = Config.model_validate(firewall_configuration(load_topology("gwlb"), "fw3", tmp_path))
    assert str(config.address) == "10.100.1.21"
    assert sorted(set(config.zones.values())) == ["inbound-spoke1", "inbound-spoke2", "transit"]
    assert config.policy.is_file()


def test_a_topology_without_a_policy_is_a_wrong_request(tmp_path: Path) -> None:
    topology = load_topology("gwlb").model_copy(update={"firewalls": None})
    with pytest.raises(RequestError, match=r"^topology gwlb: fw1 has no policy; name a file in firewalls\.policy$"):
        firewall_configuration(topology, "fw1", tmp_path)
