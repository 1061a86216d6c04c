"""Timelines: the answers that scenarios ask for, the series, the service's events, and the figure."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed import figures
from testbed.probes.flows import Connection, Flow, Report, Status
from testbed.results import Series
from testbed.timeline import Event, Form, Kind, Panel, Timeline, failures, healthy_targets, service_events

KILLED = 1010.0


def flow(port: int, died: float | None = None, gaps: tuple[tuple[float, float], ...] = ()) -> Flow:
    return Flow("tcp", port, 1000, 1001, died, "reset" if died else None, 100, 90, gaps)


def connection(started: float, error: str | None = None, seconds: float = 0.1) -> Connection:
    return Connection(int(started), started, started + seconds, error)


def sample(time: float, received: int) -> Status:
    return Status(time, 3, 3, 3, 0, 0, received)


REFUSED = Flow("tcp", 4, 1000, None, 1000.5, "refused", 0, 0, ())
REPORT = Report(
    start=1000,
    end=1020,
    flows=(flow(1), flow(2, 1015, ((1010, 1015),)), flow(3, None, ((1002, 1003), (1010, 1012))), REFUSED),
    connections=(
        connection(1009.9, "time-out", 2),
        connection(1010.5),
        connection(1013, "time-out", 2),
        connection(1014),
        connection(1019),
    ),
    samples=tuple(sample(1000 + number, 1000 * number) for number in range(11)),
)
TIMELINE = Timeline((REPORT,))


# -- answers -------------------------------------------------------------------------------------------------------


def test_who_died() -> None:
    assert TIMELINE.died() == (REFUSED, REPORT.flows[1])
    assert TIMELINE.died(KILLED) == (REPORT.flows[1],)
    assert TIMELINE.died(1016) == ()


def test_how_many_failed_is_told_with_what_they_failed_of() -> None:
    assert failures(TIMELINE.started(1013)) == "0 of 2 failed"
    assert failures(TIMELINE.connections) == "2 of 5 failed (time-out)"
    assert failures([connection(1, "time-out"), connection(2, "refused")]) == "2 of 2 failed (refused, time-out)"


def test_who_waited_for_an_answer_when_the_traffic_ended() -> None:
    assert TIMELINE.silent() == ()
    waiting = flow(5, None, ((1002, 1003), (1018, REPORT.end)))
    line = Timeline((replace(REPORT, flows=(*REPORT.flows, waiting)),))
    assert (line.silent(), line.silent(2.0)) == ((waiting,), ())


def test_the_first_success_started_after_the_event() -> None:
    assert TIMELINE.first_success(KILLED) == pytest.approx(0.6)
    assert TIMELINE.first_success(1010.6) == pytest.approx(3.5)
    assert TIMELINE.first_success(1019.5) is None


def test_the_outage_lasts_until_nothing_fails_any_more() -> None:
    assert [one.started for one in TIMELINE.failed(KILLED)] == [1009.9, 1013]
    assert [one.started for one in TIMELINE.started(1013)] == [1014, 1019]
    assert TIMELINE.outage(KILLED) == 4
    assert TIMELINE.outage(1016) == 0


def test_an_outage_that_has_not_ended() -> None:
    report = Report(1000, 1020, (), (connection(1001), connection(1011, "reset")), ())
    assert Timeline((report,)).outage(KILLED) is None


def test_a_connection_that_was_under_way_is_no_later_than_the_event() -> None:
    report = Report(1000, 1020, (), (connection(1009, "time-out", 2), connection(1009.5)), ())
    assert Timeline((report,)).outage(KILLED) == 0


def test_the_longest_gap_names_its_flow() -> None:
    gap = TIMELINE.longest_gap()
    assert gap is not None
    assert (gap.flow.local_port, gap.start, gap.end, gap.seconds) == (2, 1010, 1015, 5)
    assert TIMELINE.longest_gap(1016) is None


def test_without_traffic_there_is_no_timeline() -> None:
    with pytest.raises(ValueError, match=r"^a timeline needs the report of some traffic$"):
        Timeline(())


# -- series --------------------------------------------------------------------------------------------------------


def test_flows_alive() -> None:
    points = TIMELINE.flows_alive().points
    assert points[0] == (0, 0)
    assert points[-2:] == ((15, 2), (20, 2))
    assert max(alive for _, alive in points) == 3


@given(st.lists(st.tuples(st.integers(0, 50), st.one_of(st.none(), st.integers(1, 50)))))
def test_flows_alive_ends_with_those_that_live(lives: list[tuple[int, int | None]]) -> None:
    flows = tuple(
        Flow("tcp", 1, 0, start, None if length is None else start + length, None, 0, 0, ()) for start, length in lives
    )
    points = Timeline((Report(0, 200, flows, (), ()),)).flows_alive().points
    assert points[-1] == (200, sum(one.died is None for one in flows))
    assert list(points) == sorted(points, key=lambda point: point[0])
    for time, alive in dict(points).items():  # of several values at a time the last one holds
        assert alive == sum((one.established or 0) <= time and (one.died is None or time < one.died) for one in flows)


def test_new_connections_are_counted_where_they_started() -> None:
    succeeded, failed = TIMELINE.new_connections(bar=5)
    assert succeeded.points == ((0, 0), (5, 0), (10, 0.4), (15, 0.2), (20, 0))
    assert failed.points == ((0, 0), (5, 0.2), (10, 0.2), (15, 0), (20, 0))


def test_throughput_of_two_reports_adds_up() -> None:
    later = Report(1005, 1020, (flow(9),), (), (sample(1005, 0), sample(1010, 500)))
    rates = dict(Timeline((REPORT, later)).throughput(bar=1).points)
    assert rates[4] == 8000
    assert rates[5] == 8000 + 800
    assert rates[9] == 8000 + 800


def test_throughput_is_taken_over_a_bar() -> None:
    jittery = tuple(sample(1000 + number / 10, 100 * (number - number % 3)) for number in range(31))
    rates = [rate for _, rate in Timeline((Report(1000, 1003, (flow(1),), (), jittery),)).throughput(1).points]
    assert len(rates) == 3
    assert all(rate == pytest.approx(8000, rel=0.31) for rate in rates)


def test_a_gauge_holds_its_value_from_before_the_traffic_to_its_end() -> None:
    gauge = Series("healthy", "firewalls", ((990, 1), (995, 2), (1005, 1), (1030, 5)))
    panel = Timeline((REPORT,), gauges=(gauge,)).panels()[0]
    assert panel.form is Form.STEPS
    assert panel.series[0].points == ((0, 2), (5, 1), (20, 1))


def test_measured_series_share_a_panel() -> None:
    one = Series("fw1", "sessions", ((1001, 3), (1002, 4)))
    other = Series("fw2", "sessions", ((995, 1),))
    measured = Panel("sessions", Form.LINE, (one, other))
    (panel,) = Timeline((Report(1000, 1010, (), (), ()),), measured=(measured,)).panels()
    assert (panel.title, panel.form) == ("sessions", Form.LINE)
    assert [series.points for series in panel.series] == [((1, 3), (2, 4), (10, 4)), ((0, 1), (10, 1))]


def test_panels_of_what_there_is() -> None:
    titles = [panel.title for panel in TIMELINE.panels()]
    assert titles == ["long flows alive", "new connections", "throughput of the long flows"]
    assert Timeline((Report(0, 1, (), (), ()),)).panels() == ()


# -- the service's events ------------------------------------------------------------------------------------------

OFFSET = 1.7e9


def service_event(time: float, kind: str, resource: str, text: str) -> Mapping[str, Any]:
    return {"number": 1, "time": OFFSET + time, "kind": kind, "resource": resource, "text": text}


SERVICE = (
    service_event(1, "service", "lab", "started, time_scale 1"),
    service_event(2, "health", "fw1", "gwlb in a: initial"),
    service_event(3, "health", "fw1", "gwlb in a: initial → healthy"),
    service_event(3, "health", "fw2", "gwlb in b: initial → healthy"),
    service_event(4, "health", "fw2", "gwlb in a: initial → healthy"),
    service_event(9, "health", "fw1", "gwlb in a: healthy → unhealthy (Target.FailedHealthChecks, refused)"),
    service_event(10, "health", "fw2", "gwlb in b: healthy → unhealthy (Target.FailedHealthChecks)"),
    service_event(11, "health", "fw2", "gwlb in a: healthy → unhealthy (Target.FailedHealthChecks)"),
    service_event(12, "registration", "fw1", "gwlb: deregistered"),
    service_event(12, "health", "fw1", "gwlb in a: unhealthy → draining (Target.DeregistrationInProgress)"),
    service_event(13, "attribute", "gwlb", "tcp.idle_timeout.seconds: 350 → 60"),
    service_event(14, "endpoint", "gwlbe1", "gwlb: accepted"),
    service_event(15, "scaling", "gwlb-asg", "At 12:00 a user request changing the desired capacity from 2 to 3."),
    service_event(16, "scaling", "fw3", "Pending: At 12:00 … changing the desired capacity from 2 to 3. At …"),
    service_event(17, "scaling", "fw3", "Pending:Wait"),
    service_event(18, "scaling", "fw3", "InService"),
)


def test_what_of_the_services_events_is_told() -> None:
    told = service_events(SERVICE, OFFSET)
    assert [(round(event.time), event.kind.value, event.text) for event in told] == [
        (3, "detection", "fw1 healthy"),
        (3, "detection", "fw2 healthy"),
        (9, "detection", "fw1 unhealthy"),
        (10, "detection", "fw2 unhealthy"),
        (12, "change", "fw1 deregistered"),
        (13, "change", "gwlb tcp.idle_timeout.seconds = 60"),
        (14, "change", "gwlbe1 gwlb: accepted"),
        (15, "change", "gwlb-asg capacity 2 → 3"),
        (16, "change", "fw3 Pending"),
        (18, "change", "fw3 InService"),
    ]


def test_a_target_counts_while_any_zone_finds_it_healthy() -> None:
    points = [(round(time), count) for time, count in healthy_targets(SERVICE, OFFSET).points]
    assert points == [(2, 0), (3, 1), (3, 2), (4, 2), (9, 1), (10, 1), (11, 0), (12, 0)]


# -- the figure ----------------------------------------------------------------------------------------------------


def test_the_figure_shows_panels_and_events() -> None:
    events = (
        Event(KILLED, Kind.FAILURE, "fw1 killed"),
        Event(1012, Kind.DETECTION, "fw1 unhealthy"),
        Event(900, Kind.CHANGE, "long before"),
    )
    text = figures.timeline(Timeline((REPORT,), events, (Series("healthy firewalls", "firewalls", ((999, 2),)),)))
    assert ElementTree.fromstring(text).tag == "{http://www.w3.org/2000/svg}svg"
    for word in ("fw1 killed", "fw1 unhealthy", "healthy firewalls", "new connections", "failed", "kbit/s", "time, s"):
        assert f">{word}<" in text
    assert "long before" not in text


def test_a_label_of_many_words_is_cut() -> None:
    event = Event(KILLED, Kind.CHANGE, "word " * 40)
    text = figures.timeline(Timeline((REPORT,), (event,)))
    assert f">{'word ' * 9}…<" in text


def test_labels_that_have_room_share_a_row() -> None:
    assert figures.label_lanes([(0, 2), (3, 2), (6, 2)], 10) == [(0, 0), (0, 3), (0, 6)]


def test_labels_of_near_events_go_up() -> None:
    assert figures.label_lanes([(0, 2), (1, 2), (1, 2)], 10) == [(2, 0), (1, 1), (0, 1)]


def test_a_label_at_the_end_is_moved_back() -> None:
    assert figures.label_lanes([(9, 4)], 10) == [(0, 6)]


@given(st.lists(st.tuples(st.floats(0, 9), st.floats(0.1, 10)), max_size=12))
def test_no_two_labels_meet(labels: list[tuple[float, float]]) -> None:
    lanes = figures.label_lanes(labels, 10)
    spans = [(lane, start, start + width) for (lane, start), (_, width) in zip(lanes, labels, strict=True)]
    for number, (lane, start, end) in enumerate(spans):
        assert 0 <= start <= end <= 10 + 1e-9
        for other, left, right in spans[:number]:
            assert lane != other or end <= left or right <= start
