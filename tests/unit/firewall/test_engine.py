"""Sessions through the engine: set-up, policy, App-ID shifts, resets, capacity, and what the logs say."""

from __future__ import annotations

from ipaddress import IPv4Address

from scapy.contrib.geneve import GENEVE
from scapy.layers.inet import ICMP, IP, TCP, UDP, ICMPerror, IPerror, UDPerror  # noqa: F401
from scapy.layers.l2 import Ether

from firewall_vnf.applications import Action
from firewall_vnf.benchmark import frame, ipv4, tcp
from firewall_vnf.inspection import Finding, Inspection
from firewall_vnf.policy import Policy
from firewall_vnf.session import EndReason, Session, State
from tests.unit.firewall.traffic import (
    ACK,
    BANNER,
    CLIENT,
    FIN,
    PSH,
    REQUEST,
    RST,
    SERVER,
    SYN,
    Bench,
    Connection,
    icmp,
    rules,
    udp,
)  # fmt: skip

SSH = "name: ssh, application: ssh, service: any, log_start: true, log_end: true, action: allow"


def test_fast_path_counts_what_the_slow_path_counts() -> None:
    bench = Bench()
    connection = Connection(bench).ssh()
    assert bench.session.cleared is bench.engine.policy
    before = bench.session.packets_sent, bench.session.bytes_sent
    assert connection.client(b"x" * 1400)
    assert (bench.session.packets_sent, bench.session.bytes_sent) == (before[0] + 1, before[1] + 1440)
    assert connection.segment(1, ACK)
    assert bench.count("pkt_recv") == bench.count("pkt_forwarded") == 7


def test_traffic_log_of_a_connection() -> None:
    bench = Bench(rules(SSH))
    connection = Connection(bench).ssh()
    bench.now += 12
    assert connection.segment(0, FIN | ACK)
    assert connection.segment(1, FIN | ACK)
    assert connection.segment(0, ACK)
    bench.wait(17)
    start, end = bench.logged()
    assert start["subtype"] == "start"
    assert end == {
        "receive_time": end["receive_time"],
        "serial": start["serial"],
        "type": "TRAFFIC",
        "subtype": "end",
        "time_generated": end["receive_time"],
        "high_res_timestamp": end["high_res_timestamp"],
        "device_name": "fw1",
        "src": "10.1.0.1",
        "dst": "10.2.0.1",
        "sport": 40000,
        "dport": 22,
        "proto": "tcp",
        "app": "ssh",
        "from": "transit",
        "to": "transit",
        "rule": "ssh",
        "vsys": "vsys1",
        "sessionid": 1,
        "repeatcnt": 1,
        "flags": "0x0",
        "vpce_id": "vpce-00123456789abcdef",
        "app_detail": end["app_detail"],
        "action": "allow",
        "bytes": 8 * 40 + 2 * len(BANNER),
        "bytes_sent": 5 * 40 + len(BANNER),
        "bytes_received": 3 * 40 + len(BANNER),
        "packets": 8,
        "pkts_sent": 5,
        "pkts_received": 3,
        "start": end["start"],
        "elapsed": 12,
        "session_end_reason": "tcp-fin",
        "action_source": "from-policy",
    }


def test_tenants_may_use_the_same_addresses() -> None:
    bench = Bench()
    one, other = Connection(bench, endpoint=1).open(), Connection(bench, endpoint=2).open()
    assert len(list(bench.engine.table)) == 2
    assert one.segment(0, RST | ACK)
    assert other.client(b"hello")
    assert {session.state for session in bench.engine.table} == {State.CLOSING, State.ACTIVE}


def test_zone_of_the_endpoint_decides() -> None:
    policy = "zones: [inbound, other]\n" + rules("name: in, from: inbound, to: inbound, service: any, action: allow")
    bench = Bench(policy, zones={"vpce-00000000000000001": "inbound"}, default_zone="other")
    assert Connection(bench, endpoint=1).segment(0, SYN)
    assert not Connection(bench, endpoint=2).segment(0, SYN)


def test_non_syn_is_rejected_unless_configured() -> None:
    bench = Bench()
    assert not Connection(bench).client(b"data")
    assert bench.count("flow_tcp_non_syn_drop") == 1
    assert not list(bench.engine.table)
    bench = Bench(tcp_reject_non_syn=False)
    connection = Connection(bench)
    assert connection.client(b"data")
    assert connection.server(b"data")
    assert bench.session.state is State.ACTIVE


