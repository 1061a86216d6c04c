"""The applications that App-ID knows, and what a policy can do with their sessions.

One table for both sides: :mod:`firewall_vnf.app_id` identifies these names, :mod:`firewall_vnf.policy` matches them.

Names, standard ports and deny actions are those of PAN-OS's application database as far as it has the application
(Applipedia; "Security Policy Actions" in the PAN-OS administrator's guide). ``iperf3`` and ``unknown-ip`` are our
names. Sessions of all of them use the firewall's timers of their protocol.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from firewall_vnf.packet import ICMP, ICMPV6, TCP, UDP

#: Written in place of an application: no data after the TCP handshake, or no handshake.
INCOMPLETE = "incomplete"
#: There was data, but too little to tell.
INSUFFICIENT_DATA = "insufficient-data"
#: The log's word for a session that was refused before App-ID had anything to look at.
NOT_APPLICABLE = "not-applicable"
#: What a policy treats as "not known yet"; no rule can name them.
NOT_IDENTIFIED = frozenset({INCOMPLETE, INSUFFICIENT_DATA, NOT_APPLICABLE})


class Action(Enum):
    """What a rule or a finding does with a session. Values are the words of the policy file and the logs.

    ``DENY`` means the denied application's own :attr:`Application.deny`; a TCP reset is sent only when the handshake
    was complete (PAN-OS administrator's guide, "Security Policy Actions").
    """

    ALLOW = "allow"
    DENY = "deny"
    DROP = "drop"
    RESET_CLIENT = "reset-client"
    RESET_SERVER = "reset-server"
    RESET_BOTH = "reset-both"


@dataclass(frozen=True)
class Application:
    """``ports`` are the standard ports (``application-default``): protocol, first, last port.

    ``protocols`` are the IP protocols that can carry it (empty: those without an identification of their own).
    ``deny`` is DROP, or RESET_BOTH where the application database says drop-reset: it names no side, so both hosts
    are told.
    """

    name: str
    protocols: tuple[int, ...]
    ports: tuple[tuple[int, int, int], ...]
    deny: Action = Action.DROP


def _over_tcp(name: str, *ports: int) -> Application:
    return Application(name, (TCP,), tuple((TCP, port, port) for port in ports), Action.RESET_BOTH)


#: By name. The unknown ones have no standard ports, so ``application-default`` never matches them.
APPLICATIONS = {
    application.name: application
    for application in (
        Application("ping", (ICMP,), ((ICMP, 0, 65535),)),
        Application("icmp", (ICMP,), ((ICMP, 0, 65535),)),
        Application("ping6", (ICMPV6,), ((ICMPV6, 0, 65535),)),
        Application("ipv6-icmp", (ICMPV6,), ((ICMPV6, 0, 65535),)),
        _over_tcp("ssh", 22),
        _over_tcp("web-browsing", 80),
        _over_tcp("ssl", 443),
        _over_tcp("ftp", 21),
        _over_tcp("smtp", 25, 587),
        _over_tcp("mysql", 3306),
        Application("dns", (TCP, UDP), ((TCP, 53, 53), (UDP, 53, 53))),
        Application("ntp", (UDP,), ((UDP, 123, 123),)),
        Application("iperf3", (TCP, UDP), ((TCP, 5201, 5201), (UDP, 5201, 5201))),
        Application("unknown-tcp", (TCP,), ()),
        Application("unknown-udp", (UDP,), ()),
        Application("unknown-ip", (), ()),
    )
}
