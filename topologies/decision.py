"""The names of forwarding decisions, and the OpenFlow cookies that carry them.

A decision is ``ELEMENT/TABLE DESTINATION``. The compiled flow of a decision carries its cookie and a hop of the
model's walk carries its name, so that a flow's packet counter proves that the walk is the packet's way.

=========================================  ==========================================================================
``spoke1/public-a 10.0.0.0/8``             a route of a VPC's table, ``local`` ones too
``spoke1/public-a no route``               no route of the table covers the destination: dropped
``spoke1/public-a same subnet``            two instances of one subnet: no route table is asked
``spoke1/delivery 10.200.0.20/32``         ``local`` found who has the address
``spoke1/delivery no such address``        nobody has it: dropped
``spoke1/igw1 192.0.2.11/32``              1:1 NAT of an internet gateway, inbound: public address to private
``spoke1/igw1 10.200.0.20/32``             the same, outbound: private address to public
``spoke1/igw1 no public address``          outbound without a public address: dropped
``security/nat-a source NAT``              through a NAT gateway, outbound
``security/nat-a reply``                   back through it
``security/nat-a not a reply``             to it, from outside, for no known connection: dropped
``tgw/spokes 0.0.0.0/0``                   a route of a Transit Gateway's table
``tgw/att-sec zone a``                     the attachment's zone: the same, or appliance mode's choice
``gwlb/gwlbe1-a inspect``                  from an endpoint to a firewall
``gwlb/gwlbe1-a return``                   from a firewall back to the endpoint that the packet came from
``internet/routes 192.0.2.11/32``          on the internet, to a host or to the gateway of a public address
=========================================  ==========================================================================
"""

from __future__ import annotations

import hashlib
from ipaddress import IPv4Network

NO_ROUTE = "no route"
SAME_SUBNET = "same subnet"
DELIVERY = "delivery"  # a table
NO_SUCH_ADDRESS = "no such address"
NO_PUBLIC_ADDRESS = "no public address"
SOURCE_NAT = "source NAT"
REPLY = "reply"
NOT_A_REPLY = "not a reply"
INSPECT = "inspect"
RETURN = "return"
ROUTES = "routes"  # the internet's table


def decision(element: str, table: str, destination: IPv4Network | str) -> str:
    """Return a decision's name. *destination* is a prefix, or says in words what is not a route."""
    return f"{element}/{table} {destination}"


def zone(az: str) -> str:
    """Return what stands for the destination where an attachment is left through its interface in *az*."""
    return f"zone {az}"


def cookie(decision: str) -> int:
    """Return the 64-bit cookie of a decision's name: the same for the same name, everywhere and always."""
    return int.from_bytes(hashlib.blake2b(decision.encode(), digest_size=8).digest(), "big")
