"""The files at the top agree with each other."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
PYTHONS = ("3.10", "3.11", "3.12", "3.13")


def dependencies() -> list[Requirement]:
    """Read what pyproject.toml asks for, to run and to develop."""
    lists = re.findall(r"^(?:dependencies|dev) = \[\n(.*?)^\]", (ROOT / "pyproject.toml").read_text(), re.M | re.S)
    assert len(lists) == 2
    return [Requirement(one) for one in re.findall(r'^    "([^"]+)"', "".join(lists), re.M)]


def locked(python: str) -> dict[str, str]:
    """Return name and version of what requirements.lock installs on Linux with one Python."""
    environment = {"python_version": python, "python_full_version": f"{python}.0", "sys_platform": "linux"}
    pins = {}
    for name, pin, marker in re.findall(
        r"^([\w.-]+)==(\S+)(?: ; (.+?))? \\$", (ROOT / "requirements.lock").read_text(), re.MULTILINE
    ):
        if not marker or Marker(marker).evaluate(environment):
            assert name not in pins, f"{name} is locked twice for Python {python}"
            pins[name] = pin
    return pins


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("dependency", dependencies(), ids=lambda one: one.name)
def test_the_lock_is_in_step_with_the_project(dependency: Requirement, python: str) -> None:
    name = re.sub(r"[-_.]+", "-", dependency.name).lower()
    pin = locked(python).get(name)
    assert pin, f"{name} is not in requirements.lock: run make lock"
    assert dependency.specifier.contains(pin), f"{name} {pin} is not {dependency.specifier}: run make lock"


def test_every_pin_has_a_hash() -> None:
    entries = re.split(r"\n(?=[a-z])", (ROOT / "requirements.lock").read_text())
    assert [entry.split()[0] for entry in entries if "==" in entry and "--hash=sha256:" not in entry] == []


def test_make_help_lists_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = re.search(r"^\.PHONY: (.+)$", makefile, re.MULTILINE)
    assert targets
    listed = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert re.findall(r"^make (\w+) +\S", listed, re.MULTILINE) == targets[1].split()


@pytest.mark.parametrize("script", ["testbed/setup.sh", ".ci/run"])
def test_scripts_are_executable_and_parse(script: str) -> None:
    path = ROOT / script
    assert path.stat().st_mode & 0o111
    subprocess.run(["bash", "-n", path], check=True)


def test_set_up_wants_root_or_sudo() -> None:
    as_nobody = ["/usr/bin/setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] if os.geteuid() == 0 else []
    with (ROOT / "testbed/setup.sh").open() as script:
        answer = subprocess.run(
            [*as_nobody, "/bin/bash", "-s", "/nowhere"],
            stdin=script,
            cwd="/",
            env={"PATH": "/nowhere"},
            capture_output=True,
            text=True,
        )
    assert (answer.returncode, answer.stderr) == (3, "setup: needs root, and there is no sudo: run make as root\n")


def test_the_vagrant_machine_is_lab_with_two_cpus_and_four_gibibytes() -> None:
    text = (ROOT / "Vagrantfile").read_text()
    assert re.findall(r'config\.vm\.define "(\w+)"', text) == ["lab"]
    assert re.search(r"machine\.cpus = 2\n\s+machine\.memory = 4096\n", text)
    assert {"virtualbox", "libvirt"} == set(re.findall(r'"(\w+)"', text[text.index('["virtualbox') :].split("]")[0]))
    assert "make -C /vagrant setup VENV=/opt/bumpwire\n" in text


def test_vagrant_accepts_the_file(tmp_path: Path) -> None:
    if shutil.which("vagrant") is None:
        pytest.skip("needs Vagrant: install it with apt-get install vagrant")
    answer = subprocess.run(
        ["vagrant", "validate", "--ignore-provider"],
        cwd=ROOT,
        env={**os.environ, "VAGRANT_HOME": str(tmp_path / "home"), "VAGRANT_DOTFILE_PATH": str(tmp_path / "state")},
        capture_output=True,
        text=True,
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
