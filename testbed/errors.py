"""What the ``bumpwire`` command can fail with, and its exit codes.

::

    Error
     ├── RequestError   exit 2: the request was wrong (arguments, YAML); one line says what, where and what to do
     └── MachineError   exit 3: this machine cannot (no root, no Open vSwitch, a lab is running); says what to install

A scenario whose checks did not all hold exits with 1.
"""

from __future__ import annotations


class Error(Exception):
    """The message is one line that is shown to the user as it is."""

    exit_code = 1


class RequestError(Error):
    exit_code = 2


class MachineError(Error):
    exit_code = 3
