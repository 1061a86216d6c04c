"""The controller's process against switches that are played: no Open vSwitch, no root."""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from controllers.__main__ import main
from controllers.compiler import compile_topology
from controllers.desired import file_digest
from controllers.state import State
from tests.controller.fake_switch import BUNDLE_ADD, ERROR, FLOW_MOD, GROUP_MOD, MULTIPART_REQUEST, FakeSwitch
from topologies.fabric import build_fabric
from topologies.loader import load_topology

ROOT = Path(__file__).parents[2]
TOPOLOGY = load_topology("gwlb")
PROGRAMS = compile_topology(TOPOLOGY)
DPIDS = {name: element.dpid for name, element in build_fabric(TOPOLOGY).elements.items()}
MAIN = "from controllers.__main__ import main; import sys; sys.exit(main())"


def wait_for(condition: Callable[[], Any], what: str, seconds: float = 60) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.01)
    return found


class Controller:
    """The process, its status file and its log. ``before`` is Python that runs in it first."""

    def __init__(
        self, directory: Path, before: str = "", topology: str = "gwlb", state: Path | None = None, port: int = 0
    ) -> None:
        self.status_file, self.log_file = directory / "status.json", directory / "log"
        self.status_file.unlink(missing_ok=True)
        command = [sys.executable, "-c", f"{before}\n{MAIN}"]
        command += ["--topology", topology, "--port", str(port), "--status", str(self.status_file)]
        command += ["--state", str(state)] if state else []
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(command, stderr=log)
        wait_for(lambda: self.status_file.exists() or self.process.poll() is not None, "the status file")

    def status(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(self.status_file.read_text())
        return content

    def switch(self, name: str) -> dict[str, Any]:
        state: dict[str, Any] = self.status()["switches"][name]
        return state

    @property
    def port(self) -> int:
        return int(self.status()["port"])

    @property
    def log(self) -> str:
        return self.log_file.read_text()

    def wait_in_sync(self, *names: str) -> None:
        wait_for(lambda: all(self.switch(name)["in_sync"] for name in names), f"{names} in sync")

    def hang_up(self) -> None:
        self.process.send_signal(signal.SIGHUP)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Controller]]:
    started = []

    def starter(**options: Any) -> Controller:
        started.append(Controller(tmp_path, **options))
        return started[-1]

    yield starter
    for controller in started:
        controller.kill()


def test_an_empty_switch_gets_everything_in_one_bundle(start: Callable[..., Controller]) -> None:
    controller = start()
    switch = FakeSwitch(controller.port, DPIDS["gwlb"])
    controller.wait_in_sync("gwlb")
    program = PROGRAMS["gwlb"]
    assert len(switch.flows) == len(program.flows)
    assert set(switch.groups) == {group.id for group in program.groups}
    state = controller.switch("gwlb")
    assert state["desired"] == state["installed"] == program.digest
    assert state["changes"] == len(program.flows) + len(program.groups) == switch.requests.count(BUNDLE_ADD)
    assert state["connected"]
    assert state["errors"] == []


def test_two_switches_get_their_own_programs(start: Callable[..., Controller]) -> None:
    controller = start()
    one, other = (FakeSwitch(controller.port, DPIDS[name]) for name in ("spoke1", "tgw"))
    controller.wait_in_sync("spoke1", "tgw")
    assert len(one.flows) == len(PROGRAMS["spoke1"].flows)
    assert len(other.flows) == len(PROGRAMS["tgw"].flows)
    assert not controller.switch("spoke2")["connected"]


def test_after_kill_9_a_new_controller_sends_a_right_switch_nothing(start: Callable[..., Controller]) -> None:
    controller = start()
    switch = FakeSwitch(controller.port, DPIDS["gwlb"])
    controller.wait_in_sync("gwlb")
    port = controller.port
    controller.kill()
    again = start(port=port)
    assert again.port == port
    back = FakeSwitch(port, DPIDS["gwlb"], switch.flows, switch.groups)
    again.wait_in_sync("gwlb")
    assert back.changes == []
    assert BUNDLE_ADD not in back.requests


