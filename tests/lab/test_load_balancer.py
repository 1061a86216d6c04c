"""The load balancers of the inbound sandwich with real packets, in namespaces of their own.

::

    client ── public ──┬── fw1 ──┬── internal ──┬── app1
                       └── fw2 ──┘              └── app2

The firewalls are plain Linux routers with the sandwich's NAT rules. The load balancers are the only way from one side
to the other, so replies to preserved addresses come back through them.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

from testbed.haproxy import HaproxyProcess, LoadBalancerError
from testbed.load_balancer import DEFAULT_CHECK, Kind, Listener, LoadBalancer, Target, TargetGroup
from testbed.namespace import in_namespace
from testbed.nat import Application, inbound_rules
from testbed.probes import flows, source_log
from testbed.probes.child import listening_ports

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(
        shutil.which("haproxy") is None, reason="needs HAProxy: install it with apt-get install haproxy"
    ),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: run it with sudo"),
]

TIME_SCALE = 200
UP = "ip link set lo up; echo up; exec sleep 600"
CLIENT, PUBLIC, APP1, APP2 = map(IPv4Address, ("198.51.100.2", "198.51.100.1", "10.3.1.2", "10.3.2.2"))
UNTRUST = {"fw1": IPv4Address("10.1.1.2"), "fw2": IPv4Address("10.1.2.2")}
TRUST = {"fw1": IPv4Address("10.2.1.2"), "fw2": IPv4Address("10.2.2.2")}
INTERNAL = {"fw1": IPv4Address("10.2.1.1"), "fw2": IPv4Address("10.2.2.1")}
APPS = {"app1": APP1, "app2": APP2}
#: An application is a port everywhere: at the public listener, at the firewalls, at the internal listener.
FIRST = {"public": 80, "firewall": 8001, "internal": 9001, "server": 8080}
SECOND = {"public": 81, "firewall": 8002, "internal": 9002, "server": 8081}


@dataclass
class Namespace:
    """A node that is a process in a network namespace of its own."""

    name: str
    address: IPv4Address
    holder: subprocess.Popen[bytes] = field(repr=False)

    @property
    def pid(self) -> int:
        return self.holder.pid

    def popen(self, command: Sequence[str], **keywords: Any) -> subprocess.Popen[Any]:
        return subprocess.Popen(["nsenter", "-t", str(self.pid), "--net", *command], **keywords)

    def run(self, *commands: str | list[str]) -> None:
        for command in commands:
            words = command.split() if isinstance(command, str) else command
            subprocess.run(["nsenter", "-t", str(self.pid), "--net", *words], check=True)


@dataclass
class Sandwich:
    nodes: dict[str, Namespace]
    directory: Path

    def request(self, port: int, count: int = 1, **keywords: Any) -> source_log.Answers:
        return source_log.request(self.nodes["client"], PUBLIC, port, count=count, **keywords)

    @contextlib.contextmanager
    def balancer(self, node: str, balancer: LoadBalancer) -> Iterator[HaproxyProcess]:
        process = HaproxyProcess(self.nodes[node], balancer, self.directory, TIME_SCALE)
        try:
            process.wait_ready()
            yield process
        finally:
            process.end()
            process.wait()
            assert process.process.poll() is not None

    @contextlib.contextmanager
    def up(
        self, public: Kind = "network", internal: Kind = "network", **group: Any
    ) -> Iterator[tuple[HaproxyProcess, HaproxyProcess]]:
        """Both load balancers with one application, of which the firewalls' health checks see that it works."""
        with (
            self.balancer("internal", internal_balancer([FIRST], internal, **group)) as inside,
            self.balancer("public", public_balancer([FIRST], public)) as outside,
        ):
            wait_for(lambda: states(outside) == states(inside) == ["healthy", "healthy"])
            yield outside, inside


def public_balancer(applications: list[dict[str, int]], kind: Kind = "network") -> LoadBalancer:
    listeners = []
    for ports in applications:
        targets = tuple(Target(name, address, ports["firewall"]) for name, address in UNTRUST.items())
        listeners.append(Listener(ports["public"], TargetGroup(f"firewalls-{ports['firewall']}", targets)))
    return LoadBalancer("public", kind, tuple(listeners))


def internal_balancer(applications: list[dict[str, int]], kind: Kind = "network", **group: Any) -> LoadBalancer:
    listeners = []
    for ports in applications:
        targets = tuple(Target(name, address, ports["server"]) for name, address in APPS.items())
        listeners.append(Listener(ports["internal"], TargetGroup(f"apps-{ports['server']}", targets, **group)))
    return LoadBalancer("internal", kind, tuple(listeners))


