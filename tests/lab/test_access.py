"""Who may use the load balancer, and who tries although he may not: the endpoint service, and attacks on a real lab.

Every frame of an attack carries a mark. An attack has failed when all its frames were counted where they must be
dropped, and no tap on any other link has seen the mark.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from scapy.contrib.geneve import GENEVE, GeneveOptions
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Packet, Raw

from testbed.bridges import appctl
from testbed.errors import RequestError
from testbed.geneve_endpoint import CONFIG, INDEX
from testbed.lab import Lab
from testbed.namespace import in_namespace
from testbed.probes import flows
from testbed.trip import settle
from testbed.wire import Tap
from tests.lab.test_geneve_endpoint import half_sip_hash
from topologies import loader
from topologies.fabric import ROUTER_MAC, endpoint_index, geneve_interface, mac_address
from topologies.ids import endpoint_ids, endpoint_number
from topologies.model import Topology

pytestmark = pytest.mark.lab

#: The endpoints between the spokes, one in each zone; and one that only the rejected tenant uses.
EAST_WEST, REJECTED = ("gwlbe3-a", "gwlbe3-b"), "gwlbe2-b"
#: A firewall that is a target, and one that never was.
TARGET, STRANGER = "fw3", "fw4"
COPIES = 3
MARK = Raw(b"bumpwire attack")

ACCEPTANCE = """      acceptance_required: true
      accepted: [gwlbe1-a, gwlbe1-b, gwlbe2-a]
      rejected: [gwlbe2-b]