def test_a_damaged_switch_is_repaired_by_the_least_changes(start: Callable[..., Controller]) -> None:
    controller = start()
    switch = FakeSwitch(controller.port, DPIDS["gwlb"])
    controller.wait_in_sync("gwlb")
    switch.close()
    wait_for(lambda: not controller.switch("gwlb")["connected"], "the disconnection")
    flows, groups = dict(switch.flows), dict(switch.groups)
    keys = sorted(flows)
    del flows[keys[0]]  # one lost,
    table, priority, match = keys[1]
    flows[table, priority + 1, match] = flows[keys[1]]  # one too many,
    flows[keys[2]] = bytes(8) + flows[keys[2]][8:]  # one of another decision,
    groups[9] = groups.pop(1).replace(b"\0\0\0\1", b"\0\0\0\x09", 1)  # a group under another number
    back = FakeSwitch(controller.port, DPIDS["gwlb"], flows, groups)
    controller.wait_in_sync("gwlb")
    assert (back.flows.keys(), back.groups.keys()) == (switch.flows.keys(), switch.groups.keys())
    kinds = [message[1] for message in back.changes]
    assert (kinds.count(FLOW_MOD), len(kinds)) == (3, 5)


def test_a_refused_flow_is_named_and_nothing_else_is_lost(start: Callable[..., Controller]) -> None:
    controller = start()
    bad_match, bad_prerequisite = 4, 9
    switch = FakeSwitch(controller.port, DPIDS["tgw"], refuse=(2, bad_match, bad_prerequisite))
    errors = wait_for(lambda: controller.switch("tgw")["errors"], "the error")
    refused = PROGRAMS["tgw"].flows[2]
    assert errors == [
        f"OFPET_BAD_MATCH(4) OFPBMC_BAD_PREREQ(9): add {refused.decision}: {refused}; "
        "OFPET_BUNDLE_FAILED(17) OFPBFC_MSG_FAILED(13): commit bundle"
    ]
    assert not controller.switch("tgw")["in_sync"]
    assert switch.flows == {}
    switch.refuse = None
    controller.hang_up()
    controller.wait_in_sync("tgw")


def test_an_error_out_of_the_blue_is_reported(start: Callable[..., Controller]) -> None:
    controller = start()
    switch = FakeSwitch(controller.port, DPIDS["tgw"])
    controller.wait_in_sync("tgw")
    switch.send(ERROR, 7, struct.pack("!HH", 1, 5) + bytes(8))
    errors = wait_for(lambda: controller.switch("tgw")["errors"], "the error")
    assert errors == ["OFPET_BAD_REQUEST(1) OFPBRC_EPERM(5): no request of ours"]


def test_a_dead_switch_is_noticed_and_comes_back(start: Callable[..., Controller]) -> None:
    controller = start()
    switch = FakeSwitch(controller.port, DPIDS["tgw"])
    controller.wait_in_sync("tgw")
    switch.close()
    wait_for(lambda: not controller.switch("tgw")["connected"], "the disconnection", seconds=2)
    assert not controller.switch("tgw")["in_sync"]
    assert "tgw disconnected" in controller.log
    FakeSwitch(controller.port, DPIDS["tgw"], switch.flows, switch.groups)
    controller.wait_in_sync("tgw")


def test_a_new_connection_of_a_switch_replaces_the_old_one(start: Callable[..., Controller]) -> None:
    controller = start()
    old = FakeSwitch(controller.port, DPIDS["tgw"])
    controller.wait_in_sync("tgw")
    new = FakeSwitch(controller.port, DPIDS["tgw"])
    wait_for(lambda: len(new.flows) == len(PROGRAMS["tgw"].flows), "the new one's program")
    old.close()
    controller.wait_in_sync("tgw")
    assert controller.switch("tgw")["connected"]


