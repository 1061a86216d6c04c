"""The ``bumpwire`` command: finds the verb's module, runs it, turns errors into one line and an exit code."""

from __future__ import annotations

import importlib
import pkgutil
import signal
import sys
from types import FrameType

import typer

from testbed import commands
from testbed.errors import Error
from topologies.loader import TopologyError

app = typer.Typer(no_args_is_help=True, add_completion=False, help="A network-emulation lab for firewall insertion.")


def main() -> None:
    """Run the command line. Exits with the codes of :mod:`testbed.errors`, 130 after Ctrl-C."""
    for module in pkgutil.iter_modules(commands.__path__):
        verb = importlib.import_module(f"{commands.__name__}.{module.name}")
        app.command(module.name)(verb.command)
    signal.signal(signal.SIGTERM, end)
    try:
        app()
    except TopologyError as error:
        fail(str(error), 2)
    except Error as error:
        fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        fail("interrupted", 130)


def fail(message: str, code: int) -> None:
    print(f"bumpwire: {message}", file=sys.stderr)
    raise SystemExit(code)


def end(_number: int, _frame: FrameType | None) -> None:
    """Let SIGTERM end the command as Ctrl-C does, so that a lab is taken down."""
    raise SystemExit(128 + signal.SIGTERM)
