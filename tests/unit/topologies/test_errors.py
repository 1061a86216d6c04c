"""The texts of errors are golden files: ``golden/NAME.yaml`` is wrong, ``golden/NAME.txt`` says how.

``BUMPWIRE_GOLDEN=write`` writes the expected texts anew; read the difference before it is committed.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from topologies.loader import TopologyError, load_topology

GOLDEN = Path(__file__).parent / "golden"
CASES = sorted(GOLDEN.glob("*.yaml"))


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.stem)
def test_the_text_of_an_error(case: Path) -> None:
    with pytest.raises(TopologyError) as caught:
        load_topology(case)
    text = f"{caught.value}\n"
    expected = case.with_suffix(".txt")
    if os.environ.get("BUMPWIRE_GOLDEN") == "write":
        expected.write_text(text)
    assert text == expected.read_text()
    assert len(caught.value.problems) == len(text.splitlines()), "a problem is one line"