def test_a_switch_that_does_not_answer_is_reported(start: Callable[..., Controller]) -> None:
    controller = start(before="import controllers.ryu; controllers.ryu.ANSWER_WITHIN = 0.3")
    FakeSwitch(controller.port, DPIDS["tgw"], silent=True)
    assert wait_for(lambda: controller.switch("tgw")["errors"], "the error") == ["no answer within 0.3 s"]


def test_an_unknown_switch_is_refused_with_a_line(start: Callable[..., Controller]) -> None:
    controller = start()
    stranger = FakeSwitch(controller.port, 0xBEEF)
    assert stranger.closed.wait(5)
    wait_for(lambda: controller.status()["unknown_switches"] == 1, "the count")
    assert "switch with datapath id 000000000000beef is not in topology gwlb: refused" in controller.log


def test_packets_to_the_controller_are_counted(start: Callable[..., Controller]) -> None:
    controller = start()
    switch = FakeSwitch(controller.port, DPIDS["tgw"])
    controller.wait_in_sync("tgw")
    assert controller.switch("tgw")["packet_ins"] == 0
    switch.packet_in()
    switch.packet_in()
    wait_for(lambda: controller.switch("tgw")["packet_ins"] == 2, "two packets")


def test_an_exception_in_a_handler_does_not_end_the_loop(start: Callable[..., Controller]) -> None:
    """os-ken's native hub would end it silently."""
    controller = start(before="import controllers.app as app; app.Controller._state = lambda *_: 1 / 0")
    switch = FakeSwitch(controller.port, DPIDS["tgw"])
    controller.wait_in_sync("tgw")
    switch.packet_in()
    wait_for(lambda: "ZeroDivisionError" in controller.log, "the exception in the log")
    FakeSwitch(controller.port, DPIDS["spoke1"])
    controller.wait_in_sync("spoke1")


def test_garbage_on_the_port_harms_nobody(start: Callable[..., Controller]) -> None:
    controller = start()
    with socket.create_connection(("127.0.0.1", controller.port)) as stranger:
        stranger.sendall(b"GET / HTTP/1.1\r\n\r\n" + bytes(64))
    FakeSwitch(controller.port, DPIDS["tgw"])
    controller.wait_in_sync("tgw")


def changed(text: str) -> str:
    assert "203.0.113.10" in text
    return text.replace("203.0.113.10", "203.0.113.77")


@pytest.fixture
def topology_file(tmp_path: Path) -> Path:
    """A copy of the packaged topology without the firewalls, whose policies lie beside the original."""
    text = (ROOT / "topologies" / "gwlb.yaml").read_text()
    file = tmp_path / "mine.yaml"
    file.write_text(text.partition("\nfirewalls:")[0] + "\n")
    return file


def test_a_changed_topology_file_is_applied_as_a_difference(
    start: Callable[..., Controller], topology_file: Path
) -> None:
    controller = start(topology=str(topology_file))
    switch = FakeSwitch(controller.port, DPIDS["internet"])
    controller.wait_in_sync("internet")
    switch.changes.clear()
    before = controller.switch("internet")["desired"]
    topology_file.write_text(changed(topology_file.read_text()))
    wait_for(lambda: controller.switch("internet")["desired"] != before, "the new topology")
    controller.wait_in_sync("internet")
    assert 0 < len(switch.changes) <= 6 < len(PROGRAMS["internet"].flows)


def test_a_wrong_topology_file_changes_nothing_and_says_why(
    start: Callable[..., Controller], topology_file: Path
) -> None:
    controller = start(topology=str(topology_file))
    right = topology_file.read_text()
    before = controller.status()["switches"]
    topology_file.write_text(right.replace("cidr: 10.200.0.0/16", "cidr: 10.200.0.0/33"))
    error = wait_for(lambda: controller.status()["topology_error"], "the error")
    assert error.startswith("mine.yaml:")
    assert "10.200.0.0/33" in error
    assert error in controller.log
    assert controller.status()["switches"] == before
    assert controller.status()["generation"] == 1
    topology_file.write_text(right)
    wait_for(lambda: controller.status()["topology_error"] is None, "the error to go")