def test_refused_session_is_discarded_and_logged_once() -> None:
    bench = Bench(rules("name: dns, application: dns, action: allow"))
    connection = Connection(bench, port=22)
    assert not connection.segment(0, SYN)
    assert not connection.segment(0, SYN)
    assert (bench.count("flow_policy_deny"), bench.count("session_discard_drop")) == (1, 1)
    assert bench.session.state is State.DISCARD
    bench.wait(89)
    assert not connection.segment(0, SYN)  # does not prolong it
    bench.wait(3)
    assert not list(bench.engine.table)
    [record] = bench.logged()
    assert (record["subtype"], record["action"], record["app"]) == ("drop", "drop", "not-applicable")
    assert record["session_end_reason"] == "policy-deny"


def test_app_shift_to_a_denied_application_resets_both_sides() -> None:
    bench = Bench(rules(SSH, "name: web, application: web-browsing, service: any, action: reset-both, log_end: true"))
    connection = Connection(bench, port=2222).open()
    assert not connection.client(REQUEST)
    to_client, to_server = (Ether(data) for data in bench.injected)
    for injected in (to_client, to_server):
        assert (injected[Ether].src, injected[Ether].dst) == ("02:00:00:00:00:02", "02:00:00:00:00:01")
        outer = injected[IP]
        assert (outer.src, outer.dst) == ("10.100.0.21", "10.100.0.20")
        assert (outer[UDP].sport, outer[UDP].dport, outer[UDP].len) == (50000, 6081, len(injected) - 34)
        assert bytes(injected)[42:82] == bytes(frame(b""))[42:82]  # GENEVE header, options, cookie
        inner = IP(bytes(injected)[82:])
        assert inner[TCP].flags == "RA"
    inner = IP(bytes(to_client)[82:])
    assert (inner.src, inner.dst, inner[TCP].sport, inner[TCP].dport) == ("10.2.0.1", "10.1.0.1", 2222, 40000)
    assert (inner[TCP].seq, inner[TCP].ack) == (501, 101 + len(REQUEST))
    inner = IP(bytes(to_server)[82:])
    assert (inner.src, inner.dst, inner[TCP].seq, inner[TCP].ack) == ("10.1.0.1", "10.2.0.1", 101, 501)
    [record] = bench.logged()[1:]
    assert (record["subtype"], record["action"], record["app"]) == ("deny", "reset-both", "web-browsing")


def test_checksums_of_injected_packets() -> None:
    bench = Bench(rules(SSH, "name: web, application: web-browsing, service: any, action: reset-client"))
    connection = Connection(bench).open()
    connection.client(REQUEST)
    [data] = bench.injected
    rebuilt = Ether(data)
    del rebuilt[IP].chksum
    assert bytes(rebuilt)[:34] == data[:34]
    inner = IP(data[82:])
    del inner.chksum, inner[TCP].chksum
    assert bytes(inner) == data[82:]


def test_server_data_can_be_answered_with_a_reset_to_the_server() -> None:
    bench = Bench(
        rules(
            "name: web, application: web-browsing, service: any, action: allow",
            "name: ssh, application: ssh, service: any, action: reset-server",
        )
    )
    connection = Connection(bench).open()
    assert not connection.server(BANNER)
    [data] = bench.injected
    inner = IP(data[82:])
    assert (inner.dst, inner[TCP].seq, inner[TCP].ack) == ("10.2.0.1", 101, 501 + len(BANNER))


def test_deny_is_the_applications_deny_action() -> None:
    bench = Bench(
        rules(
            "name: other, application: dns, service: any, action: allow",
            "name: ssh, application: ssh, service: any, action: deny, log_end: true",
        )
    )
    Connection(bench).open().server(BANNER)
    assert len(bench.injected) == 2  # drop-reset
    assert bench.logged()[-1]["action"] == "deny"


def test_no_reset_before_the_handshake() -> None:
    bench = Bench("rules: [{name: never, service: any, action: reset-both}]")
    assert not Connection(bench).segment(0, SYN)
    assert not bench.injected


