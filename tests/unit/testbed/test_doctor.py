"""The capabilities of machines that are described rather than met."""

from __future__ import annotations

import json
import os
import socket
from dataclasses import dataclass, field

import pytest

from testbed import doctor
from testbed.doctor import CHECKS, State
from testbed.errors import MachineError

FILES = {
    "/proc/sys/kernel/osrelease": "6.1.0-40-amd64\n",
    "/proc/self/ns/net": "",
    "/proc/meminfo": "MemTotal:        4016000 kB\nMemFree:         100 kB\n",
    "/proc/sys/net/core/rmem_default": "212992\n",
    "/sys/module/openvswitch": "",
    "/sys/module/nf_conntrack": "",
    "/sys/module/nfnetlink_cttimeout": "",
    "/usr/include/bpf/bpf_helpers.h": "",
    "/usr/include/linux/bpf.h": "",
    "/usr/lib/ipsec/plugins/libstrongswan-openssl.so": "",
}

INSTALL_STRONGSWAN = (
    "needs IPsec: install it with apt-get install strongswan-charon strongswan-swanctl libstrongswan-standard-plugins "
    "libcharon-extra-plugins"
)
BOOT = "boot the distribution's kernel (linux-image-amd64, on Ubuntu linux-modules-extra too)"


@dataclass
class Described(doctor.Machine):
    """A Debian machine with everything, except for what a test takes away."""

    is_root: bool = True
    number_of_cores: int = 2
    no_programs: set[str] = field(default_factory=set)
    no_modules: set[str] = field(default_factory=set)
    no_files: set[str] = field(default_factory=set)
    more_files: dict[str, str] = field(default_factory=dict)
    #: A command that contains one of these words fails.
    refused: set[str] = field(default_factory=set)
    open_vswitch_runs: bool = True
    bpf: bool = True
    offload: str | None = None

    def root(self) -> bool:
        return self.is_root

    def cores(self) -> int:
        return self.number_of_cores

    def program(self, name: str) -> bool:
        return name not in self.no_programs

    def python_module(self, name: str) -> bool:
        return name not in self.no_modules

    def succeeds(self, *command: str) -> bool:
        assert self.is_root or command[0] != "unshare", "probes in a namespace need root"
        return not any(word in " ".join(command) for word in self.refused)

    def exists(self, path: str) -> bool:
        return path in self.files()

    def writable(self, path: str) -> bool:
        return path in self.files()

    def read(self, path: str) -> str:
        return self.files().get(path, "")

    def files(self) -> dict[str, str]:
        return {path: text for path, text in (FILES | self.more_files).items() if path not in self.no_files}

    def open_vswitch_answers(self) -> bool:
        return self.open_vswitch_runs

    def loads_bpf(self) -> bool:
        return self.bpf

    def offload_problem(self) -> str | None:
        return self.offload


NO_MODULE = Described(no_files={"/sys/module/openvswitch"}, refused={"openvswitch"})


def test_a_complete_machine_lacks_nothing() -> None:
    found = doctor.capabilities(Described())
    assert [one.name for one in found] == list(CHECKS)
    assert {one.name: one.detail for one in found if one.state is not State.OK} == {}
    assert doctor.can_run(found)


@pytest.mark.parametrize(
    "machine",
    [
        Described(),
        Described(is_root=False),
        NO_MODULE,
        Described(no_programs=set(dir(doctor)) | {"ip", "iperf3", "clang", "tc", "iptables", "ovs-vsctl", "mnexec"}),
        Described(
            no_files=set(FILES), no_modules={"mininet", "os_ken", "ryu"}, refused={""}, bpf=False, number_of_cores=1
        ),
    ],
)
def test_what_is_not_ok_says_what_it_costs_and_what_to_do(machine: Described) -> None:
    for one in doctor.capabilities(machine):
        assert one.detail
        assert bool(one.cost) == bool(one.remedy) == (one.state is not State.OK), one


