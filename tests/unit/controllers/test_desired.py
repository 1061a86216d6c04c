"""Files become what switches shall be: only what changed is loaded, only what depends on it is compiled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from controllers import desired
from controllers.compiler import compile_element, compile_topology
from controllers.desired import Desired, Files, file_digest
from controllers.flows import Program
from controllers.state import State, StateError
from topologies.fabric import build_fabric
from topologies.loader import TopologyError, load_topology

TOPOLOGY = load_topology("gwlb")
JSON = TOPOLOGY.model_dump_json(indent=1)


def unhealthy(target: str) -> State:
    content = State.initial(TOPOLOGY).model_dump()
    for health in content["gwlb"]["targets"][target].values():
        health["state"] = "unhealthy"
    return State.model_validate(content).dealt(TOPOLOGY)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    (tmp_path / "topology.yaml").write_text(JSON)
    State.initial(TOPOLOGY).save(tmp_path / "state.json")
    return Files(str(tmp_path / "topology.yaml"), tmp_path / "state.json")


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The elements that were compiled."""
    names: list[str] = []

    def record(topology: Any, fabric: Any, element: Any, *rest: Any) -> Program:
        names.append(element.name)
        return compile_element(topology, fabric, element, *rest)

    monkeypatch.setattr(desired, "compile_element", record)
    return names


def write(files: Files, old: str, new: str) -> None:
    assert old in JSON
    Path(files.topology).write_text(JSON.replace(old, new))


def save(files: Files, state: State) -> None:
    assert files.state is not None
    state.save(files.state)


def test_the_files_are_compiled(files: Files) -> None:
    taken = files.take()
    assert taken.programs == compile_topology(TOPOLOGY)
    assert taken.names == {element.dpid: name for name, element in build_fabric(TOPOLOGY).elements.items()}
    assert taken.generation == 1
    assert files.state is not None
    assert taken.topology_digest == file_digest(Path(files.topology).read_bytes())
    assert taken.state_digest == file_digest(files.state.read_bytes())
    assert len(taken.state_digest) == 16


def test_json_yaml_and_a_packaged_name_are_the_same(files: Files) -> None:
    named = Files("gwlb").take()
    assert named.programs == files.take().programs
    assert named.state_digest is None


def test_what_did_not_change_is_the_same_object(files: Files, compiled: list[str]) -> None:
    taken = files.take()
    compiled.clear()
    Path(files.topology).write_text(JSON)
    save(files, State.initial(TOPOLOGY))
    assert files.take() is taken
    assert compiled == []


def test_a_state_compiles_load_balancers_only(files: Files, compiled: list[str]) -> None:
    before = files.take()
    compiled.clear()
    save(files, unhealthy("fw1"))
    after = files.take()
    assert compiled == ["gwlb"]
    assert after.generation == 2
    assert after.topology_digest == before.topology_digest
    assert after.programs == compile_topology(TOPOLOGY, unhealthy("fw1"))
    assert changed(before, after) == {"gwlb"}


def test_a_state_leaves_the_topology_unread(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    files.take()
    monkeypatch.setattr(desired, "parse", None)  # cannot be called
    save(files, unhealthy("fw1"))
    assert files.take().generation == 2


def test_a_topology_keeps_the_programs_that_it_does_not_change(files: Files) -> None:
    before = files.take()
    write(files, "203.0.113.10", "203.0.113.77")
    after = files.take()
    assert after.programs == compile_topology(load_topology(files.topology))
    assert "internet" in changed(before, after)
    assert "tgw" not in changed(before, after)


def test_an_element_that_is_gone_has_no_program(tmp_path: Path) -> None:
    file = tmp_path / "topology.yaml"
    file.write_text(JSON)
    files = Files(str(file))
    assert "gwlb" in files.take().programs
    file.write_text('{"name": "small", "vpcs": {"one": {"cidr": "10.1.0.0/16", "subnets": {}}}}')
    after = files.take()
    assert after.programs == compile_topology(load_topology(file))
    assert "gwlb" not in after.programs
    assert set(after.names.values()) == set(after.programs)


def test_a_state_that_went_away_is_the_initial_one(files: Files) -> None:
    save(files, unhealthy("fw1"))
    files.take()
    assert files.state is not None
    files.state.unlink()
    after = files.take()
    assert after.programs == compile_topology(TOPOLOGY)
    assert (after.state_digest, after.generation) == (None, 2)


def test_wrong_files_change_nothing_and_say_why(files: Files, tmp_path: Path) -> None:
    before = files.take()
    write(files, "10.200.0.0/16", "10.200.0.0/33")
    with pytest.raises(TopologyError, match=r"^topology\.yaml:\d+: .*10\.200\.0\.0/33"):
        files.take()
    Path(files.topology).unlink()
    with pytest.raises(TopologyError, match=r"^no file .*/topology\.yaml"):
        files.take()
    Path(files.topology).write_text(JSON)
    state = tmp_path / "state.json"
    right = state.read_bytes()
    state.write_text("{")
    with pytest.raises(StateError, match=r"^state\.json: "):
        files.take()
    state.unlink()
    state.mkdir()
    with pytest.raises(StateError, match=rf"^{state}: cannot be read: .*Is a directory"):
        files.take()
    state.rmdir()
    state.write_bytes(right)
    assert files.take() is before


def test_json_that_breaks_a_rule_is_refused_in_the_loaders_words(files: Files) -> None:
    write(files, "10.250.0.52", "10.9.9.9")
    with pytest.raises(TopologyError) as raised:
        files.take()
    with pytest.raises(TopologyError) as loaders:
        load_topology(files.topology)
    assert str(raised.value) == str(loaders.value)
    assert "10.9.9.9" in str(raised.value)


def test_a_file_is_touched_until_it_is_taken(files: Files) -> None:
    files.take()
    assert not files.touched()
    save(files, State.initial(TOPOLOGY))
    assert files.touched()
    files.take()
    assert not files.touched()
    write(files, "10.200.0.0/16", "10.200.0.0/33")
    assert files.touched()
    with pytest.raises(TopologyError):
        files.take()
    assert not files.touched()
    Path(files.topology).unlink()
    assert files.touched()


def test_the_time_scale_is_the_compilers(tmp_path: Path) -> None:
    content = TOPOLOGY.model_dump(mode="json")
    content["gateway_load_balancers"]["gwlb"]["target_group"]["stickiness"]["enabled"] = True
    # Appliance mode needs the 5-tuple.
    for attachment in content["transit_gateways"]["tgw"]["attachments"].values():
        attachment["appliance_mode"] = False
    file = tmp_path / "topology.yaml"
    file.write_text(json.dumps(content))
    topology, fast = load_topology(file), Files(str(file), time_scale=10).take().programs
    assert fast == compile_topology(topology, time_scale=10)
    assert fast != compile_topology(topology)


def changed(before: Desired, after: Desired) -> set[str]:
    """The elements whose program is not the same object any more."""
    return {name for name, program in after.programs.items() if program is not before.programs.get(name)}
