"""What must be configured for one more application: the difference between two configurations, counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from firewall_vnf.policy_file import PolicyForm, read_policy
from testbed.comparison.model import Application
from topologies.applications import with_application
from topologies.model import Topology

#: The further application's port.
PORT = 8443
#: The sections that count, as the files name them.
RULES, NAT, LISTENERS = "rules", "destination_nat", "listeners"


def one_more(topology: Topology) -> Application:
    """Return what differs between the configurations of a cloud with its applications, and with one more.

    A configuration is the topology and the firewalls' security policy, of which they share one. In the policy the
    further application has a rule of its own, in every architecture. Raises ValueError for a difference that is none
    of the sections that count, and where the topology has no policy.
    """
    if topology.firewalls is None:
        raise ValueError(f"topology {topology.name} has no policy")
    policy = read_policy(Path(topology.firewalls.policy))
    before = {"topology": topology.model_dump(mode="json"), "policy": _named(policy)}
    after = {
        "topology": with_application(topology, PORT).model_dump(mode="json"),
        "policy": _named(with_rule(policy, PORT)),
    }
    counted = Counter(differences(before, after))
    if others := counted.keys() - {RULES, NAT, LISTENERS}:
        raise ValueError(f"topology {topology.name}: one more application changes {', '.join(sorted(others))} as well")
    return Application(counted[RULES], counted[NAT], counted[LISTENERS])


def with_rule(policy: PolicyForm, port: int) -> PolicyForm:
    """Return the policy with a rule, as its first one, that allows the same on TCP *port*."""
    rule = policy.rules[0].model_copy(update={"name": f"application-{port}", "service": (f"tcp/{port}",)})
    return policy.model_copy(update={"rules": (policy.rules[0], rule, *policy.rules[1:])})


def differences(before: Mapping[str, Any], after: Mapping[str, Any], section: str = "") -> Iterator[str]:
    """Yield the section's name for each entry of *after* that is missing or another in *before*, and the reverse."""
    for key in {**before, **after}:
        old, new = before.get(key), after.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from differences(old, new, str(key))
        elif old != new:
            yield section


def _named(policy: PolicyForm) -> dict[str, Any]:
    """Return the policy with its rules by name: a rule that moves down is the same rule."""
    document = policy.model_dump(mode="json")
    return document | {RULES: {rule["name"]: rule for rule in document["rules"]}}
