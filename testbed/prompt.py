"""The prompt of ``bumpwire up``: Mininet's, where a node's name stands for the address that the asking node reaches."""

from __future__ import annotations

from mininet.cli import CLI

from testbed.lab import Lab
from topologies.walk import address_for, hosts


class Prompt(CLI):  # type: ignore[misc]
    prompt = "bumpwire> "
    intro = "NODE COMMAND runs a command on a node (web1 ping -c1 app2); nodes, net and help say more; exit leaves."

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        if lab.management:
            self.intro += f"\nThe managed service's API: {lab.management.client.url}/openapi.json"
        super().__init__(lab.network)

    def default(self, line: str) -> None:
        """Run ``NODE COMMAND``, with the names of hosts replaced by addresses."""
        first, _, rest = line.partition(" ")
        if first in self.lab.hosts:
            topology = self.lab.topology
            known = hosts(topology)
            words = [str(address_for(topology, first, word)) if word in known else word for word in rest.split(" ")]
            line = " ".join([first, *words])
        super().default(line)
