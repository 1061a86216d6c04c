"""Application and Network Load Balancers as HAProxy plays them: the model, ``haproxy.cfg``, the targets' health.

=================  ===========================================  ==========================================
of AWS             Application Load Balancer                    Network Load Balancer
=================  ===========================================  ==========================================
HAProxy's mode     ``http``                                     ``tcp``
algorithm          round robin, of requests                     flow hash, of connections
idle timeout       60 s                                         350 s
health check       HTTP, every 30 s, timeout 5 s, 5 up, 2 down  TCP, every 30 s, timeout 10 s, 5 up, 2 down
target sees        the load balancer's address, and the         the client's address; without
                   client's at the end of ``X-Forwarded-For``   ``preserve_client_ip`` the load balancer's
=================  ===========================================  ==========================================

Facts: AWS ELB guides, "Load balancer attributes", "Target group attributes", "Health checks for your target groups";
the API's reference, ``CreateTargetGroup``. ``preserve_client_ip.enabled`` is on by default for targets that are
instances; ``routing.http.xff_header_processing.mode`` is ``append``.

Simplified: HAProxy ends the client's TCP connection and makes one of its own to the target, where AWS's Network Load
Balancer passes segments on. A target starts as healthy until its first check has ended. Where no target is healthy the
connection is reset (or answered with 503); AWS fails open. An idle connection is closed; AWS's Network Load Balancer
forgets it and resets what comes later. The flow hash takes the client's address and port: the rest of the 5-tuple is
the listener's. It needs HAProxy 2.6.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Literal

from testbed.errors import RequestError
from topologies.model import Vpc

#: Seconds that a connection to a target may take (an Application Load Balancer's; a target then counts as failed).
CONNECT_TIMEOUT = 10.0
#: The shortest time-out that scaling gives, in seconds: an emulated target on a busy machine is slower than its check.
SHORTEST_TIMEOUT = 0.5
#: The routing table of replies that come back to clients' addresses, see :func:`reply_routing`.
REPLY_TABLE = 440
USER_AGENT = "ELB-HealthChecker/2.0"

Kind = Literal["network", "application"]
State = Literal["initial", "healthy", "unhealthy", "draining", "unused"]


@dataclass(frozen=True)
class HealthCheck:
    """How targets are checked; times in seconds. ``port`` None is the port that the target serves."""

    protocol: Literal["TCP", "HTTP"]
    interval: float
    timeout: float
    healthy_threshold: int
    unhealthy_threshold: int
    port: int | None = None
    path: str = "/"
    matcher: str = "200"


DEFAULT_CHECK: dict[Kind, HealthCheck] = {
    "network": HealthCheck("TCP", 30, 10, 5, 2),
    "application": HealthCheck("HTTP", 30, 5, 5, 2),
}
IDLE_TIMEOUT: dict[Kind, float] = {"network": 350, "application": 60}


@dataclass(frozen=True)
class Target:
    name: str
    address: IPv4Address
    port: int


@dataclass(frozen=True)
class TargetGroup:
    """Targets of one listener. ``health_check`` None is the default of the load balancer's kind.

    ``preserve_client_ip`` is a Network Load Balancer's: its targets' replies must come back through the load balancer.
    """

    name: str
    targets: tuple[Target, ...]
    health_check: HealthCheck | None = None
    preserve_client_ip: bool = True


@dataclass(frozen=True)
class Listener:
    port: int
    target_group: TargetGroup


@dataclass(frozen=True)
class LoadBalancer:
    """A load balancer's node. Raises RequestError when two listeners share a port, or names are double or malformed."""

    name: str
    kind: Kind
    listeners: tuple[Listener, ...]
    idle_timeout: float | None = None

    def __post_init__(self) -> None:
        groups = [listener.target_group for listener in self.listeners]
        names = {
            f"{self.name}, target group": [group.name for group in groups],
            **{f"target group {group.name}, target": [target.name for target in group.targets] for group in groups},
        }
        if port := _double(listener.port for listener in self.listeners):
            raise RequestError(f"load balancer {self.name}: two listeners on port {port}; give each a port of its own")
        for what, given in names.items():
            if name := _double(given):
                raise RequestError(f"load balancer {what} {name}: named twice; give each a name of its own")
            for name in given:
                if not re.fullmatch(r"[\w.-]+", name):
                    raise RequestError(f"load balancer {what} {name!r}: use letters, digits, '-', '_' and '.' only")

    def check(self, group: TargetGroup) -> HealthCheck:
        """Return how the group's targets are checked."""
        return group.health_check or DEFAULT_CHECK[self.kind]

    def takes_out_within(self, group: TargetGroup, time_scale: float = 1) -> float:
        """Return the seconds after which a target that answers nothing is unhealthy at the latest."""
        interval, timeout = _check_times(self.check(group), time_scale)
        # A check that fails is followed by the next after the interval; before the first, one may have just passed.
        return interval + self.check(group).unhealthy_threshold * (interval + timeout)


