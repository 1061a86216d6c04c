"""VPN connections without a network: AWS's rules, the daemons' configurations, the parsers of what they say."""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv4Network

import pytest

from testbed.errors import RequestError
from testbed.vpn.bgp import Route, Session, bird_conf, parse_protocols, parse_routes
from testbed.vpn.ipsec import parse_sas, strongswan_conf, swanctl_conf
from testbed.vpn.tunnel import Connection, Side, Tunnel, end_commands, joining, router_commands, shaping

SAS = """list-sas event {vpn1-a {uniqueid=1 version=2 state=ESTABLISHED local-host=100.64.1.11 encr-alg=AES_GCM_16 \
encr-keysize=128 prf-alg=PRF_HMAC_SHA2_256 dh-group=ECP_256 child-sas {vpn1-a-1 {name=vpn1-a state=REKEYED encap=yes \
encr-alg=AES_CBC bytes-in=1 bytes-out=2} vpn1-a-2 {name=vpn1-a state=INSTALLED encap=yes encr-alg=AES_GCM_16 \
encr-keysize=128 bytes-in=7 bytes-out=60 local-ts=[0.0.0.0/0 10.0.0.0/8] remote-ts=[0.0.0.0/0]}}}}
list-sas event {vpn1-b {state=CONNECTING child-sas {}}}
list-sas reply {}
"""
PROTOCOLS = """BIRD 2.0.12 ready.
Name       Proto      Table      State  Since         Info
direct1    Direct     ---        up     18:54:50.722
vpn1-a     BGP        ---        up     18:54:51.556  Established
  BGP state:          Established
    Neighbor address: 169.254.11.2
  Channel ipv4
    Routes:         1 imported, 2 exported, 0 preferred

vpn1-b     BGP        ---        start  18:54:50.722  Connect
  BGP state:          Connect
    Neighbor address: 169.254.11.6
"""
ROUTES = """BIRD 2.0.12 ready.
Table master4:
0.0.0.0/0            unicast [vpn1-a 18:54:51.062] * (100) [AS65000i]
\tvia 169.254.11.2 on vpn1-a
                     unicast [vpn1-b 18:54:51.104] (100) [AS65001 65000i]
\tvia 169.254.11.6 on vpn1-b
169.254.11.0/30      unicast [direct1 18:54:50.722] * (240)
\tdev vpn1-a
10.1.0.0/24          unreachable [announced 18:54:50.722] * (200)
"""


def tunnel(name: str = "vpn1-a", inside: str = "169.254.11.0/30", psk: str = "secret.of.tunnel") -> Tunnel:
    return Tunnel(name, IPv4Address("100.64.1.1"), IPv4Address("100.64.1.11"), IPv4Network(inside), psk)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"name": "VPN"}, "tunnel 'VPN': a name has 1 to 15 of a-z, 0-9 and -, a letter first"),
        ({"inside": "10.0.0.0/30"}, "tunnel vpn1-a: inside CIDR 10.0.0.0/30: choose a /30 of 169.254.0.0/16"),
        ({"inside": "169.254.5.0/30"}, "tunnel vpn1-a: inside CIDR 169.254.5.0/30 is reserved by AWS; choose another"),
        (
            {"psk": "0secret.secret"},
            "tunnel vpn1-a: a pre-shared key has 8 to 64 letters, digits, . and _, and does not start with 0",
        ),
    ],
)
def test_what_aws_would_refuse(wrong: dict[str, str], message: str) -> None:
    with pytest.raises(RequestError, match=re.escape(message)):
        tunnel(**wrong)


def test_the_routers_share_the_inside_cidr() -> None:
    assert str(tunnel().address(Side.AMAZON)) == "169.254.11.1/30"
    assert str(tunnel().address(Side.CUSTOMER)) == "169.254.11.2/30"


def test_commands() -> None:
    assert joining(tunnel(), 7, 8) == [
        [
            "ip",
            "link",
            "add",
            "vpn1-a",
            "mtu",
            "1446",
            "netns",
            "7",
            "type",
            "veth",
            "peer",
            "name",
            "inside",
            "mtu",
            "1446",
            "netns",
            "8",
        ]
    ]
    amazon, customer = (router_commands([tunnel()], side)[0] for side in Side)
    for policy in (amazon, customer):  # of the packet's own fields, not of the hash that its sender's socket gave it
        assert "net.ipv4.fib_multipath_hash_policy=3" in policy
    assert "net.ipv4.fib_multipath_hash_fields=0x37" in amazon
    assert "net.ipv4.fib_multipath_hash_fields=0x33" in customer  # two routers that hash alike would choose alike
    end = [" ".join(command) for command in end_commands(tunnel(), Side.CUSTOMER, IPv4Address("100.64.1.254"))]
    assert "ip rule add pref 101 iif inside unreachable" in end
    assert end[-1].endswith("--set-mss 1406")
    text = "tc qdisc replace dev ipsec0 root tbf rate 125000000bit burst 156250 limit 781250"
    assert shaping(125e6) == [text.split()]


