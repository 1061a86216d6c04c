"""Registers and table numbers that several modules share.

Registers do not survive a patch port: each element sets what it needs anew, from the port that a packet came by.
"""

from __future__ import annotations

#: The zone that a packet is in: a = 1.
AZ = "reg1"

# The tables of a VPC, in the order in which a packet can meet them; its route tables lie between the two halves.
INTERFACES = 0
ADDRESS_RESOLUTION = 1
FROM_INTERNET = 2
NAT_REPLIES = 3
FIRST_ROUTE_TABLE = 10
DELIVERY = 240
TO_INTERNET = 241
NAT_TRANSLATION = 242


def az_number(az: str) -> int:
    return ord(az) - ord("a") + 1