@dataclass(frozen=True)
class TargetHealth:
    """A target's state in AWS's words, the last check in HAProxy's; connections (or requests) now and so far."""

    group: str
    target: str
    state: State
    reason: str
    current: int
    total: int
    bytes_in: int
    bytes_out: int


def load_balancer(vpc: Vpc, name: str) -> LoadBalancer:
    """Return the load balancer *name* of the model as HAProxy is to play it.

    The address of a firewall, as a target, is that of its untrust interface.
    """
    item = vpc.load_balancers[name]
    addresses = {host: found.address for host, found in vpc.hosts.items()}
    addresses |= {firewall: found.untrust.address for firewall, found in vpc.firewalls.items()}
    listeners = [
        Listener(
            port,
            TargetGroup(
                f"{name}-{port}",
                tuple(Target(target, addresses[target], listener.target_port) for target in listener.targets),
                preserve_client_ip=item.preserve_client_ip,
            ),
        )
        for port, listener in item.listeners.items()
    ]
    return LoadBalancer(name, item.type, tuple(listeners))


def configuration(balancer: LoadBalancer, directory: Path, time_scale: float = 1) -> str:
    """Return the text of ``haproxy.cfg``; sockets and state are files in *directory*. Intervals are divided by
    *time_scale*, but time-outs not below :data:`SHORTEST_TIMEOUT`."""
    idle = _milliseconds((balancer.idle_timeout or IDLE_TIMEOUT[balancer.kind]) / time_scale, SHORTEST_TIMEOUT)
    mode, log = ("tcp", "tcplog") if balancer.kind == "network" else ("http", "httplog")
    lines = [
        "global",
        "    log stdout format raw local0",
        "    nbthread 1",
        "    maxconn 4096",
        f"    stats socket {socket_file(balancer, directory)} mode 600 level admin expose-fd listeners",
        f"    server-state-file {state_file(balancer, directory)}",
        "defaults",
        "    log global",
        f"    mode {mode}",
        f"    option {log}",
        # A flow is its target's: it is not tried elsewhere.
        "    retries 0",
        "    load-server-state-from-file global",
        f"    timeout connect {_milliseconds(CONNECT_TIMEOUT / time_scale, SHORTEST_TIMEOUT)}",
        f"    timeout client {idle}",
        f"    timeout server {idle}",
    ]
    for listener in balancer.listeners:
        lines += _section(balancer, listener, time_scale)
    return "\n".join(lines) + "\n"


def socket_file(balancer: LoadBalancer, directory: Path) -> Path:
    """Return the statistics socket, which also changes targets while it runs."""
    return directory / f"{balancer.name}.sock"


def state_file(balancer: LoadBalancer, directory: Path) -> Path:
    """Return the file that hands the targets' health on when the configuration is loaded anew."""
    return directory / f"{balancer.name}.state"


def reply_routing(balancer: LoadBalancer) -> list[list[str]]:
    """Return the commands for the load balancer's node that let HAProxy use clients' addresses.

    What the targets send to a client from the port that they serve is the node's own, whatever its address. Empty where
    no target group preserves it.
    """
    ends = sorted(
        {
            (target.address, target.port)
            for listener in balancer.listeners
            for target in listener.target_group.targets
            if _preserves(balancer, listener.target_group)
        }
    )
    if not ends:
        return []
    rule = ["ip", "rule", "add", "priority", str(REPLY_TABLE)]
    return [
        ["ip", "route", "replace", "local", "0.0.0.0/0", "dev", "lo", "table", str(REPLY_TABLE)],
        *(
            [*rule, "from", f"{address}/32", "ipproto", "tcp", "sport", str(port), "lookup", str(REPLY_TABLE)]
            for address, port in ends
        ),
    ]


