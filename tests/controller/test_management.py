"""The managed service's process, its API and its client, against played firewalls on loopback: no Open vSwitch.

The cloud's appliance network is in 127.0.0.0/8, so that load balancer nodes check targets from their own addresses.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from controllers.management.client import Management, ManagementError
from controllers.process import started
from controllers.state import State
from controllers.statistics import Count, Statistics, statistics_file
from tests.controller.fake_firewall import Port, health
from topologies.loader import load_topology
from topologies.model import Topology

FAKE_FIREWALL = Path(__file__).parent / "fake_firewall.py"
#: Divides the intervals: a check every 0.1 s, so that a test is not long; the time-out of a check stays long enough.
SCALE = 50.0


def wait_for(condition: Callable[[], Any], what: str, seconds: float = 60) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.01)
    return found


def free_port(address: str) -> int:
    with socket.create_server((address, 0)) as server:
        port: int = server.getsockname()[1]
        return port


def on_loopback(name: str, **changes: Any) -> Topology:
    """Return a packaged topology whose security VPC is on loopback; *changes* are to its load balancer."""
    text = load_topology(name).model_dump_json().replace("10.100.", "127.100.")
    document = json.loads(text)
    gwlb = document["gateway_load_balancers"]["gwlb"]
    check = {"protocol": "HTTP", "port": free_port("127.100.0.1"), "interval_seconds": 50, "timeout_seconds": 50}
    counts = {"healthy_threshold_count": 2, "unhealthy_threshold_count": 2}
    gwlb["target_group"]["health_check"] = {**check, **counts}
    for part, change in changes.items():
        gwlb[part] = {**(gwlb[part] or {}), **change}
    return Topology.model_validate(document)


class Lab:
    """A directory with the files of a lab, the process, and this process as the controller that it tells."""

    def __init__(self, directory: Path, topology: Topology, scale: float = SCALE) -> None:
        self.directory = directory
        self.model = topology
        self.gwlb = topology.gateway_load_balancers["gwlb"]
        self.signals = 0
        self.process: subprocess.Popen[bytes] | None = None
        management_port = free_port("127.100.0.1")
        self.configuration: dict[str, Any] = {
            **{name: str(directory / file) for name, file in FILES.items()},
            "time_scale": scale,
            "appliances": {name: self._appliance(name, management_port) for name in self.gwlb.appliances},
        }
        (directory / "topology.yaml").write_text(topology.model_dump_json(indent=1))
        (directory / "controller.json").write_text(json.dumps({"pid": os.getpid(), "started": started(os.getpid())}))
        for name in self.gwlb.appliances:
            self.say(name)

    def _appliance(self, name: str, management_port: int) -> dict[str, Any]:
        address, port = str(self.gwlb.appliances[name].address), self.gwlb.target_group.health_check.port
        arguments = [address, str(port), str(management_port), str(self.directory / f"{name}.says.json")]
        return {
            "management_address": address,
            "management_port": management_port,
            "command": [sys.executable, str(FAKE_FIREWALL), *arguments],
            "log": str(self.directory / f"{name}.log"),
        }

    def say(self, name: str, health: int = 200, **metrics: float) -> None:
        """Let a played firewall give these answers from now on."""
        file = self.directory / f"{name}.says.json"
        temporary = file.with_suffix(".new")
        temporary.write_text(json.dumps({"health": health, "metrics": {"panSessionActive": 0, **metrics}}))
        temporary.replace(file)

    @contextmanager
    def firewalls(self) -> Iterator[dict[str, Port]]:
        """Serve the health ports of all appliances."""
        port = self.gwlb.target_group.health_check.port
        ports = {
            name: Port(str(item.address), port, self.directory / f"{name}.says.json", health)
            for name, item in self.gwlb.appliances.items()
        }
        yield ports
        for one in ports.values():
            one.close()

    def start(self) -> Management:
        (self.directory / "management.json").unlink(missing_ok=True)
        (self.directory / "config.json").write_text(json.dumps(self.configuration))
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "controllers.management", "--config", str(self.directory / "config.json")],
                stderr=log,
            )
        status = wait_for(self.status, "the status file")
        assert status["pid"] == self.process.pid
        return Management(status["port"], timeout=60)

    def status(self) -> dict[str, Any] | None:
        assert self.process is not None
        assert self.process.poll() is None, (self.directory / "log").read_text()
        file = self.directory / "management.json"
        content: dict[str, Any] | None = json.loads(file.read_text()) if file.exists() else None
        return content

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """End the process and return its exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        code = self.process.wait(timeout=60)
        self.process = None
        return code

    def state(self) -> State:
        return State.load(self.directory / "state.json")

    def states(self) -> dict[str, str]:
        """Return the state of each target in each zone, as the file for the switches says."""
        return {
            f"{target} {az}": health.state.value
            for target, zones in self.state().targets("gwlb").items()
            for az, health in zones.items()
        }

    def slots(self, az: str) -> set[str]:
        return set(self.state().slots("gwlb", az))

    def wait(self, **states: str) -> None:
        """Wait until targets are in these states, in all their zones."""

        def reached() -> bool:
            found = self.states()
            return all(
                [state for name, state in found.items() if name.split()[0] == target] and
                {state for name, state in found.items() if name.split()[0] == target} == {wanted}
                for target, wanted in states.items()
            )  # fmt: skip

        wait_for(reached, f"{states}")


