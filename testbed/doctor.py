"""What this machine can do: every capability that the lab builds on, what its absence costs and what to install.

A check is a function of a :class:`Machine`, the way to look, so that a test can describe any machine. Probes try for
real, in a network namespace without a name that ends with the probe. :func:`require` turns what is missing into an
error, :func:`missing` into the reason of a skipped test; both use the same text.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import platform
import shutil
import struct
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any, Literal

from firewall_vnf.bpf_offload import BpfProgram
from firewall_vnf.libbpf import BpfError
from testbed import openvswitch
from testbed.errors import MachineError
from testbed.journal import RUN_DIRECTORY

Datapath = Literal["system", "netdev"]

USE_SUDO = "run it with sudo"
USE_DISTRIBUTION_KERNEL = "boot the distribution's kernel (linux-image-amd64, on Ubuntu linux-modules-extra too)"
RUN_SETUP = "run make setup"


class State(str, Enum):
    OK = "ok"
    DEGRADED = "degraded"  # works, at a cost
    MISSING = "missing"
    UNKNOWN = "unknown"  # cannot be tried without root


@dataclass(frozen=True)
class Capability:
    """One thing that a machine can or cannot do.

    ``cost`` says what is lost without it and ``remedy`` what to do; both are empty when the state is ok. A lab cannot
    run without an ``essential`` one.
    """

    name: str
    state: State
    detail: str
    cost: str = ""
    remedy: str = ""
    essential: bool = False

    @property
    def usable(self) -> bool:
        return self.state in (State.OK, State.DEGRADED)

    @property
    def reason(self) -> str:
        """Return why it cannot be used and what to do, in one line."""
        if self.state is State.UNKNOWN:
            return f"needs root: {USE_SUDO}"
        return f"needs {self.name}: {self.remedy}"


class Machine:
    """How the checks look at the machine that they run on."""

    def root(self) -> bool:
        return os.geteuid() == 0

    def cores(self) -> int:
        return len(os.sched_getaffinity(0))

    def program(self, name: str) -> bool:
        return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") is not None

    def python_module(self, name: str) -> bool:
        return importlib.util.find_spec(name) is not None

    def succeeds(self, *command: str) -> bool:
        """Run *command*, which has 20 s (emulated machines are slow); False as well when there is no such program."""
        try:
            return subprocess.run(command, capture_output=True, timeout=20).returncode == 0
        except (OSError, subprocess.TimeoutExpired):
            return False

    def exists(self, path: str) -> bool:
        return Path(path).exists()

    def writable(self, path: str) -> bool:
        return os.access(path, os.W_OK)

    def read(self, path: str) -> str:
        """Return the text of a file, empty where there is none."""
        try:
            return Path(path).read_text()
        except OSError:
            return ""

    def open_vswitch_answers(self) -> bool:
        return openvswitch.running()

    def kernel_module(self, name: str) -> bool:
        """Whether a kernel module is loaded, built in or can be loaded."""
        return self.exists(f"/sys/module/{name}") or self.succeeds("modprobe", "--dry-run", "--quiet", name)

    def loads_bpf(self) -> bool:
        """Whether the kernel takes a classifier program, by bpf(2) with the program ``return 0``."""
        number = {"x86_64": 321, "aarch64": 280}.get(platform.machine())
        if number is None:
            return False
        program = ctypes.create_string_buffer(bytes.fromhex("b700000000000000 9500000000000000"), 16)
        licence = ctypes.create_string_buffer(b"GPL")
        # union bpf_attr of linux/bpf.h: type BPF_PROG_TYPE_SCHED_CLS, two instructions, no log
        attributes = ctypes.create_string_buffer(
            struct.pack("=IIQQ24x", 3, 2, ctypes.addressof(program), ctypes.addressof(licence)), 48
        )
        descriptor = ctypes.CDLL(None).syscall(number, 5, attributes, 48)  # 5 is BPF_PROG_LOAD
        if descriptor < 0:
            return False
        os.close(descriptor)
        return True

    def offload_problem(self) -> str | None:
        """Return why firewalls cannot offload sessions; None: the kernel takes the program."""
        try:
            BpfProgram(sessions=1).close()
        except BpfError as error:
            return str(error)
        return None


Check = Callable[[Machine], Capability]


def capabilities(machine: Machine | None = None) -> list[Capability]:
    """Examine everything, in the order of :data:`CHECKS`."""
    machine = machine or Machine()
    return [check(machine) for check in CHECKS.values()]


def can_run(found: Iterable[Capability]) -> bool:
    """Whether a lab can run on a machine with these capabilities."""
    return all(capability.usable for capability in found if capability.essential)


def missing(*names: str, machine: Machine | None = None) -> str | None:
    """Return why the first of the capabilities *names* that is missing cannot be used, None when all can."""
    machine = machine or Machine()
    for name in names:
        capability = CHECKS[name](machine)
        if not capability.usable:
            return capability.reason
    return None


def require(*names: str, machine: Machine | None = None) -> None:
    """Raise MachineError, which says what to install, unless the machine has all of the capabilities *names*."""
    reason = missing(*names, machine=machine)
    if reason:
        raise MachineError(reason)


def datapath(machine: Machine | None = None) -> Datapath:
    """Return the datapath type for bridges: ``system`` where the kernel has Open vSwitch's module, else ``netdev``."""
    machine = machine or Machine()
    # A switch that was started without the module does not look for it again.
    if machine.open_vswitch_answers():
        return "system" if machine.exists("/sys/module/openvswitch") else "netdev"
    return "system" if machine.kernel_module("openvswitch") else "netdev"


