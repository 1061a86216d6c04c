"""The example inspection at work, and the errors of loading one."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firewall_vnf.applications import Action
from firewall_vnf.inspection import Finding, InspectionError, load_inspections
from firewall_vnf.inspections.block_word import BlockWord
from firewall_vnf.session import Session

SESSION = cast(Session, None)  # the example does not look at it
FOUND = Finding("word 'top-secret'", Action.RESET_BOTH)


@pytest.mark.parametrize(
    ("packets", "found_in"),
    [
        ([(0, b"GET /top-secret HTTP/1.1\r\n")], 0),
        ([(1, b"the TOP-Secret plan")], 0),
        ([(1, b"the top-"), (1, b"secret plan")], 1),
        ([(1, b"t"), (1, b"op-secre"), (1, b"t")], 2),
        ([(1, b"the top-"), (0, b"secret")], None),
        ([(1, b"the top-"), (1, b"-secret")], None),
        ([(1, b"nothing"), (1, b"")], None),
    ],
)
def test_the_word_is_found_across_packets(packets: list[tuple[int, bytes]], found_in: int | None) -> None:
    inspection = BlockWord()
    findings = [inspection.inspect(SESSION, direction, memoryview(data)) for direction, data in packets]
    assert findings == [FOUND if number == found_in else None for number in range(len(packets))]


@given(st.binary(max_size=30), st.lists(st.integers(0, 50), max_size=5))
def test_the_word_is_found_however_it_is_cut(before: bytes, cuts: list[int]) -> None:
    data = before + b"top-secret"
    edges = [0, *sorted(cuts), len(data)]
    inspection = BlockWord()
    found = [inspection.inspect(SESSION, 1, data[start:end]) for start, end in pairwise(edges)]
    assert FOUND in found


def test_each_session_has_a_state_of_its_own() -> None:
    assert BlockWord().inspect(SESSION, 1, b"top-") is None
    assert BlockWord().inspect(SESSION, 1, b"secret") is None


def test_loading() -> None:
    assert load_inspections(["firewall_vnf.inspections.block_word:BlockWord"]) == (BlockWord,)


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


HEAD = "from firewall_vnf.inspection import Inspection\n"


@pytest.mark.parametrize(
    ("name", "source", "message"),
    [
        ("mine", "", "inspection 'mine': write it as module:Class, e.g. my_checks.words:BlockWord"),
        ("mine.Words", "", "inspection 'mine.Words': write it as module:Class, e.g. my_checks.words:BlockWord"),
        (
            "not_there:Words",
            "",
            "inspection 'not_there:Words': cannot import not_there: No module named 'not_there'; "
            "is its directory on PYTHONPATH?",
        ),
        ("mine:Words", "1 / 0", "inspection 'mine:Words': cannot import mine: division by zero"),
        (
            "mine:Words",
            HEAD + "class Word(Inspection): applications = frozenset({'ssh'})",
            "inspection 'mine:Words': mine has no subclass of Inspection of that name; it has: Word",
        ),
        (
            "mine:Words",
            "class Words: pass",
            "inspection 'mine:Words': mine has no subclass of Inspection of that name; it has: none",
        ),
        (
            "mine:Words",
            HEAD + "class Words(Inspection): pass",
            "inspection 'mine:Words': set applications = frozenset({...}) to what it looks into",
        ),
        (
            "mine:Words",
            HEAD + "class Words(Inspection): applications = frozenset({'webbrowsing'})",
            "inspection 'mine:Words': unknown application 'webbrowsing'; did you mean 'web-browsing'?",
        ),
    ],
)
def test_errors_of_loading(modules: Path, name: str, source: str, message: str) -> None:
    (modules / "mine.py").write_text(source)
    with pytest.raises(InspectionError) as caught:
        load_inspections([name])
    assert str(caught.value) == message


def test_the_example_is_twenty_lines() -> None:
    source = sys.modules[BlockWord.__module__].__file__
    assert source is not None
    code = [line for line in Path(source).read_text().splitlines() if line.strip() and not line.startswith('"""')]
    assert len(code) <= 20
