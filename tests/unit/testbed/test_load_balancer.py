"""Load balancers: HAProxy's configuration, and what its statistics say of targets."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from testbed.errors import RequestError
from testbed.load_balancer import (
    HealthCheck,
    Kind,
    Listener,
    LoadBalancer,
    Target,
    TargetGroup,
    configuration,
    first_alert,
    parse_statistics,
    reply_routing,
)

ONE, TWO = Target("fw1", IPv4Address("10.1.1.2"), 8001), Target("fw2", IPv4Address("10.1.2.2"), 8001)
GROUP = TargetGroup("web", (ONE, TWO))
NETWORK = LoadBalancer("nlb", "network", (Listener(80, GROUP),))
APPLICATION = LoadBalancer("alb", "application", (Listener(80, GROUP),))
DIRECTORY = Path("/run/lab")


def lines(balancer: LoadBalancer, time_scale: float = 1) -> list[str]:
    return [line.strip() for line in configuration(balancer, DIRECTORY, time_scale).splitlines()]


def test_a_network_load_balancer() -> None:
    assert (
        configuration(NETWORK, DIRECTORY)
        == """\
global
    log stdout format raw local0
    nbthread 1
    maxconn 4096
    stats socket /run/lab/nlb.sock mode 600 level admin expose-fd listeners
    server-state-file /run/lab/nlb.state
defaults
    log global
    mode tcp
    option tcplog
    retries 0
    load-server-state-from-file global
    timeout connect 10000ms
    timeout client 350000ms
    timeout server 350000ms
listen web
    bind 0.0.0.0:80
    timeout check 10000ms
    tcp-request session set-var(sess.port) src_port
    balance hash src,concat(:,sess.port)
    hash-type consistent sdbm avalanche
    source 0.0.0.0 usesrc clientip
    server fw1 10.1.1.2:8001 check inter 30000ms rise 5 fall 2 on-marked-down shutdown-sessions
    server fw2 10.1.2.2:8001 check inter 30000ms rise 5 fall 2 on-marked-down shutdown-sessions
"""
    )


def test_an_application_load_balancer() -> None:
    text = configuration(APPLICATION, DIRECTORY)
    assert text.partition("    mode ")[2].replace("nlb", "alb") == (
        """\
http
    option httplog
    retries 0
    load-server-state-from-file global
    timeout connect 10000ms
    timeout client 60000ms
    timeout server 60000ms
listen web
    bind 0.0.0.0:80
    timeout check 5000ms
    balance roundrobin
    acl forwarded req.fhdr(X-Forwarded-For) -m found
    http-request set-header X-Forwarded-For "%[req.fhdr(X-Forwarded-For)], %[src]" if forwarded
    http-request set-header X-Forwarded-For %[src] unless forwarded
    http-request set-header X-Forwarded-Proto http
    http-request set-header X-Forwarded-Port 80
    option httpchk
    http-check send meth GET uri / ver HTTP/1.1 hdr Host web hdr User-Agent ELB-HealthChecker/2.0 hdr Connection close
    http-check expect status 200
    server fw1 10.1.1.2:8001 check inter 30000ms rise 5 fall 2
    server fw2 10.1.2.2:8001 check inter 30000ms rise 5 fall 2
