"""Open vSwitch's daemons: whether they answer, and starting them where no service manager did.

The lab leaves Open vSwitch running when it goes: others may use it, and an idle one costs nothing.
``python -m testbed.openvswitch`` is how set-up starts it.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from testbed.errors import MachineError

OVS_CTL = "/usr/share/openvswitch/scripts/ovs-ctl"
SYSTEMD = Path("/run/systemd/system")


def running() -> bool:
    """Whether both daemons, database and switch, answer within five seconds each. Needs root."""
    try:
        return _database_answers() and _succeeds("ovs-appctl", "--timeout=5", "--target=ovs-vswitchd", "version")
    except FileNotFoundError:
        return False


def ensure_running() -> bool:
    """Start Open vSwitch unless it answers already; return whether it had to be started.

    Raises MachineError when it is not installed or does not come up.
    """
    if running():
        return False
    try:
        for start in (_start_service, _start_daemons, _start_switch_alone):
            start()
            if running():
                return True
    except FileNotFoundError:
        raise MachineError("needs Open vSwitch: install it with apt-get install openvswitch-switch") from None
    raise MachineError("Open vSwitch does not start: look into /var/log/openvswitch")


def _start_service() -> None:
    if SYSTEMD.is_dir():
        _succeeds("systemctl", "start", "openvswitch-switch")


def _start_daemons() -> None:
    _succeeds(OVS_CTL, "start", "--system-id=random")


def _start_switch_alone() -> None:
    """ovs-ctl stops after the database where the kernel has no module, which the userspace datapath does not need."""
    if _database_answers():  # without one the switch would wait for it for ever
        _succeeds("ovs-vswitchd", "--mlockall", "--monitor", "--detach", "--pidfile", "--log-file")


def _database_answers() -> bool:
    return _succeeds("ovs-vsctl", "--timeout=5", "--no-wait", "get", "Open_vSwitch", ".", "ovs_version")


def _succeeds(*command: str) -> bool:
    # A daemon keeps inherited pipes open, so nothing of its output is captured.
    return subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode == 0


if __name__ == "__main__":
    try:
        ensure_running()
    except MachineError as error:
        print(f"setup: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
