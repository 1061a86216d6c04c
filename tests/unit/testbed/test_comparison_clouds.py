"""What a failure's flows and a frame say; a rating's queue."""

from __future__ import annotations

import pytest

from testbed.comparison.clouds import judge, packet_length, port_of
from testbed.probes.child import ProbeError
from testbed.probes.downloads import Downloads, parse
from testbed.rating import queue


def test_a_failure_costs_the_longest_silence_after_it() -> None:
    rates = ((100.0, 5.0), (101.0, 6.0))
    failure = judge(Downloads(4, 2, rates, ((90.0, 95.0), (100.9, 104.0), (101.0, 103.0), (110.0, 112.0)), ()), 101.0)
    assert (failure.flows, failure.flows_lost, failure.seconds, failure.died) == (4, 2, 3.0, 1.0)
    assert failure.rates == ((0.0, 5.0), (1.0, 6.0))


def test_a_flow_that_is_silent_to_the_end_has_not_recovered() -> None:
    assert judge(Downloads(1, 1, ((1.0, 0.0),), ((2.0, None),), ()), 2.0).seconds is None


def test_a_frame_names_its_length_and_port() -> None:
    header = bytes([0x45, 0, 0x05, 0xDC]) + bytes(5) + bytes([17]) + bytes(10)
    frame = bytes(12) + b"\x08\x00" + header + (50000).to_bytes(2, "big") + (6081).to_bytes(2, "big")
    assert (packet_length(frame), port_of(frame)) == (1500, 6081)
    assert packet_length(bytes(12) + b"\x08\x06" + bytes(40)) == 0


def test_the_rate_leaves_out_the_ramp() -> None:
    assert Downloads(1, 0, ((0.0, 9.0), (0.5, 9.0), (1.0, 2.0), (1.5, 4.0)), (), ()).rate == 3.0


def test_a_malformed_result_is_named() -> None:
    with pytest.raises(ProbeError, match=r"downloads: malformed result \(KeyError"):
        parse("{}")


def test_a_queue_holds_a_burst_of_ten_milliseconds() -> None:
    text = "tc qdisc replace dev eth0 root tbf rate 20000000bit burst 25000 latency 100ms"
    assert queue("eth0", 20e6) == text.split()
