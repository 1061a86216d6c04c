"""The lab's firewalls: what each is configured with, and its process."""

from __future__ import annotations

import os
import signal
import subprocess
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from firewall_vnf.control import Control
from firewall_vnf.session import Timers
from testbed.errors import RequestError
from testbed.nodes import Host
from testbed.service import Part, last_line
from topologies.fabric import balancer_of
from topologies.ids import endpoint_ids
from topologies.model import Topology

#: How long a firewall may take to flush its logs when it is told to end, in seconds.
GRACE = 5.0
#: How often a firewall measures itself, in seconds: often within an auto scaling policy's period of a minute. It is
#: scaled, but rates of less than half a second would only show bursts.
METRICS_INTERVAL, SHORTEST_METRICS_INTERVAL = 5.0, 0.5


def firewall_configuration(
    topology: Topology, name: str, directory: Path, management: IPv4Address, time_scale: float, store: str | None = None
) -> dict[str, Any]:
    """Return the configuration of firewall *name*, in the form of :mod:`firewall_vnf.config`.

    *management* is its address on the management network, *store* where firewalls share their sessions. Raises
    RequestError when the topology does not say which policy its firewalls run.
    """
    gwlb = balancer_of(topology, name)
    firewalls = topology.firewalls
    if firewalls is None:
        raise RequestError(f"topology {topology.name}: {name} has no policy; name a file in firewalls.policy")
    ids = endpoint_ids(topology)
    return {
        "name": name,
        "interface": "eth0",
        "address": str(gwlb.appliances[name].address),
        "zones": {ids[endpoint]: zone for endpoint, zone in firewalls.zones.items()},
        "policy": firewalls.policy,
        "health_port": gwlb.target_group.health_check.port,
        **session_settings(name, directory, management, time_scale),
        **({"session_store": store} if store else {}),
    }


def session_settings(name: str, directory: Path, management: IPv4Address, time_scale: float) -> dict[str, Any]:
    """Return the settings that all of the lab's firewalls have alike.

    Sessions' time-outs are scaled as the load balancer's are, but what protects a handshake is not.
    """
    scaled = Timers().model_dump(exclude={"tcp_init", "tcp_handshake"})
    return {
        "log_directory": str(directory / name),
        "control": str(directory / f"{name}.sock"),
        "timers": {timer: max(1, round(seconds / time_scale)) for timer, seconds in scaled.items()},
        "metrics_interval": max(METRICS_INTERVAL / time_scale, SHORTEST_METRICS_INTERVAL),
        "management_address": str(management),
    }


class Appliance(Part):
    """A process that turns the load balancer's packets around on its node; what it prints is in ``logs``."""

    #: Whether a scenario has ended it, so that it is no problem that it is gone.
    meant_to_be_dead = False

    def __init__(self, host: Host, command: list[str], logs: Path) -> None:
        self.name = host.name
        self.host = host
        self.command = command
        self.logs = logs
        logs.mkdir()

    def start(self) -> None:
        self.meant_to_be_dead = False
        with (self.logs / "output.log").open("a") as log:
            self.process = self.host.popen(self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def kill(self, meant: bool = False) -> None:
        """Kill the process as an accident would, and wait until it is gone. *meant*: a story tells of it."""
        self.meant_to_be_dead = meant
        super().kill()

    def freeze(self) -> None:
        """Stop the process without ending it: the kernel still completes TCP handshakes for it, nobody answers."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen process go on."""
        self.process.send_signal(signal.SIGCONT)

    def problem(self) -> str | None:
        """Return a line when the process is gone, with the last line of what it printed."""
        code = self.process.poll()
        if code is None or self.meant_to_be_dead:
            return None
        return f"appliance {self.name} ended with {code}: {last_line(self.logs / 'output.log')}"


class Firewall(Appliance):
    """A firewall. ``logs`` holds ``traffic.jsonl`` and the others; ``control`` asks it while it runs."""

    def __init__(self, host: Host, command: list[str], logs: Path) -> None:
        super().__init__(host, command, logs)
        self.control = Control(logs.with_suffix(".sock"))

    def ready(self) -> bool:
        """Whether the firewall answers on its control socket."""
        return self.control.answers()


class ScaledFirewall(Firewall):
    """A firewall that an auto scaling group launches and terminates: the process is the management's."""

    def start(self) -> None:
        raise RequestError(f"{self.name} is launched by its auto scaling group: change its desired capacity")

    def kill(self, meant: bool = False) -> None:
        """Kill the process as an accident would. Raises ControlError when there is none."""
        os.kill(self.control.info()["pid"], signal.SIGKILL)

    def end(self) -> None:
        """It ends with its group."""

    def wait(self) -> None:
        """It ends with its group."""

    def problem(self) -> str | None:
        """Return None: an instance that is gone is replaced."""
        return None
