"""IPsec of a tunnel's end: strongSwan's configuration, its state, and its charon in a network namespace.

Settings of AWS (Site-to-Site VPN user guide, "Tunnel options"): IKEv2 with a pre-shared key, phase 1 for 28,800 s and
phase 2 for 3,600 s, rekeyed 270 to 540 s before, a replay window of 1,024, dead peers given up after 30 s. AWS waits
for the customer gateway to begin (startup action ``add``) and clears a dead tunnel; the customer gateway starts it
again.

charon listens before it has loaded its connection, and refuses what comes then (NO_PROPOSAL_CHOSEN), which ends the
attempt for good: strongSwan tries again after silence only. So the end that waits hears nothing until it has loaded.

With the kernel's ESP the tunnel is an XFRM interface; without, a TUN device of strongSwan's ``kernel-libipsec``, which
always encapsulates in UDP (NAT-T). Either is named ``ipsec0``, so that all else is the same. ``kernel-libipsec``
reads at most 1,400 bytes a packet, whatever the device's MTU; ``tun_mtu.c`` tells it AWS's.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from testbed.errors import Error, MachineError
from testbed.service import Part, last_line
from testbed.vpn.tunnel import INTO, MTU, Side, Tunnel, other, shaping

CHARON = Path("/usr/lib/ipsec/charon")
#: What both sides offer, best first: all that AWS does by default. Diffie-Hellman groups 19 to 21, 14 to 18, 22 to 24,
#: 2, and 5 in phase 2 only; with AES-GCM, AWS's integrity algorithms of phase 1 are the pseudo-random functions.
GROUPS = (
    "ecp256-ecp384-ecp521-modp2048-modp3072-modp4096-modp6144-modp8192-modp2048s224-modp2048s256-modp1024s160-modp1024"
)
GCM, CBC = "aes128gcm16-aes256gcm16", "aes128-aes256-sha256-sha384-sha512-sha1"
IKE = f"{GCM}-prfsha256-prfsha384-prfsha512-prfsha1-{GROUPS},{CBC}-{GROUPS}"
ESP = f"{GCM}-{GROUPS}-modp1536,{CBC}-{GROUPS}-modp1536"
PLUGINS = "random nonce kdf hmac sha2 openssl pem pkcs1 x509 revocation constraints pubkey"
#: Seconds of AWS.
PHASE1, PHASE2, MARGIN, DPD = 28_800, 3_600, 270, 30
#: Seconds that charon may take to answer on its socket.
ANSWER = 10.0
#: Commands for the namespace of an end that waits: before charon starts, and after it has loaded its connection.
DEAF, HEARING = (f"iptables -w -P INPUT {policy}" for policy in ("DROP", "ACCEPT"))
#: Commands that take the kernel's ESP out of an end's namespace.
FORGET = ("ip link delete ipsec0", "ip xfrm state flush", "ip xfrm policy flush")
SHIM = Path(__file__).with_name("tun_mtu.c")


class VpnError(Error):
    """A daemon of the VPN did not do what it was asked to. One line: which tunnel or speaker, and what it said."""


def strongswan_conf(side: Side, kernel_esp: bool, rate: float | None, time_scale: float = 1) -> str:
    """Return ``strongswan.conf`` of an end, with paths as charon sees them: its directory is its ``/run``.

    *rate* is the tunnel's limit in bit/s, or None. A dead peer is noticed in 30 s: asked after 10 s of silence, and
    asked three times more in the 20 s after that; all divided by *time_scale*. strongSwan's protection against floods
    is off: answers that are lost or late leave half-open SAs, of the fourth it asks for a cookie, of the fifth it hears
    nothing, and who was asked for a cookie five times gives up for good. Thresholds of 0 are no way to turn it off.
    """
    kernel = "kernel-netlink" if kernel_esp else "kernel-libipsec kernel-netlink"
    device = [] if not kernel_esp else ["ip link add ipsec0 type xfrm dev outside if_id 1"]
    device.append(f"ip link set ipsec0 mtu {MTU} up")
    if kernel_esp:
        device.append(f"ip route replace default dev ipsec0 table {INTO}")
    device += [" ".join(command) for command in (shaping(rate) if rate else [])]
    load = ["swanctl --load-all --noprompt --file /run/swanctl.conf --uri unix:///run/vici >/dev/null"]
    load += [HEARING] if side is Side.AMAZON else []
    return f"""charon {{
  load = {PLUGINS} {kernel} socket-default vici updown
  install_routes = {"no" if kernel_esp else "yes"}
  install_virtual_ip = no
  routing_table = {INTO}
  retransmit_tries = 3
  retransmit_base = 1
  retransmit_timeout = {DPD / 6 / time_scale:g}
  replay_window = 1024
  dos_protection = no
  plugins {{
    vici {{
      socket = unix:///run/vici
    }}
  }}
  filelog {{
    stderr {{
      default = 1
    }}
  }}
  syslog {{
    daemon {{
      default = -1
    }}
    auth {{
      default = -1
    }}
  }}
  start-scripts {{
    device = {" && ".join(device)}
    load = {" && ".join(load)}
  }}
}}
swanctl {{
  load = random nonce hmac sha2 openssl pem pkcs1
}}
"""


def swanctl_conf(tunnel: Tunnel, side: Side, kernel_esp: bool, time_scale: float = 1) -> str:
    """Return ``swanctl.conf`` of a side's end of *tunnel*; the intervals are AWS's, divided by *time_scale*."""
    local, remote = tunnel.outside(side), tunnel.outside(other(side))
    begins = side is Side.CUSTOMER
    margin = max(1, round(MARGIN / time_scale))
    phase1, phase2 = (round(life / time_scale) for life in (PHASE1, PHASE2))
    interface = "        if_id_in = 1\n        if_id_out = 1\n" if kernel_esp else ""
    return f"""connections {{
  {tunnel.name} {{
    version = 2
    local_addrs = {local}
    remote_addrs = {remote}
    proposals = {IKE}
    mobike = no
    unique = replace
    keyingtries = {0 if begins else 1}
    dpd_delay = {max(1, round(DPD / 3 / time_scale))}s
    rekey_time = {phase1 - margin}s
    rand_time = {margin}s
    over_time = {margin}s
    local {{
      auth = psk
      id = {local}
    }}
    remote {{
      auth = psk
      id = {remote}
    }}
    children {{
      {tunnel.name} {{
        local_ts = 0.0.0.0/0
        remote_ts = 0.0.0.0/0
        esp_proposals = {ESP}
        rekey_time = {phase2 - margin}s
        rand_time = {margin}s
        life_time = {phase2}s
        replay_window = 1024
        start_action = {"start" if begins else "none"}
        dpd_action = {"restart" if begins else "clear"}
        close_action = {"start" if begins else "none"}
{interface}      }}
    }}
  }}
}}
secrets {{
  ike-{tunnel.name} {{
    id-local = {local}
    id-remote = {remote}
    secret = "{tunnel.psk}"
  }}
}}
"""


@dataclass(frozen=True)
class Sa:
    """An IKE SA and its newest installed child, of ``swanctl --list-sas``; ``esp`` is empty without a child."""

    name: str
    state: str
    ike: str
    esp: str
    encapsulated: bool
    bytes_in: int
    bytes_out: int

    @property
    def established(self) -> bool:
        """Whether packets can pass."""
        return self.state == "ESTABLISHED" and bool(self.esp)


def parse_sas(text: str) -> list[Sa]:
    """Return the SAs in the output of ``swanctl --list-sas --raw``."""
    found = []
    for event in _tree(text):
        for name, sa in event.items():
            if not isinstance(sa, dict) or "state" not in sa:
                continue
            children = [child for child in sa.get("child-sas", {}).values() if child.get("state") == "INSTALLED"]
            child = children[-1] if children else {}
            found.append(
                Sa(
                    name,
                    sa["state"],
                    _proposal(sa, "prf-alg"),
                    _proposal(child, "integ-alg"),
                    child.get("encap") == "yes",
                    int(child.get("bytes-in", 0)),
                    int(child.get("bytes-out", 0)),
                )
            )
    return found


def _proposal(sa: dict[str, Any], *more: str) -> str:
    """Return for example ``AES_GCM_16-128/PRF_HMAC_SHA2_256/ECP_256``."""
    cipher = "-".join(sa[key] for key in ("encr-alg", "encr-keysize") if key in sa)
    return "/".join([cipher, *(sa[key] for key in (*more, "dh-group") if key in sa)]) if cipher else ""


def _tree(text: str) -> list[dict[str, Any]]:
    """Return the sections of raw vici messages: ``NAME {KEY=VALUE NAME {…}}``, nested."""
    top: dict[str, Any] = {}
    stack, events, word = [top], [], ""
    for token in re.findall(r"[{}]|[^\s{}]+", text):
        if token == "{":
            inner: dict[str, Any] = {}
            stack[-1][word] = inner
            if len(stack) == 1:
                events.append(inner)
            stack.append(inner)
        elif token == "}":
            stack.pop()
        elif "=" in token:
            key, value = token.split("=", 1)
            stack[-1][key] = value
        else:
            word = token
    return events


def build_shim(directory: Path) -> Path:
    """Compile ``tun_mtu.c`` into *directory*, once, and return the library. Raises MachineError where it fails."""
    library = directory / "tun_mtu.so"
    if not library.exists():
        compiler = shutil.which("clang") or shutil.which("cc")
        if compiler is None:
            raise MachineError("no compiler: apt-get install clang")
        command = [compiler, "-shared", "-fPIC", "-O2", f"-DMTU={MTU}", "-o", str(library), str(SHIM)]
        made = subprocess.run(command, capture_output=True, text=True)
        if made.returncode:
            raise MachineError(f"{SHIM.name} does not compile: {(made.stderr.splitlines() or ['no message'])[0]}")
    return library


class TunnelEnd(Part):
    """The charon of a side's end of *tunnel*, in the network namespace of process *pid*.

    What it needs and says is in *directory*/NAME-SIDE, which it has as its ``/run``: ``charon.log``, the socket
    ``vici``. *rate* is the tunnel's limit in bit/s. Raises MachineError where strongSwan is missing.
    """

    def __init__(
        self,
        tunnel: Tunnel,
        side: Side,
        pid: int,
        directory: Path,
        *,
        kernel_esp: bool,
        rate: float | None = None,
        time_scale: float = 1,
    ) -> None:
        if not CHARON.exists():
            raise MachineError("strongSwan is not installed: apt-get install strongswan-charon strongswan-swanctl")
        self.name = f"{tunnel.name}-{side.value}"
        self.tunnel, self.side = tunnel, side
        self._pid = pid
        self._kernel_esp = kernel_esp
        self._run = directory / self.name
        self._run.mkdir(parents=True, exist_ok=True)
        self._preload = ""
        if not kernel_esp:  # a copy in its own /run, which may hide where the library was compiled
            shutil.copy(build_shim(directory), self._run)
            self._preload = "LD_PRELOAD=/run/tun_mtu.so "
        (self._run / "strongswan.conf").write_text(strongswan_conf(side, kernel_esp, rate, time_scale))
        configuration = self._run / "swanctl.conf"
        configuration.touch(mode=0o600)
        configuration.write_text(swanctl_conf(tunnel, side, kernel_esp, time_scale))
        self.log = self._run / "charon.log"
        self.start()

    def start(self) -> None:
        """Start charon; it loads its connection by itself, and the customer's side begins."""
        for left in ("vici", "charon.pid"):
            (self._run / left).unlink(missing_ok=True)
        deaf = f"{DEAF} && " if self.side is Side.AMAZON else ""
        inside = f'mount --bind "$0" /run && {deaf}{self._preload}STRONGSWAN_CONF=/run/strongswan.conf exec {CHARON}'
        command = ["nsenter", "-t", str(self._pid), "-n", "unshare", "--mount", "sh", "-c", inside, str(self._run)]
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def kill(self) -> None:
        """Kill charon as an accident would, with the ESP that the kernel would go on with: a machine that dies."""
        super().kill()
        if self._kernel_esp:
            for command in FORGET:
                subprocess.run(["nsenter", "-t", str(self._pid), "-n", *command.split()], stderr=subprocess.DEVNULL)

    def end(self) -> None:
        """Kill charon, which has nothing to keep.

        Asked to end while its peer closes the tunnel, 5.9.8 sometimes spins for ever in ``libcharon_deinit``; perhaps
        because it would begin the tunnel again (``close_action``).
        """
        self.process.kill()

    def ready(self) -> bool:
        """Whether the tunnel is up: IKE SA established, child SA installed."""
        sa = self.sa()
        return sa is not None and sa.established

    def sa(self) -> Sa | None:
        """Return the tunnel's newest SA, if it has one and charon answers."""
        sas = parse_sas(self.ask("--list-sas", "--raw"))
        return max(sas, key=lambda sa: sa.established, default=None)

    def ask(self, *arguments: str) -> str:
        """Return what ``swanctl`` says; empty where charon does not answer."""
        environment = {**os.environ, "STRONGSWAN_CONF": str(self._run / "strongswan.conf")}
        command = ["swanctl", *arguments, "--uri", f"unix://{self._run / 'vici'}"]
        if not (self._run / "vici").exists():
            return ""
        try:
            said = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER, env=environment)
        except subprocess.TimeoutExpired:
            return ""
        return said.stdout

    def problem(self) -> str | None:
        """Return a line when charon is gone, with the last line of its log."""
        code = self.process.poll()
        return None if code is None else f"charon of tunnel {self.name} ended with {code}: {last_line(self.log)}"


def wait_ready(ends: Iterable[TunnelEnd], timeout: float = 120.0) -> None:
    """Wait until all tunnels are up. Raises VpnError when a charon ends, or a tunnel is not up in *timeout* seconds."""
    waiting = list(ends)
    deadline = time.monotonic() + timeout
    while waiting := [end for end in waiting if not end.ready()]:
        if problem := next(filter(None, (end.problem() for end in waiting)), None):
            raise VpnError(problem)
        if time.monotonic() > deadline:
            raise VpnError(f"tunnel {waiting[0].name} is not up after {timeout:g} s: {last_line(waiting[0].log)}")
        time.sleep(0.05)
