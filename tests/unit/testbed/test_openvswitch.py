"""Starting Open vSwitch on machines that are described rather than met."""

from __future__ import annotations

from pathlib import Path

import pytest

from testbed import openvswitch
from testbed.errors import MachineError


class Daemons:
    """A machine's database and switch, the commands that were tried, and the ones that work here."""

    def __init__(self, *working: str, database: bool = False, switch: bool = False) -> None:
        self.working = working
        self.database = database
        self.switch = switch
        self.tried: list[str] = []

    def command(self, *command: str) -> bool:
        match Path(command[0]).name:
            case "ovs-vsctl":
                return self.database
            case "ovs-appctl":
                return self.switch
            case program:
                self.tried.append(program)
                self.database = self.database or program in ("systemctl", "ovs-ctl")
                self.switch = self.switch or program in self.working
                return self.switch


@pytest.mark.parametrize(
    ("daemons", "systemd", "tried"),
    [
        (Daemons(database=True, switch=True), True, []),
        (Daemons("systemctl"), True, ["systemctl"]),
        (Daemons("ovs-ctl"), False, ["ovs-ctl"]),
        (Daemons("ovs-ctl", database=True), False, ["ovs-ctl"]),
        (Daemons("ovs-vswitchd"), False, ["ovs-ctl", "ovs-vswitchd"]),
        (Daemons("ovs-vswitchd"), True, ["systemctl", "ovs-ctl", "ovs-vswitchd"]),
    ],
)
def test_it_is_started_by_what_works_here(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, daemons: Daemons, systemd: bool, tried: list[str]
) -> None:
    monkeypatch.setattr(openvswitch, "_succeeds", daemons.command)
    monkeypatch.setattr(openvswitch, "SYSTEMD", tmp_path if systemd else tmp_path / "none")
    assert openvswitch.ensure_running() is bool(tried)
    assert daemons.tried == tried
    assert openvswitch.running()
    assert openvswitch.ensure_running() is False


def test_a_switch_that_does_not_start_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(openvswitch, "_succeeds", Daemons().command)
    monkeypatch.setattr(openvswitch, "SYSTEMD", tmp_path)
    with pytest.raises(MachineError, match=r"^Open vSwitch does not start: look into /var/log/openvswitch$"):
        openvswitch.ensure_running()


def test_without_a_database_the_switch_is_not_started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tried = []

    def command(*command: str) -> bool:
        tried.append(Path(command[0]).name)
        return False

    monkeypatch.setattr(openvswitch, "_succeeds", command)
    monkeypatch.setattr(openvswitch, "SYSTEMD", tmp_path)
    with pytest.raises(MachineError):
        openvswitch.ensure_running()
    assert "ovs-ctl" in tried
    assert "ovs-vswitchd" not in tried  # it would wait for the database for ever


def test_a_machine_without_it_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(openvswitch, "OVS_CTL", str(tmp_path / "ovs-ctl"))
    monkeypatch.setattr(openvswitch, "SYSTEMD", tmp_path / "none")
    assert openvswitch.running() is False
    with pytest.raises(MachineError, match=r"^needs Open vSwitch: install it with apt-get install openvswitch-switch$"):
        openvswitch.ensure_running()