def test_udp_refused_with_icmp_unreachable_if_configured() -> None:
    policy = "rules: [{name: never, service: any, action: reset-client}]"
    bench = Bench(policy)
    assert not bench.send(udp(b"data"))
    assert not bench.injected
    bench = Bench(policy, icmp_unreachable=True)
    sent = udp(b"data")
    assert not bench.send(sent)
    [data] = bench.injected
    answer = IP(data[82:])
    assert (answer.dst, answer[ICMP].type, answer[ICMP].code) == ("10.1.0.1", 3, 13)
    assert bytes(answer[ICMP].payload) == bytes(sent[82 : 82 + 28])
    del answer.chksum, answer[ICMP].chksum
    assert bytes(answer) == data[82:]


def test_segment_beyond_a_gap_waits_for_app_id() -> None:
    bench = Bench(rules(SSH))
    connection = Connection(bench).open()
    assert not connection.segment(0, PSH | ACK, b"OpenSSH_9.2\r\n", sequence=109)
    assert connection.client(b"SSH-2.0-")
    assert connection.client(b"OpenSSH_9.2\r\n")
    assert connection.segment(0, PSH | ACK, b"SSH-2.0-", sequence=101)  # sent again: App-ID must not see it twice
    assert connection.server(BANNER)
    assert bench.session.application == "ssh"
    assert bench.count("tcp_drop_out_of_order") == 1
    # Now App-ID is final, and a gap is the receiver's business.
    assert connection.segment(0, PSH | ACK, b"later", sequence=90000)


def test_ping_by_identifier_and_unasked_replies() -> None:
    bench = Bench(rules("name: ping, application: ping, service: any, action: allow, log_end: true"))
    assert bench.send(icmp(8))
    assert bench.send(icmp(0, back=True))
    assert bench.send(icmp(8))
    assert (bench.session.packets_sent, bench.session.packets_received, bench.session.application) == (2, 1, "ping")
    assert not bench.send(icmp(0, 8, back=True))
    assert bench.count("flow_icmp_reply_no_session") == 1
    bench.wait(8)
    [record] = bench.logged()
    assert (record["app"], record["proto"], record["session_end_reason"]) == ("ping", "icmp", "aged-out")


def test_icmp_error_belongs_to_the_session_that_it_quotes() -> None:
    bench = Bench()
    assert bench.send(udp(b"data"))
    quoted = bytes(udp(b"data")[82:110])
    error = icmp(3, 0, back=True, rest=quoted)
    assert bench.send(error)
    assert bench.session.packets_received == 1
    stranger = bytes(udp(b"data", (1, 2))[82:110])
    assert not bench.send(icmp(3, 0, back=True, rest=stranger))
    assert bench.count("flow_icmp_error_no_session") == 1
    misdirected = icmp(3, 0, back=False, rest=quoted)  # to the server, although the client sent what it quotes
    assert not bench.send(misdirected)
    assert bench.count("flow_parse_l4_icmp") == 1


def test_full_table_refuses_new_sessions_only() -> None:
    bench = Bench(max_sessions=2)
    first = Connection(bench, client_port=1).open()
    Connection(bench, client_port=2).open()
    third = Connection(bench, client_port=3)
    assert not third.segment(0, SYN)
    assert not third.segment(0, SYN)
    assert first.client(b"still here")
    assert bench.count("session_alloc_failure") == 2
    assert [record["session_end_reason"] for record in bench.logged()] == ["resources-unavailable"] * 2
    [event] = bench.logged("system")
    assert event["eventid"] == "session-table-full"
    assert event["opaque"] == "session table full: 2 sessions; new sessions are dropped"
    first.segment(0, RST | ACK)
    bench.wait(16)
    assert third.segment(0, SYN)


def test_policy_commit_keeps_sessions_and_matches_them_again() -> None:
    bench = Bench(rules(SSH))
    allowed = Connection(bench, client_port=1).ssh()
    web = Connection(bench, client_port=2).open()
    assert not web.client(REQUEST)
    bench.engine.commit(Policy.parse(rules(SSH.replace("name: ssh", "name: renamed"))), bench.now)
    assert allowed.client(b"more")
    assert next(s for s in bench.engine.table if s.state is State.ACTIVE).rule.name == "renamed"
    assert allowed.client(b"fast again")
    bench.engine.commit(Policy.parse(rules("name: dns, application: dns, action: allow")), bench.now)
    assert not allowed.client(b"now denied")
    assert bench.count("flow_rematch_deny") == 1
    assert not allowed.client(b"and discarded")
    # What was discarded under the old policy starts afresh under the new one.
    bench.engine.commit(Policy.parse(rules(SSH)), bench.now)
    again = Connection(bench, client_port=2)
    assert again.segment(0, SYN)