@pytest.fixture
def state_file(tmp_path: Path) -> Path:
    file = tmp_path / "state.json"
    State.initial(TOPOLOGY).save(file)
    return file


def failed(target: str) -> State:
    """The state in which *target* has failed, and others have its slots."""
    content = State.initial(TOPOLOGY).model_dump()
    for health in content["gwlb"]["targets"][target].values():
        health["state"] = "unhealthy"
    return State.model_validate(content).dealt(TOPOLOGY)


def taken(controller: Controller, file: Path) -> dict[str, Any] | None:
    """The status, once the state in *file* is the one that the controller has taken."""
    status = controller.status()
    return status if status["state_digest"] == file_digest(file.read_bytes()) else None


def test_a_failed_target_costs_its_load_balancer_the_change_and_others_nothing(
    start: Callable[..., Controller], state_file: Path
) -> None:
    controller = start(state=state_file)
    switches = {name: FakeSwitch(controller.port, DPIDS[name]) for name in ("gwlb", "tgw")}
    controller.wait_in_sync("gwlb", "tgw")
    for switch in switches.values():
        switch.requests.clear()
        switch.changes.clear()
    failed("fw1").save(state_file)
    controller.hang_up()
    status = wait_for(lambda: taken(controller, state_file), "the new state")
    assert status["generation"] == 2
    assert status["topology_digest"] == file_digest((ROOT / "topologies" / "gwlb.yaml").read_bytes())
    controller.wait_in_sync("gwlb", "tgw")
    program = compile_topology(TOPOLOGY, failed("fw1"))["gwlb"]
    assert controller.switch("gwlb")["installed"] == program.digest != PROGRAMS["gwlb"].digest
    assert {message[1] for message in switches["gwlb"].changes} == {GROUP_MOD}
    # Sent at once, read after it; the other switch is not even asked.
    sent = switches["gwlb"].requests
    assert sent.index(BUNDLE_ADD) < sent.index(MULTIPART_REQUEST)
    assert switches["tgw"].requests.count(MULTIPART_REQUEST) == 0
    assert switches["tgw"].changes == []


def test_a_state_is_seen_without_a_signal_and_need_not_exist(
    start: Callable[..., Controller], state_file: Path
) -> None:
    state_file.unlink()
    controller = start(state=state_file)
    FakeSwitch(controller.port, DPIDS["gwlb"])
    controller.wait_in_sync("gwlb")
    assert controller.status()["state_digest"] is None
    assert controller.switch("gwlb")["installed"] == PROGRAMS["gwlb"].digest
    failed("fw1").save(state_file)
    wait_for(lambda: taken(controller, state_file), "the new state")
    controller.wait_in_sync("gwlb")
    assert controller.switch("gwlb")["installed"] == compile_topology(TOPOLOGY, failed("fw1"))["gwlb"].digest


def test_a_wrong_state_changes_nothing_and_says_why(start: Callable[..., Controller], state_file: Path) -> None:
    controller = start(state=state_file)
    before, right = controller.status()["switches"], state_file.read_bytes()
    state_file.write_bytes(right.replace(b'"healthy"', b'"fine"', 1))
    controller.hang_up()
    error = wait_for(lambda: controller.status()["state_error"], "the error")
    assert error.startswith("state.json: gwlb.targets.fw1.a.state: ")
    assert error in controller.log
    status = controller.status()
    assert (status["switches"], status["topology_error"], status["generation"]) == (before, None, 1)
    state_file.write_bytes(right)
    wait_for(lambda: controller.status()["state_error"] is None, "the error to go")
    assert controller.status()["generation"] == 1


