"""The configuration file of the management process: JSON, written by the lab.

::

    {"topology": path, "state": path,          read at the start, written when they change
     "controller_status": path,                of the OpenFlow controller: who to tell
     "status": path, "events": path,           written: {"pid", "port"}; JSON lines, appended
     "port": 0, "time_scale": 1.0,             of the API, on loopback; what divides every interval
     "namespaces": {"gwlb": "/proc/PID/ns/net"}, "management_namespace": "/proc/PID/ns/net",
     "appliances": {"fw1": {"management_address": "169.254.1.1", "command": [argv], "log": path}}}

``cloud_address`` is an address of the management network where firewalls reach the calls of a failover, on port
``cloud_port``; none without it. A load balancer without a namespace checks its targets from the process's own.
"""

from __future__ import annotations

import os
from ipaddress import IPv4Address
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError


class ConfigurationError(Exception):
    """A configuration that cannot be used: one line with the file, the place and what is wrong."""


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ApplianceConfiguration(Part):
    """A firewall: its address on the management network, the command that runs it, the file for its output."""

    management_address: IPv4Address
    management_port: int = Field(default=9090, ge=1, le=65535)
    command: tuple[str, ...] = ()
    log: Path = Path(os.devnull)


class Configuration(Part):
    topology: Path
    state: Path
    controller_status: Path
    status: Path
    events: Path
    port: int = Field(default=0, ge=0, le=65535)
    time_scale: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    namespaces: dict[str, str] = {}
    management_namespace: str | None = None
    appliances: dict[str, ApplianceConfiguration] = {}
    cloud_address: IPv4Address | None = None
    cloud_port: int = Field(default=8080, ge=1, le=65535)

    @property
    def memory(self) -> Path:
        """What only this process needs to go on after a restart: the switches need not be told when it changes."""
        return self.state.with_name(f"{self.state.stem}.service.json")


def load_configuration(file: Path) -> Configuration:
    """Read a configuration file. Raises ConfigurationError."""
    try:
        return Configuration.model_validate_json(file.read_bytes())
    except OSError as error:
        raise ConfigurationError(f"{file}: {error.strerror}") from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ConfigurationError(f"{file}: {place + ': ' if place else ''}{first['msg']}") from None
