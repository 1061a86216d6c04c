"""The names of forwarding decisions, and the OpenFlow cookies that carry them.

A decision is ``ELEMENT/TABLE DESTINATION``: ``spoke1/public-a 10.0.0.0/8`` is the choice of that route in the table
``public-a`` of the VPC ``spoke1``. The compiled flow of a decision carries its cookie and a hop of the model's walk
carries its name, so that a flow's packet counter proves that the walk is the packet's way.
"""

from __future__ import annotations

import hashlib
from ipaddress import IPv4Network


def decision(element: str, table: str, destination: IPv4Network | str) -> str:
    """Return a decision's name. *destination* is a route's prefix, or says in words what is not a route."""
    return f"{element}/{table} {destination}"


def cookie(decision: str) -> int:
    """Return the 64-bit cookie of a decision's name: the same for the same name, everywhere and always."""
    return int.from_bytes(hashlib.blake2b(decision.encode(), digest_size=8).digest(), "big")
