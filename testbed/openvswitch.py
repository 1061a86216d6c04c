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
DATABASE_SOCKET = "/var/run/openvswitch/db.sock"
SYSTEMD = Path("/run/systemd/system")
REMEDY = "look into /var/log/openvswitch"


def running() -> bool:
    """Whether both daemons, database and switch, answer within two seconds. Needs root."""
    try:
        return _succeeds("ovs-vsctl", "--timeout=2", "--no-wait", "get", "Open_vSwitch", ".", "ovs_version") and (
            _succeeds("ovs-appctl", "--timeout=2", "--target=ovs-vswitchd", "version")
        )
    except FileNotFoundError:
        return False


def ensure_running() -> bool:
    """Start Open vSwitch unless it answers already; return whether it had to be started.

    Raises MachineError when it is not installed or does not come up.
    """
    if running():
        return False
    try:
        for start in _starts():
            _succeeds(*start)
            if running():
                return True
    except FileNotFoundError:
        raise MachineError("needs Open vSwitch: install it with apt-get install openvswitch-switch") from None
    raise MachineError(f"Open vSwitch does not start: {REMEDY}")


def _starts() -> list[list[str]]:
    """Return the commands that may start it, the most usual first."""
    by_systemd = [["systemctl", "start", "openvswitch-switch"]] if SYSTEMD.is_dir() else []
    return [
        *by_systemd,
        [OVS_CTL, "start", "--system-id=random"],
        # ovs-ctl stops after the database when the kernel module cannot be loaded, which the userspace datapath
        # does not need.
        ["ovs-vswitchd", f"unix:{DATABASE_SOCKET}", "--mlockall", "--detach", "--pidfile", "--log-file", "--monitor"],
    ]


def _succeeds(*command: str) -> bool:
    # A daemon keeps inherited pipes open, so nothing of its output is captured.
    return subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode == 0


if __name__ == "__main__":
    try:
        ensure_running()
    except MachineError as error:
        print(f"setup: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
