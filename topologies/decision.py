"""The names of forwarding decisions, and the OpenFlow cookies that carry them.

A decision is ``ELEMENT/TABLE DESTINATION``. The compiled flow of a decision carries its cookie and a hop of the
model's walk carries its name, so that a flow's packet counter proves that the walk is the packet's way. Besides what
is a route, these are the decisions that a walk can meet:

=============================================  =====================================================================
``spoke1/public-a 10.0.0.0/8``                 a route of a VPC's table, ``local`` ones too
``spoke1/public-a no route``                   no route of the table covers the destination: dropped
``spoke1/public-a same subnet``                two instances of one subnet: no route table is asked
``spoke1/delivery web1``                       ``local`` found the instance, or the NAT gateway, with the address
``spoke1/delivery no such host``               nobody has it: dropped
``spoke1/igw1 192.0.2.11 to 10.200.0.20``      1:1 NAT of the internet gateway, inbound
``spoke1/igw1 10.200.0.20 to 192.0.2.11``      the same, outbound
``spoke1/igw1 no public address``              outbound without a public address: dropped
``security/nat-a snat``                        through a NAT gateway, outbound
``security/nat-a reply``                       back through it
``security/nat unsolicited``                   to one, from outside, and no reply: dropped
``tgw/spokes 0.0.0.0/0``                       a route of a Transit Gateway's table; ``no route`` as above
``tgw/affinity att-spoke1-a``                  an attachment is left in the zone that the packet came in
``tgw/appliance-mode att-sec-b``               an attachment is left in the zone that the flow's hash chose
``gwlb/endpoints gwlbe1-a``                    from an endpoint to its load balancer
``gwlb/targets fw1``                           to the firewall that the flow's hash chose
``gwlb/returned gwlbe1-a``                     from a firewall back to the endpoint that the packet came from
``internet/routes 192.0.2.11/32``              on the internet, to a host or to a public address's internet gateway
=============================================  =====================================================================
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