FILES = {
    "topology": "topology.yaml",
    "state": "state.json",
    "controller_status": "controller.json",
    "status": "management.json",
    "events": "events.jsonl",
}
ALL_HEALTHY = dict.fromkeys(("fw1", "fw2", "fw3", "fw4"), "healthy")


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Lab]]:
    made: list[Lab] = []

    def maker(topology: Topology, **options: Any) -> Lab:
        made.append(Lab(tmp_path, topology, **options))
        return made[-1]

    def heard(number: int, frame: FrameType | None) -> None:
        for lab in made:
            lab.signals += 1

    before = signal.signal(signal.SIGHUP, heard)
    yield maker
    for lab in made:
        if lab.process:
            lab.end()  # SIGTERM, so that the instances end with it
    signal.signal(signal.SIGHUP, before)


def test_targets_turn_healthy_fail_and_come_back(make: Callable[..., Lab]) -> None:
    lab = make(on_loopback("gwlb"))
    with lab.firewalls() as firewalls:
        client = lab.start()
        lab.wait(**ALL_HEALTHY)
        assert lab.slots("a") == {"fw1", "fw2"}
        model, signals = (lab.directory / "topology.yaml").stat().st_ino, lab.signals
        lab.say("fw1", health=503)
        lab.wait(fw1="unhealthy")
        wait_for(lambda: lab.signals > signals, "SIGHUP")
        assert lab.slots("a") == {"fw2"}
        assert (lab.directory / "topology.yaml").stat().st_ino == model
        assert client.health("gwlb")[0] == {
            "target": "fw1",
            "az": "a",
            "state": "unhealthy",
            "reason": "Target.FailedHealthChecks",
            "description": "Health checks failed",
        }
        firewalls.pop("fw3").close()
        lab.wait(fw3="unhealthy")
        lab.say("fw1")
        lab.wait(fw1="healthy")
        assert lab.slots("a") == {"fw1", "fw2"}
        texts = [(event["resource"], event["text"]) for event in client.events()]
        assert ("fw1", "gwlb in a: healthy → unhealthy (Target.FailedHealthChecks, HTTP 503)") in texts
        assert ("fw3", "gwlb in b: healthy → unhealthy (Target.FailedHealthChecks, Connection refused)") in texts
        last = client.events()[-1]["number"]
        assert client.events(last) == []


def test_with_cross_zone_every_node_checks_every_target_from_its_own_address(make: Callable[..., Lab]) -> None:
    lab = make(on_loopback("gwlb", load_balancing={"cross_zone": {"enabled": True}}))
    nodes = {str(address) for address in lab.gwlb.subnets.values()}
    assert len(nodes) == 2
    seen: set[tuple[str, str]] = set()
    with lab.firewalls() as firewalls:
        for name, firewall in firewalls.items():

            def verify(request: Any, client: Any, name: str = name) -> bool:
                seen.add((name, client[0]))
                return True

            firewall.verify_request = verify  # type: ignore[method-assign, assignment]
        client = lab.start()
        lab.wait(**ALL_HEALTHY)
        assert seen == {(name, node) for name in firewalls for node in nodes}
        assert lab.slots("a") == lab.slots("b") == set(firewalls)
        client.set_attributes("gwlb", {"load_balancing.cross_zone.enabled": "false"})
        assert sorted(lab.states()) == ["fw1 a", "fw2 a", "fw3 b", "fw4 b"]
        assert lab.slots("b") == {"fw3", "fw4"}


