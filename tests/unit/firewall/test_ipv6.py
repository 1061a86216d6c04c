"""Inner IPv6: sessions, policy, App-ID, answers and hostile bytes, as for IPv4. Packets are scapy's."""

from __future__ import annotations

import contextlib
from ipaddress import ip_address

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6PacketTooBig,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
)
from scapy.packet import Packet, Raw

from firewall_vnf.benchmark import frame, ipv4
from firewall_vnf.geneve import INNER, Malformed
from firewall_vnf.packet import FRAGMENT, parse_hostile_ipv6, reverse_key
from firewall_vnf.policy import PolicyError
from tests.unit.firewall import traffic
from tests.unit.firewall.traffic import BANNER, Bench, Memory, frame6, rules, ssh6

CLIENT, SERVER = (str(ip_address(address)) for address in (traffic.CLIENT6, traffic.SERVER6))
OUT, BACK = IPv6(src=CLIENT, dst=SERVER), IPv6(src=SERVER, dst=CLIENT)
ALLOW = "service: any, action: allow, log_end: true"


def six(packet: Packet | bytes) -> bytearray:
    return frame6(bytes(packet))


def ssh(bench: Bench) -> None:
    assert all(bench.send(sent) for sent in ssh6())


def test_a_connection_is_followed_and_logged() -> None:
    bench = Bench(rules(f"name: ssh, application: ssh, {ALLOW}"))
    ssh(bench)
    assert (bench.session.application, bench.session.source_port, bench.session.destination_port) == ("ssh", 40000, 22)
    assert bench.session.cleared is bench.engine.policy
    bench.engine.close(bench.now)
    (record,) = bench.logged()
    assert (record["src"], record["dst"], record["proto"]) == (CLIENT, SERVER, "tcp")
    assert record["bytes_sent"] == 3 * 60 + len(BANNER)
    assert record["bytes_received"] == 2 * 60 + len(BANNER)


def test_a_rule_matches_addresses_of_its_version_alone() -> None:
    bench = Bench(
        "addresses: {clients: 2001:db8:1::/48, old: 0.0.0.0/0}\n"
        + rules(
            f"name: old, source: old, {ALLOW}",
            f"name: range, destination: '2001:db8:2::1-2001:db8:2::22', source: clients, application: dns, {ALLOW}",
        )
    )
    dns = bytes.fromhex("0001010000010000000000000161026578000001 0001".replace(" ", ""))
    assert bench.send(six(OUT / UDP(sport=5000, dport=53) / Raw(dns)))
    assert bench.session.rule.name == "range"
    elsewhere = IPv6(src=CLIENT, dst="2001:db8:2::23") / UDP(sport=5000, dport=53) / Raw(dns)
    assert not bench.send(six(elsewhere))
    # ::a01:1 and 10.1.0.1 are the same number, and not the same address.
    assert not bench.send(six(IPv6(src="::a01:1", dst=SERVER) / UDP(sport=5000, dport=53) / Raw(dns)))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("2001:db8::1/32", "'2001:db8::1/32' has host bits set; did you mean '2001:db8::/32'?"),
        ("10.0.0.1-2001:db8::1", "'10.0.0.1-2001:db8::1' is no address; write "),
        ("2001:db8::9-2001:db8::1", "'2001:db8::9-2001:db8::1' ends before it begins; swap the two addresses"),
    ],
)
def test_addresses_that_are_wrong(text: str, problem: str) -> None:
    with pytest.raises(PolicyError) as error:
        Bench(f"addresses: {{a: '{text}'}}\n{rules()}")
    assert str(error.value).startswith(f"policy: address 'a': {problem}")