def rules(firewall: str, applications: list[dict[str, int]]) -> list[list[str]]:
    return inbound_rules(
        [
            Application(f"app-{ports['public']}", ports["firewall"], (INTERNAL[firewall], ports["internal"]))
            for ports in applications
        ],
        untrust_interface="untrust",
        untrust_address=UNTRUST[firewall],
        trust_interface="trust",
        trust_address=TRUST[firewall],
    )


def states(balancer: HaproxyProcess) -> list[str]:
    return [target.state for target in balancer.targets()]


def more_than(connections: int) -> Callable[[flows.Status], bool]:
    return lambda status: status.connected > connections


def wait_for(condition: Callable[[], bool], seconds: float = 20) -> float:
    """Wait until *condition* holds and return how long that took, in seconds."""
    start = time.monotonic()
    while not condition():
        assert time.monotonic() < start + seconds, "waited in vain"
        time.sleep(0.005)
    return time.monotonic() - start


@pytest.fixture(scope="module")
def nodes() -> Iterator[dict[str, Namespace]]:
    addresses = {"client": CLIENT, "public": PUBLIC, "internal": INTERNAL["fw1"], **UNTRUST, **APPS}
    with contextlib.ExitStack() as stack:
        made = {}
        for name, address in addresses.items():
            holder = stack.enter_context(subprocess.Popen(["unshare", "--net", "sh", "-c", UP], stdout=subprocess.PIPE))
            stack.callback(holder.kill)
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"up\n"
            made[name] = Namespace(name, address, holder)
        for one, interface, other, peer, network in (
            ("public", "client", "client", "eth0", "198.51.100"),
            ("public", "fw1", "fw1", "untrust", "10.1.1"),
            ("public", "fw2", "fw2", "untrust", "10.1.2"),
            ("internal", "fw1", "fw1", "trust", "10.2.1"),
            ("internal", "fw2", "fw2", "trust", "10.2.2"),
            ("internal", "app1", "app1", "eth0", "10.3.1"),
            ("internal", "app2", "app2", "eth0", "10.3.2"),
        ):
            made[one].run(f"ip link add {interface} type veth peer name {peer} netns {made[other].pid}")
            for node, end, host in ((one, interface, 1), (other, peer, 2)):
                made[node].run(f"ip address add {network}.{host}/24 dev {end}", f"ip link set {end} up")
        for name in ("fw1", "fw2"):
            made[name].run(f"ip route add default via {UNTRUST[name] - 1}", "sysctl -qw net.ipv4.ip_forward=1")
            made[name].run(*rules(name, [FIRST]))
        for name, address in APPS.items():
            made[name].run(f"ip route add default via {address - 1}")
        yield made


@pytest.fixture
def sandwich(nodes: dict[str, Namespace], tmp_path: Path) -> Sandwich:
    return Sandwich(nodes, tmp_path)


@pytest.fixture(scope="module")
def apps(nodes: dict[str, Namespace]) -> Iterator[list[Any]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(source_log.application(nodes[name], FIRST["server"])) for name in APPS]


def logged_by(apps: list[Any], label: str) -> list[source_log.Seen]:
    return [seen for app in apps for seen in source_log.parse(app.output) if seen.label == label]


def test_behind_a_network_load_balancer_the_application_sees_the_firewalls(sandwich: Sandwich, apps: list[Any]) -> None:
    with sandwich.up():
        answers = sandwich.request(80, 32, label="nlb")
    assert answers.failed == ()
    logged = logged_by(apps, "nlb")
    assert len(logged) == 32
    assert {seen.forwarded_for for seen in logged} == {()}
    sources = Counter(seen.peer for seen in logged)
    assert set(sources) == set(TRUST.values())
    assert min(sources.values()) >= 4  # the flow hash spreads them over both firewalls
    assert {seen.server for seen in logged} == set(APPS)


def test_behind_an_application_load_balancer_the_client_is_in_the_header_only(
    sandwich: Sandwich, apps: list[Any]
) -> None:
    with sandwich.up("application"):
        answers = sandwich.request(80, 8, label="alb")
    assert answers.failed == ()
    logged = logged_by(apps, "alb")
    assert {(seen.peer in TRUST.values(), seen.forwarded_for) for seen in logged} == {(True, (CLIENT,))}
    assert Counter(seen.peer for seen in logged) == dict.fromkeys(TRUST.values(), 4)  # round robin