def test_the_api_registers_drains_and_configures(make: Callable[..., Lab]) -> None:
    lab = make(on_loopback("gwlb"))
    with lab.firewalls():
        client = lab.start()
        lab.wait(**ALL_HEALTHY)
        client.set_attributes("gwlb", {"deregistration_delay.timeout_seconds": "20"})
        assert {one["target"]: one["state"] for one in client.deregister("gwlb", ["fw2"])}["fw2"] == "draining"
        assert lab.slots("a") == {"fw1"}  # written before the answer
        assert Topology.model_validate(client.topology()) == Topology.model_validate_json(
            (lab.directory / "topology.yaml").read_bytes()
        )
        lab.wait(fw2="unused")
        assert {one["target"]: one["state"] for one in client.register("gwlb", ["fw2"])}["fw2"] == "initial"
        lab.wait(fw2="healthy")
        assert client.set_attributes("gwlb", {"deregistration_delay.timeout_seconds": "0"}) == client.attributes("gwlb")
        assert {one["target"]: one["state"] for one in client.deregister("gwlb", ["fw1"])}["fw1"] == "unused"
        assert {one["state"] for one in client.reject("gwlbe1-a") if one["endpoint"] == "gwlbe1-a"} == {"rejected"}
        assert client.accept("gwlbe1-a") == client.connections()
        metrics = client.metrics_text()
        zone_a = '{load_balancer="gwlb",availability_zone="a"}'
        assert f"aws_gatewayelb_healthy_host_count{zone_a} 1.0\n" in metrics
        assert "new_flow_count" not in metrics
        carried = Statistics(time=5.0, decisions={"gwlb/connections new in a": Count(7, 420)}, flows={"gwlbe1-a": 2})
        carried.save(statistics_file(lab.directory / "controller.json"))
        metrics = client.metrics_text()
        assert f"aws_gatewayelb_new_flow_count_total{zone_a} 7.0 5000\n" in metrics
        assert f"aws_gatewayelb_active_flow_count{zone_a} 2.0 5000\n" in metrics


def test_the_api_refuses_in_one_line(make: Callable[..., Lab]) -> None:
    client = make(on_loopback("gwlb")).start()
    requests: list[tuple[Callable[[], object], str]] = [
        (lambda: client.health("nobody"), "no target group 'nobody'; there are gwlb"),
        (
            lambda: client.register("gwlb", ["fw9"]),
            "InvalidTarget: 'fw9' is no appliance of gwlb; there are fw1, fw2, fw3, fw4",
        ),
        (
            lambda: client.register("gwlb", []),
            "body.targets: List should have at least 1 item after validation, not 0",
        ),
        (
            lambda: client.set_attributes("gwlb", {"HealthCheckPort": "81", "tcp.idle_timeout.seconds": "5"}),
            "Attribute value '5' for 'tcp.idle_timeout.seconds' must be between 60 and 6000",
        ),
        (
            lambda: client._request("PATCH", "/resources/gwlb/attributes", {"HealthCheckPort": 81}),
            "body.HealthCheckPort: Input should be a valid string",
        ),
        (
            lambda: client.attributes("tgw"),
            "no resource 'tgw' with attributes; there are: gwlb, att-spoke1, att-spoke2, att-sec",
        ),
        (lambda: client.auto_scaling_group("gwlb-asg"), "no auto scaling group 'gwlb-asg'; there is none"),
        (lambda: client.events(-1), "query.since: Input should be greater than or equal to 0"),
        (lambda: client.accept("a/b"), "/vpc-endpoint-connections/a/b/accept: Not Found; see /openapi.json"),
        (lambda: client._request("POST", "/topology", {}), "/topology: Method Not Allowed; see /openapi.json"),
    ]  # fmt: skip
    for request, text in requests:
        with pytest.raises(ManagementError) as error:
            request()
        assert str(error.value) == text
    assert client.attributes("gwlb")["HealthCheckPort"] != "81"


def test_the_api_describes_every_operation_and_every_schema(make: Callable[..., Lab]) -> None:
    client = make(on_loopback("gwlb")).start()
    document = json.loads(client._request("GET", "/openapi.json"))
    operations = [
        (path, method, operation) for path, item in document["paths"].items() for method, operation in item.items()
    ]
    assert len(operations) == 15
    for path, method, operation in operations:
        assert operation["description"], (path, method)
        assert "422" not in operation["responses"]
        assert all(parameter["description"] for parameter in operation.get("parameters", [])), (path, method)
    schemas = document["components"]["schemas"]
    assert "ValidationError" not in str(document)
    assert [name for name in schemas if name in DOCUMENTED and not schemas[name].get("description")] == []