# -- the checks ---------------------------------------------------------------------------------------------------


def check_root(machine: Machine) -> Capability:
    if machine.root():
        return Capability("root", State.OK, "running as root", essential=True)
    return Capability("root", State.MISSING, "not root", "every lab, and most checks here", USE_SUDO, essential=True)


def check_linux(machine: Machine) -> Capability:
    release = machine.read("/proc/sys/kernel/osrelease").strip()
    if release and machine.exists("/proc/self/ns/net"):
        return Capability("Linux", State.OK, release, essential=True)
    return Capability(
        "Linux",
        State.MISSING,
        "no network namespaces",
        "every lab",
        "use a Linux machine, `vagrant up lab`",
        essential=True,
    )


def check_open_vswitch(machine: Machine) -> Capability:
    lacks = partial(Capability, "Open vSwitch", cost="every lab", essential=True)
    if not (machine.program("ovs-vsctl") and machine.program("ovs-vswitchd")):
        return lacks(State.MISSING, "not installed", remedy=apt("openvswitch-switch"))
    if not machine.root():
        return lacks(State.UNKNOWN, "installed; unknown without root whether it runs", remedy=USE_SUDO)
    if machine.open_vswitch_answers():
        return Capability("Open vSwitch", State.OK, "running", essential=True)
    return Capability(
        "Open vSwitch",
        State.DEGRADED,
        "installed, not running",
        "a second, when a lab starts it",
        RUN_SETUP,
        essential=True,
    )


def check_datapath(machine: Machine) -> Capability:
    if datapath(machine) == "system":
        return Capability("kernel datapath", State.OK, "datapath_type=system")
    return Capability(
        "kernel datapath",
        State.DEGRADED,
        "no openvswitch module: the userspace datapath (datapath_type=netdev) serves",
        "throughput: Open vSwitch's own thread is the limit",
        USE_DISTRIBUTION_KERNEL,
    )


def check_conntrack(machine: Machine) -> Capability:
    if datapath(machine) == "netdev":
        return Capability("connection tracking", State.OK, "in ovs-vswitchd", essential=True)
    if not machine.kernel_module("nf_conntrack"):
        return Capability(
            "connection tracking",
            State.MISSING,
            "no nf_conntrack in this kernel",
            "GWLB stickiness, NAT: every lab",
            USE_DISTRIBUTION_KERNEL,
            essential=True,
        )
    if not machine.kernel_module("nfnetlink_cttimeout"):
        return Capability(
            "connection tracking",
            State.DEGRADED,
            "no nfnetlink_cttimeout in this kernel",
            "the GWLB's idle timeouts of 350 s and 120 s: the kernel's own hold",
            USE_DISTRIBUTION_KERNEL,
            essential=True,
        )
    return Capability("connection tracking", State.OK, "in the kernel", essential=True)


