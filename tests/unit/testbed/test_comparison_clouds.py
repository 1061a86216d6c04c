"""What a failure's flows and a frame say; a rating's queue."""

from __future__ import annotations

import pytest

from testbed.comparison.clouds import RECOVERED, invariable, judge, packet_length, port_of
from testbed.nodes import token_bucket
from testbed.probes.child import ProbeError
from testbed.probes.downloads import ATTEMPT, Downloads, parse, seen
from testbed.rating import shared_queue


def test_a_router_changes_the_ttl_and_nothing_else() -> None:
    def frame(ttl: int, checksum: int, payload: bytes, source: int = 1) -> bytes:
        header = bytes([0x45, 0, 0, 24, 7, 7, 0, 0, ttl, 6]) + checksum.to_bytes(2, "big")
        return bytes(12) + b"\x08\x00" + header + bytes([10, 0, 0, source] * 2) + payload + b"padding"

    sent = invariable(frame(64, 0x1234, b"abcd"))
    assert sent == invariable(frame(61, 0xABCD, b"abcd"))
    assert sent != invariable(frame(61, 0xABCD, b"abce"))
    assert sent != invariable(frame(61, 0xABCD, b"abcd", source=2))


RATES = ((100.0, 5.0), (101.0, 6.0))


def attempts(*answered: bool) -> tuple[tuple[float, bool], ...]:
    """New connections, twenty a second from the failure at 101 s on."""
    return tuple((101.0 + number * ATTEMPT, one) for number, one in enumerate(answered))


def test_a_failure_lasts_until_new_connections_are_answered_again() -> None:
    outage = [number % 4 != 0 for number in range(40)]  # one of four firewalls is dead for two seconds
    failure = judge(Downloads(4, 2, RATES, ((100.5, False), *attempts(*outage, *[True] * RECOVERED))), 101.0)
    assert failure.seconds == pytest.approx(37 * ATTEMPT)
    assert (failure.flows, failure.flows_lost, failure.died) == (4, 2, 1.0)
    assert failure.rates == ((0.0, 5.0), (1.0, 6.0))


def test_one_failure_long_after_it_is_another() -> None:
    found = attempts(False, *[True] * RECOVERED, False, *[True] * 5)
    assert judge(Downloads(1, 1, RATES, found), 101.0).seconds == pytest.approx(ATTEMPT)


def test_nothing_failed() -> None:
    assert judge(Downloads(1, 0, RATES, attempts(*[True] * RECOVERED)), 101.0).seconds == 0.0


def test_what_fails_to_the_end_has_not_recovered() -> None:
    assert judge(Downloads(1, 1, RATES, attempts(*[True, False] * 50, True)), 101.0).seconds is None


def test_a_frame_names_its_length_and_port() -> None:
    header = bytes([0x45, 0, 0x05, 0xDC]) + bytes(5) + bytes([17]) + bytes(10)
    frame = bytes(12) + b"\x08\x00" + header + (50000).to_bytes(2, "big") + (6081).to_bytes(2, "big")
    assert (packet_length(frame), port_of(frame)) == (1500, 6081)
    assert packet_length(bytes(12) + b"\x08\x06" + bytes(40)) == 0


def test_the_rate_is_of_the_time_in_which_it_is_measured() -> None:
    found = Downloads(1, 0, ((0.0, 9.0), (0.5, 9.0), (1.0, 2.0), (1.5, 4.0), (2.0, 9.0)))
    assert found.between(0.6, 1.6) == 3.0
    assert found.between(5.0, 6.0) == 0.0


def test_whom_the_server_sees() -> None:
    head = "GET /one HTTP/1.1\r\nHost: a:80\r\nx-forwarded-for: 1.2.3.4, 5.6.7.8\r\n\r\n"
    found = seen("/one", head, ("10.0.0.1", 5000))
    assert found == {
        "server": "", "label": "one", "peer": "10.0.0.1", "port": 5000, "forwarded_for": ["1.2.3.4", "5.6.7.8"],
    }  # fmt: skip


def test_a_malformed_result_is_named() -> None:
    with pytest.raises(ProbeError, match=r"downloads: malformed result \(KeyError"):
        parse("{}")


def test_a_queue_is_a_length_in_time() -> None:
    text = "tc qdisc replace dev eth0 root tbf rate 20000000bit burst 25000 limit 125000"
    assert token_bucket("eth0", 20e6) == text.split()  # 10 ms and 50 ms
    assert token_bucket("eth0", 1e6)[-3:] == ["15000", "limit", "15000"]  # ten packets in any case


def test_the_interfaces_of_a_firewall_share_one_queue() -> None:
    commands = [" ".join(command) for command in shared_queue(["untrust", "trust"], 20e6)]
    assert [command for command in commands if "tbf" in command] == [" ".join(token_bucket("rating", 20e6))]
    redirected = [command.split()[4] for command in commands if command.endswith("redirect dev rating")]
    assert redirected == ["untrust", "trust"]
    assert redirected == [command.split()[4] for command in commands if command.endswith("clsact")]
