"""The lab's management: the network that firewalls are managed over, and the process of the managed service.

The management network is a bridge in a namespace of its own, which no route of the cloud leads to. Its addresses are
link-local (RFC 3927), which no VPC can have.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from controllers.management.client import Management, ManagementError
from testbed.service import STATE, TOPOLOGY, Service

#: The name of the node, and of each appliance's interface.
NODE, INTERFACE = "mgmt", "mgmt0"
#: The node's own address; firewalls have those after it, in their order.
FIRST = IPv4Address("169.254.1.0")
PREFIX = 16
STORE_PORT = 6379
CLOUD_PORT = 8080
#: Where firewalls call the cloud.
CLOUD = f"http://{FIRST}:{CLOUD_PORT}"
STORE = f"redis://{FIRST}:{STORE_PORT}"


def management_addresses(firewalls: Iterable[str]) -> dict[str, IPv4Address]:
    """Return each firewall's address on the management network, by its name."""
    return {name: FIRST + number for number, name in enumerate(firewalls, start=1)}


def node_commands(appliances: Iterable[str]) -> list[str]:
    """Return the commands that make the management network out of the node's interfaces, one for each appliance.

    They are isolated: an appliance reaches the node and no other appliance, so that one rogue is no danger to the rest.
    """
    commands = ["ip link add network type bridge", f"ip address add {FIRST}/{PREFIX} dev network"]
    commands += ["ip link set network up"]
    for name in appliances:
        commands += [f"ip link set {name} master network up", f"ip link set {name} type bridge_slave isolated on"]
    return commands


def appliance_commands(address: IPv4Address) -> list[str]:
    """Return the commands that give an appliance its address on the management network."""
    return [f"ip address add {address}/{PREFIX} dev {INTERFACE}", f"ip link set {INTERFACE} up"]


class ManagementProcess(Service):
    """``python -m controllers.management``, see :mod:`controllers.management.__main__` for its configuration."""

    def __init__(
        self,
        directory: Path,
        time_scale: float,
        balancers: Mapping[str, int],
        node: int,
        appliances: Mapping[str, Mapping[str, Any]],
        cloud: bool = False,
    ) -> None:
        """*balancers* and *node* are the processes whose namespaces the load balancers and the network live in.

        *cloud*: firewalls reach the calls of a failover.
        """
        configuration = directory / "management.config.json"
        settings = {
            "topology": str(directory / TOPOLOGY),
            "state": str(directory / STATE),
            "controller_status": str(directory / "controller.json"),
            "status": str(directory / "management.json"),
            "events": str(directory / "events.jsonl"),
            "time_scale": time_scale,
            "namespaces": {name: f"/proc/{pid}/ns/net" for name, pid in balancers.items()},
            "management_namespace": f"/proc/{node}/ns/net",
            "appliances": dict(appliances),
            **({"cloud_address": str(FIRST), "cloud_port": CLOUD_PORT} if cloud else {}),
        }
        configuration.write_text(json.dumps(settings, indent=1))
        self._balancers = tuple(balancers)
        super().__init__("management", "controllers.management", ["--config", str(configuration)], directory)

    @property
    def client(self) -> Management:
        """Return a client of its API. Raises ManagementError while it does not listen."""
        port = self.status().get("port")
        if not port:
            raise ManagementError("the management process does not listen yet")
        return Management(port)

    def all_healthy(self) -> bool:
        """Whether every registered target is healthy wherever it is used."""
        try:
            client = self.client
            targets = [target for name in self._balancers for target in client.health(name)]
            return (bool(targets) or not self._balancers) and all(
                target["state"] in ("healthy", "unused") for target in targets
            )
        except ManagementError:
            return False
