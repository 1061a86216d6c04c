"""``bumpwire watch``"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import typer

from testbed.errors import MachineError, RequestError

#: Lines of a frame that are not events, with four firewalls.
FRAME = 22
#: How long one frame waits for rates, in seconds.
PATIENCE = 10.0


def command(
    once: bool = typer.Option(False, "--once", help="Print one frame and end."),
    interval: float = typer.Option(1.0, min=0.1, metavar="SECONDS", help="How often it is brought up to date."),
) -> None:
    """Watch the running lab: firewalls, their health and load, the load balancers, the last events. q ends it."""
    import time

    from rich.console import Console
    from rich.live import Live

    from testbed.running import management, running_lab
    from testbed.watch import Watch, render

    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    watch = Watch(management, running_lab().directory)
    snapshot = watch.read()
    if once:
        patience = time.monotonic() + PATIENCE
        while watch.measuring and not snapshot.problem and time.monotonic() < patience:
            time.sleep(interval)
            snapshot = watch.read()
        if snapshot.problem:
            raise MachineError(snapshot.problem)
        console.print(render(snapshot))
        return
    if not console.is_terminal:
        raise RequestError("watch needs a terminal; bumpwire watch --once prints one frame")
    try:
        with key_presses() as pressed, Live(console=console, screen=True, auto_refresh=False) as live:
            while True:
                live.update(render(snapshot, max(console.height - FRAME, 3)), refresh=True)
                if pressed(interval) == "q":
                    return
                snapshot = watch.read()
    except KeyboardInterrupt:
        return
    except MachineError as end:
        print(end)  # the lab has been taken down


@contextmanager
def key_presses() -> Iterator[Callable[[float], str]]:
    """Yield a function that waits so many seconds for a key, and returns it; an empty text when none is pressed."""
    import select
    import termios
    import time
    import tty

    if not sys.stdin.isatty():

        def wait(seconds: float) -> str:
            time.sleep(seconds)
            return ""

        yield wait
        return

    def read(seconds: float) -> str:
        ready, _, _ = select.select([sys.stdin], [], [], seconds)
        return os.read(sys.stdin.fileno(), 1).decode(errors="replace") if ready else ""  # no buffer that select misses

    before = termios.tcgetattr(sys.stdin)
    tty.setcbreak(sys.stdin)
    try:
        yield read
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