def test_many_changes_in_a_row_end_at_the_last(start: Callable[..., Controller], state_file: Path) -> None:
    controller = start(state=state_file)
    switch = FakeSwitch(controller.port, DPIDS["gwlb"])
    controller.wait_in_sync("gwlb")
    groups = {number: group[2:] for number, group in switch.groups.items()}  # without the command: add, or modify
    for _ in range(5):
        for state in (failed("fw1"), failed("fw2"), State.initial(TOPOLOGY)):
            state.save(state_file)
            controller.hang_up()
    wait_for(lambda: taken(controller, state_file), "the last state")
    controller.wait_in_sync("gwlb")
    assert {number: group[2:] for number, group in switch.groups.items()} == groups


def test_a_switch_that_is_not_what_it_was_is_noticed_by_the_next_change(
    start: Callable[..., Controller], state_file: Path
) -> None:
    controller = start(state=state_file)
    switch = FakeSwitch(controller.port, DPIDS["gwlb"])
    controller.wait_in_sync("gwlb")
    flows = set(switch.flows)
    del switch.flows[min(flows)]
    failed("fw1").save(state_file)
    controller.hang_up()
    wait_for(lambda: taken(controller, state_file), "the new state")
    controller.wait_in_sync("gwlb")
    assert set(switch.flows) == flows
    assert "gwlb is read again, it is not what it was: the switch holds not what it was sent; first: add" in (
        controller.log
    )
    assert controller.switch("gwlb")["errors"] == []


def test_a_signal_without_a_change_checks_all_switches(start: Callable[..., Controller]) -> None:
    controller = start()
    switch = FakeSwitch(controller.port, DPIDS["tgw"])
    controller.wait_in_sync("tgw")
    flows, changes = set(switch.flows), controller.switch("tgw")["changes"]
    del switch.flows[min(flows)]
    controller.hang_up()
    wait_for(lambda: controller.switch("tgw")["changes"] == changes + 1, "the repair")
    assert set(switch.flows) == flows
    assert controller.status()["generation"] == 1


def test_a_wrong_first_state_is_an_exit_with_a_line(start: Callable[..., Controller], state_file: Path) -> None:
    state_file.write_text("[]")
    controller = start(state=state_file)
    assert controller.process.wait(10) == 2
    assert controller.log.strip().splitlines()[-1].startswith("state.json: ")


def test_a_wrong_time_scale_is_an_exit_with_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        main(["--topology", "gwlb", "--status", "unused", "--time-scale", "0"])
    assert raised.value.code == 2
    assert capsys.readouterr().err.endswith("error: --time-scale: 0 is not more than 0\n")


def test_a_wrong_first_topology_is_an_exit_with_a_line(start: Callable[..., Controller]) -> None:
    controller = start(topology="gwbl")
    assert controller.process.wait(10) == 2
    assert controller.log.strip().splitlines()[-1].startswith("no topology 'gwbl'; did you mean gwlb?")


def test_a_taken_port_is_an_exit_with_a_line(start: Callable[..., Controller]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        controller = start(port=port)
        assert controller.process.wait(10) == 3
        assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in controller.log


def test_it_listens_on_loopback_only_and_ends_with_sigterm(start: Callable[..., Controller]) -> None:
    controller = start()
    FakeSwitch(controller.port, DPIDS["tgw"])
    controller.wait_in_sync("tgw")
    local = f"0100007F:{controller.port:04X}"
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    assert {row[1] for row in rows if row[1].endswith(f":{controller.port:04X}") and row[3] == "0A"} == {local}
    controller.process.send_signal(signal.SIGTERM)
    assert controller.process.wait(3) == 0
    assert "Traceback" not in controller.log


def test_the_library_can_be_chosen(start: Callable[..., Controller]) -> None:
    wanted = os.environ.get("BUMPWIRE_OPENFLOW", "os-ken")
    assert start().status()["library"].startswith(f"{wanted} ")
