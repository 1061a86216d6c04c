"""``bumpwire show`` and ``bumpwire list``, without a machine that could run a lab."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
import typer
from typer.testing import CliRunner, Result

from testbed.errors import RequestError
from topologies.loader import TopologyError


def run(verb: str, *arguments: str) -> Result:
    app = typer.Typer()
    app.command()(importlib.import_module(f"testbed.commands.{verb}").command)
    result = CliRunner().invoke(app, arguments)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def rows(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


def test_show_prints_the_route_tables() -> None:
    printed = rows(run("show", "gwlb").stdout)
    assert ["igw-edge", "igw1", "10.200.0.16/28", "gwlbe1-a", "GWLB", "endpoint", "static"] in printed
    assert ["10.250.0.0/16", "att-spoke2", "attachment", "propagated"] in printed
    assert ["main", "data-a,", "data-b", "10.100.0.0/16", "local", "local"] in printed


def test_show_as_json() -> None:
    shown = json.loads(run("show", "gwlb", "--json").stdout)
    assert shown["topology"]["vpcs"]["spoke1"]["cidr"] == "10.200.0.0/16"
    assert shown["ids"]["vpcs.spoke1.endpoints.gwlbe1-a"].startswith("vpce-0")
    assert shown["route_tables"]["Transit Gateway tgw"]["spokes"]["routes"] == [
        {"destination": "0.0.0.0/0", "target": "att-sec", "kind": "attachment", "origin": "static"}
    ]


def test_show_path_there_and_back() -> None:
    printed = run("show", "gwlb", "--path", "web1", "app2", "--return").stdout
    assert "security/tgw-attach-a 10.0.0.0/8" in printed
    assert "the reply, app2 to web1" in printed
    assert "Both directions are inspected at gwlbe3-a, by the same firewall." in printed
    assert "--zone AZ shows their walk" in printed
    zoned = run("show", "gwlb", "--path", "web1", "app2", "--zone", "b").stdout
    assert "security/tgw-attach-b 10.0.0.0/8" in zoned
    assert "the reply" not in zoned


def test_show_path_says_when_the_directions_differ(tmp_path: Path) -> None:
    text = (Path(__file__).parents[3] / "topologies/gwlb.yaml").read_text()
    file = tmp_path / "asymmetric.yaml"
    file.write_text(text.replace(", appliance_mode: true", "").split("firewalls:\n")[0])
    printed = run("show", str(file), "--path", "web1", "web2", "--return").stdout
    assert "Asymmetric: inspected at gwlbe3-a on the way there, at gwlbe3-b on the way back" in printed


def test_show_path_of_a_packet_that_is_dropped() -> None:
    printed = run("show", "gwlb", "--path", "client", "app1", "--return").stdout
    assert "10.200.1.52 is nobody's public address" in printed
    assert "the reply" not in printed


def test_show_path_as_json() -> None:
    shown = json.loads(run("show", "gwlb", "--path", "client", "web1", "--return", "--json").stdout)
    assert [hop["decision"] for hop in shown["walk"]][-1] == "spoke1/delivery web1"
    assert shown["return"][-1]["destination_address"] == "203.0.113.10"
    assert shown["walk"][4]["alternatives"] == ["gwlb/targets fw1", "gwlb/targets fw2"]


def test_show_draws(tmp_path: Path) -> None:
    file = tmp_path / "gwlb.svg"
    assert run("show", "gwlb", "--svg", str(file)).stdout == f"wrote {file}\n"
    ElementTree.parse(file)
    assert run("show", "gwlb", "--mermaid").stdout.startswith("flowchart TB\n")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--path", "web1", "app9"), "--path: no host 'app9'; did you mean app2?"),
        (("--path", "web1", "app2", "--zone", "c"), "--path: no AZ 'c'; there are: a, b"),
        (("--return",), "--return and --zone are about a walk: add --path SOURCE DESTINATION"),
        (("--svg", "/nowhere/x.svg"), "cannot write /nowhere/x.svg: No such file or directory"),
    ],
)
def test_wrong_requests(arguments: tuple[str, ...], text: str) -> None:
    with pytest.raises(RequestError) as caught:
        run("show", "gwlb", *arguments)
    assert (str(caught.value), caught.value.exit_code) == (text, 2)


def test_show_of_an_unknown_topology() -> None:
    with pytest.raises(TopologyError, match=r"^no topology 'glwb'; did you mean gwlb\?"):
        run("show", "glwb")


def test_list_names_topologies_and_scenarios() -> None:
    listed = json.loads(run("list", "--json").stdout)
    assert listed["topologies"]["gwlb"].startswith("Two spoke VPCs")
    scripts = {path.stem.replace("_", "-") for path in (Path(__file__).parents[3] / "scripts").glob("[!_]*.py")}
    assert set(listed["scenarios"]) == scripts
    assert all(listed["scenarios"].values())
    printed = run("list").stdout
    assert all(name in printed for kind in listed.values() for name in kind)
