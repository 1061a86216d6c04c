"""Variants of the packaged topology: its document edited, then loaded as a model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from topologies.loader import load_topology
from topologies.model import Topology


@pytest.fixture(scope="session")
def topology() -> Topology:
    return load_topology("gwlb")


@pytest.fixture
def variant(topology: Topology) -> Callable[[Callable[[dict[str, Any]], None]], Topology]:
    def edited(edit: Callable[[dict[str, Any]], None]) -> Topology:
        document = topology.model_dump(mode="json")
        edit(document)
        return Topology.model_validate(document)

    return edited


@pytest.fixture
def golden() -> Path:
    return Path(__file__).parent / "golden"