DOCUMENTED = ("Targets", "TargetDescription", "Connection", "GroupDescription", "EventList", "Error", "Topology")


def test_after_a_kill_the_next_process_goes_on(make: Callable[..., Lab]) -> None:
    lab = make(on_loopback("gwlb"))
    with lab.firewalls():
        client = lab.start()
        # 72 s here: it is not over while the process is away.
        client.set_attributes("gwlb", {"deregistration_delay.timeout_seconds": "3600"})
        lab.wait(**ALL_HEALTHY)
        lab.say("fw1", health=500)
        lab.wait(fw1="unhealthy")
        client.deregister("gwlb", ["fw4"])
        client.set_attributes("gwlb", {"HealthyThresholdCount": "10", "tcp.idle_timeout.seconds": "400"})
        before, ends, last = (
            lab.state(),
            json.loads((lab.directory / "state.service.json").read_text()),
            client.events(),
        )
        lab.end(signal.SIGKILL)
        signals = lab.signals
        client = lab.start()
        assert lab.state() == before
        assert json.loads((lab.directory / "state.service.json").read_text()) == ends
        assert client.attributes("gwlb")["tcp.idle_timeout.seconds"] == "400"
        assert {one["target"]: one["state"] for one in client.health("gwlb")} == {
            "fw1": "unhealthy", "fw2": "healthy", "fw3": "healthy", "fw4": "draining"
        }  # fmt: skip
        assert client.events()[: len(last)] == last
        assert lab.signals == signals
        client.set_attributes("gwlb", {"HealthyThresholdCount": "2"})
        lab.say("fw1")
        lab.wait(fw1="healthy")


def test_sigterm_and_sigint_end_it(make: Callable[..., Lab]) -> None:
    lab = make(on_loopback("gwlb"))
    for number in (signal.SIGTERM, signal.SIGINT):
        client = lab.start()
        assert lab.end(number) == 0
        with pytest.raises(
            ManagementError, match=r"^the management process at http://127\.0\.0\.1:\d+ does not answer: E?C"
        ):
            client.connections()


@pytest.mark.parametrize(
    ("change", "code", "error"),
    [
        ({"time_scale": -1}, 2, "config.json: time_scale: Input should be greater than 0"),
        ({"topology": "/nowhere.yaml"}, 2, "no file /nowhere.yaml; packaged topologies go by name: "),
        ({"namespaces": {"gwlb": "/proc/0/ns/net"}}, 3, "network namespace /proc/0/ns/net: No such file or directory"),
    ],
)
def test_what_is_wrong_is_one_line(
    make: Callable[..., Lab], tmp_path: Path, change: dict[str, Any], code: int, error: str
) -> None:
    lab = make(on_loopback("gwlb"))
    (tmp_path / "config.json").write_text(json.dumps({**lab.configuration, **change}))
    refused(tmp_path, code, error)


def test_a_port_that_is_taken(make: Callable[..., Lab], tmp_path: Path) -> None:
    lab = make(on_loopback("gwlb"))
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        (tmp_path / "config.json").write_text(json.dumps({**lab.configuration, "port": port}))
        refused(tmp_path, 3, f"cannot listen on 127.0.0.1:{port}: Address already in use")


def refused(directory: Path, code: int, error: str) -> None:
    """Start a process that ends at once."""
    answer = subprocess.run(
        [sys.executable, "-m", "controllers.management", "--config", str(directory / "config.json")],
        capture_output=True,
        text=True,
    )
    assert answer.returncode == code
    assert error in answer.stderr
    assert answer.stderr.count("\n") == 1


HOOKS = {
    "launch": {"heartbeat_timeout": 7200, "default_result": "ABANDON"},
    "terminate": {"heartbeat_timeout": 7200, "default_result": "CONTINUE"},
}


def scaling(**changes: Any) -> Topology:
    settings = {"scaling_policies": {}, "lifecycle_hooks": HOOKS, **changes}
    asg = load_topology("autoscale").gateway_load_balancers["gwlb"].auto_scaling_group
    assert asg is not None
    zonal = {"cross_zone": {"enabled": False}}
    group = {**asg.model_dump(mode="json"), **settings}
    return on_loopback("autoscale", auto_scaling_group=group, load_balancing=zonal)


def lifecycle(client: Management) -> dict[str, str]:
    return {one["name"]: one["lifecycle_state"] for one in client.auto_scaling_group("gwlb-asg")["instances"]}


