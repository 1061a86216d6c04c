"""Faults are drawn from a seed, survive their file, and happen one at a time in their lanes."""

from __future__ import annotations

from itertools import pairwise

import pytest

from testbed.errors import RequestError
from testbed.faults import (
    BREAKING,
    BUSY,
    CONTROL,
    FIREWALL,
    Conductor,
    Fault,
    Kind,
    draw,
    read,
    write,
)

ZONES = {"a": ["fw1", "fw2"], "b": ["fw3", "fw4"]}


def test_the_same_seed_draws_the_same_and_another_does_not() -> None:
    assert draw(7, 3, ZONES) == draw(7, 3, ZONES)
    assert draw(7, 3, ZONES) != draw(8, 3, ZONES)


def test_more_rounds_begin_as_fewer_do() -> None:
    assert draw(7, 5, ZONES)[: len(draw(7, 2, ZONES))] == draw(7, 2, ZONES)


def test_every_kind_is_drawn_sometime_and_open_vswitch_only_on_request() -> None:
    assert {fault.kind for fault in draw(1, 50, ZONES)} == set(Kind) - {Kind.OPEN_VSWITCH}
    assert {fault.kind for fault in draw(1, 50, ZONES, open_vswitch=True)} == set(Kind)


def test_a_restart_of_open_vswitch_comes_first_in_its_round() -> None:
    faults = draw(1, 4, ZONES, open_vswitch=True)
    assert [next(fault.kind for fault in faults if fault.round == number) for number in (2, 4)] == [
        Kind.OPEN_VSWITCH
    ] * 2


@pytest.mark.parametrize(
    ("kind", "subject", "text"),
    [
        (Kind.KILL, "fw1", "kill firewall fw1"),
        (Kind.CONTROLLER, "controller", "kill controller"),
        (Kind.ATTRIBUTE, "HealthCheckIntervalSeconds=6", "change attribute HealthCheckIntervalSeconds=6"),
        (Kind.OPEN_VSWITCH, "Open vSwitch", "restart Open vSwitch"),
    ],
)
def test_a_fault_in_words(kind: Kind, subject: str, text: str) -> None:
    assert str(Fault(1, 0.0, "control", kind, subject, 1.0)) == text


@pytest.mark.parametrize("seed", range(20))
def test_at_most_one_firewall_of_a_zone_is_planned_to_be_broken_at_once(seed: int) -> None:
    faults = draw(seed, 3, ZONES)
    assert {fault.kind for fault in faults if fault.lane == "control"} <= set(CONTROL)
    for number in (1, 2, 3):
        for az, names in ZONES.items():
            lane = [fault for fault in faults if fault.round == number and fault.lane == az]
            assert {fault.subject for fault in lane} <= set(names)
            assert {fault.kind for fault in lane} <= set(FIREWALL)
            assert all(one.at + one.seconds < other.at for one, other in pairwise(lane))
            assert all(0 < fault.at < BUSY for fault in lane)


def test_a_schedule_survives_its_file() -> None:
    faults = draw(7, 2, ZONES, open_vswitch=True)
    assert read(write(faults), "faults.jsonl", ZONES) == faults


GOOD = '{"round": 1, "at": 1.0, "lane": "a", "kind": "cut link", "subject": "fw1", "seconds": 2.0}'


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (GOOD.replace("fw1", "fw9"), "no firewall 'fw9'; there are fw1, fw2, fw3, fw4"),
        (GOOD.replace("cut link", "cut it"), "no fault: 'cut it' is not a valid Kind"),
        (GOOD.replace('"lane": "a"', '"lane": "b"'), "cut link fw1 belongs to lane 'a', not 'b'"),
        (GOOD.replace('"round": 1', '"round": 0'), "a round is a number from 1 on, not 0"),
        (GOOD.replace('"at": 1.0', '"at": -1'), "at -1 for 2 s: times are not negative"),
        (GOOD.replace('"kind": "cut link", ', ""), "'kind' is missing"),
        ("[]", "no fault: list indices must be integers or slices, not str"),
        ("{", "no fault: Expecting property name enclosed in double quotes"),
    ],
)
def test_a_wrong_line_is_named(line: str, problem: str) -> None:
    with pytest.raises(RequestError) as error:
        read(f"{GOOD}\n{line}\n", "my.jsonl", ZONES)
    assert str(error.value).startswith(f"my.jsonl line 2: {problem}")


