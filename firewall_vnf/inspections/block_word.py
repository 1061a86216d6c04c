"""Ends HTTP sessions that carry a word, in either direction, also when packets cut it in two."""

from __future__ import annotations

from firewall_vnf.applications import Action
from firewall_vnf.inspection import Finding, Inspection
from firewall_vnf.session import Session


class BlockWord(Inspection):
    applications = frozenset({"web-browsing"})
    word = b"top-secret"

    def __init__(self) -> None:
        self.tails = [b"", b""]  # the end of the last packet in each direction: a word can begin there

    def inspect(self, session: Session, direction: int, payload: bytes | memoryview) -> Finding | None:
        data = self.tails[direction] + bytes(payload).lower()
        if self.word in data:
            return Finding(f"word {self.word.decode()!r}", Action.RESET_BOTH)
        self.tails[direction] = data[1 - len(self.word) :]
        return None
