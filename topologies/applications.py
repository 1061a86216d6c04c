"""A topology with one more application behind its firewalls: what that takes is the difference of the two."""

from __future__ import annotations

from typing import Any

from topologies.model import Topology


def with_application(topology: Topology, port: int) -> Topology:
    """Return the topology with an application on TCP *port* of the servers that its first one runs on.

    Clients reach it as they reach the first one. Where routes alone lead to the servers they lead to any port of them,
    and nothing changes. Where a public load balancer does, it needs a listener there and at each load balancer behind,
    and a NAT rule on each firewall in between; it has the same port everywhere. Raises ValueError where one of them
    has that port already.
    """
    document = topology.model_dump()
    for vpc in document["vpcs"].values():
        public = (name for name, balancer in vpc["load_balancers"].items() if balancer["public_address"])
        if first := next(public, None):
            _listen(vpc, first, next(iter(vpc["load_balancers"][first]["listeners"])), port)
            break
    return Topology.model_validate(document)


def _listen(vpc: dict[str, Any], balancer: str, like: int, port: int) -> None:
    """Give a load balancer, and all behind it, what its listener *like* has, for *port*."""
    listeners = vpc["load_balancers"][balancer]["listeners"]
    if port in listeners:
        raise ValueError(f"load balancer {balancer} has a listener on port {port}; choose another port")
    listeners[port] = {**listeners[like], "target_port": port}
    steps = set()
    for target in listeners[like]["targets"]:
        if target in vpc["firewalls"]:
            rules = vpc["firewalls"][target]["destination_nat"]
            if port in rules:
                raise ValueError(f"firewall {target} has a NAT rule for port {port}; choose another port")
            first = rules[listeners[like]["target_port"]]
            rules[port] = {**first, "port": port}
            steps.add((first["target"], first["port"]))
        else:
            steps.add((target, listeners[like]["target_port"]))
    for name, beyond in sorted(steps):
        if name in vpc["load_balancers"]:
            _listen(vpc, name, beyond, port)
