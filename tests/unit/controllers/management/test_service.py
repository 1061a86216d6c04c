"""The owner of model and state: files, signals, events, and going on after a restart."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from controllers.management.configuration import Configuration, ConfigurationError, load_configuration
from controllers.management.service import RequestRefusedError, Service, UnknownNameError
from controllers.process import started
from controllers.slots import SLOTS
from controllers.state import State, StateError, TargetState
from topologies.endpoint_service import EndpointState, endpoint_state
from topologies.loader import TopologyError, load_topology
from topologies.model import Topology


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Desk:
    """A service in a directory, with a clock in hand and this process as the controller that is told."""

    def __init__(self, directory: Path) -> None:
        self.clock = Clock()
        self.signals = 0
        self.configuration = Configuration(
            topology=directory / "topology.yaml",
            state=directory / "state.json",
            controller_status=directory / "controller.json",
            status=directory / "management.json",
            events=directory / "events",
        )
        document = load_topology("gwlb").model_dump(mode="json")
        document["gateway_load_balancers"]["gwlb"]["target_group"]["health_check"] = {}
        self.write(Topology.model_validate(document))
        self.controller_is(started(os.getpid()))

    def controller_is(self, start: int | None) -> None:
        self.configuration.controller_status.write_text(json.dumps({"pid": os.getpid(), "started": start}))

    def write(self, topology: Topology) -> None:
        self.configuration.topology.write_text(topology.model_dump_json(indent=1))

    def start(self) -> Service:
        self.service = Service(self.configuration, self.clock)
        return self.service

    def check(self, failure: str | None, *targets: str, az: str = "a") -> None:
        for target in targets:
            if self.service.checked("gwlb", az, target, failure, self.clock()):
                self.service.publish()

    def all_healthy(self) -> Service:
        service = self.start()
        self.check(None, "fw1", "fw2")
        self.check(None, "fw3", "fw4", az="b")
        return service

    def written(self) -> State:
        """Return the state file's content."""
        return State.load(self.configuration.state)

    def model(self) -> Topology:
        return Topology.model_validate_json(self.configuration.topology.read_bytes())

    def slots(self, az: str) -> dict[str, int]:
        slots = self.written().slots("gwlb", az)
        return {target: slots.count(target) for target in sorted(set(slots))}

    def texts(self) -> list[tuple[str, str, str]]:
        return [(event.kind, event.resource, event.text) for event in self.service.events.since(0)]


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)

    def heard(number: int, frame: FrameType | None) -> None:
        made.signals += 1

    before = signal.signal(signal.SIGHUP, heard)
    yield made
    signal.signal(signal.SIGHUP, before)