def test_dead_peers_are_given_up_after_30_seconds() -> None:
    assert "dpd_delay = 10s" in swanctl_conf(tunnel(), Side.AMAZON, False)
    assert "retransmit_timeout = 5\n" in strongswan_conf(Side.AMAZON, False, None)  # 10 + 4 * 5
    assert "retransmit_timeout = 0.5\n" in strongswan_conf(Side.AMAZON, False, None, 10)


def test_the_customer_begins_and_amazon_waits() -> None:
    amazon, customer = (swanctl_conf(tunnel(), side, True) for side in Side)
    assert "start_action = none" in amazon
    assert "dpd_action = clear" in amazon
    assert "start_action = start" in customer
    assert "dpd_action = restart" in customer
    assert "local_addrs = 100.64.1.11" in customer
    assert "rekey_time = 28530s" in customer
    assert "life_time = 3600s" in customer
    assert "if_id_in = 1" in customer
    # AWS's defaults: AES-GCM and AES-CBC, SHA-1 to SHA-512, Diffie-Hellman groups 2, 14 to 24, and 5 in phase 2.
    ike, esp = (re.search(rf"{kind}proposals = (.+)", customer)[1].split(",") for kind in (" ", "esp_"))
    assert all(proposal.count("modp") == 9 and proposal.count("ecp") == 3 for proposal in ike)
    assert all(proposal.count("modp") == 10 and "modp1536" in proposal for proposal in esp)
    assert ike[0].startswith("aes128gcm16-aes256gcm16-prfsha256-prfsha384-prfsha512-prfsha1-ecp256-")
    assert esp[0].startswith("aes128gcm16-aes256gcm16-ecp256-")
    assert {one.partition("-ecp256")[0] for one in (ike[1], esp[1])} == {"aes128-aes256-sha256-sha384-sha512-sha1"}
    assert "if_id_in" not in swanctl_conf(tunnel(), Side.AMAZON, False)


def test_kernel_esp_differs_in_plugin_and_interface_only() -> None:
    assert "kernel-libipsec" in strongswan_conf(Side.AMAZON, False, None)
    kernel = strongswan_conf(Side.CUSTOMER, True, 125e6)
    assert "kernel-libipsec" not in kernel
    assert "type xfrm dev outside if_id 1" in kernel
    assert "tbf rate 125000000bit" in kernel


def test_who_asks_often_is_not_ignored() -> None:
    assert "\n  dos_protection = no\n" in strongswan_conf(Side.AMAZON, False, None)


def test_the_end_that_waits_hears_once_it_has_loaded() -> None:
    amazon, customer = (strongswan_conf(side, False, None) for side in Side)
    assert "    load = swanctl --load-all --noprompt" in amazon
    assert ">/dev/null && iptables -w -P INPUT ACCEPT\n" in amazon
    assert "iptables" not in customer


def test_sas() -> None:
    first, second = parse_sas(SAS)
    assert first.established
    assert first.ike == "AES_GCM_16-128/PRF_HMAC_SHA2_256/ECP_256"
    assert (first.esp, first.encapsulated, first.bytes_in, first.bytes_out) == ("AES_GCM_16-128", True, 7, 60)
    assert (second.name, second.established, second.esp) == ("vpn1-b", False, "")
    assert parse_sas("") == []


def test_bird_configuration() -> None:
    connection = Connection("vpn1", (tunnel(), tunnel("vpn1-b", "169.254.11.4/30")))
    text = bird_conf([connection], Side.AMAZON, [IPv4Network("10.0.0.0/8")])
    assert "merge paths yes limit 64;" in text
    assert "keepalive time 10;\n  hold time 30;" in text
    assert "  local 169.254.11.5 as 64512;\n  neighbor 169.254.11.6 as 65000;" in text
    assert "route 10.0.0.0/8 unreachable;" in text
    with pytest.raises(RequestError, match="time scale 20: BGP's hold time has at least 3 s; choose 10 or less"):
        bird_conf([connection], Side.AMAZON, [], 20)
    with pytest.raises(RequestError, match="BGP: there is no tunnel to speak over; give at least one connection"):
        bird_conf([], Side.AMAZON, [])


def test_sessions_and_routes() -> None:
    assert parse_protocols(PROTOCOLS) == [
        Session("vpn1-a", "Established", IPv4Address("169.254.11.2"), 1),
        Session("vpn1-b", "Connect", IPv4Address("169.254.11.6"), 0),
    ]
    default = IPv4Network("0.0.0.0/0")
    assert parse_routes(ROUTES) == [
        Route(default, "vpn1-a", (65000,), True),
        Route(default, "vpn1-b", (65001, 65000), False),
    ]
