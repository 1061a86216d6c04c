"""The lab's Open vSwitch bridges: one transaction makes them all, one removes them.

A bridge is named ``bw-`` + its element and carries the lab's token in ``external_ids``; only such bridges are removed.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterable, Mapping

from controllers import zones
from testbed.errors import MachineError
from testbed.journal import Journal
from topologies.fabric import Element, Fabric

#: What the userspace datapath's AF_PACKET sockets need, in bytes. With the usual 208 KiB, jumbo frames are dropped.
SOCKET_BUFFER = 32 << 20
SOCKET_BUFFER_SETTING = "/proc/sys/net/core/rmem_default"
#: The application's versions; bundles need 1.4, the newer group messages 1.5.
PROTOCOLS = "OpenFlow13,OpenFlow14,OpenFlow15"


def bridge_name(element: str) -> str:
    return f"bw-{element}"


def create(journal: Journal, fabric: Fabric, controller_port: int) -> None:
    """Make all bridges and ports and point them at the controller on loopback; returns when the ports are open.

    The caller holds the lab's lock. Raises MachineError when a bridge of that name is somebody else's, or when Open
    vSwitch refuses a port.
    """
    _, others = remove_abandoned()
    for name in sorted(others & {bridge_name(name) for name in fabric.elements}):
        raise MachineError(
            f"Open vSwitch has a bridge {name} that is not the lab's: remove it (ovs-vsctl del-br {name})"
        )
    # Open vSwitch opens its AF_PACKET sockets with the default buffer, so raise that while ports are added.
    journal.change_setting(SOCKET_BUFFER_SETTING, str(SOCKET_BUFFER))
    vsctl(*(word for element in fabric.elements.values() for word in bridge_words(journal, element, controller_port)))
    journal.restore_settings()
    refused = port_errors(fabric.elements.values())
    if refused:
        raise MachineError(f"Open vSwitch could not open {refused}")


def bridge_words(journal: Journal, element: Element, controller_port: int) -> list[str]:
    """Return the words of ``ovs-vsctl`` that make one bridge with its ports."""
    bridge = bridge_name(element.name)
    words = ["--", "add-br", bridge, "--", "set", "bridge", bridge]
    words += [
        f"datapath_type={journal.datapath}",
        f"protocols={PROTOCOLS}",
        "fail_mode=secure",
        f"other_config:datapath-id={element.dpid:016x}",
        "other_config:disable-in-band=true",
        f"external_ids:bumpwire={journal.token}",
    ]
    words += ["--", "set-controller", bridge, f"tcp:127.0.0.1:{controller_port}"]
    words += ["--", "set", "controller", bridge, "max_backoff=1000", "inactivity_probe=5000"]
    for port in element.ports.values():
        words += ["--", "add-port", bridge, port.name]
        words += ["--", "set", "interface", port.name, f"ofport_request={port.number}"]
        if port.peer:
            peer_element, _ = port.peer
            words += ["type=patch", f"options:peer={peer_element}.{port.name.partition('.')[2]}"]
    return words


def port_errors(elements: Iterable[Element]) -> str:
    """Return the ports that Open vSwitch reports an error for, with its words; empty when all is well."""
    names = {port.name for element in elements for port in element.ports.values()}
    rows = json.loads(vsctl("--format=json", "--columns=name,error", "list", "interface"))["data"]
    return "; ".join(f"{name}: {error}" for name, error in rows if name in names and isinstance(error, str))


def set_zone_timeouts(journal: Journal, timeouts: Mapping[int, Mapping[str, int]]) -> None:
    """Set conntrack's time-outs (seconds, by Open vSwitch's names) for each zone of the lab.

    After its bridges: Open vSwitch forgets time-outs that come while it has no bridge of the datapath. What changes
    later is the controller's, see :mod:`controllers.zones`.
    """
    if not timeouts:
        return
    journal.zones = sorted(timeouts)
    journal.save()
    datapath = journal.datapath
    if datapath not in vsctl("get", "open_vswitch", ".", "datapaths"):
        record = ["create", "datapath", "datapath_version=0", "external_ids:bumpwire=made"]
        row = f"datapaths:{datapath}=@datapath"
        vsctl("--", "--id=@datapath", *record, "--", "set", "open_vswitch", ".", row)
    try:
        zones.set_zone_timeouts(datapath, timeouts)
    except zones.ZoneError as error:
        raise MachineError(str(error)) from None


def remove(journal: Journal) -> None:
    """Remove the bridges that carry the lab's token, its conntrack entries and time-outs."""
    if not running():
        return
    found = vsctl("--bare", "--columns=name", "find", "bridge", f"external_ids:bumpwire={journal.token}").split()
    words = [word for bridge in found for word in ("--", "--if-exists", "del-br", bridge)]
    datapaths = json.loads(vsctl("--format=json", "--columns=external_ids", "list", "datapath"))["data"]
    for zone in journal.zones:
        # Without a datapath (the last bridge was somebody's and is gone) there is nothing to flush.
        # Nor where there are bridges of both datapaths: Open vSwitch 3.1 takes no name here, but wants one then.
        subprocess.run(["ovs-appctl", "dpctl/flush-conntrack", f"zone={zone}"], capture_output=True, check=False)
    made = any(["bumpwire", "made"] in ids[1] for (ids,) in datapaths)
    if journal.zones and not made:
        zones.remove_zones(journal.datapath, journal.zones)
    if words:
        vsctl(*words)
    if made:
        vsctl("remove", "open_vswitch", ".", "datapaths", journal.datapath)