def test_a_new_service_registers_the_models_targets_and_serves_all_while_none_is_healthy(desk: Desk) -> None:
    service = desk.start()
    assert [(one["target"], one["az"], one["state"], one["reason"]) for one in service.health("gwlb")] == [
        (name, az, "initial", "Elb.RegistrationInProgress")
        for name, az in (("fw1", "a"), ("fw2", "a"), ("fw3", "b"), ("fw4", "b"))
    ]
    assert desk.slots("a") == {"fw1": SLOTS // 2, "fw2": SLOTS // 2}
    assert desk.signals == 1


def test_a_failed_target_loses_its_slots_and_only_the_state_is_written(desk: Desk) -> None:
    desk.all_healthy()
    model, signals = desk.configuration.topology.stat(), desk.signals
    before = desk.written().slots("gwlb", "a")
    desk.check("refused", "fw1")
    assert desk.signals == signals
    desk.check("refused", "fw1")
    assert desk.signals == signals + 1
    after = desk.written()
    assert after.targets("gwlb")["fw1"]["a"].state is TargetState.UNHEALTHY
    assert set(after.slots("gwlb", "a")) == {"fw2"}
    assert all(new == old for new, old in zip(after.slots("gwlb", "a"), before, strict=True) if old == "fw2")
    assert desk.slots("b") == {"fw3": SLOTS // 2, "fw4": SLOTS // 2}
    found = desk.configuration.topology.stat()
    assert (found.st_mtime_ns, found.st_ino) == (model.st_mtime_ns, model.st_ino)
    assert desk.texts()[-1] == (
        "health", "fw1", "gwlb in a: healthy → unhealthy (Target.FailedHealthChecks, refused)"
    )  # fmt: skip


def test_a_result_that_changes_nothing_writes_nothing_and_signals_nobody(desk: Desk) -> None:
    service = desk.all_healthy()
    before, signals = desk.configuration.state.stat(), desk.signals
    desk.check(None, "fw1", "fw2")
    service.publish()
    after = desk.configuration.state.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert desk.signals == signals


def test_a_deregistered_target_drains_in_the_model_and_the_state(desk: Desk) -> None:
    service = desk.all_healthy()
    service.deregister("gwlb", ["fw2"])
    assert desk.model().gateway_load_balancers["gwlb"].target_group.targets == ("fw1", "fw3", "fw4")
    assert desk.slots("a") == {"fw1": SLOTS}
    assert desk.written().targets("gwlb")["fw2"]["a"].state is TargetState.DRAINING
    assert service.tick() == 1300.0
    desk.clock.now = 1300.0
    assert service.tick() is None
    assert desk.written().targets("gwlb")["fw2"]["a"].state is TargetState.UNUSED
    service.register("gwlb", ["fw2"])
    assert desk.model().gateway_load_balancers["gwlb"].target_group.targets == ("fw1", "fw3", "fw4", "fw2")
    assert [text for _, name, text in desk.texts() if name == "fw2"][-5:] == [
        "gwlb: deregistered",
        "gwlb in a: healthy → draining (Target.DeregistrationInProgress)",
        "gwlb in a: draining → unused (Target.NotRegistered)",
        "gwlb: registered",
        "gwlb in a: unused → initial (Elb.RegistrationInProgress)",
    ]


def test_the_last_target_can_be_deregistered(desk: Desk) -> None:
    service = desk.all_healthy()
    service.deregister("gwlb", ["fw1", "fw2", "fw3", "fw4"])
    assert desk.slots("a") == {}
    assert desk.start().groups["gwlb"].registered == []
    desk.service.set_attributes("gwlb", {"tcp.idle_timeout.seconds": "400"})
    assert desk.model().gateway_load_balancers["gwlb"].tcp.idle_timeout.seconds == 400


def test_unknown_targets_are_refused_all_or_nothing(desk: Desk) -> None:
    service = desk.all_healthy()
    before = service.health("gwlb")
    with pytest.raises(RequestRefusedError) as error:
        service.deregister("gwlb", ["fw1", "fw9"])
    assert str(error.value) == "InvalidTarget: 'fw9' is no appliance of gwlb; there are fw1, fw2, fw3, fw4"
    assert service.health("gwlb") == before
    with pytest.raises(UnknownNameError, match=r"^no target group 'other'; there are gwlb$"):
        service.register("other", ["fw1"])


def test_attributes_are_changed_and_told(desk: Desk) -> None:
    service = desk.all_healthy()
    told: list[bool] = []
    service.listeners.append(lambda: told.append(True))
    service.set_attributes("gwlb", {"load_balancing.cross_zone.enabled": "true", "HealthCheckIntervalSeconds": "5"})
    assert service.attributes("gwlb")["HealthCheckIntervalSeconds"] == "5"
    assert desk.model() == service.topology
    assert desk.written().targets("gwlb")["fw1"]["b"].state is TargetState.INITIAL
    assert told == [True]
    changes = [text for kind, _, text in desk.texts() if kind == "attribute"]
    assert changes == ["load_balancing.cross_zone.enabled: false → true", "HealthCheckIntervalSeconds: 10 → 5"]


def test_attributes_are_refused_all_or_nothing(desk: Desk) -> None:
    service = desk.all_healthy()
    before = service.attributes("gwlb")
    with pytest.raises(
        RequestRefusedError, match=r"^Attribute value '5' for 'tcp.idle_timeout.seconds' must be between"
    ):
        service.set_attributes("gwlb", {"HealthCheckPort": "81", "tcp.idle_timeout.seconds": "5"})
    assert service.attributes("gwlb") == before
    assert "attribute" not in [kind for kind, _, _ in desk.texts()]
    with pytest.raises(UnknownNameError, match=r"^no resource 'gwbl' with attributes"):
        service.set_attributes("gwbl", {})
    with pytest.raises(UnknownNameError, match=r"^no resource 'gwbl' with attributes"):
        service.attributes("gwbl")


def test_connections_are_accepted_and_rejected(desk: Desk) -> None:
    service = desk.all_healthy()

    def state(endpoint: str) -> str:
        assert endpoint_state(desk.model(), endpoint).value == state_by_name()[endpoint]
        return state_by_name()[endpoint]

    def state_by_name() -> dict[str, str]:
        return {one["endpoint"]: one["state"] for one in service.connections()}

    assert service.connections()[0] == {
        "endpoint": "gwlbe1-a",
        "service": "gwlb",
        "vpc": "spoke1",
        "owner": service.topology.vpcs["spoke1"].owner,
        "state": "available",
    }
    service.reject("gwlbe1-a")
    assert state("gwlbe1-a") == EndpointState.REJECTED.value
    service.accept("gwlbe1-a")
    assert state("gwlbe1-a") == EndpointState.AVAILABLE.value
    assert [text for kind, _, text in desk.texts() if kind == "endpoint"] == ["gwlb: rejected", "gwlb: accepted"]
    with pytest.raises(UnknownNameError, match=r"^no VPC endpoint 'gwlbe9'; there are gwlbe1-a, "):
        service.accept("gwlbe9")


def test_a_pending_connection_is_accepted(desk: Desk) -> None:
    document = load_topology("gwlb").model_dump(mode="json")
    document["gateway_load_balancers"]["gwlb"]["endpoint_service"] |= {"acceptance_required": True}
    desk.write(Topology.model_validate(document))
    service = desk.start()
    assert {one["state"] for one in service.connections()} == {EndpointState.PENDING_ACCEPTANCE.value}
    service.accept("gwlbe1-a")
    assert endpoint_state(desk.model(), "gwlbe1-a") is EndpointState.AVAILABLE
    assert endpoint_state(desk.model(), "gwlbe1-b") is EndpointState.PENDING_ACCEPTANCE


def test_a_later_process_goes_on_where_the_files_are(desk: Desk) -> None:
    service = desk.all_healthy()
    desk.check("refused", "fw1")
    desk.check("refused", "fw1")
    service.deregister("gwlb", ["fw4"])
    service.set_attributes("gwlb", {"deregistration_delay.timeout_seconds": "10"})
    health, written, signals = service.health("gwlb"), desk.written(), desk.signals
    desk.clock.now += 100
    again = desk.start()
    assert again.health("gwlb") == health
    assert desk.written() == written
    assert desk.signals == signals
    assert again.tick() == 1300.0
    desk.clock.now += 1000
    assert desk.start().tick() is None
    assert desk.written().targets("gwlb")["fw4"]["b"].state is TargetState.UNUSED


def test_a_service_without_a_controller_writes_its_files_all_the_same(desk: Desk) -> None:
    gone = json.dumps({"pid": 2**22 + 1, "started": 1})
    for content in ("", "[]", '{"pid": 0, "started": 1}', '{"pid": 2}', gone):
        desk.configuration.controller_status.write_text(content)
        desk.configuration.state.unlink(missing_ok=True)
        desk.start()
        assert desk.configuration.state.exists()
    desk.configuration.controller_status.unlink()
    desk.service.deregister("gwlb", ["fw1"])
    assert desk.slots("a") == {"fw2": SLOTS}


def test_another_process_that_has_the_controllers_id_is_not_told(desk: Desk) -> None:
    desk.all_healthy()
    assert (before := desk.signals) > 0
    desk.controller_is((started(os.getpid()) or 0) - 1)
    desk.service.deregister("gwlb", ["fw1"])
    assert desk.slots("a") == {"fw2": SLOTS}
    assert desk.signals == before


def test_a_yaml_topology_becomes_json_when_it_changes(desk: Desk) -> None:
    desk.configuration.topology.write_text(Path(__file__).parents[4].joinpath("topologies/gwlb.yaml").read_text())
    policies = desk.configuration.topology.parent / "policies"
    policies.symlink_to(Path(__file__).parents[4] / "topologies/policies")
    service = desk.start()
    assert desk.model() == service.topology
    assert list(service.groups["gwlb"].targets) == ["fw1", "fw2", "fw3", "fw4"]


def test_wrong_files_are_refused(desk: Desk) -> None:
    desk.configuration.topology.write_text('{"name": "x"}')
    with pytest.raises(TopologyError, match=r"^topology\.yaml:1: vpcs is missing; add it$"):
        desk.start()
    desk.configuration.topology.unlink()
    with pytest.raises(TopologyError, match=r"topology\.yaml"):
        desk.start()
    desk.configuration.topology.write_text(load_topology("gwlb").model_dump_json())
    desk.configuration.state.write_text("[]")
    with pytest.raises(StateError, match=r"^state\.json: "):
        desk.start()


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"time_scale": 0}, "time_scale: Input should be greater than 0"),
        ({"topology": None}, "topology: Input is not a valid path"),
        ({"colour": 1}, "colour: Extra inputs are not permitted"),
        ({"appliances": {"fw1": {"management_address": "x"}}}, "appliances.fw1.management_address: "),
    ],
)
def test_a_wrong_configuration_is_one_line(tmp_path: Path, change: dict[str, Any], error: str) -> None:
    names = ("topology", "state", "controller_status", "status", "events")
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**dict.fromkeys(names, "file"), **change}))
    with pytest.raises(ConfigurationError) as found:
        load_configuration(file)
    assert str(found.value).startswith(f"{file}: {error}")
    assert "\n" not in str(found.value)


def test_a_configuration_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=f"^{tmp_path}/none: No such file or directory$"):
        load_configuration(tmp_path / "none")
    (tmp_path / "broken").write_text("{")
    with pytest.raises(ConfigurationError, match=f"^{tmp_path}/broken: Invalid JSON"):
        load_configuration(tmp_path / "broken")
