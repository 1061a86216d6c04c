"""The firewall's process: ``python -m firewall_vnf --config FILE``.

``--turnaround --interface NAME`` runs the bare appliance instead, which inspects nothing. SIGTERM and SIGINT
end it after the logs are written, SIGHUP loads the policy again. Exit codes: 0, 2 for a wrong configuration
or policy, 3 if the machine cannot (no root, port in use); the one line on standard error says why.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from firewall_vnf.adapter import IDLE_TICK, TICK, AdapterError, DataInterface, Loop, Turnaround
from firewall_vnf.config import Config, ConfigError, HaConfig, load_config
from firewall_vnf.control import ControlError
from firewall_vnf.control_server import ControlServer
from firewall_vnf.engine import Engine
from firewall_vnf.ha_link import HaLinkError, HaService
from firewall_vnf.health import HealthError, HealthPort
from firewall_vnf.high_availability import HighAvailability
from firewall_vnf.inspection import InspectionError, load_inspections
from firewall_vnf.link_monitor import failed_links
from firewall_vnf.log import Log, LogError, LogWriter
from firewall_vnf.management import ManagementError, ManagementPort
from firewall_vnf.metrics import Reading
from firewall_vnf.policy import Policy, PolicyError
from firewall_vnf.routed import RoutedEngine
from firewall_vnf.session_store import Sharing

if TYPE_CHECKING:
    from firewall_vnf.bpf_offload import BpfOffload
    from firewall_vnf.cloud_api import Failover
    from firewall_vnf.nfqueue import QueueInterface


class Firewall:
    """All parts of a running firewall, made by the thread that will run ``loop``. Raises the parts' errors."""

    def __init__(self, config: Config) -> None:
        self._config = config
        epoch = time.time() - time.monotonic()
        inspections = load_inspections(config.inspections)
        policy = Policy.load(config.policy)
        self._interface = _open_interface(config)
        self._writer = LogWriter(config.log_directory)
        self._log = Log(config.name, self._writer.write, epoch)
        self._redis, self._sharing, self._ha = None, None, None
        if config.session_store:
            from firewall_vnf.redis_store import RedisBackend  # its library takes longer to load than all the rest

            self._redis = RedisBackend(str(config.session_store))
            self._sharing = Sharing(self._redis, self._log, epoch)
        if config.high_availability:
            self._ha, self._failover = _open_pair(config.high_availability, config.interfaces, self._log)
            self._sharing = Sharing(self._ha.sync, self._log, epoch)
        parts = config, policy, self._log, inspections, self._sharing
        self._engine: Engine
        self._offload, offload = None, "off"
        if isinstance(self._interface, DataInterface):
            self._offload, offload = _open_offload(config, self._log)
            self._engine = Engine(*parts, self._offload)
        else:
            offload = "on" if config.bypass else "off"
            active = self._ha.machine.is_active if self._ha else lambda: True
            self._engine = RoutedEngine(*parts, kernel=self._interface.connections, bypass=config.bypass, active=active)
        info = {
            "name": config.name,
            "pid": os.getpid(),
            "interface": config.interface or ", ".join(config.interfaces),
            "policy": str(config.policy),
            "offload": offload,
        }
        self._control = ControlServer(config.control, self._engine, epoch, self._counters, self._reload, info, self._ha)
        services = [part for part in (self._control, self._sharing, self._ha, self._offload) if part is not None]
        tick = min(TICK, self._ha.interval) if self._ha else TICK
        self.loop: Loop[Any] = Loop(self._interface, self._engine, *services, tick=tick)
        self._health = HealthPort(
            config.health_port, lambda: time.monotonic() - self.loop.heartbeat, config.health_limit
        )
        self._management = None
        if config.management_address:
            self._processor = time.pthread_getcpuclockid(threading.get_ident())
            self._management = ManagementPort(
                config.management_address,
                config.management_port,
                config.name,
                self._reading,
                config.metrics_interval,
                epoch,
            )
        self._log.system("general", "informational", f"firewall {config.name} started", time.monotonic())
        for warning in policy.warnings:
            self._log.system("policy-warning", "low", warning, time.monotonic())

    def close(self) -> None:
        """End all sessions, write the logs."""
        now = time.monotonic()
        self._health.close()
        if self._management:
            self._management.close()
        self._control.close()
        self._engine.look(now)
        if self._sharing:
            self._sharing.close(now)  # before the sessions end here, which for the other firewalls they do not
        if self._redis:
            self._redis.close()
        if self._ha:
            self._ha.close(now)
            self._failover.close()
        self._engine.close(now)
        if self._offload:
            self._offload.close()
        self._interface.close()
        self._log.system("general", "informational", f"firewall {self._config.name} stopped", now)
        self._writer.close()

    def hang_up(self, now: float) -> None:
        """Load the policy again; if it is wrong, the system log says why."""
        with contextlib.suppress(ValueError):
            self._reload(now)

    def _counters(self) -> dict[str, int]:
        backend = self._ha.sync if self._ha else self._redis
        return self._engine.counters | {
            "pkt_send_errors": self._interface.send_errors,
            "pkt_buffer_lost": self._interface.lost(),
            "log_lost": self._writer.lost,
            "session_shared_lost": backend.lost if backend is not None else 0,
        }

    def _reading(self) -> Reading:
        """Read the meters; in any thread, without the data path's help."""
        table, counters, offload = self._engine.table, self._engine.counters, self._engine.offload
        packets, bytes_carried = offload.total() if offload else (0, 0)
        return Reading(
            time=time.monotonic(),
            processor=time.clock_gettime(self._processor),
            buffered=self._interface.buffered(),
            sessions=table.count,
            capacity=table.capacity,
            installed=counters["session_installed"],
            packets=counters["pkt_forwarded"] + packets,
            bytes=self.loop.carried + bytes_carried,
        )

    def _reload(self, now: float) -> None:
        """Load the policy file again. Raises ValueError with the reason; nothing has changed then."""
        try:
            policy = Policy.load(self._config.policy)
        except PolicyError as error:
            self._log.counters["policy_commit_failed"] += 1
            self._log.system("policy-commit-failed", "high", f"policy not changed: {error}", now)
            raise ValueError(str(error)) from error
        self._engine.commit(policy, now)


