"""The configuration file of a firewall: YAML, checked by pydantic; every error is one line.

::

    name: fw1
    interface: eth0
    zones: {vpce-0123456789abcdef0: transit}
    policy: policy.yaml              # relative to this file
    log_directory: /var/log/fw1
    control: /run/fw1.sock
    health_port: 80
    management_address: 100.64.0.11  # metrics are served there
    session_store: redis://100.64.0.1:6379

The last two are optional. Nothing else is needed; :class:`Config` has the defaults. Where the kernel takes the BPF
program it carries sessions that need no more inspection, unless ``offload: false`` forbids it.

A routed firewall has, instead of ``interface`` and ``zones``, the zones of the interfaces between which it routes::

    interfaces: {eth0: untrust, eth1: trust}
    queue: 0                         # the NFQUEUE that iptables hands forwarded packets to
    bypass: true                     # let the kernel carry sessions that need no more inspection
    fail_open: false                 # let packets pass a full queue

One of an active/passive pair also has the section ``high_availability``, see :class:`HaConfig`.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, RedisDsn, StringConstraints, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from firewall_vnf.high_availability import HaLink, HaSettings
from firewall_vnf.session import Timers

EndpointId = Annotated[str, StringConstraints(pattern=r"^vpce-0[0-9a-f]{16}$")]


class ConfigError(Exception):
    """One line: file, place, what is wrong."""


class EngineConfig(BaseModel):
    """What the engine needs to know. Defaults are PAN-OS's.

    ``zones`` maps GWLB endpoints to zones, as the VM-Series associates endpoints with sub-interfaces; all
    others are in ``default_zone``. ``ipv6`` and ``fragments`` say what happens to such packets; where they are not
    inspected, ``pass`` lets them around the firewall. (PAN-OS reassembles fragments; a GWLB does not carry
    them: AWS GWLB guide.) ``icmp_unreachable`` answers the client of a refused session that gets no RST with
    ICMP type 3 code 13, for IPv6 type 1 code 1, unless the action is a plain deny: PAN-OS's "Send ICMP Unreachable",
    there a rule's setting. A routed firewall needs a rule of iptables for that
    (:func:`firewall_vnf.routed.queue_rules`).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    zones: dict[EndpointId, str] = {}
    default_zone: str = "gwlb"
    max_sessions: int = Field(default=250_000, ge=1)
    timers: Timers = Timers()
    tcp_reject_non_syn: bool = True
    ipv6: Literal["inspect", "pass", "drop"] = "inspect"
    fragments: Literal["pass", "drop"] = "drop"
    icmp_unreachable: bool = False


class RouteTarget(BaseModel):
    """A route that leads to the active firewall's *interface*."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    table: str
    destination: IPv4Network
    interface: str


class FailoverPlan(BaseModel):
    """What a firewall has the cloud move when it becomes active.

    ``addresses``: its own interfaces with the secondary addresses that each takes. ``interfaces``: those that are
    attached to ``instance``, this firewall, in the older way. ``routes`` lead here afterwards.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    addresses: dict[str, tuple[IPv4Address, ...]] = {}
    instance: str = ""
    interfaces: tuple[str, ...] = ()
    routes: tuple[RouteTarget, ...] = ()
    #: Seconds between two tries, between two looks at who has the addresses, and until a move must be done.
    retry: float = Field(default=1.0, gt=0)
    watch: float = Field(default=5.0, gt=0)
    patience: float = Field(default=120.0, gt=0)


class HaConfig(HaSettings):
    """One of an active/passive pair: its addresses (``here``) and the peer's (``there``) on each link.

    ``secret`` is the pair's. ``cloud`` is the URL of the API that carries ``plan`` out when this firewall becomes
    active; ``time_scale`` divides the plan's times too.
    """

    here: dict[HaLink, IPv4Address]
    there: dict[HaLink, IPv4Address]
    secret: str = Field(min_length=1)
    cloud: str
    plan: FailoverPlan = FailoverPlan()

    @model_validator(mode="after")
    def _has_both_links(self) -> HaConfig:
        if not self.here.keys() == self.there.keys() == set(HaLink):
            raise PydanticCustomError("links", "give an address for ha1 and for ha2, here and there")
        return self

    @property
    def scaled_plan(self) -> FailoverPlan:
        """The plan with its times divided by ``time_scale``."""
        times = ("retry", "watch", "patience")
        return self.plan.model_copy(update={name: getattr(self.plan, name) / self.time_scale for name in times})


