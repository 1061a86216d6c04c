"""Random faults, drawn from a seed: what a soak breaks, when and for how long; kept as JSON lines and replayed.

::

    faults = draw(seed=7, rounds=2, zones={"a": ["fw1", "fw2"], "b": ["fw3", "fw4"]})
    Path("faults.jsonl").write_text(write(faults))

A soak goes in rounds, each with load of its own. Within a round, faults happen in lanes: one for each AZ's firewalls,
one for the control plane. A lane has one fault at a time, so that no AZ loses more than one firewall at once, while
lanes go on side by side. Everything in here is pure; times are seconds.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import Enum
from random import Random

from testbed.errors import RequestError


class Kind(str, Enum):
    """What can be done to a lab; the values are what schedules and reports say."""

    KILL = "kill firewall"
    FREEZE = "freeze firewall"
    CUT = "cut link"
    RELOAD = "reload policy"
    WRONG_POLICY = "reload wrong policy"
    CONTROLLER = "kill controller"
    MANAGEMENT = "kill management"
    DEREGISTER = "deregister target"
    CROSS_ZONE = "switch cross-zone"
    ATTRIBUTE = "change attribute"
    OPEN_VSWITCH = "restart Open vSwitch"


#: What happens to a firewall, in the lane of its AZ.
FIREWALL = (Kind.KILL, Kind.FREEZE, Kind.CUT, Kind.RELOAD, Kind.WRONG_POLICY)
#: What happens to the control plane, in its lane.
CONTROL = (Kind.CONTROLLER, Kind.MANAGEMENT, Kind.DEREGISTER, Kind.CROSS_ZONE, Kind.ATTRIBUTE)
#: What stops a firewall's traffic.
BREAKING = (Kind.KILL, Kind.FREEZE, Kind.CUT)
#: What has a firewall as its subject.
OF_A_FIREWALL = (*FIREWALL, Kind.DEREGISTER)

#: The attributes of a load balancer that are changed, with values that are not the packaged topologies'. None of them
#: costs a flow.
ATTRIBUTES = {
    "tcp.idle_timeout.seconds": "400",
    "deregistration_delay.timeout_seconds": "200",
    "send_tcp_reset.on_idle_timeout.enabled": "true",
    "HealthCheckIntervalSeconds": "6",
}

#: Seconds of a round in which faults begin.
BUSY = 11.0
#: Shortest and longest time that something stays broken, and that a lane is left alone before the next fault. Some
#: failures are mended before a health check finds them out, others are not.
BROKEN, PAUSE = (0.3, 3.0), (0.3, 2.0)


@dataclass(frozen=True)
class Fault:
    """A fault of round number ``round`` (from 1): not before ``at``, for so many ``seconds``; then it is mended.

    ``subject`` is a firewall, a process or, for a change, ``ATTRIBUTE=VALUE``; ``lane`` is an AZ or ``control``.
    """

    round: int
    at: float
    lane: str
    kind: Kind
    subject: str
    seconds: float

    def __str__(self) -> str:
        what = self.kind.value
        return what if what.endswith(self.subject) else f"{what} {self.subject}"


def draw(seed: int, rounds: int, zones: Mapping[str, Sequence[str]], open_vswitch: bool = False) -> list[Fault]:
    """Return the faults of so many rounds over the firewalls of *zones* (by AZ); the same seed draws the same.

    With *open_vswitch*, every other round begins with a restart of Open vSwitch, before its load.
    """
    faults = []
    for number in range(1, rounds + 1):
        random = Random(f"{seed}/{number}")
        if open_vswitch and number % 2 == 0:
            faults.append(Fault(number, 0.0, "switches", Kind.OPEN_VSWITCH, "Open vSwitch", 0.0))
        mine = [fault for az, names in zones.items() for fault in _lane(random, number, az, FIREWALL, names)]
        everyone = [name for names in zones.values() for name in names]
        mine += _lane(random, number, "control", CONTROL, everyone)
        faults += sorted(mine, key=lambda fault: fault.at)
    return faults


def _lane(random: Random, number: int, lane: str, kinds: Sequence[Kind], firewalls: Sequence[str]) -> Iterator[Fault]:
    time = random.uniform(*PAUSE)
    while time < BUSY:
        kind = random.choice(kinds)
        seconds = round(random.uniform(*BROKEN), 2)
        yield Fault(number, round(time, 2), lane, kind, _subject(random, kind, firewalls), seconds)
        time += seconds + random.uniform(*PAUSE)


def _subject(random: Random, kind: Kind, firewalls: Sequence[str]) -> str:
    match kind:
        case Kind.CONTROLLER:
            return "controller"
        case Kind.MANAGEMENT:
            return "management"
        case Kind.CROSS_ZONE:
            return "load_balancing.cross_zone.enabled=true"
        case Kind.ATTRIBUTE:
            name = random.choice(sorted(ATTRIBUTES))
            return f"{name}={ATTRIBUTES[name]}"
        case _:
            return random.choice(firewalls)


# -- the file ------------------------------------------------------------------------------------------------------


def write(faults: Iterable[Fault]) -> str:
    """Return faults as JSON lines."""
    return "".join(json.dumps(asdict(fault)) + "\n" for fault in faults)


def read(text: str, name: str, zones: Mapping[str, Collection[str]]) -> list[Fault]:
    """Return the faults of a schedule, which file *name* holds, for a lab with these firewalls by AZ.

    Raises RequestError with the line that is wrong, or when there is no fault.
    """
    faults = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            fields = json.loads(line)
            fault = Fault(**(fields | {"kind": Kind(fields["kind"])}))
            problem = _problem(fault, zones)
        except KeyError as error:
            problem = f"{error} is missing"
        except (TypeError, ValueError) as error:
            problem = f"no fault: {error}"
        if problem:
            raise RequestError(f"{name} line {number}: {problem}")
        faults.append(fault)
    if not faults:
        raise RequestError(f"{name}: no fault in it")
    return sorted(faults, key=lambda fault: (fault.round, fault.at))


def _problem(fault: Fault, zones: Mapping[str, Collection[str]]) -> str | None:
    """Return what is wrong with a fault that somebody may have written by hand."""
    if not (isinstance(fault.round, int) and fault.round > 0):
        return f"a round is a number from 1 on, not {fault.round!r}"
    if fault.at < 0 or fault.seconds < 0:
        return f"at {fault.at:g} for {fault.seconds:g} s: times are not negative"
    lane = "control" if fault.kind in CONTROL else "switches"
    if fault.kind in OF_A_FIREWALL:
        az = next((az for az, names in zones.items() if fault.subject in names), None)
        if az is None:
            there = ", ".join(name for names in zones.values() for name in names)
            return f"no firewall {fault.subject!r}; there are {there}"
        lane = az if fault.kind in FIREWALL else lane
    if fault.lane != lane:
        return f"{fault} belongs to lane {lane!r}, not {fault.lane!r}"
    return None


# -- in the course of time -----------------------------------------------------------------------------------------


@dataclass
class Deed:
    """A fault that happens: when it began, when it was mended, and when all was well again; None: not yet."""

    fault: Fault
    began: float
    mended: float | None = None
    recovered: float | None = None

    @property
    def recovery(self) -> float | None:
        """Seconds from the mending until all was well."""
        return None if self.mended is None or self.recovered is None else self.recovered - self.mended


class Conductor:
    """Lets the faults of one round happen: :meth:`step` it until it is :attr:`over`.

    *begin* and *mend* do it, *recovered* says whether all is well again; *clock* is the monotonic clock. A lane's next
    fault waits until the one before has been recovered from. ``deeds`` is what was done, in the order of beginnings.
    """

    def __init__(
        self,
        faults: Iterable[Fault],
        begin: Callable[[Fault], None],
        mend: Callable[[Fault], None],
        recovered: Callable[[Fault], bool],
        clock: Callable[[], float],
    ) -> None:
        self.deeds: list[Deed] = []
        self._begin, self._mend, self._recovered, self._clock = begin, mend, recovered, clock
        self._waiting: dict[str, list[Fault]] = {}
        for fault in sorted(faults, key=lambda fault: fault.at):
            self._waiting.setdefault(fault.lane, []).append(fault)
        self._under_way: dict[str, Deed] = {}
        self._start = clock()

    @property
    def over(self) -> bool:
        return not self._under_way and not any(self._waiting.values())

    @property
    def under_way(self) -> list[Deed]:
        """The faults that have begun and have not been recovered from."""
        return list(self._under_way.values())

    def end(self) -> None:
        """Mend what is broken now; nothing else is begun."""
        for deed in self.under_way:
            if deed.mended is None:
                deed.mended = self._clock()
                self._mend(deed.fault)
        self._waiting.clear()

    def step(self) -> None:
        """Do what is due in each lane."""
        for lane, waiting in self._waiting.items():
            deed = self._under_way.get(lane)
            if deed is None:
                if waiting and self._clock() - self._start >= waiting[0].at:
                    self._under_way[lane] = deed = Deed(waiting.pop(0), self._clock())
                    self.deeds.append(deed)
                    self._begin(deed.fault)
            elif deed.mended is None:
                if self._clock() - deed.began >= deed.fault.seconds:
                    deed.mended = self._clock()
                    self._mend(deed.fault)
            elif self._recovered(deed.fault):
                deed.recovered = self._clock()
                del self._under_way[lane]
