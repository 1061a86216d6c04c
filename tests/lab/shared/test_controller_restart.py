"""The controller can die and come back, and a switch can lose its tables: no established flow is lost."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from testbed.bridges import bridge_name, vsctl
from testbed.lab import Lab
from testbed.nodes import Host

pytestmark = pytest.mark.lab


def packets(host: Host, counter: str) -> int:
    """Return an IP counter of *host*: on its way, a packet is not lost that its receiver's socket had no room for."""
    lines = Path(f"/proc/{host.pid}/net/snmp").read_text().splitlines()
    names, values = (line.split() for line in lines if line.startswith("Ip:"))
    return int(values[names.index(counter)])


def test_killed_and_restarted_under_traffic_it_loses_nothing(lab: Lab) -> None:
    client, server = lab.host("web1"), lab.host("app2")
    listening = server.popen(["iperf3", "-s", "-1"])
    lab.wait(lambda: ":5201" in server.run(["ss", "-ltn"]).stdout, "iperf3 to listen")
    before = lab.flow_counters()
    went, came = packets(client, "OutRequests"), packets(server, "InReceives")
    # UDP: what is lost on the way stays lost.
    iperf3 = client.popen(["iperf3", "-u", "-c", str(server.address), "-t", "300", "-b", "10M", "-l", "1200"])
    lab.wait(lambda: packets(server, "InReceives") > came + 1000, "traffic")
    lab.controller.kill()
    assert lab.problems() != []
    carried = packets(server, "InReceives")
    lab.wait(lambda: packets(server, "InReceives") > carried + 1000, "traffic without it", broken=True)
    lab.controller.start()
    lab.wait(lambda: lab.controller.in_sync(len(lab.fabric.elements)), "the controller to be back")
    for process in (iperf3, listening):
        process.kill()
        process.communicate()
    lab.wait(lambda: packets(server, "InReceives") - came == packets(client, "OutRequests") - went, "the last one", 10)
    # It found the tables as they should be and sent nothing: the counters were never reset.
    assert all(switch["changes"] == 0 for switch in lab.controller.status()["switches"].values())
    after = lab.flow_counters()
    assert all(after[decision] >= before[decision] for decision in before)


def test_a_switch_that_lost_its_tables_gets_them_back_when_it_reconnects(lab: Lab) -> None:
    bridge = bridge_name("tgw")
    subprocess.run(["ovs-ofctl", "-O", "OpenFlow15", "del-flows", bridge], check=True)
    ping = ["ping", "-c1", "-W1", str(lab.host("app2").address)]
    assert lab.host("web1").run(ping).returncode == 1
    target = vsctl("get-controller", bridge).strip()
    vsctl("del-controller", bridge)
    lab.wait(lambda: not lab.controller.status()["switches"]["tgw"]["connected"], "the switch to be gone")
    vsctl("set-controller", bridge, target)
    lab.wait(lambda: lab.controller.in_sync(len(lab.fabric.elements)), "the tables to be back")
    assert lab.host("web1").run(ping).returncode == 0


def test_no_packet_of_a_tenant_reached_the_controller(lab: Lab) -> None:
    lab.host("web1").run(["ping", "-c2", "-i0.2", str(lab.host("app2").address)])
    assert all(switch["packet_ins"] == 0 for switch in lab.controller.status()["switches"].values())
