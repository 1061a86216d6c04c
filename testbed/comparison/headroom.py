"""Whether the machine and not the architecture set a limit: idle CPU, and the busiest thread, between two samples.

A machine can be the limit while most of it is idle: Open vSwitch's userspace datapath, strongSwan's userspace ESP and
a firewall each have one thread that carries the packets, so a thread that fills a CPU counts as well. Kernel threads
are threads. What the kernel forwards between namespaces is carried by a CPU's softirqs, on top of whatever runs there,
and kernels differ in whether they charge that to a thread: a CPU's interrupts are counted as one more thread. All work
on the machine counts, the lab's or not.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from testbed.comparison.model import Settings

#: The kernel's ticks of a second, in which it counts.
HERTZ = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Sample:
    """Seconds since boot: of all CPUs together, idle ones, and of each thread by its id and start.

    A CPU's interrupts are a thread whose id is negative.
    """

    time: float
    total: float
    idle: float
    threads: dict[tuple[int, int], float]


@dataclass(frozen=True)
class Headroom:
    """Between two samples: how many CPUs were busy, the idle share of all, the busiest thread's share of one."""

    busy: float
    idle_share: float
    thread_share: float

    @classmethod
    def between(cls, before: Sample, after: Sample) -> Headroom:
        """Compare two samples; raises ValueError where no time passed between them."""
        total, idle = after.total - before.total, after.idle - before.idle
        elapsed = after.time - before.time
        if total <= 0 or elapsed <= 0:
            raise ValueError("no time passed between two samples of the CPU")
        busiest = max((spent - before.threads.get(thread, 0.0) for thread, spent in after.threads.items()), default=0.0)
        return cls((total - idle) / elapsed, idle / total, busiest / elapsed)

    def exhausted(self, settings: Settings) -> bool:
        """Whether the machine was the limit: too little idle CPU, or a thread that is too busy."""
        return self.idle_share < settings.idle_share or self.thread_share > settings.thread_share


def sample(proc: Path = Path("/proc"), clock: Callable[[], float] = time.monotonic) -> Sample:
    """Read ``/proc/stat`` and the threads' ``stat`` (proc(5)); time stolen by a hypervisor is not idle."""
    threads = dict(_threads(proc))
    for name, times in _cpus(proc):
        if name != "cpu":
            threads[-1 - int(name.removeprefix("cpu")), 0] = times[5] + times[6]
    return Sample(clock(), *cpu_times(proc), threads)


def cpu_times(proc: Path = Path("/proc")) -> tuple[float, float]:
    """Return the seconds of all CPUs together since boot, and the idle ones of them."""
    times = dict(_cpus(proc))["cpu"]
    return sum(times), times[3] + times[4]


def _cpus(proc: Path) -> Iterator[tuple[str, list[float]]]:
    """Yield the seconds of all CPUs together and of each: user, nice, system, idle, iowait, irq, softirq, steal.

    What follows in the file (guests) is in user already.
    """
    for line in (proc / "stat").read_text().splitlines():
        if line.startswith("cpu"):
            name, *ticks = line.split()
            yield name, [int(word) / HERTZ for word in ticks[:8]]


def _threads(proc: Path) -> Iterator[tuple[tuple[int, int], float]]:
    for stat in proc.glob("[0-9]*/task/[0-9]*/stat"):
        try:
            text = stat.read_text()
        except OSError:  # it has ended
            continue
        # Behind the name, which may hold anything: utime and stime are fields 14 and 15, the start is 22.
        fields = text[text.rindex(")") + 2 :].split()
        yield (int(stat.parent.name), int(fields[19])), (int(fields[11]) + int(fields[12])) / HERTZ