"""


def plan() -> Topology:
    """The reference topology: one firewall is no target, and endpoints must be accepted; those of east-west are not."""
    file = loader.find("gwlb")
    text = file.read_text()
    text = text.replace("    endpoint_service:\n", f"    endpoint_service:\n{ACCEPTANCE}")
    text = text.replace("    target_group:\n", "    target_group:\n      targets: [fw1, fw2, fw3]\n")
    return loader.parse(text, file)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab(plan(), time_scale=10) as running:
        yield running


# -- the endpoint service --------------------


def states(lab: Lab) -> dict[str, str]:
    return lab.manage(lambda service: {entry["endpoint"]: entry["state"] for entry in service.connections()})


def accept(lab: Lab) -> None:
    for endpoint in EAST_WEST:
        lab.manage(lambda service, endpoint=endpoint: service.accept(endpoint))  # type: ignore[misc]


def reject(lab: Lab) -> None:
    for endpoint in EAST_WEST:
        lab.manage(lambda service, endpoint=endpoint: service.reject(endpoint))  # type: ignore[misc]


def test_a_pending_endpoint_carries_nothing_and_an_accepted_one_carries_at_once(lab: Lab) -> None:
    web1, app2 = lab.host("web1"), lab.host("app2")
    assert {name: states(lab)[name] for name in (*EAST_WEST, REJECTED)} == {
        "gwlbe3-a": "pendingAcceptance",
        "gwlbe3-b": "pendingAcceptance",
        "gwlbe2-b": "rejected",
    }
    before = lab.flow_counters()
    (arrived,) = settle(app2)
    settings = flows.Settings(tcp=0, connect_every=0.1, connect_timeout=1)
    with flows.keep(web1, app2, settings=settings) as traffic:
        traffic.wait(lambda status: status.failed >= 5, "connections that fail")
        assert settle(app2) == [arrived]
        after = lab.flow_counters()
        accept(lab)
        accepted = traffic.status()
        # At most 10 have waited up to a second; the others were started later.
        traffic.wait(lambda status: status.connected >= 15, "connections that succeed")
    # The route to the endpoint drops: nothing came to the load balancer, and no firewall was asked.
    dropped = [f"security/tgw-attach-{az} 10.0.0.0/8" for az in "ab"]
    assert sum(after[name] - before[name] for name in dropped) >= 5
    assert after["gwlb/connections new in a"] == before["gwlb/connections new in a"]
    assert after["gwlb/connections new in b"] == before["gwlb/connections new in b"]
    assert {states(lab)[name] for name in EAST_WEST} == {"available"}
    late = [one for one in traffic.report.connections if one.started > accepted.time]
    assert late
    assert not [one for one in late if one.error]


def test_a_rejection_stops_established_flows_at_once_and_can_be_taken_back(lab: Lab) -> None:
    web1, app2 = lab.host("web1"), lab.host("app2")
    accept(lab)
    settings = flows.Settings(tcp=8, connect_every=0.1, connect_timeout=1, dead_after=2)
    with flows.keep(web1, app2, settings=settings) as traffic:
        traffic.wait_established()
        reject(lab)
        arrived = settle(app2, web1)
        rejected = traffic.status()
        traffic.wait(lambda status: not status.alive and status.failed >= 5, "the flows' end")
        assert settle(app2, web1) == arrived
        none = traffic.status()
        accept(lab)
        accepted = traffic.status()
        # At most 10 have waited up to a second; the others were started later.
        traffic.wait(lambda status: status.connected >= accepted.connected + 15, "new connections")
    tried = [one for one in traffic.report.connections if rejected.time < one.started < none.time - 1]
    assert tried
    assert all(one.error for one in tried)
    late = [one for one in traffic.report.connections if one.started > accepted.time]
    assert late
    assert not [one for one in late if one.error]


def test_acceptance_required_is_an_attribute(lab: Lab) -> None:
    def required(value: str) -> None:
        lab.manage(lambda service: service.set_attributes("gwlb", {"AcceptanceRequired": value}))

    accept(lab)
    before = states(lab)
    required("false")
    assert states(lab) == before  # what was rejected stays rejected
    required("true")
    assert states(lab) == before  # what was available stays available
    with pytest.raises(RequestError, match="gwlbe9"):
        lab.manage(lambda service: service.accept("gwlbe9"))


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        (
            'allowed_principals: ["222222222222", "333333333333"]',
            'allowed_principals: ["222222222222"]',
            "The Vpc Endpoint Service 'gwlb' does not exist for account 333333333333",
        ),
        ("0.0.0.0/0: gwlbe1-a}", "0.0.0.0/0: gwlbe2-a}", "gwlbe2-a"),  # another tenant's endpoint as a route's target
    ],
)
def test_what_an_account_may_not_have_is_refused(old: str, new: str, error: str) -> None:
    file = loader.find("gwlb")
    text = file.read_text()
    assert old in text
    with pytest.raises(loader.TopologyError, match=error):
        loader.parse(text.replace(old, new), file)


# -- attacks --------------------

WEB1, APP1, APP2, CLIENT = "10.200.0.20", "10.200.1.52", "10.250.0.52", "203.0.113.10"
FW1, FW2, NODE, NAT, ROUTER = "10.100.0.21", "10.100.0.22", "10.100.1.20", "192.0.2.31", "10.200.0.17"
MANAGEMENT, METRICS = "169.254.1.0", "169.254.1.1"


@dataclass(frozen=True)
class Returned:
    """A GENEVE frame as appliance *sender* returns it, around a packet of web1 to app2; anything in it can be wrong.

    ``given`` are target, endpoint and source port of the flow whose cookie it carries.
    """

    sender: str = TARGET
    given: tuple[str, str, int] = (TARGET, "gwlbe3-b", 40000)
    source: str = ""
    to: str = NODE
    endpoint: str = "gwlbe3-b"
    port: int = 40000
    flags: str = ""
    option_class: int = 0x0108
    wrong_cookie: int = 0
    wrong_port: int = 0

    def frame(self, lab: Lab) -> Packet:
        ids = {name: endpoint_number(number) for name, number in endpoint_ids(lab.topology).items()}
        number = cookie(lab, *self.given) ^ self.wrong_cookie
        values = struct.pack(">Q", ids.get(self.endpoint, 1)), bytes(8), struct.pack(">I", number)
        options = [
            GeneveOptions(classid=self.option_class, type=kind, data=value) for kind, value in enumerate(values, 1)
        ]
        return (
            Ether(src=mac_address(self.sender), dst=mac_address(f"gwlb/{self.sender}"))
            / IP(src=self.source or str(lab.host(self.sender).address), dst=self.to, flags=self.flags)
            / UDP(sport=(0xC000 | number & 0x3FFF) ^ self.wrong_port, dport=6081, chksum=0)
            / GENEVE(proto=0x0800, vni=0, options=options)
            / IP(src=WEB1, dst=APP2)
            / UDP(sport=self.port, dport=9)
            / MARK
        )


def cookie(lab: Lab, target: str, endpoint: str, port: int) -> int:
    """Return the right cookie of a flow from web1 to app2 in zone b. It takes the load balancer's key to know it."""
    key = CONFIG.unpack(lab.endpoints["gwlb"]._maps["config"].lookup(INDEX.pack(0)) or b"")[2]
    index = next(link.index for link in lab.fabric.appliance_links if link.appliance == target)
    ends = sorted(
        IPv4Address(end).packed.ljust(16, b"\0") + bytes(struct.pack(">HH", number, 0))
        for end, number in ((WEB1, port), (APP2, 9))
    )
    words = struct.pack("<2I", endpoint_index(lab.topology)[endpoint] << 16 | index, 17)
    return half_sip_hash(key, b"".join([IPv4Address(NODE).packed, words, *ends]))


