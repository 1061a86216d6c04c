"""Site-to-Site VPN: connections of two tunnels each, and the commands that lay their links.

Each tunnel has two ends. An end is a network namespace of its own, with a charon in it, between its router and the
internet::

    hosts -- Transit Gateway's router ==inside== end ~~outside~~ internet ~~outside~~ end ==inside== firewall -- hosts
             169.254.10.1/30                      ESP over UDP port 4500                          169.254.10.2/30

The routers own the inside addresses and speak BGP. An end is a wire for them: it hands what comes in by ``inside`` to
the tunnel, and what comes out of the tunnel to its router. It sends nothing around the tunnel.

What is simplified: a customer gateway of AWS has one public address for both tunnels, here each of its ends has its
own. An end takes one off the TTL. The userspace ESP encapsulates in UDP, so the underlay needs an MTU of 1,508 bytes
or more.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from testbed.errors import RequestError
from testbed.nodes import token_bucket

#: Bytes of a packet in a tunnel, and of its TCP segment: AES-GCM without NAT-T (Site-to-Site VPN user guide).
MTU, MSS = 1446, 1406
#: Bit/s of a tunnel, in each direction (Site-to-Site VPN quotas).
RATE = 1.25e9
#: ASNs: the Transit Gateway's default, and the one of all firewalls, so that their AS paths are equal.
AMAZON_ASN, CUSTOMER_ASN = 64512, 65000
#: Inside CIDRs that AWS keeps for itself.
RESERVED = tuple(IPv4Network(f"169.254.{third}/30") for third in ("0.0", "1.0", "2.0", "3.0", "4.0", "5.0", "169.252"))
#: charon's table for the routes into the tunnel, and the end's own for the way out of it.
INTO, OUT_OF = 220, 221

Commands = list[list[str]]


class Side(Enum):
    """Whose end of a tunnel."""

    AMAZON = "amazon"
    CUSTOMER = "customer"


@dataclass(frozen=True)
class Tunnel:
    """One tunnel. *amazon* and *customer* are the ends' public addresses; *inside* is a /30 of 169.254.0.0/16.

    Raises RequestError where AWS would refuse the name, the inside CIDR or the pre-shared key.
    """

    name: str
    amazon: IPv4Address
    customer: IPv4Address
    inside: IPv4Network
    psk: str

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9-]{0,14}", self.name):
            raise RequestError(f"tunnel {self.name!r}: a name has 1 to 15 of a-z, 0-9 and -, a letter first")
        if self.inside.prefixlen != 30 or not self.inside.subnet_of(IPv4Network("169.254.0.0/16")):
            raise RequestError(f"tunnel {self.name}: inside CIDR {self.inside}: choose a /30 of 169.254.0.0/16")
        if self.inside in RESERVED:
            raise RequestError(f"tunnel {self.name}: inside CIDR {self.inside} is reserved by AWS; choose another")
        if not re.fullmatch(r"[A-Za-z1-9._][A-Za-z0-9._]{7,63}", self.psk):
            raise RequestError(
                f"tunnel {self.name}: a pre-shared key has 8 to 64 letters, digits, . and _, and does not start with 0"
            )

    def outside(self, side: Side) -> IPv4Address:
        """Return the public address of an end."""
        return self.amazon if side is Side.AMAZON else self.customer

    def address(self, side: Side) -> IPv4Interface:
        """Return the inside address of a side's router: AWS takes the first of the /30, the customer the second."""
        return IPv4Interface((self.inside.network_address + (1 if side is Side.AMAZON else 2), 30))


@dataclass(frozen=True)
class Connection:
    """A VPN connection: the tunnels between the Transit Gateway and one customer gateway, two of them at AWS."""

    name: str
    tunnels: tuple[Tunnel, ...]
    amazon_asn: int = AMAZON_ASN
    customer_asn: int = CUSTOMER_ASN

    def asn(self, side: Side) -> int:
        """Return a side's autonomous system number."""
        return self.amazon_asn if side is Side.AMAZON else self.customer_asn


