"""``python -m testbed`` is the ``bumpwire`` command."""

from testbed.cli import main

main()