def parse_statistics(text: str) -> list[TargetHealth]:
    """Return the targets of what the command ``show stat`` printed (CSV). Raises ValueError when it is malformed."""
    rows = csv.DictReader(text.lstrip("# ").splitlines())
    try:
        return [
            TargetHealth(
                row["pxname"],
                row["svname"],
                _state(row["status"], row["check_status"]),
                row["last_chk"] or row["check_status"],
                *(int(row[column] or 0) for column in ("scur", "stot", "bin", "bout")),
            )
            for row in rows
            if row["svname"] not in ("FRONTEND", "BACKEND")
        ]
    except (KeyError, TypeError) as error:
        raise ValueError(f"haproxy's statistics have no {error}") from None


def first_alert(log: str) -> str | None:
    """Return what the first alert of HAProxy's log says: those after it are consequences. None where there is none."""
    where = r"(?:config : )?(?:\[\S*haproxy.main\(\)\] )?(?:Starting |Binding \[.+?\] for )?"
    alert = re.search(rf"^\[ALERT\] +\(\d+\) : {where}(.+?)\.?$", log, re.MULTILINE)
    return alert[1] if alert else None


def _section(balancer: LoadBalancer, listener: Listener, time_scale: float) -> list[str]:
    """Return the lines of one listener and its target group."""
    group, check = listener.target_group, balancer.check(listener.target_group)
    interval, timeout = _check_times(check, time_scale)
    lines = [f"listen {group.name}", f"    bind 0.0.0.0:{listener.port}", f"    timeout check {_milliseconds(timeout)}"]
    if balancer.kind == "network":
        lines += [
            "    tcp-request session set-var(sess.port) src_port",
            "    balance hash src,concat(:,sess.port)",
            "    hash-type consistent sdbm avalanche",
        ]
        if group.preserve_client_ip:
            lines.append("    source 0.0.0.0 usesrc clientip")
    else:
        header = "http-request set-header X-Forwarded"
        lines += [
            "    balance roundrobin",
            "    acl forwarded req.fhdr(X-Forwarded-For) -m found",
            f'    {header}-For "%[req.fhdr(X-Forwarded-For)], %[src]" if forwarded',
            f"    {header}-For %[src] unless forwarded",
            f"    {header}-Proto http",
            f"    {header}-Port {listener.port}",
        ]
    if check.protocol == "HTTP":
        lines += [
            "    option httpchk",
            f"    http-check send meth GET uri {check.path} ver HTTP/1.1 hdr Host {group.name}"
            f" hdr User-Agent {USER_AGENT} hdr Connection close",
            f"    http-check expect status {check.matcher}",
        ]
    words = f"check inter {_milliseconds(interval)} rise {check.healthy_threshold} fall {check.unhealthy_threshold}"
    if check.port:
        words += f" port {check.port}"
    if balancer.kind == "network":
        words += " on-marked-down shutdown-sessions"  # target_health_state.unhealthy.connection_termination.enabled
    return lines + [f"    server {target.name} {target.address}:{target.port} {words}" for target in group.targets]


def _preserves(balancer: LoadBalancer, group: TargetGroup) -> bool:
    return balancer.kind == "network" and group.preserve_client_ip


def _check_times(check: HealthCheck, time_scale: float) -> tuple[float, float]:
    """Return interval and time-out in seconds, scaled."""
    return check.interval / time_scale, max(check.timeout / time_scale, SHORTEST_TIMEOUT)


def _milliseconds(seconds: float, least: float = 0.001) -> str:
    return f"{round(max(seconds, least) * 1000)}ms"


def _state(status: str, check: str) -> State:
    """Return AWS's word for HAProxy's: ``UP``, ``UP 1/3`` (it begins to fail), ``DOWN 1/2``, ``DRAIN``, ``MAINT`` …"""
    if status.startswith("MAINT"):
        return "unused"
    if status.startswith("DRAIN"):
        return "draining"
    if status.startswith("UP") and check.endswith("INI"):
        return "initial"
    return "healthy" if status.startswith("UP") else "unhealthy"


def _double(values: Iterable[object]) -> object | None:
    return next((value for value, count in Counter(values).items() if count > 1), None)