def remove_abandoned() -> tuple[set[str], set[str]]:
    """Remove the bridges of a lab that ended with the machine's power; return their names, and those of all others.

    Open vSwitch remembers them over a restart, the journal does not. The caller holds the lab's lock.
    """
    rows = json.loads(vsctl("--format=json", "--columns=name,external_ids", "list", "bridge"))["data"]
    labs = {name for name, (_, ids) in rows if "bumpwire" in dict(ids)}
    if labs:
        vsctl(*(word for bridge in sorted(labs) for word in ("--", "del-br", bridge)))
    return labs, {name for name, _ in rows} - labs


def running() -> bool:
    """Whether Open vSwitch's database answers."""
    answer = subprocess.run(["ovs-vsctl", "--timeout=5", "show"], capture_output=True, check=False)
    return answer.returncode == 0


def vsctl(*words: str) -> str:
    """Run ``ovs-vsctl`` and return what it prints. Raises MachineError with its own words when it fails."""
    answer = subprocess.run(["ovs-vsctl", "--timeout=60", *words], capture_output=True, text=True, check=False)
    if answer.returncode:
        raise MachineError(f"ovs-vsctl: {answer.stderr.strip().splitlines()[-1]}")
    return answer.stdout


def appctl(*words: str) -> str:
    """Run ``ovs-appctl`` and return what it prints. Raises MachineError with its own words when it fails."""
    answer = subprocess.run(["ovs-appctl", "--timeout=60", *words], capture_output=True, text=True, check=False)
    if answer.returncode:
        raise MachineError(f"ovs-appctl: {answer.stderr.strip().splitlines()[-1]}")
    return answer.stdout


def revalidate() -> None:
    """Have Open vSwitch compare its cache of megaflows with its tables, which it does in passes.

    From then on no packet is forwarded by what the tables were before, and their counters are up to date. Open vSwitch
    can wait for a pass only while all its bridges, the machine's own included, are of one datapath type. Otherwise the
    cache is emptied: what was counted there is added up, and the next packets fill it again.
    """
    try:
        # The end of the first pass may be of one that began before the change.
        appctl("revalidator/wait")
        appctl("revalidator/wait")
    except MachineError:
        appctl("revalidator/purge")


def datapath_name(datapath: str) -> str:
    """Return what ``dpctl`` calls the datapath of a type; without a name it wants there to be only one."""
    return f"{datapath}@ovs-{datapath}"


def flow_packets(bridge: str) -> list[tuple[int, int]]:
    """Return the (cookie, packets) of each flow of *bridge*."""
    answer = subprocess.run(
        ["ovs-ofctl", "-O", "OpenFlow15", "dump-flows", bridge], capture_output=True, text=True, check=False
    )
    if answer.returncode:
        raise MachineError(f"ovs-ofctl: {answer.stderr.strip().splitlines()[-1]}")
    return [(int(cookie, 16), int(packets)) for cookie, packets in FLOW.findall(answer.stdout)]


FLOW = re.compile(r"cookie=(0x[0-9a-f]+),.*? n_packets=(\d+)")