@dataclass(frozen=True)
class Attack:
    """A frame that *node* sends by ``eth0``, and the counter that must rise by it.

    ``counted`` is a decision, a counter of the GENEVE endpoint, or ``NODE InAddrErrors``: what a kernel should have
    forwarded and did not. What is ``inspected`` the firewalls may see: it is dropped behind them.
    """

    name: str
    node: str
    frame: Packet | bytes | Returned
    counted: str
    inspected: bool = False


def ether(source: str = "web1", to: str = ROUTER_MAC) -> Packet:
    return Ether(src=mac_address(source), dst=to)


def honest(to: str, source: str = WEB1) -> Packet:
    return ether() / IP(src=source, dst=to)


def plain(source: str, destination: str) -> Packet:
    """A frame with the addresses that the load balancer's bridge and its GENEVE endpoint use between them."""
    return Ether(src=source, dst=destination) / IP(src=WEB1, dst=APP2) / UDP() / MARK


def claim(address: str, operation: int, mac: str = "web1") -> Packet:
    asked = ARP(op=operation, hwsrc=mac_address(mac), psrc=address, pdst=WEB1)
    return ether(to="ff:ff:ff:ff:ff:ff") / asked / MARK


def tunnel(to: str, source: str = WEB1, option_class: int = 0x0108) -> Packet:
    """GENEVE from a tenant, with AWS's options or others."""
    options = [
        GeneveOptions(classid=option_class, type=kind, data=bytes(size)) for kind, size in ((1, 8), (2, 8), (3, 4))
    ]
    inner = IP(src=CLIENT, dst=APP2) / UDP() / MARK
    return honest(to, source) / UDP(sport=50000, dport=6081) / GENEVE(proto=0x0800, options=options) / inner


SYN = TCP(sport=41000, dport=80, flags="S")
CHECK, NOT_IP, TAG = "spoke1/interfaces source check", "spoke1/interfaces not IPv4", "spoke1/interfaces VLAN tag"
NOBODY, FRAGMENT = "security/delivery no such host", "gwlb/endpoints fragment"

