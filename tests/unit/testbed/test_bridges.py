"""What the lab asks of Open vSwitch, and what it does with a refusal."""

from __future__ import annotations

import pytest

from testbed import bridges
from testbed.errors import MachineError


def test_a_pass_that_began_before_is_not_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(bridges, "appctl", lambda *words: asked.extend(words))
    bridges.revalidate()
    assert asked == ["revalidator/wait", "revalidator/wait"]


def test_the_cache_is_revalidated_also_beside_bridges_of_another_datapath(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def appctl(*words: str) -> str:
        asked.extend(words)
        if words == ("revalidator/wait",):
            raise MachineError("ovs-appctl: can't wait on multiple udpifs.")
        return ""

    monkeypatch.setattr(bridges, "appctl", appctl)
    bridges.revalidate()
    assert asked == ["revalidator/wait", "revalidator/purge"]
