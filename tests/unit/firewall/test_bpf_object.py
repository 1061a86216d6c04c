"""Programs are compiled once, at set-up, and what is missing is asked for."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from firewall_vnf import bpf_object
from firewall_vnf.bpf_object import compile_program, find_program
from firewall_vnf.bpf_offload import SOURCE
from firewall_vnf.libbpf import BpfError


def test_the_program_compiles_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bpf_object, "BUILD", tmp_path / "build")
    compiled = compile_program(SOURCE)
    assert compiled.read_bytes()[:4] == b"\x7fELF"
    assert list(compiled.parent.iterdir()) == [compiled]
    monkeypatch.setenv("PATH", "")
    assert compile_program(SOURCE) == find_program(SOURCE) == compiled


def test_a_missing_compiler_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bpf_object, "BUILD", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BpfError) as raised:
        compile_program(SOURCE)
    assert str(raised.value) == ("the BPF program needs a compiler: apt install clang libbpf-dev linux-libc-dev")


@pytest.mark.parametrize(
    ("source", "text"),
    [
        (
            "#include <bpf/no_such_header.h>\n",
            r"the BPF program does not compile: .*: fatal error: 'bpf/no_such_header\.h' file not found;"
            r" apt install libbpf-dev linux-libc-dev",
        ),
        ("int wrong(void) { return x; }\n", r"the BPF program does not compile: .*: use of undeclared identifier 'x'"),
    ],
    ids=["header", "source"],
)
def test_what_does_not_compile_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, text: str
) -> None:
    file = tmp_path / "wrong.c"
    file.write_text(source)
    monkeypatch.setattr(bpf_object, "BUILD", tmp_path / "build")
    with pytest.raises(BpfError) as raised:
        compile_program(file)
    assert re.fullmatch(text, str(raised.value))
    assert not list((tmp_path / "build").iterdir())


def test_a_program_that_is_not_compiled_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bpf_object, "BUILD", tmp_path)
    with pytest.raises(BpfError, match=r"^the BPF program session_offload is not compiled: run make setup$"):
        find_program(SOURCE)
