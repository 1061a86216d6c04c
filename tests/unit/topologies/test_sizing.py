"""Topologies with another number of firewalls are valid, and all firewalls are in use."""

from __future__ import annotations

import pytest

from topologies.loader import load_topology
from topologies.sizing import with_firewalls
from topologies.validation import validate


@pytest.mark.parametrize("count", range(1, 9))
@pytest.mark.parametrize("name", ["gwlb", "vpn-ecmp", "sandwich"])
def test_any_number_is_valid(name: str, count: int) -> None:
    topology = with_firewalls(load_topology(name), count)
    assert not validate(topology)
    names = {f"fw{number}" for number in range(1, count + 1)}
    used = {name: set(gwlb.target_group.targets) for name, gwlb in topology.gateway_load_balancers.items()}
    for vpc in topology.vpcs.values():
        used |= {name: set(one.listeners[80].targets) for name, one in vpc.load_balancers.items() if name != "internal"}
    for name, gateway in topology.transit_gateways.items():
        if gateway.vpn_attachments:
            used[name] = {item.firewall for item in gateway.vpn_attachments.values()}
    assert used
    assert all(one == names for one in used.values())


@pytest.mark.parametrize(("count", "active"), [(1, {"fw1-trust"}), (2, {"fw1-trust"}), (4, {"fw1-trust", "fw3-trust"})])
def test_a_pair_has_one_active_firewall(count: int, active: set[str]) -> None:
    topology = with_firewalls(load_topology("active-passive"), count)
    assert not validate(topology)
    tables = topology.vpcs["security"].route_tables.values()
    assert {target for table in tables for target in table.routes.values() if target.startswith("fw")} == active


def test_what_cannot_be_built() -> None:
    with pytest.raises(ValueError, match="active-passive: 5 firewalls cannot be built; choose 1 to 4"):
        with_firewalls(load_topology("active-passive"), 5)
    with pytest.raises(ValueError, match="gwlb: 9 firewalls cannot be built; choose 1 to 8"):
        with_firewalls(load_topology("gwlb"), 9)