@pytest.mark.parametrize(
    ("name", "machine", "state", "detail", "reason"),
    [
        ("root", Described(is_root=False), "missing", "not root", "needs root: run it with sudo"),
        (
            "session offload",
            Described(offload="the BPF program session_offload is not compiled: run make setup"),
            "missing",
            "the BPF program session_offload is not compiled",
            "needs session offload: run make setup",
        ),
        (
            "session offload",
            Described(offload="BPF: load session_offload.o: Invalid argument | unknown func"),
            "missing",
            "load session_offload.o: Invalid argument | unknown func",
            f"needs session offload: {BOOT}",
        ),
        (
            "session offload",
            Described(is_root=False),
            "unknown",
            "unknown without root",
            "needs root: run it with sudo",
        ),
        (
            "iperf3",
            Described(no_programs={"iperf3"}),
            "missing",
            "not installed",
            "needs iperf3: install it with apt-get install iperf3",
        ),
        (
            "Open vSwitch",
            Described(no_programs={"ovs-vsctl"}),
            "missing",
            "not installed",
            "needs Open vSwitch: install it with apt-get install openvswitch-switch",
        ),
        (
            "Open vSwitch",
            Described(is_root=False),
            "unknown",
            "installed; unknown without root whether it runs",
            "needs root: run it with sudo",
        ),
        ("Open vSwitch", Described(open_vswitch_runs=False), "degraded", "installed, not running", None),
        (
            "kernel datapath",
            NO_MODULE,
            "degraded",
            "no openvswitch module: the userspace datapath (datapath_type=netdev) serves",
            None,
        ),
        (
            "connection tracking",
            Described(no_files={"/sys/module/nf_conntrack"}, refused={"nf_conntrack"}),
            "missing",
            "no nf_conntrack in this kernel",
            f"needs connection tracking: {BOOT}",
        ),
        (
            "connection tracking",
            Described(no_files={"/sys/module/nfnetlink_cttimeout"}, refused={"cttimeout"}),
            "degraded",
            "no nfnetlink_cttimeout in this kernel",
            None,
        ),
        (
            "BPF",
            Described(bpf=False),
            "missing",
            "the kernel takes no program by bpf(2)",
            f"needs BPF: {BOOT}",
        ),
        (
            "BPF",
            Described(refused={"clsact"}),
            "missing",
            "no clsact queueing discipline or BPF classifier",
            f"needs BPF: {BOOT}",
        ),
        ("BPF", Described(is_root=False), "unknown", "unknown without root", "needs root: run it with sudo"),
        (
            "BPF compiler",
            Described(no_programs={"clang"}, no_files={"/usr/include/bpf/bpf_helpers.h"}),
            "missing",
            "no clang and no libbpf-dev",
            "needs BPF compiler: install it with apt-get install clang libbpf-dev",
        ),
        (
            "Mininet",
            Described(no_modules={"mininet"}),
            "missing",
            "this Python does not find it",
            "needs Mininet: install it with apt-get install mininet, "
            "in an environment with --system-site-packages as make setup makes it",
        ),
        ("OpenFlow controller", Described(no_modules={"os_ken"}), "ok", "Ryu", None),
        (
            "OpenFlow controller",
            Described(no_modules={"os_ken", "ryu"}),
            "missing",
            "neither os-ken nor Ryu",
            "needs OpenFlow controller: run make setup",
        ),
        (
            "netem",
            Described(refused={"netem"}),
            "missing",
            "not in this kernel",
            f"needs netem: {BOOT}",
        ),
        (
            "HTB",
            Described(no_programs={"tc"}),
            "missing",
            "tc is not installed",
            "needs HTB: install it with apt-get install iproute2",
        ),
        (
            "NFQUEUE",
            Described(no_modules={"netfilterqueue"}),
            "missing",
            "this Python has no netfilterqueue",
            "needs NFQUEUE: run make setup",
        ),
        ("NFQUEUE", Described(is_root=False), "unknown", "unknown without root", "needs root: run it with sudo"),
        (
            "IPsec",
            Described(refused={"xfrm"}),
            "missing",
            "no ESP in this kernel, no userspace ESP",
            INSTALL_STRONGSWAN,
        ),
        (
            "IPsec",
            Described(no_programs={"swanctl"}),
            "missing",
            "strongSwan is not installed",
            INSTALL_STRONGSWAN,
        ),
        (
            "IPsec",
            Described(no_files={"/usr/lib/ipsec/plugins/libstrongswan-openssl.so"}),
            "missing",
            "strongSwan without its plugin openssl",
            INSTALL_STRONGSWAN,
        ),
        (
            "socket buffers",
            Described(no_files={"/proc/sys/net/core/rmem_default"}),
            "degraded",
            "/proc/sys/net/core/rmem_default cannot be written",
            None,
        ),
        ("memory", Described(more_files={"/proc/meminfo": "MemTotal: 1048576 kB"}), "degraded", "1.0 GiB", None),
        ("cores", Described(number_of_cores=1), "degraded", "1", None),
    ],
)
def test_one_thing_is_missing(name: str, machine: Described, state: str, detail: str, reason: str | None) -> None:
    one = CHECKS[name](machine)
    assert (one.name, one.state.value, one.detail) == (name, state, detail)
    assert doctor.missing(name, machine=machine) == reason


