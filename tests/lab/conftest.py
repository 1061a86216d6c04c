"""The lab tier needs root, Open vSwitch and namespaces; where they are missing, the tests say what the doctor says."""

from __future__ import annotations

import pytest

from testbed import doctor, openvswitch
from testbed.errors import MachineError
from testbed.lab import NEEDS


@pytest.fixture(scope="session", autouse=True)
def machine() -> None:
    try:
        doctor.require(*NEEDS)
        openvswitch.ensure_running()
    except MachineError as error:
        pytest.skip(str(error))
