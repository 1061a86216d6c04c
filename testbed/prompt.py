"""The prompt of ``bumpwire up``: Mininet's, where a node's name stands for the address that the asking node reaches."""

from __future__ import annotations

from mininet.cli import CLI

from testbed.lab import Lab
from topologies.model import Topology


def reachable_address(topology: Topology, source: str, destination: str) -> str | None:
    """Return the address by which *source* reaches *destination*; None when *destination* is no host.

    From the internet an instance has only its public address, if it has one.
    """
    if destination in topology.internet:
        return str(topology.internet[destination].address)
    for vpc in topology.vpcs.values():
        if instance := vpc.instances.get(destination):
            public = instance.public_address if source in topology.internet else None
            return str(public or instance.address)
    return None


class Prompt(CLI):  # type: ignore[misc]
    prompt = "bumpwire> "
    intro = "NODE COMMAND runs a command on a node (web1 ping -c1 app2); nodes, net and help say more; exit leaves."

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        super().__init__(lab.network)

    def default(self, line: str) -> None:
        """Run ``NODE COMMAND``, with the names of hosts replaced by addresses."""
        first, _, rest = line.partition(" ")
        if first in self.lab.hosts:
            words = [reachable_address(self.lab.topology, first, word) or word for word in rest.split(" ")]
            line = " ".join([first, *words])
        super().default(line)