def pids(lab: Lab) -> dict[str, int]:
    memory = json.loads((lab.directory / "state.service.json").read_text())
    return {name: record["pid"] for name, record in memory["scaling"]["processes"].items()}


def test_a_group_launches_drains_and_terminates(make: Callable[..., Lab]) -> None:
    lab = make(scaling(), scale=5.0)
    client = lab.start()
    lab.wait(fw1="healthy", fw2="healthy")
    assert lifecycle(client) == {"fw1": "InService", "fw2": "InService"}

    # Out: the process answers, waits for the hook, and is registered when that is complete.
    client.set_desired_capacity("gwlb-asg", 3)
    assert client.attributes("gwlb-asg")["DesiredCapacity"] == "3"
    wait_for(lambda: lifecycle(client).get("fw3") == "Pending:Wait", "the launch hook of fw3")
    assert "fw3 a" not in lab.states()
    client.complete_lifecycle("gwlb-asg", "fw3", "launch", "CONTINUE")
    lab.wait(fw3="healthy")
    assert lifecycle(client)["fw3"] == "InService"
    assert lab.slots("a") == {"fw1", "fw3"}

    # In: the oldest of the fuller zone drains while it has sessions, waits for the hook, and ends.
    assert 'panSessionActive{firewall="fw1"} 0.0' in client.metrics_text()
    lab.say("fw1", panSessionActive=7)
    wait_for(lambda: 'panSessionActive{firewall="fw1"} 7.0' in client.metrics_text(), "seven sessions")
    client.set_attributes("gwlb-asg", {"DesiredCapacity": "2"})
    lab.wait(fw1="draining")
    assert lab.slots("a") == {"fw3"}
    assert lifecycle(client)["fw1"] == "Terminating"
    lab.say("fw1")
    wait_for(lambda: lifecycle(client)["fw1"] == "Terminating:Wait", "the terminate hook of fw1")
    assert "fw1" in pids(lab)
    client.complete_lifecycle("gwlb-asg", "fw1", "terminate", "CONTINUE")
    wait_for(lambda: "fw1" not in lifecycle(client), "fw1 to be terminated")
    assert set(pids(lab)) == {"fw2", "fw3"}
    activities = client.auto_scaling_group("gwlb-asg")["activities"]
    assert activities[0]["description"] == "Terminating EC2 instance: fw1"
    assert {activity["status_code"] for activity in activities} == {"Successful"}
    assert "scaling" in {event["kind"] for event in client.events()}

    running = pids(lab)
    assert lab.end() == 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in running.values())


def test_a_group_refuses_in_awss_words(make: Callable[..., Lab]) -> None:
    client = make(scaling()).start()
    with pytest.raises(ManagementError, match=r"^New SetDesiredCapacity value 9 is above max value 6"):
        client.set_desired_capacity("gwlb-asg", 9)
    with pytest.raises(ManagementError, match=r"^No active Lifecycle Action found with instance ID fw1$"):
        client.complete_lifecycle("gwlb-asg", "fw1", "launch", "CONTINUE")
    with pytest.raises(ManagementError, match=r"^no auto scaling group 'gwlb'; there are gwlb-asg$"):
        client.auto_scaling_group("gwlb")
    with pytest.raises(ManagementError, match=r"^body\.desired_capacity: Input should be a valid integer$"):
        client.set_desired_capacity("gwlb-asg", 2.5)  # type: ignore[arg-type]
    assert client.auto_scaling_group("gwlb-asg")["desired_capacity"] == 2


def test_a_killed_instance_is_replaced_and_a_killed_service_finds_its_instances(make: Callable[..., Lab]) -> None:
    lab = make(scaling(lifecycle_hooks={}))
    client = lab.start()
    lab.wait(fw1="healthy", fw2="healthy")
    wait_for(lambda: set(pids(lab)) == {"fw1", "fw2"}, "two processes")
    before = pids(lab)
    lab.end(signal.SIGKILL)
    client = lab.start()
    assert lifecycle(client) == {"fw1": "InService", "fw2": "InService"}
    os.kill(before["fw1"], signal.SIGKILL)
    wait_for(lambda: lifecycle(client).get("fw3") == "InService", "a replacement in the same zone")
    assert pids(lab)["fw2"] == before["fw2"]
    lab.wait(fw3="healthy")
    causes = [one["cause"] for one in client.auto_scaling_group("gwlb-asg")["activities"]]
    assert any("EC2 health check indicating it has been terminated or stopped" in cause for cause in causes)