def test_two_application_load_balancers_append_whom_each_has_seen(sandwich: Sandwich, apps: list[Any]) -> None:
    with sandwich.up("application", "application"):
        (seen,) = sandwich.request(80).seen
    assert seen.forwarded_for[0] == CLIENT
    assert seen.forwarded_for[1] in TRUST.values()
    assert seen.peer + 1 in APPS.values()  # the internal load balancer's own address


def test_without_preservation_the_application_sees_the_internal_load_balancer(
    sandwich: Sandwich, apps: list[Any]
) -> None:
    with sandwich.up(preserve_client_ip=False):
        answers = sandwich.request(80, 4)
    assert {seen.peer for seen in answers.seen} <= {address - 1 for address in APPS.values()}
    assert len(answers.seen) == 4


def test_a_dead_target_is_taken_out_in_time_and_comes_back(sandwich: Sandwich) -> None:
    def request(count: int) -> source_log.Answers:
        return source_log.request(sandwich.nodes["fw1"], INTERNAL["fw1"], SECOND["internal"], count=count)

    with contextlib.ExitStack() as stack:
        app1, _ = (stack.enter_context(source_log.application(sandwich.nodes[name], SECOND["server"])) for name in APPS)
        inside = stack.enter_context(sandwich.balancer("internal", internal_balancer([SECOND])))
        wait_for(lambda: states(inside) == ["healthy", "healthy"])
        app1.process.kill()
        group = inside.balancer.listeners[0].target_group
        took = wait_for(lambda: states(inside) == ["unhealthy", "healthy"])
        assert took < inside.balancer.takes_out_within(group, TIME_SCALE) + 1  # a busy machine's delay
        inside.reload(inside.balancer)
        assert states(inside)[0] == "unhealthy"  # what is known of targets outlives a configuration
        answers = request(12)
        assert (answers.failed, {seen.server for seen in answers.seen}) == ((), {"app2"})
        with source_log.application(sandwich.nodes["app1"], SECOND["server"]):
            wait_for(lambda: states(inside) == ["healthy", "healthy"])
            assert {seen.server for seen in request(32).seen} == set(APPS)


def test_a_dead_firewall_takes_its_flows_with_it_and_no_others(sandwich: Sandwich, apps: list[Any]) -> None:
    """It is dead to traffic: nothing is answered. The load balancer ends its flows when the checks have failed."""
    nodes = sandwich.nodes
    with contextlib.ExitStack() as stack:
        outside, _ = stack.enter_context(sandwich.up())
        connect = partial(socket.create_connection, (str(PUBLIC), 80), 10)
        held = [stack.enter_context(in_namespace(nodes["client"].pid, connect)) for _ in range(16)]
        through = [ask(connection) for connection in held]
        assert set(through) == set(TRUST.values())
        nodes["fw1"].run("sysctl -qw net.ipv4.ip_forward=0")
        stack.callback(nodes["fw1"].run, "sysctl -qw net.ipv4.ip_forward=1")
        took = wait_for(lambda: states(outside) == ["unhealthy", "healthy"])
        assert took < outside.balancer.takes_out_within(outside.balancer.listeners[0].target_group, TIME_SCALE) + 1
        assert [ask(connection) for connection in held] == [
            None if source == TRUST["fw1"] else source for source in through
        ]
        answers = sandwich.request(80, 8)
        assert (answers.failed, {seen.peer for seen in answers.seen}) == ((), {TRUST["fw2"]})


def ask(connection: socket.socket) -> IPv4Address | None:
    """Return whom the application sees at the other end; None when the connection has been ended."""
    held = http.client.HTTPConnection("held")
    held.sock = connection
    try:
        held.request("GET", "/held")
        return source_log.parse(held.getresponse().read().decode())[0].peer
    except (BrokenPipeError, ConnectionResetError):
        return None