class Config(EngineConfig):
    """The whole file. ``address`` (optional) restricts what is accepted to frames for it.

    ``health_limit`` is the age in seconds of the data path's heartbeat from which the health port says
    unhealthy. The management port is served only where ``management_address`` is given; ``metrics_interval``, in
    seconds, is how often its metrics are measured (VM-Series: every 1 to 60 minutes). ``session_store`` is the Redis
    server where firewalls share their sessions; without it each keeps its own. One of a pair has none: HA2 shares them.

    ``offload``: have BPF carry sessions, where it can be had; ``offload_sessions`` at a time, each from its packet
    number ``offload_packets`` on. To have a session carried and to take it back costs the processor what two of its
    packets do (14 and 7 µs, measured); the 10 packets of a small web page are not worth a place.

    ``interfaces`` maps a routed firewall's interfaces to zones; traffic by any other is dropped. ``queue``, ``bypass``
    and ``fail_open`` are to agree with the arguments of :func:`firewall_vnf.routed.queue_rules`.
    """

    name: str
    interface: str = ""
    interfaces: dict[str, str] = {}
    queue: int = Field(default=0, ge=0, le=65535)
    bypass: bool = True
    fail_open: bool = False
    address: IPv4Address | None = None
    policy: Path
    log_directory: Path
    control: Path
    health_port: int = Field(default=80, ge=1, le=65535)
    health_limit: float = Field(default=2.0, gt=0)
    inspections: tuple[str, ...] = ()
    management_address: IPv4Address | None = None
    management_port: int = Field(default=9090, ge=1, le=65535)
    metrics_interval: float = Field(default=5.0, gt=0)
    session_store: RedisDsn | None = None
    offload: bool = True
    offload_sessions: int = Field(default=16384, ge=1, le=1 << 20)
    offload_packets: int = Field(default=16, ge=1)
    high_availability: HaConfig | None = None

    @model_validator(mode="after")
    def _is_of_one_kind(self) -> Config:
        if bool(self.interface) == bool(self.interfaces):
            raise PydanticCustomError("kind", "")
        if self.session_store and self.high_availability:
            raise PydanticCustomError("store", "")
        return self


def load_config(path: Path) -> Config:
    """Read the file. Relative paths in it are relative to its directory. Raises :class:`ConfigError`."""
    try:
        document = yaml.safe_load(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(document, dict):
        raise ConfigError(f"{path}: expected a mapping of settings, such as 'name: fw1'")
    try:
        config = Config.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"] if part != "[key]")
        if first["type"] == "kind":
            place, message = "interface", "give either this (behind a GWLB) or 'interfaces' (a routed firewall)"
        elif first["type"] == "store":
            place, message = "session_store", "a pair in 'high_availability' shares sessions over HA2; leave this out"
        elif first["type"] == "links":
            message = first["msg"]  # not the input, which has the secret
        elif first["type"] == "extra_forbidden":
            sections: dict[str, type[BaseModel]] = {"timers": Timers, "high_availability": HaConfig}
            known = sections.get(str(first["loc"][0]), Config)
            message = f"unknown setting; known are {', '.join(sorted(known.model_fields))}"
        elif first["type"] == "missing":
            message = "missing; every firewall needs it"
        elif first["type"] == "string_pattern_mismatch":
            message = f"{first['input']!r} is no endpoint id; write vpce-0 and 16 more hex digits"
        elif first["type"].startswith("url_"):
            message = f"{first['input']!r} is no Redis server; write redis://ADDRESS:PORT"
        else:
            message = f"{first['msg'][0].lower()}{first['msg'][1:]}, not {first['input']!r}"
        raise ConfigError(f"{path}: {place}: {message}") from error
    base = path.parent
    return config.model_copy(
        update={field: base / getattr(config, field) for field in ("policy", "log_directory", "control")}
    )