def test_strongswan_serves_where_the_kernel_has_no_esp() -> None:
    plugin = "/usr/lib/ipsec/plugins/libstrongswan-kernel-libipsec.so"
    without_tun = Described(refused={"xfrm"}, more_files={plugin: ""})
    with_tun = Described(refused={"xfrm"}, more_files={plugin: "", "/dev/net/tun": ""})
    assert CHECKS["IPsec"](without_tun).state is State.MISSING
    assert CHECKS["IPsec"](with_tun).state is State.DEGRADED


def test_require_names_the_first_that_is_missing() -> None:
    machine = Described(no_programs={"iperf3", "ping"})
    doctor.require("root", "Open vSwitch", machine=machine)
    with pytest.raises(MachineError, match=r"^needs ping: install it with apt-get install iputils-ping$"):
        doctor.require("root", "ping", "iperf3", machine=machine)


@pytest.mark.parametrize(
    ("machine", "runs"),
    [
        (Described(), True),
        (NO_MODULE, True),
        (Described(open_vswitch_runs=False), True),
        (Described(no_programs={"tshark", "sshd", "tcpdump"}, refused={"netem", "xfrm"}), True),
        (Described(is_root=False), False),
        (Described(no_programs={"iperf3"}), False),
        (Described(bpf=False), False),
    ],
)
def test_a_lab_can_run_without_what_is_not_essential(machine: Described, runs: bool) -> None:
    found = doctor.capabilities(machine)
    assert doctor.can_run(found) is runs
    document = json.loads(doctor.as_json(found))
    assert document["can_run"] is runs
    assert document["capabilities"][0] == {
        "name": "root",
        "state": "ok" if machine.is_root else "missing",
        "detail": "running as root" if machine.is_root else "not root",
        "cost": "" if machine.is_root else "every lab, and most checks here",
        "remedy": "" if machine.is_root else "run it with sudo",
        "essential": True,
    }


@pytest.mark.parametrize(
    ("machine", "datapath"),
    [
        (Described(), "system"),
        (NO_MODULE, "netdev"),
        # A switch that was started before the module could be loaded does not have it.
        (Described(no_files={"/sys/module/openvswitch"}), "netdev"),
        (Described(no_files={"/sys/module/openvswitch"}, open_vswitch_runs=False), "system"),
    ],
)
def test_the_datapath_follows_the_module(machine: Described, datapath: str) -> None:
    assert doctor.datapath(machine) == datapath


@pytest.mark.parametrize(
    ("files", "detail", "cost"),
    [
        ({}, "the lab gwlb was left behind", "nothing: the next lab removes it first"),
        ({"/proc/4711": ""}, "the lab gwlb is running", "another lab is refused"),
    ],
)
def test_a_lab_that_is_there_is_told(files: dict[str, str], detail: str, cost: str) -> None:
    journal = json.dumps({"pid": 4711, "topology": "gwlb", "token": "x"})
    one = CHECKS["free for a lab"](Described(more_files={"/run/bumpwire/lab.json": journal} | files))
    assert (one.detail, one.cost, one.remedy) == (detail, cost, "take it down with `bumpwire down`")


def test_this_machine_is_looked_at_in_place() -> None:
    """Every real look works without raising, and leaves no interface and no setting behind."""

    def picture() -> tuple[object, ...]:
        interfaces = sorted(name for _, name in socket.if_nameindex())
        return interfaces, sorted(os.listdir("/run/netns")) if os.path.isdir("/run/netns") else []

    before = picture()
    found = doctor.capabilities()
    assert picture() == before
    assert {one.name for one in found} == set(CHECKS)
    assert CHECKS["Linux"](doctor.Machine()).detail == os.uname().release