#: ECMP is by fields of the packet (policy 3, Linux's ip-sysctl): addresses and ports, at the Transit Gateway the
#: protocol as well. All namespaces have the kernel's one seed, so a firewall that hashed the same would send all that
#: one tunnel of its own brings back into one tunnel, and never use the other. Policy 1 is no 5-tuple here: over the
#: kernel datapath a packet brings a random hash of the socket that sent it, and policy 1 takes that (``skb->l4_hash``).
HASH_FIELDS = {Side.AMAZON: 0x37, Side.CUSTOMER: 0x33}


def other(side: Side) -> Side:
    """Return the far side."""
    return Side.CUSTOMER if side is Side.AMAZON else Side.AMAZON


def joining(tunnel: Tunnel, router: int, end: int) -> Commands:
    """Return the command that joins a router and an end, by process ids: NAME there, ``inside`` here."""
    return [
        f"ip link add {tunnel.name} mtu {MTU} netns {router} type veth peer name inside mtu {MTU} netns {end}".split()
    ]


def router_commands(tunnels: Iterable[Tunnel], side: Side) -> Commands:
    """Return the commands for a router's namespace: forwarding, ECMP, the tunnels' interfaces."""
    ecmp = ("fib_multipath_hash_policy=3", f"fib_multipath_hash_fields={HASH_FIELDS[side]:#x}")
    settings = ("ip_forward=1", *ecmp, "conf.all.rp_filter=0", "conf.default.rp_filter=0")
    commands = [["sysctl", "-qw", *(f"net.ipv4.{setting}" for setting in settings)]]
    for tunnel in tunnels:
        commands += [
            ["sysctl", "-qw", f"net.ipv4.conf.{tunnel.name}.rp_filter=0"],
            f"ip address replace {tunnel.address(side)} dev {tunnel.name}".split(),
            f"ip link set {tunnel.name} up".split(),
        ]
    return commands


def end_commands(tunnel: Tunnel, side: Side, gateway: IPv4Address) -> Commands:
    """Return the commands for an end's namespace, once it has ``inside`` and ``outside``.

    *gateway* is the internet's address on ``outside``'s /24. The rules see to it that nothing leaves in the clear: what
    comes in by ``inside`` goes into the tunnel or nowhere. Proxy ARP answers the router, only while the tunnel is up.
    """
    clamp = ["-p", "tcp", "--tcp-flags", "SYN,RST", "SYN", "-j", "TCPMSS", "--set-mss", str(MSS)]
    settings = ("ip_forward=1", "conf.all.rp_filter=0", "conf.inside.rp_filter=0", "conf.default.rp_filter=0")
    proxy = ("conf.inside.proxy_arp=1", "neigh.inside.proxy_delay=0", "conf.all.send_redirects=0")
    return [
        ["sysctl", "-qw", *(f"net.ipv4.{setting}" for setting in settings + proxy)],
        ["sysctl", "-eqw", "net.ipv6.conf.all.disable_ipv6=1"],
        ["ip", "link", "set", "lo", "up"],
        f"ip address replace {tunnel.outside(side)}/24 dev outside".split(),
        ["ip", "link", "set", "outside", "up"],
        ["ip", "link", "set", "inside", "up"],
        f"ip route replace default via {gateway}".split(),
        f"ip route replace default via {tunnel.address(side).ip} dev inside onlink table {OUT_OF}".split(),
        f"ip rule add pref 100 iif inside lookup {INTO}".split(),
        ["ip", "rule", "add", "pref", "101", "iif", "inside", "unreachable"],
        f"ip rule add pref 102 iif ipsec0 lookup {OUT_OF}".split(),
        ["ip", "rule", "add", "pref", "103", "lookup", "main"],
        ["iptables", "-w", "-t", "mangle", "-A", "FORWARD", *clamp],
    ]


def shaping(rate: float) -> Commands:
    """Return the command that limits what an end sends into its tunnel to *rate* bit/s; both ends do, so both ways."""
    return [token_bucket("ipsec0", rate)]
