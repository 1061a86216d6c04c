"""The topologies that ship with Bumpwire, by name."""

from __future__ import annotations

from pathlib import Path

DIRECTORY = Path(__file__).parent


def packaged() -> dict[str, Path]:
    """Return the packaged topologies' files by name, sorted."""
    return {path.stem: path for path in sorted(DIRECTORY.glob("*.yaml"))}
