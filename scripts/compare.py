"""Compare: four ways to put firewalls in the path, measured with 1, 2 and 4 of them, and the claims that follow.

Traffic is a download over HTTP, east-west but for the sandwich, which is for inbound traffic. Firewalls have the same
rating in all. An interrupted comparison goes on where it stopped.
"""

from __future__ import annotations

from testbed.comparison.clouds import architectures, calibrator
from testbed.comparison.model import Settings
from testbed.comparison.run import compare
from testbed.run import Run
from testbed.scenario import main


def story(
    run: Run,
    full: bool = False,
    seconds: float = 5,
    flows: int = 64,
    firewalls: str = "",
    only: str = "",
    rate_scale: float | None = None,
) -> None:
    """*firewalls* and *only* (architectures) are lists with commas, for a part of the comparison."""
    defaults = Settings()
    numbers = tuple(int(number) for number in firewalls.split(",")) if firewalls else (1, 2, 4, 8)[: 3 + full]
    settings = Settings(
        architectures=tuple(only.split(",")) if only else defaults.architectures,
        firewalls=numbers,
        seconds=seconds,
        flows=flows,
        rate_scale=rate_scale,
    )
    compare(run, architectures(settings), settings, calibrator(settings))


if __name__ == "__main__":
    main(__file__)
