"""The tests of this folder share one lab of the reference topology."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from testbed.lab import Lab
from topologies.loader import load_topology


@pytest.fixture(scope="package")
def lab() -> Iterator[Lab]:
    with Lab(load_topology("gwlb")) as running:
        yield running
