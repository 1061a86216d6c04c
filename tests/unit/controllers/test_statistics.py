"""Counters of flows that come and go make sums that never fall."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from controllers.statistics import Count, Statistics, Sums, connections, statistics_file

SHOWN = """Connections Stats:
    Total: 4262
\tUDP: 4261
\tTCP: 1
"""


def test_a_counter_that_begins_anew_goes_on() -> None:
    sums = Sums()
    for packets, total in ((5, 5), (8, 8), (2, 10), (2, 10), (3, 11)):
        sums.take({"known": Count(packets, packets * 100)})
        assert sums.sums() == {"known": Count(total, total * 100)}


def test_a_decision_that_was_away_begins_anew_and_keeps_its_sum() -> None:
    sums = Sums()
    sums.take({"one": Count(1, 60), "other": Count(4, 400)})
    sums.take({"other": Count(4, 400)})
    assert sums.sums() == {"one": Count(1, 60), "other": Count(4, 400)}
    sums.take({"one": Count(3, 180), "other": Count(4, 400)})
    assert sums.sums() == {"one": Count(4, 240), "other": Count(4, 400)}


@given(st.lists(st.lists(st.integers(0, 9), min_size=1), min_size=1))
def test_the_sum_is_what_all_lives_of_a_flow_have_carried(lives: list[list[int]]) -> None:
    sums, carried = Sums(), 0
    for life in lives:
        counted = 0
        for packets in life:
            counted, carried = counted + packets, carried + packets
            sums.take({"flow": Count(counted, 0)})
            assert sums.sums()["flow"].packets == carried
        sums.take({})  # removed


def test_the_file_is_read_back(tmp_path: Path) -> None:
    file = statistics_file(tmp_path / "controller.json")
    assert file == tmp_path / "controller.statistics.json"
    assert Statistics.load(file) is None
    statistics = Statistics(time=1.5, decisions={"gwlb/targets fw1": Count(2, 120)}, flows={"gwlbe1-a": 1})
    statistics.save(file)
    assert Statistics.load(file) == statistics
    file.write_text('{"time": 1.5')
    assert Statistics.load(file) is None


def test_connections_are_the_total() -> None:
    assert connections(SHOWN) == 4262
    assert connections("ovs-vswitchd: datapath not found") is None
