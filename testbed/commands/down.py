"""``bumpwire down``"""

from __future__ import annotations


def command() -> None:
    """Remove whatever an interrupted lab left behind; end the lab that runs."""
    from rich import print

    from testbed.doctor import require
    from testbed.lab import end_running_lab

    require("root")
    print(end_running_lab())