def test_a_second_application_needs_a_port_a_listener_and_rules(sandwich: Sandwich, apps: list[Any]) -> None:
    with contextlib.ExitStack() as stack:
        outside, inside = stack.enter_context(sandwich.up())
        for name in APPS:
            node = sandwich.nodes[name]
            stack.enter_context(source_log.application(node, SECOND["server"], "tcp"))
        assert sandwich.request(SECOND["public"], protocol="tcp").failed == ("[Errno 111] Connection refused",)
        # One listener each, and each firewall's rules for one port more.
        inside.reload(internal_balancer([FIRST, SECOND]))
        outside.reload(public_balancer([FIRST, SECOND]))
        wait_for(lambda: "unhealthy" in states(outside)[2:])  # the firewalls do not translate the new port yet
        for name in UNTRUST:
            more = rules(name, [FIRST, SECOND])[len(rules(name, [FIRST])) :]
            assert len(more) == 2
            sandwich.nodes[name].run(*more)
        wait_for(lambda: states(outside) == ["healthy"] * 4)
        answers = sandwich.request(SECOND["public"], 4, protocol="tcp", label="second")
        assert (answers.failed, {seen.label for seen in answers.seen}) == ((), {"second"})
        assert {seen.peer for seen in answers.seen} <= set(TRUST.values())
        assert sandwich.request(FIRST["public"]).failed == ()


def test_a_reload_under_traffic_loses_nothing(sandwich: Sandwich, apps: list[Any]) -> None:
    """Flows of the old worker go on, new connections are the new worker's, and no attempt fails between them."""
    nodes = sandwich.nodes
    # The probe's server starts with the traffic, and would fail a check before.
    port, other = 8090, replace(DEFAULT_CHECK["network"], port=FIRST["server"])
    group = TargetGroup("app", (Target("app1", APP1, port),), other)
    balancer = LoadBalancer("internal", "network", (Listener(port, group),))
    settings = flows.Settings(tcp=8, udp=0, connect_every=0.01)
    client, server = nodes["fw1"], nodes["app1"]
    with sandwich.balancer("internal", balancer) as inside:
        with flows.keep(client, server, INTERNAL["fw1"], settings=settings, port=port) as traffic:
            traffic.wait_established()
            for number in range(3):
                more = Listener(9100 + number, replace(group, name=f"more-{number}"))
                inside.reload(replace(balancer, listeners=(*balancer.listeners, more)))
                traffic.wait(more_than(traffic.status().connected + 20), "new connections")
        assert len(traffic.report.connections) > 60
        assert [flow.cause for flow in traffic.report.flows if flow.died] == []
        assert [connection.error for connection in traffic.report.connections if connection.error] == []


def test_reloads_in_a_row_are_all_in_force(sandwich: Sandwich) -> None:
    group = TargetGroup("app", (Target("app1", APP1, 8090),), DEFAULT_CHECK["network"])
    with sandwich.balancer("internal", LoadBalancer("internal", "network", (Listener(9100, group),))) as inside:
        for port in range(9101, 9109):
            inside.reload(replace(inside.balancer, listeners=(Listener(port, group),)))
            assert port in listening_ports(sandwich.nodes["internal"].pid)


def test_a_reload_that_cannot_be_says_why_and_changes_nothing(sandwich: Sandwich, apps: list[Any]) -> None:
    with sandwich.up() as (outside, _):
        taken = source_log.application(sandwich.nodes["public"], SECOND["public"])
        with taken, pytest.raises(LoadBalancerError) as error:
            outside.reload(public_balancer([FIRST, SECOND]))
        # Since HAProxy 3.0 the protocol is named.
        assert str(error.value).replace("protocol tcpv4: ", "") == (
            "load balancer public: the new configuration is not in force: proxy firewalls-8002: cannot bind socket"
            " (Address already in use) for [0.0.0.0:81]"
        )
        assert sandwich.request(80).failed == ()
        assert {target.group for target in outside.targets()} == {"firewalls-8001"}
        outside.reload(public_balancer([FIRST, SECOND]))
        assert SECOND["public"] in listening_ports(sandwich.nodes["public"].pid)


def test_killed_it_is_gone_with_its_worker_and_starts_anew(sandwich: Sandwich, apps: list[Any]) -> None:
    with sandwich.up() as (outside, _):
        outside.kill()
        node = sandwich.nodes["public"]
        wait_for(lambda: not listening_ports(node.pid))
        assert str(outside.problem()).startswith("load balancer public ended with -9: ")
        assert sandwich.request(80).failed == ("[Errno 111] Connection refused",)
        outside.start()
        outside.wait_ready()
        assert sandwich.request(80, 4).failed == ()


def test_a_taken_port_is_named(sandwich: Sandwich) -> None:
    with source_log.application(sandwich.nodes["public"], FIRST["public"]):
        process = HaproxyProcess(sandwich.nodes["public"], public_balancer([FIRST]), sandwich.directory)
        with pytest.raises(
            LoadBalancerError,
            match=r"1: proxy firewalls-8001: (protocol tcpv4: )?cannot bind socket \(Address.*\) for \[0.0.0.0:80\]$",
        ):
            process.wait_ready()