TENANTS = [
    Attack("another instance's address", "web1", honest(APP2, source=APP1) / UDP() / MARK, CHECK),
    Attack("a firewall's address", "web1", honest(APP2, source=FW1) / UDP() / MARK, CHECK),
    Attack("another instance's MAC", "web1", ether("app1") / IP(src=WEB1, dst=APP2) / UDP() / MARK, CHECK),
    Attack(
        "another tenant's endpoint", "web1", honest("10.250.1.36") / ICMP() / MARK, "spoke2/delivery no such host", True
    ),
    Attack(
        "another tenant's endpoint subnet",
        "web1",
        honest("10.250.0.46") / ICMP() / MARK,
        "spoke2/delivery no such host",
        True,
    ),
    Attack("the own endpoint", "web1", honest("10.200.0.36") / ICMP() / MARK, "spoke1/delivery no such host"),
    Attack("a firewall's health port", "web1", honest(FW1) / SYN / MARK, NOBODY),
    Attack("a load balancer node", "web1", honest(NODE) / SYN / MARK, NOBODY),
    Attack("GENEVE to a node", "web1", tunnel(NODE), NOBODY),
    Attack("GENEVE to a firewall", "web1", tunnel(FW1), NOBODY),
    Attack("GENEVE, wrong options", "web1", tunnel(NODE, option_class=0x0107), NOBODY),
    Attack("GENEVE as a firewall", "web1", tunnel(NODE, source=FW1), CHECK),
    Attack("GENEVE as a node", "web1", tunnel(FW1, source=NODE), CHECK),
    Attack(
        "GENEVE from the internet",
        "client",
        ether("client") / IP(src=CLIENT, dst=NAT) / tunnel(NAT)[UDP],
        "security/nat unsolicited",
    ),
    Attack(
        "a firewall from the internet",
        "client",
        ether("client") / IP(src=CLIENT, dst=FW1) / SYN / MARK,
        "internet/routes no route",
    ),
    Attack("metrics", "web1", honest(METRICS) / TCP(dport=9090, flags="S") / MARK, "spoke1/interfaces link-local"),
    Attack("Redis", "web1", honest(MANAGEMENT) / TCP(dport=6379, flags="S") / MARK, "spoke1/interfaces link-local"),
    Attack("plain to a target", "web1", plain("02:45:00:01:00:01", "02:47:00:00:00:01"), CHECK),
    Attack("plain to an endpoint", "web1", plain("02:47:00:00:00:01", "02:45:00:00:00:03"), CHECK),
    Attack(
        "plain to the resetter", "web1", ether(to="02:47:00:00:ff:ff") / IP(src=WEB1, dst=NODE) / SYN / MARK, NOBODY
    ),
    Attack("VLAN tag", "web1", ether() / Dot1Q(vlan=5) / IP(src=WEB1, dst=APP1) / UDP() / MARK, TAG),
    Attack("priority tag", "web1", ether() / Dot1Q(vlan=0) / IP(src=WEB1, dst=APP1) / UDP() / MARK, TAG),
    Attack(
        "two VLAN tags", "web1", ether() / Dot1Q(vlan=5) / Dot1Q(vlan=6) / IP(src=WEB1, dst=APP1) / UDP() / MARK, TAG
    ),
    Attack("IPv6", "web1", ether() / IPv6(src="fe80::1", dst="fe80::2") / UDP() / MARK, NOT_IP),
    Attack("an unknown protocol", "web1", ether() / MARK, NOT_IP),
    Attack("IPv4 longer than its frame", "web1", ether() / IP(src=WEB1, dst=APP1, len=1400) / UDP() / MARK, CHECK),
    Attack("IPv4 with no room for a header", "web1", ether() / IP(src=WEB1, dst=APP1, ihl=4) / UDP() / MARK, CHECK),
    # Open vSwitch does not look at the version; within a VPC it is the receiver that drops such a packet.
    Attack("IPv4 of version 6", "web1", ether() / IP(src=WEB1, dst=APP2, version=6) / UDP() / MARK, "plain_malformed"),
    Attack("IPv4 cut short", "web1", bytes(ether())[:12] + b"\x08\x00" + b"\x45" + bytes(MARK), CHECK),
    Attack(
        "a wrong TCP checksum",
        "web1",
        honest(APP2) / TCP(dport=80, flags="S", chksum=1) / MARK,
        "gwlb/connections invalid",
    ),
    Attack("ARP: I am the router", "web1", claim(ROUTER, 1), CHECK),
    Attack("ARP answer: I am the router", "web1", claim(ROUTER, 2), CHECK),
    Attack("ARP: I am another instance", "web1", claim(APP1, 1), CHECK),
    Attack("ARP: another has my address", "web1", claim(WEB1, 1, mac="app1"), CHECK),
    Attack("a first fragment", "web1", ether() / IP(src=WEB1, dst=APP2, flags="MF") / UDP() / MARK, FRAGMENT),
    Attack("a later fragment", "web1", ether() / IP(src=WEB1, dst=APP2, frag=9, proto=17) / MARK, FRAGMENT),
    Attack("multicast", "web1", honest("224.0.0.1") / UDP() / MARK, "spoke1/interfaces multicast"),
]