def test_a_refused_connection_is_reset_on_both_sides() -> None:
    bench = Bench(rules("name: ssh, application: ssh, service: any, action: deny", f"name: all, {ALLOW}"))
    with pytest.raises(AssertionError):
        ssh(bench)
    to_client, to_server = sorted((IPv6(data[INNER:]) for data in bench.injected), key=lambda reset: str(reset.dst))
    assert (to_client.dst, to_server.dst) == (CLIENT, SERVER)
    for reset in (to_client, to_server):
        assert reset[TCP].flags == "RA"
        checked = IPv6(bytes(reset))
        del checked[TCP].chksum, checked.plen
        assert bytes(checked) == bytes(reset)


def test_what_gets_no_reset_is_told_that_it_is_prohibited() -> None:
    bench = Bench("rules: [{name: never, service: any, action: reset-client}]", icmp_unreachable=True)
    sent = six(OUT / UDP(sport=5000, dport=9) / Raw(bytes(1400)))
    assert not bench.send(sent)
    (data,) = bench.injected
    answer = IPv6(data[INNER:])
    assert (answer.src, answer.dst) == (SERVER, CLIENT)
    assert (answer[ICMPv6DestUnreach].type, answer[ICMPv6DestUnreach].code) == (1, 1)
    assert len(data[INNER:]) == 1280
    assert data[INNER + 48 :] == sent[INNER : INNER + 1232]
    wanted = answer[ICMPv6DestUnreach].cksum
    del answer[ICMPv6DestUnreach].cksum
    assert IPv6(bytes(answer))[ICMPv6DestUnreach].cksum == wanted


def test_ping_and_errors_belong_to_their_sessions() -> None:
    bench = Bench(
        rules(f"name: ping, application: ping6, {ALLOW}", f"name: rest of it, application: unknown-udp, {ALLOW}")
    )
    assert bench.send(six(OUT / ICMPv6EchoRequest(id=7)))
    assert bench.send(six(BACK / ICMPv6EchoReply(id=7)))
    assert (bench.session.packets_sent, bench.session.packets_received) == (1, 1)
    assert bench.session.application == "ping6"
    assert not bench.send(six(BACK / ICMPv6EchoReply(id=8)))
    assert bench.count("flow_icmp_reply_no_session") == 1
    bench.wait(8)
    (record,) = bench.logged()
    assert (record["app"], record["proto"]) == ("ping6", "ipv6-icmp")

    asked = OUT / UDP(sport=5000, dport=9) / Raw(bytes(40))
    assert bench.send(six(asked))
    router = IPv6(src="2001:db8:9::1", dst=CLIENT)
    assert bench.send(six(router / ICMPv6PacketTooBig(mtu=1280) / asked))
    assert bench.session.packets_received == 1
    stranger = OUT / UDP(sport=5001, dport=9) / Raw(bytes(40))
    assert not bench.send(six(router / ICMPv6PacketTooBig() / stranger))
    assert bench.count("flow_icmp_error_no_session") == 1
    misdirected = IPv6(src="2001:db8:9::1", dst=SERVER) / ICMPv6PacketTooBig() / asked
    assert not bench.send(six(misdirected))
    assert bench.count("flow_parse_l4_icmp") == 1


def test_extension_headers_are_skipped() -> None:
    bench = Bench()
    datagram = UDP(sport=5000, dport=9) / Raw(b"data")
    assert bench.send(six(OUT / IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() / datagram))
    assert bench.send(six(OUT / datagram))
    assert bench.session.packets_sent == 2
    assert bench.session.bytes_sent == 2 * (40 + 12) + 16


@pytest.mark.parametrize(
    ("there", "back"), [(OUT, BACK), (IP(src="10.0.0.1", dst="10.0.0.2"), IP(src="10.0.0.2", dst="10.0.0.1"))]
)
def test_the_other_versions_icmp_is_a_protocol_like_any_other(there: Packet, back: Packet) -> None:
    bench, other = Bench(), {6: 1, 4: 58}[there.version]
    for packet in (there, back):
        packet = packet.copy()
        setattr(packet, "nh" if there.version == 6 else "proto", other)
        assert bench.send((six if there.version == 6 else frame)(bytes(packet / bytes(20))))
    assert (bench.session.packets_sent, bench.session.packets_received) == (1, 1)