def _open_offload(config: Config, log: Log) -> tuple[BpfOffload | None, str]:
    """Return what carries sessions on the data interface, and a word on it: ``on``, ``off``, or why not."""
    from firewall_vnf import bpf_offload, libbpf  # a firewall without offload does without libbpf

    try:
        libbpf.detach(socket.if_nametoindex(config.interface))  # of a firewall that was killed
        if not config.offload:
            return None, "off"
        program = bpf_offload.BpfProgram(config.offload_sessions, config.address)
        return bpf_offload.BpfOffload(
            config.interface, program, config.offload_sessions, config.offload_packets, log.counters
        ), "on"
    except libbpf.BpfError as error:
        if config.offload:
            log.system("offload-unavailable", "low", f"sessions are not offloaded: {error}", time.monotonic())
        return None, str(error) if config.offload else "off"


def _open_pair(config: HaConfig, interfaces: Iterable[str], log: Log) -> tuple[HaService, Failover]:
    """Return this firewall's half of an active/passive pair; its *interfaces* are monitored. Raises HaLinkError."""
    from firewall_vnf.cloud_api import CloudApi, Failover  # an HTTP client, which others start without

    boot = time.time_ns()
    failover = Failover(CloudApi(config.cloud), config.scaled_plan)
    machine = HighAvailability(config, boot, time.monotonic())
    monitor = partial(failed_links, tuple(interfaces))
    addresses = config.here, config.there
    return HaService(machine, *addresses, config.secret, failover, monitor, log, boot, time.monotonic), failover


def _open_interface(config: Config) -> DataInterface | QueueInterface:
    if config.interface:
        return DataInterface(config.interface, config.address)
    try:
        from firewall_vnf.nfqueue import QueueInterface  # a firewall behind a GWLB does without its library
    except ImportError as error:
        raise AdapterError(f"a routed firewall needs the module {error.name}: pip install netfilterqueue") from error
    return QueueInterface(config.queue, config.interfaces, config.fail_open, config.icmp_unreachable)


def main(arguments: list[str] | None = None) -> None:
    """Run until a signal says otherwise."""
    parser = argparse.ArgumentParser(prog="python -m firewall_vnf", description="A firewall, behind a GWLB or routed.")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--config", type=Path, metavar="FILE", help="run the firewall that FILE describes")
    what.add_argument("--turnaround", action="store_true", help="only turn frames around, without inspection")
    parser.add_argument("--interface", metavar="NAME", help="the data interface, for --turnaround")
    options = parser.parse_args(arguments)
    if options.turnaround and not options.interface:
        parser.error("--turnaround needs --interface NAME")
    try:
        if options.turnaround:
            serve(Loop(DataInterface(options.interface), Turnaround(), tick=IDLE_TICK))
        else:
            firewall = Firewall(load_config(options.config))
            signal.signal(signal.SIGHUP, lambda *_: firewall.loop.soon(firewall.hang_up))
            serve(firewall.loop)
            firewall.close()
    except (ConfigError, InspectionError, PolicyError) as error:
        fail(error, 2)
    except (AdapterError, ControlError, HaLinkError, HealthError, LogError, ManagementError) as error:
        fail(error, 3)


def serve(loop: Loop[Any]) -> None:
    """Run *loop* until SIGTERM or SIGINT."""

    def end(*_: object) -> None:
        loop.running = False

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    # A collection would stop the data path for as long as it takes to visit all sessions, and would find
    # nothing: packets and sessions make no reference cycles.
    gc.disable()
    loop.run()


def fail(error: Exception, code: int) -> None:
    print(f"firewall_vnf: {error}", file=sys.stderr)
    raise SystemExit(code)


if __name__ == "__main__":
    main()