IN_GWLB = Ether(src=mac_address(TARGET), dst=mac_address(f"gwlb/{TARGET}"))
APPLIANCES = [
    # Even with the load balancer's key: who is no target returns nothing.
    Attack(
        "never registered",
        STRANGER,
        Returned(sender=STRANGER, given=(STRANGER, "gwlbe3-b", 40000)),
        "gwlb/sources not registered",
    ),
    Attack("never registered, without the key", STRANGER, Returned(sender=STRANGER), "return_cookie"),
    Attack("never registered, as a target", STRANGER, Returned(sender=STRANGER, source="10.100.1.21"), "return_target"),
    Attack("another firewall's address", TARGET, Returned(source=FW1), "return_target"),
    Attack("another firewall's frame", TARGET, Returned(given=("fw1", "gwlbe3-b", 40000)), "return_cookie"),
    Attack("a changed cookie", TARGET, Returned(wrong_cookie=1 << 20), "return_cookie"),
    Attack("a changed port", TARGET, Returned(wrong_port=1), "return_port"),
    Attack("another tenant's endpoint", TARGET, Returned(endpoint="gwlbe2-a"), "return_cookie"),
    Attack("an unknown endpoint", TARGET, Returned(endpoint="none"), "return_endpoint"),
    Attack(
        "a rejected endpoint",
        TARGET,
        Returned(given=(TARGET, REJECTED, 40000), endpoint=REJECTED),
        "gwlb/returned no such endpoint",
    ),
    Attack("a flow of its own", TARGET, Returned(port=40001), "return_cookie"),
    Attack("other options", TARGET, Returned(option_class=0x0107), "return_tlv"),
    Attack("to another firewall", TARGET, Returned(to=FW2), "return_node"),
    Attack("fragments", TARGET, Returned(flags="MF"), "return_fragment"),
    Attack(
        "no GENEVE, to a tenant", TARGET, IN_GWLB / IP(src="10.100.1.21", dst=APP2) / UDP() / MARK, "gwlb InAddrErrors"
    ),
    Attack(
        "another firewall's health port",
        TARGET,
        IN_GWLB / IP(src="10.100.1.21", dst=FW1) / SYN / MARK,
        "gwlb InAddrErrors",
    ),
]


def send(lab: Lab, node: str, frame: bytes, interface: str = "eth0") -> None:
    with in_namespace(lab.host(node).pid, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW)) as raw:
        in_namespace(lab.host(node).pid, lambda: raw.bind((interface, 0)))
        for _ in range(COPIES):
            raw.send(frame)


def counters(lab: Lab) -> dict[str, int]:
    return (
        lab.flow_counters()
        | lab.endpoint_counters()
        | {f"{name} InAddrErrors": address_errors(lab, name) for name in ("gwlb", "fw1")}
    )


def address_errors(lab: Lab, node: str) -> int:
    """Return how many packets a node's kernel has dropped because they were for somebody else."""
    lines = Path(f"/proc/{lab.host(node).pid}/net/snmp").read_text().splitlines()
    names, values = (line.split() for line in lines if line.startswith("Ip:"))
    return int(values[names.index("InAddrErrors")])


@pytest.fixture(scope="module")
def taps(lab: Lab) -> Iterator[dict[tuple[str, str], Tap]]:
    """A tap on the link of every node, by node and interface."""
    ends = {(name, "eth0") for name in lab.hosts} - {("gwlb", "eth0"), ("mgmt", "eth0")}
    ends |= {("mgmt", "network")} | {(name, "mgmt0") for name in lab.firewalls}
    with ExitStack() as stack:
        found = {end: stack.enter_context(Tap(lab.host(end[0]).pid, end[1])) for end in sorted(ends)}
        yield found | {("gwlb", "plain"): stack.enter_context(Tap(os.getpid(), geneve_interface("gwlb")))}


def seen(taps: Mapping[tuple[str, str], Tap]) -> set[tuple[str, str]]:
    """Return where marked frames have been since the last call."""
    return {end for end, tap in taps.items() if any(bytes(MARK) in frame for _, frame in tap.read())}


@pytest.fixture(scope="module")
def victims(lab: Lab, taps: dict[tuple[str, str], Tap]) -> dict[tuple[str, str], Tap]:
    """The taps of a lab whose endpoints are accepted, so that nothing but the attack's own fault stops it."""
    accept(lab)
    return taps


