"""What the switches let through, and what they drop: real frames, and the counter of the decision that met them."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from pathlib import Path

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet, Raw

from testbed.lab import Lab
from testbed.namespace import in_namespace
from testbed.trip import received
from topologies.fabric import ROUTER_MAC, mac_address

pytestmark = pytest.mark.lab


def send(lab: Lab, name: str, frames: Iterable[Packet]) -> None:
    """Send frames from a node's interface as they are."""

    def open_socket() -> socket.socket:
        raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        raw.bind(("eth0", 0))
        return raw

    with in_namespace(lab.host(name).pid, open_socket) as raw:
        for frame in frames:
            raw.send(bytes(frame))


def rise(lab: Lab, decision: str, action: Callable[[], None], packets: int) -> None:
    """Assert that *action* makes the decision's counter rise by *packets*."""
    before = lab.flow_counters()[decision]
    action()
    lab.wait(lambda: lab.flow_counters()[decision] >= before + packets, f"{packets} packets at {decision}")
    assert lab.flow_counters()[decision] == before + packets


def arrived(lab: Lab, name: str) -> int:
    return received(Path(f"/proc/{lab.host(name).pid}/net/snmp").read_text())


@contextmanager
def mtu(lab: Lab, name: str, size: int):  # type: ignore[no-untyped-def]
    def set_mtu(value: int) -> None:
        lab.host(name).run(["ip", "link", "set", "eth0", "mtu", str(value)])

    set_mtu(size)
    yield
    set_mtu(lab.topology.mtu)


def to_router(source: str) -> Ether:
    return Ether(src=mac_address(source), dst=ROUTER_MAC)


def test_source_check_drops_a_foreign_address(lab: Lab) -> None:
    spoofed = to_router("web1") / IP(src="10.200.0.99", dst=str(lab.host("app2").address)) / UDP(dport=9)
    before = arrived(lab, "app2")
    rise(lab, "spoke1/interfaces source check", lambda: send(lab, "web1", [spoofed] * 5), 5)
    assert arrived(lab, "app2") == before


def test_source_check_drops_a_foreign_mac_address(lab: Lab) -> None:
    web1, app2 = lab.host("web1").address, lab.host("app2").address
    spoofed = Ether(src=mac_address("app1"), dst=ROUTER_MAC) / IP(src=str(web1), dst=str(app2)) / UDP(dport=9)
    rise(lab, "spoke1/interfaces source check", lambda: send(lab, "web1", [spoofed] * 5), 5)


def test_source_check_drops_an_arp_announcement_of_another(lab: Lab) -> None:
    claim = Ether(src=mac_address("web1"), dst="ff:ff:ff:ff:ff:ff") / ARP(
        op=1, hwsrc=mac_address("web1"), psrc="10.200.0.17", pdst="10.200.0.17"
    )
    rise(lab, "spoke1/interfaces source check", lambda: send(lab, "web1", [claim]), 1)


def test_a_tcp_packet_of_an_unknown_flow_is_dropped_by_the_load_balancer(lab: Lab) -> None:
    stray = to_router("web1") / IP(src=str(lab.host("web1").address), dst=str(lab.host("app2").address))
    frames = [stray / TCP(sport=40000 + port, dport=80, flags="A") for port in range(7)]
    before = {name: firewall.control.counters()["pkt_recv"] for name, firewall in lab.firewalls.items()}
    rise(lab, "gwlb/connections not a SYN", lambda: send(lab, "web1", frames), 7)
    assert {name: firewall.control.counters()["pkt_recv"] for name, firewall in lab.firewalls.items()} == before


def test_fragments_are_dropped_by_the_load_balancer(lab: Lab) -> None:
    whole = IP(src=str(lab.host("web1").address), dst=str(lab.host("app2").address), flags="MF")
    fragment = to_router("web1") / whole / UDP(dport=9) / Raw(bytes(64))
    rise(lab, "gwlb/endpoints fragment", lambda: send(lab, "web1", [fragment] * 3), 3)