def check_bpf(machine: Machine) -> Capability:
    lacks = partial(Capability, "BPF", cost="the GENEVE endpoint: every lab", essential=True)
    if not machine.root():
        return lacks(State.UNKNOWN, "unknown without root", remedy=USE_SUDO)
    if not machine.loads_bpf():
        return lacks(State.MISSING, "the kernel takes no program by bpf(2)", remedy=USE_DISTRIBUTION_KERNEL)
    if not machine.succeeds(*in_namespace("tc qdisc add dev lo clsact", CLASSIFIER)):
        return lacks(State.MISSING, "no clsact queueing discipline or BPF classifier", remedy=USE_DISTRIBUTION_KERNEL)
    return Capability("BPF", State.OK, "loads and attaches to tc", essential=True)


def check_offload(machine: Machine) -> Capability:
    lacks = partial(Capability, "session offload", cost="firewalls' throughput: Python handles every packet")
    if not machine.root():
        return lacks(State.UNKNOWN, "unknown without root", remedy=USE_SUDO)
    problem = machine.offload_problem()
    if problem is None:
        return Capability("session offload", State.OK, "the kernel carries sessions that need no more inspection")
    if problem.startswith("BPF: "):  # the kernel's own words
        return lacks(State.MISSING, problem.removeprefix("BPF: "), remedy=USE_DISTRIBUTION_KERNEL)
    detail, _, remedy = problem.partition(": ")
    return lacks(State.MISSING, detail, remedy=remedy)


def check_bpf_compiler(machine: Machine) -> Capability:
    absent = [
        package
        for package, there in (
            ("clang", machine.program("clang")),
            ("libbpf-dev", machine.exists("/usr/include/bpf/bpf_helpers.h")),
            ("linux-libc-dev", machine.exists("/usr/include/linux/bpf.h")),
        )
        if not there
    ]
    if not absent:
        return Capability("BPF compiler", State.OK, "clang with libbpf's headers", essential=True)
    return Capability(
        "BPF compiler",
        State.MISSING,
        f"no {' and no '.join(absent)}",
        "compiling the GENEVE endpoint: every lab",
        apt(*absent),
        essential=True,
    )


def check_mininet(machine: Machine) -> Capability:
    if machine.python_module("mininet") and machine.program("mnexec"):
        return Capability("Mininet", State.OK, "Python module and mnexec", essential=True)
    return Capability(
        "Mininet",
        State.MISSING,
        "this Python does not find it" if machine.program("mnexec") else "not installed",
        "every lab",
        f"{apt('mininet')}, in an environment with --system-site-packages as make setup makes it",
        essential=True,
    )


def check_controller(machine: Machine) -> Capability:
    for module, name in (("os_ken", "os-ken"), ("ryu", "Ryu")):
        if machine.python_module(module):
            return Capability("OpenFlow controller", State.OK, name, essential=True)
    return Capability(
        "OpenFlow controller", State.MISSING, "neither os-ken nor Ryu", "every lab", RUN_SETUP, essential=True
    )


def kernel_esp() -> bool:
    """Whether the kernel has IPsec's ESP; where not, strongSwan's userspace ESP serves."""
    return bool(Machine().succeeds(*in_namespace(*KERNEL_ESP)))


