"""NAT of routed firewalls: the commands."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest

from testbed.errors import RequestError
from testbed.nat import Application, Rules, inbound_rules, outbound_rules

LISTENER = IPv4Address("10.2.1.1")
WEB, MAIL = Application("web", 8001, (LISTENER, 80)), Application("mail", 8002, (LISTENER, 25))


def inbound(*applications: Application) -> Rules:
    return inbound_rules(
        applications,
        untrust_interface="eth1",
        untrust_address=IPv4Address("10.1.1.2"),
        trust_interface="eth2",
        trust_address=IPv4Address("10.2.1.2"),
    )


def test_an_application_is_translated_at_both_ends() -> None:
    assert [" ".join(rule) for rule in inbound(WEB)] == [
        "iptables -w -t nat -A PREROUTING -i eth1 -d 10.1.1.2/32 -p tcp --dport 8001"
        " -j DNAT --to-destination 10.2.1.1:80",
        "iptables -w -t nat -A POSTROUTING -o eth2 -d 10.2.1.1/32 -p tcp --dport 80 -j SNAT --to-source 10.2.1.2",
    ]


def test_one_application_more_is_two_rules_more_and_changes_no_other() -> None:
    assert inbound(WEB, MAIL)[:2] == inbound(WEB)
    assert inbound(WEB, MAIL)[2:] == inbound(MAIL)


def test_two_applications_cannot_share_a_port() -> None:
    with pytest.raises(RequestError) as error:
        inbound(WEB, Application("mail", 8001, (LISTENER, 25)))
    assert str(error.value) == "NAT of mail: port 8001 is web's; give each application its own"


def test_outbound_takes_the_interfaces_address_except_towards_private_networks() -> None:
    assert [" ".join(rule[4:]) for rule in outbound_rules("eth1", IPv4Address("10.1.1.9"))] == [
        "-A POSTROUTING -o eth1 -d 10.0.0.0/8 -j ACCEPT",
        "-A POSTROUTING -o eth1 -d 172.16.0.0/12 -j ACCEPT",
        "-A POSTROUTING -o eth1 -d 192.168.0.0/16 -j ACCEPT",
        "-A POSTROUTING -o eth1 -j SNAT --to-source 10.1.1.9",
    ]


def test_between_tunnels_nothing_is_exempt() -> None:
    assert len(outbound_rules("eth1", IPv4Address("10.1.1.9"), exempt=())) == 1