def test_more_than_8500_bytes_is_dropped_silently_and_counted(lab: Lab) -> None:
    before = lab.endpoint_counters()["plain_too_large"]
    with mtu(lab, "web1", 9001):
        web1, app2 = lab.host("web1"), lab.host("app2").address
        fits = web1.run(["ping", "-c1", "-W2", "-Mdo", "-s8472", str(app2)])  # 8,500 with its headers
        large = web1.run(["ping", "-c1", "-W1", "-Mdo", "-s8473", str(app2)])
    assert fits.returncode == 0, fits.stdout
    assert large.returncode == 1
    assert "error" not in large.stdout  # no ICMP came back
    assert lab.endpoint_counters()["plain_too_large"] == before + 1


def test_an_address_that_nobody_has_is_dropped(lab: Lab) -> None:
    request = to_router("web1") / IP(src=str(lab.host("web1").address), dst="10.200.0.21") / ICMP()
    other_subnet = to_router("web1") / IP(src=str(lab.host("web1").address), dst="10.200.1.99") / ICMP()
    rise(lab, "spoke1/delivery no such host", lambda: send(lab, "web1", [request, other_subnet]), 2)


def test_an_instance_without_a_public_address_is_not_reached_from_the_internet(lab: Lab) -> None:
    before = arrived(lab, "app1")
    assert lab.host("client").run(["ping", "-c1", "-W1", str(lab.host("app1").address)]).returncode == 1
    assert arrived(lab, "app1") == before


def test_a_nat_gateway_lets_nothing_in(lab: Lab) -> None:
    public = lab.topology.vpcs["security"].nat_gateways["nat-a"].public_address
    knock = to_router("client") / IP(src=str(lab.host("client").address), dst=str(public)) / TCP(dport=22, flags="S")
    rise(lab, "security/nat unsolicited", lambda: send(lab, "client", [knock] * 2), 2)


def test_flows_spread_over_the_zones_firewalls_and_none_is_split(lab: Lab) -> None:
    app1, server = lab.host("app1"), lab.host("server")
    before = lab.flow_counters()
    packets = [
        to_router("app1") / IP(src=str(app1.address), dst=str(server.address)) / TCP(sport=port, dport=9, flags="S")
        for port in range(20000, 20100)
    ]
    send(lab, "app1", packets)
    lab.wait(
        lambda: lab.flow_counters()["gwlb/commit new connection"] >= before["gwlb/commit new connection"] + 100,
        "100 flows",
    )
    after = lab.flow_counters()
    used = [name for name in lab.firewalls if after[f"gwlb/targets {name}"] > before[f"gwlb/targets {name}"]]
    assert used == sorted(lab.firewalls)
    ports: dict[int, str] = {}
    for name, firewall in lab.firewalls.items():
        for session in firewall.control.sessions(source=str(app1.address), destination=str(server.address)):
            assert ports.setdefault(session["source_port"], name) == name


def test_idle_timeouts_of_the_flow_table_are_awss(lab: Lab) -> None:
    from testbed.bridges import appctl, datapath_name, vsctl

    policy = vsctl("list-zone-tp", lab.journal.datapath)
    assert "tcp_established=350" in policy
    assert "udp_multiple=120" in policy
    lab.host("web1").run(["ping", "-c1", str(lab.host("app2").address)])
    zones = {f"zone={zone}" for zone in lab.journal.zones}
    tracked = appctl("dpctl/dump-conntrack", "-s", datapath_name(lab.journal.datapath))
    entries = [line for line in tracked.splitlines() if any(zone in line for zone in zones)]
    left = [int(line.partition("timeout=")[2].split(",")[0]) for line in entries if "icmp" in line and "mark=" in line]
    # Open vSwitch's and the kernel's own are 60 and 30; what is left of earlier flows' is less.
    assert 60 < max(left) <= 120