def check_esp(machine: Machine) -> Capability:
    if not machine.root():
        return Capability("IPsec", State.UNKNOWN, "unknown without root", "IPsec tunnels", USE_SUDO)
    lacks = partial(Capability, "IPsec", State.MISSING, cost="IPsec tunnels", remedy=apt(*STRONGSWAN))
    if not machine.program("swanctl"):
        return lacks("strongSwan is not installed")
    if not machine.exists(f"{STRONGSWAN_PLUGINS}/libstrongswan-openssl.so"):
        return lacks("strongSwan without its plugin openssl")
    if machine.succeeds(*in_namespace(*KERNEL_ESP)):
        return Capability("IPsec", State.OK, "ESP with AES-GCM in the kernel")
    if not machine.exists(f"{STRONGSWAN_PLUGINS}/libstrongswan-kernel-libipsec.so"):
        return lacks("no ESP in this kernel, no userspace ESP")
    if not machine.exists("/dev/net/tun"):
        return Capability("IPsec", State.MISSING, "userspace ESP, but no /dev/net/tun", "IPsec tunnels", "modprobe tun")
    return Capability(
        "IPsec",
        State.DEGRADED,
        "no ESP in this kernel; strongSwan's userspace ESP serves",
        "the rate of IPsec tunnels: about 170 Mbit/s",
        USE_DISTRIBUTION_KERNEL,
    )


def check_nfqueue(machine: Machine) -> Capability:
    cost = "routed firewalls (active-passive, sandwich, vpn-ecmp), the NFQUEUE appliance in `bumpwire bench`"
    if not machine.python_module("netfilterqueue"):
        return Capability("NFQUEUE", State.MISSING, "this Python has no netfilterqueue", cost, RUN_SETUP)
    probe = "iptables -A FORWARD -j NFQUEUE --queue-num 0"
    return check_kernel("NFQUEUE", probe, "iptables", "iptables", cost, machine)


def check_socket_buffers(machine: Machine) -> Capability:
    path = "/proc/sys/net/core/rmem_default"
    if not machine.root():
        return Capability("socket buffers", State.UNKNOWN, "unknown without root", "see with root", USE_SUDO)
    if machine.writable(path):
        return Capability("socket buffers", State.OK, "can be raised while a lab starts")
    return Capability(
        "socket buffers",
        State.DEGRADED,
        f"{path} cannot be written",
        "throughput of jumbo frames on the userspace datapath, tenfold",
        "run outside a container, or in a privileged one",
    )


def check_memory(machine: Machine) -> Capability:
    kibibytes = [int(line.split()[1]) for line in machine.read("/proc/meminfo").splitlines() if "MemTotal" in line]
    detail = f"{sum(kibibytes) / 2**20:.1f} GiB"
    if sum(kibibytes) >= 1.8 * 2**20:  # what a machine of 2 GiB reports
        return Capability("memory", State.OK, detail)
    return Capability(
        "memory", State.DEGRADED, detail, "the measurement with 1,000,000 sessions", "give the machine 2 GiB"
    )


def check_cores(machine: Machine) -> Capability:
    if machine.cores() >= 2:
        return Capability("cores", State.OK, str(machine.cores()))
    return Capability(
        "cores", State.DEGRADED, "1", "throughput: sender, switch and firewall share a core", "give the machine 2 cores"
    )


def check_lab(machine: Machine) -> Capability:
    journal = machine.read(str(RUN_DIRECTORY / "lab.json"))
    if not journal:
        return Capability("free for a lab", State.OK, "none is running")
    lab: dict[str, Any] = json.loads(journal)
    running = machine.exists(f"/proc/{lab['pid']}")
    return Capability(
        "free for a lab",
        State.DEGRADED,
        f"the lab {lab['topology']} {'is running' if running else 'was left behind'}",
        "another lab is refused" if running else "nothing: the next lab removes it first",
        "take it down with `bumpwire down`",
    )


def check_program(name: str, program: str, package: str, cost: str, essential: bool, machine: Machine) -> Capability:
    if machine.program(program):
        return Capability(name, State.OK, "installed", essential=essential)
    return Capability(name, State.MISSING, "not installed", cost, apt(package), essential)


def check_kernel(name: str, probe: str, program: str, package: str, cost: str, machine: Machine) -> Capability:
    """Try *probe*, a shell command, in a network namespace of its own."""
    if not machine.program(program):
        return Capability(name, State.MISSING, f"{program} is not installed", cost, apt(package))
    if not machine.root():
        return Capability(name, State.UNKNOWN, "unknown without root", cost, USE_SUDO)
    if machine.succeeds(*in_namespace(probe)):
        return Capability(name, State.OK, "in the kernel")
    return Capability(name, State.MISSING, "not in this kernel", cost, USE_DISTRIBUTION_KERNEL)