"""
    )


def test_times_are_scaled_and_time_outs_stay_possible() -> None:
    scaled = lines(NETWORK, 100)
    assert "timeout client 3500ms" in scaled
    assert "timeout check 500ms" in scaled
    assert "timeout connect 500ms" in scaled
    assert sum("inter 300ms" in line for line in scaled) == 2


def test_one_application_more_is_one_listener_more_and_changes_no_other() -> None:
    more = replace(NETWORK, listeners=(*NETWORK.listeners, Listener(81, replace(GROUP, name="mail"))))
    before, after = configuration(NETWORK, DIRECTORY), configuration(more, DIRECTORY)
    assert after.startswith(before)
    assert [line for line in after[len(before) :].splitlines() if not line.startswith(" ")] == ["listen mail"]


def test_a_check_of_ones_own() -> None:
    check = HealthCheck("HTTP", 5, 2, 2, 4, port=8080, path="/healthy", matcher="200-399")
    own = lines(replace(NETWORK, listeners=(Listener(80, replace(GROUP, health_check=check)),)))
    assert "http-check expect status 200-399" in own
    assert any("uri /healthy " in line for line in own)
    assert sum("check inter 5000ms rise 2 fall 4 port 8080" in line for line in own) == 2


def test_a_dead_target_is_out_after_its_failed_checks() -> None:
    assert NETWORK.takes_out_within(GROUP) == 30 + 2 * (30 + 10)
    assert APPLICATION.takes_out_within(GROUP, 100) == pytest.approx(0.3 + 2 * (0.3 + 0.5))


@pytest.mark.parametrize("kind", ["network", "application"])
def test_haproxy_accepts_it(kind: Kind, tmp_path: Path) -> None:
    haproxy = shutil.which("haproxy", path="/usr/sbin:/usr/bin")
    if haproxy is None:
        pytest.skip("needs HAProxy: install it with apt-get install haproxy")
    (tmp_path / "lb.state").write_text("1\n")
    (tmp_path / "cfg").write_text(configuration(LoadBalancer("lb", kind, NETWORK.listeners), tmp_path, 10))
    answer = subprocess.run([haproxy, "-c", "-f", str(tmp_path / "cfg")], capture_output=True, text=True)
    assert (answer.returncode, answer.stderr) == (0, "")


def test_replies_to_preserved_addresses_are_the_nodes_own() -> None:
    assert [" ".join(command) for command in reply_routing(NETWORK)] == [
        "ip route replace local 0.0.0.0/0 dev lo table 440",
        "ip rule add priority 440 from 10.1.1.2/32 ipproto tcp sport 8001 lookup 440",
        "ip rule add priority 440 from 10.1.2.2/32 ipproto tcp sport 8001 lookup 440",
    ]
    hidden = replace(NETWORK, listeners=(Listener(80, replace(GROUP, preserve_client_ip=False)),))
    assert reply_routing(APPLICATION) == reply_routing(hidden) == []
    assert not any("usesrc" in line for line in lines(hidden) + lines(APPLICATION))


@pytest.mark.parametrize(
    ("listeners", "message"),
    [
        (
            (Listener(80, GROUP), Listener(80, replace(GROUP, name="mail"))),
            "load balancer nlb: two listeners on port 80; give each a port of its own",
        ),
        (
            (Listener(80, GROUP), Listener(81, GROUP)),
            "load balancer nlb, target group web: named twice; give each a name of its own",
        ),
        (
            (Listener(80, replace(GROUP, targets=(ONE, ONE))),),
            "load balancer target group web, target fw1: named twice; give each a name of its own",
        ),
        (
            (Listener(80, replace(GROUP, name="a b")),),
            "load balancer nlb, target group 'a b': use letters, digits, '-', '_' and '.' only",
        ),
    ],
)
def test_what_cannot_be_configured_is_said(listeners: tuple[Listener, ...], message: str) -> None:
    with pytest.raises(RequestError) as error:
        LoadBalancer("nlb", "network", listeners)
    assert str(error.value) == message


#: The columns that are read, of ``show stat`` of HAProxy 2.6.
HEADER = "# pxname,svname,scur,stot,bin,bout,status,check_status,last_chk,\n"


@pytest.mark.parametrize(
    ("status", "check", "state"),
    [
        ("UP", "L4OK", "healthy"),
        ("UP", "* L7OK", "healthy"),
        ("UP 1/3", "L4CON", "healthy"),
        ("UP", "INI", "initial"),
        ("DOWN", "L4TOUT", "unhealthy"),
        ("DOWN 2/3", "L4OK", "unhealthy"),
        ("DRAIN", "L4OK", "draining"),
        ("MAINT", "", "unused"),
    ],
)
def test_states_have_awss_words(status: str, check: str, state: str) -> None:
    rows = f"web,FRONTEND,1,2,3,4,OPEN,,,\nweb,fw1,1,2,3,4,{status},{check},,\nweb,BACKEND,1,2,3,4,UP,,,\n"
    (target,) = parse_statistics(HEADER + rows)
    assert (target.group, target.target, target.state, target.reason) == ("web", "fw1", state, check)
    assert (target.current, target.total, target.bytes_in, target.bytes_out) == (1, 2, 3, 4)


def test_the_reason_is_what_the_last_check_got() -> None:
    (target,) = parse_statistics(HEADER + "web,fw1,,,,,DOWN,L4CON,Connection refused,\n")
    assert (target.reason, target.current) == ("Connection refused", 0)


def test_other_statistics_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"^haproxy's statistics have no 'status'$"):
        parse_statistics("# pxname,svname,\nweb,fw1,\n")


def test_the_first_alert_is_the_cause() -> None:
    log = (
        "[NOTICE]   (7) : haproxy version is 2.6.12\n"
        "[ALERT]    (7) : Binding [lb.cfg:26] for proxy web: cannot bind socket (Address already in use) for [0:80]\n"
        "[ALERT]    (7) : [haproxy.main()] Some protocols failed to start their listeners! Exiting.\n"
    )
    assert first_alert(log) == "proxy web: cannot bind socket (Address already in use) for [0:80]"
    assert first_alert("[ALERT]    (7) : config : no such thing.\n") == "no such thing"
    assert first_alert("[ALERT] (7) : [/usr/sbin/haproxy.main()] Cannot raise FD limit\n") == "Cannot raise FD limit"
    assert first_alert("[NOTICE]   (7) : Loading success.\n") is None
