"""Dependencies point one way: the first table of docs/architecture.md is the import graph."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("topologies", "controllers", "firewall_vnf", "testbed", "scripts")


def allowed() -> dict[str, set[str]]:
    """Read the table's last column: which of our packages each may import."""
    text = (ROOT / "docs/architecture.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| [^|]* \| ([^|]*) \|$", text.split("\n## ")[0], re.MULTILINE))
    assert tuple(rows) == PACKAGES
    graph = {}
    for package, words in rows.items():
        named = set(re.findall(r"`(\w+)`", words))
        if words.startswith("all"):
            graph[package] = set(PACKAGES) - named
        else:
            graph[package] = named
    return graph


def imported(path: Path) -> set[str]:
    """Return the top-level names that a module imports, also inside functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            names.add((node.module or "").split(".")[0])
    return names


def test_the_table_allows_what_it_says() -> None:
    assert allowed() == {
        "topologies": set(),
        "controllers": {"topologies"},
        "firewall_vnf": set(),
        "testbed": {"topologies", "controllers", "firewall_vnf", "testbed"},
        "scripts": set(PACKAGES),
    }


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_imports_only_what_the_table_allows(package: str) -> None:
    modules = sorted((ROOT / package).rglob("*.py"))
    assert modules
    wrong = {
        str(module.relative_to(ROOT)): sorted(forbidden)
        for module in modules
        if (forbidden := imported(module) & set(PACKAGES) - allowed()[package] - {package})
    }
    assert wrong == {}


@pytest.mark.parametrize(("library", "only"), [("os_ken", "controllers/ryu.py"), ("ryu", "controllers/ryu.py")])
def test_one_module_imports_the_controller_framework(library: str, only: str) -> None:
    importers = {
        str(module.relative_to(ROOT))
        for package in PACKAGES
        for module in (ROOT / package).rglob("*.py")
        if library in imported(module)
    }
    assert importers <= {only}


@pytest.mark.parametrize("package", ["topologies", "controllers", "firewall_vnf"])
def test_mininet_stays_in_the_testbed(package: str) -> None:
    assert not any("mininet" in imported(module) for module in (ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("package", [package for package in PACKAGES if package != "scripts"])
def test_every_module_has_its_row(package: str) -> None:
    """A folder of many alike has one row for all of them."""
    text = (ROOT / "docs/architecture.md").read_text()
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`([\w./]+)`", row)}
    modules = {
        file.stem if f"{file.parent.name}/" not in named or file.parent.name == "management" else f"{file.parent.name}/"
        for file in (ROOT / package).rglob("*.py")
        if not file.stem.startswith("__")
    }
    assert modules - named == set()