DATAGRAM = OUT / UDP(sport=5000, dport=9) / Raw(b"data")
MALFORMED = {
    "too short": (bytes(DATAGRAM)[:39], "flow_parse_ip"),
    "version": (b"\x50" + bytes(DATAGRAM)[1:], "flow_parse_ip"),
    "longer than its frame": (bytes(DATAGRAM)[:-1], "flow_parse_ip"),
    "IPv4": (ipv4(traffic.CLIENT, traffic.SERVER, 17, bytes(20)), "flow_parse_ip"),
    "options beyond the packet": (OUT / IPv6ExtHdrHopByHop(len=9) / UDP(), "flow_parse_ip"),
    "options not first": (OUT / IPv6ExtHdrDestOpt() / IPv6ExtHdrHopByHop() / UDP(), "flow_parse_ip"),
    "a chain without end": (IPv6(src=CLIENT, dst=SERVER, nh=60) / (b"\x3c\0\1\4\0\0\0\0" * 33), "flow_parse_ip"),
    "on its way": (OUT / IPv6ExtHdrRouting(addresses=["2001:db8::1"], segleft=1) / UDP(), "flow_parse_ip"),
    "fragment": (OUT / IPv6ExtHdrFragment(m=1) / UDP(), "flow_ipfrag_drop"),
    "no room for TCP": (IPv6(src=CLIENT, dst=SERVER, nh=6) / bytes(19), "flow_parse_l4_tcp"),
    "UDP length": (OUT / UDP(sport=1, dport=2, len=99), "flow_parse_l4_udp"),
    "short echo": (IPv6(src=CLIENT, dst=SERVER, nh=58) / b"\x80\0\0\0", "flow_parse_l4_icmp"),
    "error that quotes too little": (OUT / ICMPv6DestUnreach() / bytes(47), "flow_parse_l4_icmp"),
    "error that quotes no IPv6": (OUT / ICMPv6DestUnreach() / bytes(60), "flow_parse_l4_icmp"),
    "land": (IPv6(src=CLIENT, dst=CLIENT) / UDP(sport=1, dport=2), "flow_land"),
    "port 0": (OUT / UDP(sport=0, dport=2), "flow_parse_l4_port"),
}  # fmt: skip


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_packets_are_dropped_by_reason(name: str) -> None:
    sent, counter = MALFORMED[name]
    bench = Bench()
    assert not bench.send(six(sent))
    assert bench.count(counter) == 1
    assert not list(bench.engine.table)


@settings(max_examples=500)
@given(st.binary(max_size=200), st.sampled_from((0, 6, 17, 43, 44, 58, 60, 89)))
@example(bytes(40), FRAGMENT)
def test_hostile_bytes_raise_malformed_only(data: bytes, following: int) -> None:
    length = max(0, len(data) - 40)
    likely = b"\x60\0\0\0" + length.to_bytes(2, "big") + bytes((following, 64)) + data[8:]
    for packet in (data, likely):
        with contextlib.suppress(Malformed):
            parsed = parse_hostile_ipv6(bytearray(packet), 0, len(packet))
            assert parsed.fragment or reverse_key(reverse_key(parsed.key)) == parsed.key


def test_a_shared_session_goes_on_at_another_firewall() -> None:
    store = Memory()
    first, second = Bench(backend=store), Bench(backend=store)
    ssh(first)
    first.turn()
    assert len(store.records) == 1
    segment = TCP(sport=22, dport=40000, flags="PA", seq=501 + len(BANNER), ack=101 + len(BANNER))
    assert second.send(six(BACK / segment / Raw(b"more")))
    session = second.session
    assert (session.source, session.application) == (ip_address(CLIENT), "ssh")
