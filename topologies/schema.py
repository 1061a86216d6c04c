"""The JSON schema of topology files, for editors: ``python -m topologies.schema`` prints ``schema.json``.

A file names it in its first line: ``# yaml-language-server: $schema=schema.json``.
"""

from __future__ import annotations

import json
from typing import Any

from topologies.model import Topology


def schema() -> dict[str, Any]:
    """Return the model's JSON schema (draft 2020-12)."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Topology.model_json_schema()}


def text() -> str:
    """Return the schema as ``schema.json`` holds it."""
    return json.dumps(schema(), indent=2) + "\n"


if __name__ == "__main__":
    print(text(), end="")