def apt(*packages: str) -> str:
    return f"install it with apt-get install {' '.join(packages)}"


def in_namespace(*commands: str) -> list[str]:
    """Return a command that runs *commands* in a new network namespace, which ends with them."""
    return ["unshare", "--net", "sh", "-c", " && ".join(commands)]


#: Debian's packages of strongSwan. The openssl plugin, which has all cryptography, is in the "standard" ones, which are
#: only recommended by the others; userspace ESP is in the "extra" ones.
STRONGSWAN = ("strongswan-charon", "strongswan-swanctl", "libstrongswan-standard-plugins", "libcharon-extra-plugins")
STRONGSWAN_PLUGINS = "/usr/lib/ipsec/plugins"
CLASSIFIER = "tc filter add dev lo ingress bpf direct-action bytecode '1,6 0 0 1,'"
#: What a tunnel of the kernel's takes: an SA, and an interface that leads into it.
KERNEL_ESP = (
    "ip xfrm state add src 127.0.0.1 dst 127.0.0.2 proto esp spi 1 mode tunnel "
    "aead 'rfc4106(gcm(aes))' 0x0102030405060708090a0b0c0d0e0f1011121314 128",
    "ip link add ipsec0 type xfrm dev lo if_id 1",
)
_PROGRAMS = (
    # name, program, package, what is lost, essential
    ("iproute2", "ip", "iproute2", "every lab", True),
    ("ethtool", "ethtool", "ethtool", "every lab: checksum offload stays on", True),
    ("iperf3", "iperf3", "iperf3", "throughput: every scenario", True),
    ("ping", "ping", "iputils-ping", "round-trip times: every scenario", True),
    ("BIRD", "bird", "bird2", "BGP over VPN attachments: the topology vpn-ecmp", False),
    ("HAProxy", "haproxy", "haproxy", "load balancers: the topology sandwich", False),
    ("ssh", "ssh", "openssh-client", "SSH traffic: the scenarios policy and tour", False),
    ("sshd", "sshd", "openssh-server", "SSH traffic: the scenarios policy and tour", False),
    ("dumpcap", "dumpcap", "tshark", "`bumpwire capture`", False),
    ("tcpdump", "tcpdump", "tcpdump", "looking at a lab's links by hand", False),
    ("tshark", "tshark", "tshark", "the tests that hold frames against Wireshark's dissector", False),
)
_KERNEL = (
    # name, probe, program, package, what is lost
    ("HTB", "tc qdisc add dev lo root htb", "tc", "iproute2", "rate limits"),
    ("netem", "tc qdisc add dev lo root netem delay 1ms", "tc", "iproute2", "delay and loss on links"),
    (
        *("NAT", "iptables -t nat -A POSTROUTING -j MASQUERADE", "iptables", "iptables"),
        "the iptables appliance of the tests",
    ),
)
#: Every capability's check, by the name that :func:`require` and :func:`missing` take.
CHECKS: dict[str, Check] = {
    "root": check_root,
    "Linux": check_linux,
    "Open vSwitch": check_open_vswitch,
    "kernel datapath": check_datapath,
    "connection tracking": check_conntrack,
    "BPF": check_bpf,
    "BPF compiler": check_bpf_compiler,
    "session offload": check_offload,
    "Mininet": check_mininet,
    "OpenFlow controller": check_controller,
    **{row[0]: partial(check_program, *row) for row in _PROGRAMS},
    **{row[0]: partial(check_kernel, *row) for row in _KERNEL},
    "NFQUEUE": check_nfqueue,
    "IPsec": check_esp,
    "socket buffers": check_socket_buffers,
    "memory": check_memory,
    "cores": check_cores,
    "free for a lab": check_lab,
}


def as_json(found: list[Capability]) -> str:
    """Return ``{"can_run": bool, "capabilities": [{"name", "state", "detail", "cost", "remedy", "essential"}]}``."""
    return json.dumps({"can_run": can_run(found), "capabilities": [asdict(one) for one in found]}, indent=1)
