"""What a firewall and an attachment carry: queues, alike in every architecture.

A firewall is rated for all that it forwards, as an instance's network bandwidth is: its interfaces send through one
queue, an IFB device. So both directions of a flow, data and acknowledgements, wait in the same queue, whether the
firewall has one interface (GENEVE), two (a router) or tunnels as well. How long they wait at most is
:data:`testbed.nodes.BUFFER`, as in the tunnels of a VPN: a round trip through a full queue takes twice that.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from testbed.errors import MachineError
from testbed.lab import Lab
from testbed.nodes import token_bucket
from topologies.fabric import tunnels_of

#: The device whose queue all interfaces of a firewall share.
SHARED = "rating"


def interfaces(lab: Lab, firewall: str) -> list[str]:
    """Return the interfaces by which a firewall sends inspected packets."""
    routed = any(firewall in vpc.firewalls for vpc in lab.topology.vpcs.values())
    return ["untrust", "trust", *tunnels_of(lab.topology, firewall)] if routed else ["eth0"]


def shared_queue(names: Iterable[str], rate: float) -> Iterator[list[str]]:
    """Yield the commands that let interfaces together send at most *rate* bit/s; they go on sending by themselves."""
    yield f"ip link add {SHARED} type ifb".split()
    yield token_bucket(SHARED, rate)
    yield f"ip link set {SHARED} up".split()
    for name in names:
        yield f"tc qdisc add dev {name} clsact".split()
        every = f"tc filter add dev {name} egress protocol all prio 1 u32 match u32 0 0"
        yield f"{every} action mirred egress redirect dev {SHARED}".split()


def rate_firewalls(lab: Lab, rate: float) -> None:
    """Give all firewalls of the lab the same rating, in bit/s in the lab. Raises MachineError where tc cannot."""
    for name in lab.firewalls:
        _run(lab, name, shared_queue(interfaces(lab, name), rate))


def rate_attachments(lab: Lab, hosts: Iterable[str], rate: float) -> None:
    """Let hosts, each the only one in its VPC that sends, send what the VPC's attachment carries."""
    for name in hosts:
        _run(lab, name, [token_bucket("eth0", rate)])


def _run(lab: Lab, node: str, commands: Iterable[list[str]]) -> None:
    for command in commands:
        said = lab.host(node).run(command).stderr.strip()
        # "Exclusivity flag on": it is there already, with the firewall's session offload.
        if said and not ("clsact" in command and "Exclusivity" in said):
            what = " ".join(command[:3])
            raise MachineError(f"{node}: `{what}` fails: {said.splitlines()[0]}; load the kernel's module for it")