def test_an_empty_schedule_is_refused() -> None:
    with pytest.raises(RequestError, match=r"^my\.jsonl: no fault in it$"):
        read("", "my.jsonl", ZONES)


class World:
    """A lab that does what it is told and is well again when it is told so."""

    def __init__(self) -> None:
        self.time = 100.0
        self.said: list[str] = []
        self.well = False

    def conductor(self, *faults: Fault) -> Conductor:
        return Conductor(
            faults,
            lambda fault: self.said.append(f"begin {fault}"),
            lambda fault: self.said.append(f"mend {fault}"),
            lambda fault: self.well,
            lambda: self.time,
        )


def fault(at: float, lane: str, subject: str, seconds: float = 2.0) -> Fault:
    return Fault(1, at, lane, Kind.CUT, subject, seconds)


def test_a_fault_begins_is_mended_and_is_recovered_from() -> None:
    world = World()
    conductor = world.conductor(fault(1.0, "a", "fw1"))
    conductor.step()
    assert not world.said
    for time, said in ((101.0, "begin cut link fw1"), (102.9, "begin cut link fw1"), (103.0, "mend cut link fw1")):
        world.time = time
        conductor.step()
        assert world.said[-1] == said
    world.time = 104.0
    conductor.step()
    assert not conductor.over
    world.well, world.time = True, 104.5
    conductor.step()
    assert conductor.over
    (deed,) = conductor.deeds
    assert (deed.began, deed.mended, deed.recovered, deed.recovery) == (101.0, 103.0, 104.5, 1.5)
    assert len(world.said) == 2


def test_a_lane_waits_for_recovery_and_others_go_on() -> None:
    world = World()
    conductor = world.conductor(fault(1.0, "a", "fw1"), fault(4.0, "a", "fw2"), fault(5.0, "b", "fw3"))
    for time in (101.0, 103.5, 110.0):
        world.time = time
        conductor.step()
    assert world.said == ["begin cut link fw1", "mend cut link fw1", "begin cut link fw3"]
    assert {deed.fault.subject for deed in conductor.under_way} == {"fw1", "fw3"}
    world.well = True
    conductor.step()
    conductor.step()
    assert "begin cut link fw2" in world.said


def test_an_early_end_mends_what_is_broken() -> None:
    world = World()
    conductor = world.conductor(fault(1.0, "a", "fw1"), fault(1.0, "b", "fw3", 0.5), fault(9.0, "a", "fw2"))
    for world.time in (101.0, 101.6):
        conductor.step()
    conductor.end()
    assert world.said[2:] == ["mend cut link fw3", "mend cut link fw1"]
    conductor.end()
    world.time = 200.0
    conductor.step()
    assert len(world.said) == 4


@pytest.mark.parametrize("seed", range(10))
def test_at_no_time_are_two_firewalls_of_a_zone_broken(seed: int) -> None:
    world, broken, most = World(), set[str](), 0
    faults = draw(seed, 1, ZONES)
    conductor = Conductor(
        faults,
        lambda fault: broken.add(fault.subject) if fault.kind in BREAKING else None,
        lambda fault: broken.discard(fault.subject) if fault.kind in BREAKING else None,
        lambda fault: int(world.time) % 3 == 0,  # some recoveries take longer than planned
        lambda: world.time,
    )
    while not conductor.over:
        world.time += 0.1
        conductor.step()
        assert all(len(broken & set(names)) <= 1 for names in ZONES.values())
        most = max(most, len(broken))
    assert most
    assert sorted(map(str, faults)) == sorted(str(deed.fault) for deed in conductor.deeds)