class FindsBad(Inspection):
    applications = frozenset({"web-browsing"})

    def inspect(self, session: Session, direction: int, payload: bytes | memoryview) -> Finding | None:
        if b"crash" in bytes(payload):
            raise RuntimeError("bug")
        if b"alert" in bytes(payload):
            return Finding("look", Action.ALLOW)
        return Finding("bad word", Action.RESET_SERVER) if b"bad" in bytes(payload) else None


WEB = "name: web, application: web-browsing, service: any, inspect: true, log_end: true, action: allow"


def test_finding_ends_the_session_with_a_threat() -> None:
    bench = Bench(rules(WEB), FindsBad)
    connection = Connection(bench, port=80).open()
    assert connection.client(REQUEST)
    assert connection.server(b"HTTP/1.1 200 OK\r\n\r\nfine")
    assert connection.client(b"alert")
    assert connection.client(b"crash")
    assert not connection.client(b"bad")
    assert not connection.server(b"more")
    alert, threat = bench.logged("threat")
    assert (alert["action"], alert["threatid"], alert["severity"]) == ("alert", "look", "informational")
    assert (threat["action"], threat["direction"], threat["app"]) == (
        "reset-server",
        "client-to-server",
        "web-browsing",
    )
    [record] = bench.logged()
    assert (record["subtype"], record["action"], record["session_end_reason"]) == ("end", "allow", "threat")
    [data] = bench.injected
    assert IP(data[82:]).dst == str(IPv4Address(SERVER))
    assert bench.count("inspection_errors") == 1


def test_rule_without_inspect_takes_the_fast_path() -> None:
    bench = Bench(rules(WEB.replace("inspect: true, ", "")), FindsBad)
    connection = Connection(bench, port=80).open()
    assert connection.client(REQUEST)
    assert connection.server(b"HTTP/1.1 200 OK\r\n\r\n")
    assert connection.client(b"bad")
    assert bench.session.cleared is bench.engine.policy


def test_ipv6_and_fragments_as_configured() -> None:
    six = frame(b"\x60" + bytes(39))
    six[44:46] = b"\x86\xdd"
    fragment = frame(ipv4(CLIENT, SERVER, 17, bytes(16)))
    fragment[88:90] = b"\x20\x00"
    strict, open_ = Bench(ipv6="drop"), Bench(ipv6="pass", fragments="pass")
    for sent, passed, dropped in (
        (six, "flow_ipv6", "flow_ipv6_disabled"),
        (fragment, "flow_ipfrag", "flow_ipfrag_drop"),
    ):
        assert not strict.send(sent)
        assert strict.count(dropped) == 1
        assert open_.send(sent)
        assert open_.count(passed) == 1


def test_clear_and_close() -> None:
    bench = Bench()
    connection = Connection(bench).open()
    bench.engine.clear([bench.session], bench.now)
    assert not connection.client(b"gone")
    Connection(bench, client_port=5).open()
    bench.engine.close(bench.now)
    assert [record["session_end_reason"] for record in bench.logged()] == ["unknown", "unknown"]
    assert not bench.engine.table.endpoints


def test_end_reason_of_a_refused_connection() -> None:
    bench = Bench()
    connection = Connection(bench)
    assert connection.segment(0, SYN)
    assert connection.segment(1, RST | ACK)
    assert bench.session.end_reason is EndReason.TCP_RST_FROM_SERVER
    bench.wait(17)
    assert bench.logged()[0]["app"] == "incomplete"


def test_geneve_of_scapy_is_understood() -> None:
    inner = IP(tcp(CLIENT, SERVER, (1, 22), (1, 0), SYN, b""))
    from scapy.contrib.geneve import GeneveOptions

    options = [
        GeneveOptions(classid=0x0108, type=1, length=2, data=(0x0123456789ABCDEF).to_bytes(8, "big")),
        GeneveOptions(classid=0x0108, type=2, length=2, data=bytes(8)),
        GeneveOptions(classid=0x0108, type=3, length=1, data=b"\0\0\0\1"),
    ]
    sent = (
        Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
        / IP(src="10.100.0.20", dst="10.100.0.21", flags="DF", id=0)
        / UDP(sport=50000, dport=6081, chksum=0)
        / GENEVE(vni=0, proto=0x0800, options=options)
        / inner
    )
    assert bytearray(bytes(sent)) == frame(bytes(inner))
    assert Bench().send(bytearray(bytes(sent)))