@pytest.mark.parametrize("attack", [*TENANTS, *APPLIANCES], ids=lambda attack: f"{attack.node}: {attack.name}")
def test_an_attack_is_counted_and_nothing_passes(lab: Lab, victims: dict[tuple[str, str], Tap], attack: Attack) -> None:
    # "IPv4 longer than its frame" is IPv4 to the kernel datapath and none to Open vSwitch 3.5, whose datapath flow then
    # drops all that its sender sends, for some seconds.
    appctl("revalidator/purge")
    seen(victims)
    before = counters(lab)[attack.counted]
    frame = attack.frame.frame(lab) if isinstance(attack.frame, Returned) else attack.frame
    send(lab, attack.node, bytes(frame))
    lab.wait(lambda: counters(lab)[attack.counted] >= before + COPIES, f"{attack.counted} to count", 20)
    assert counters(lab)[attack.counted] == before + COPIES
    allowed = {(attack.node, "eth0")}
    if attack.inspected:
        allowed |= {("gwlb", "plain")} | {(name, "eth0") for name in lab.firewalls}
    # These drop what has come over the link between the GENEVE endpoint and its bridge.
    if attack.counted.startswith(("plain_", "gwlb/sources", "gwlb/returned")):
        allowed |= {("gwlb", "plain")}
    assert seen(victims) <= allowed


def test_the_frames_that_attacks_change_would_pass_unchanged(lab: Lab, victims: dict[tuple[str, str], Tap]) -> None:
    """Without this, the attacks could fail for another reason than the one that is tried."""
    seen(victims)
    before = counters(lab)
    send(lab, TARGET, bytes(Returned().frame(lab)))
    send(lab, "web1", bytes(ether() / IP(src=WEB1, dst=APP1) / UDP() / MARK))
    arrived: set[tuple[str, str]] = set()

    def both() -> bool:
        arrived.update(seen(victims))
        return {("app1", "eth0"), ("app2", "eth0")} <= arrived

    lab.wait(both, "both to arrive")
    assert counters(lab)["decapsulated"] >= before["decapsulated"] + COPIES


def test_a_firewall_that_is_deregistered_opens_no_flow(lab: Lab, victims: dict[tuple[str, str], Tap]) -> None:
    with lab.attributes("gwlb", {"deregistration_delay.timeout_seconds": "0"}):
        lab.manage(lambda service: service.deregister("gwlb", [TARGET]))
        lab.wait_target(TARGET, "unused")
        test_an_attack_is_counted_and_nothing_passes(
            lab, victims, Attack("deregistered", TARGET, Returned(port=40001), "return_cookie")
        )
        lab.manage(lambda service: service.register("gwlb", [TARGET]))
        lab.wait_target(TARGET, "healthy")


def test_the_management_network_joins_a_firewall_to_nobody_but_the_node(
    lab: Lab, victims: dict[tuple[str, str], Tap]
) -> None:
    """Not to another firewall, nor through itself to the load balancer."""
    seen(victims)
    own, other = mac_address(f"{TARGET}/mgmt0"), mac_address("fw1/mgmt0")
    source = str(lab.management_addresses[TARGET])
    for to, address in ((other, METRICS), (other, FW1), ("ff:ff:ff:ff:ff:ff", METRICS)):
        send(lab, TARGET, bytes(Ether(src=own, dst=to) / IP(src=source, dst=address) / SYN / MARK), "mgmt0")
    # What follows them on the same way arrives, so they have been there.
    assert lab.host(TARGET).run(["ping", "-c1", "-W5", MANAGEMENT]).returncode == 0
    assert seen(victims) <= {(TARGET, "mgmt0"), ("mgmt", "network")}

    before = address_errors(lab, "fw1")
    through = Ether(dst=other) / IP(src=MANAGEMENT, dst="10.100.0.20") / SYN / MARK
    send(lab, "mgmt", bytes(through), "network")
    lab.wait(lambda: address_errors(lab, "fw1") >= before + COPIES, "fw1 to refuse to forward")
    assert {interface for _, interface in seen(victims)} <= {"mgmt0", "network"}
    assert all(Path(f"/proc/{host.pid}/root/proc/sys/net/ipv4/ip_forward").exists() for host in lab.hosts.values())
