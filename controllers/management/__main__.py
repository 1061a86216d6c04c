"""``python -m controllers.management --config FILE``: the managed service of a lab.

Checks the targets, does what the HTTP API is asked for, scales, and writes the files that the OpenFlow controller
compiles (:mod:`controllers.management.service`). The file is described in :mod:`controllers.management.configuration`.
The API listens on loopback; the status file, ``{"pid", "port"}``, is written when it does. SIGTERM and SIGINT end the
process, and the instances of auto scaling groups with it; when it is killed they live, and the next process finds them.
Exits with 2 when the configuration, the topology or the state is wrong, 3 when the port is taken or a namespace cannot
be used.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from controllers.management.configuration import Configuration, ConfigurationError, load_configuration
from controllers.management.health_check import HealthChecks
from controllers.management.namespace import Namespace, NamespaceError
from controllers.management.scaling import Scaling
from controllers.management.service import Service, replace
from controllers.management.telemetry import Telemetry
from controllers.management.timeout import until
from controllers.state import StateError
from topologies.loader import TopologyError

#: Namespaces by load balancer; None is the management network's.
Opened = dict[str | None, Namespace]


class ListenError(Exception):
    """A port that cannot be had: one line."""


def listen(port: int) -> socket.socket:
    """Return a socket that listens on loopback. Raises ListenError."""
    listening = socket.socket()
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", port))
        listening.listen()
    except OSError as error:
        listening.close()
        raise ListenError(f"cannot listen on 127.0.0.1:{port}: {error.strerror}") from None
    return listening


def listen_cloud(configuration: Configuration, network: Namespace) -> socket.socket | None:
    """Return a socket that listens on the management network, None where no address is given. Raises ListenError."""
    if configuration.cloud_address is None:
        return None
    address = str(configuration.cloud_address), configuration.cloud_port
    listening = network.socket()
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen()
    except OSError as error:
        listening.close()
        raise ListenError(f"cannot listen on {address[0]}:{address[1]}: {error.strerror}") from None
    return listening


async def run(
    configuration: Configuration,
    service: Service,
    listening: socket.socket,
    cloud: socket.socket | None,
    opened: Opened,
) -> None:
    """Run *service* until SIGTERM or SIGINT. Raises whatever ends a part of it that should not end."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, lambda: None if ended.done() else ended.set_result(None))
    telemetry = Telemetry(opened[None], configuration.appliances)
    scaling = Scaling(service, configuration, telemetry)
    checks = HealthChecks(service, opened)
    service.listeners.append(checks.update)
    replace(configuration.status, json.dumps({"pid": os.getpid(), "port": listening.getsockname()[1]}) + "\n")
    parts = [drain(service), scaling.run(), serve(service, scaling, telemetry, listening, cloud)]
    tasks = [asyncio.create_task(part) for part in parts]
    try:
        done, _ = await asyncio.wait([ended, checks.failed, *tasks], return_when=asyncio.FIRST_COMPLETED)
        for part in done:
            part.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await checks.close()
        await scaling.close()
        await telemetry.close()


async def drain(service: Service) -> None:
    """End each draining when its time is over."""
    changed = asyncio.Event()
    service.listeners.append(changed.set)
    while True:
        changed.clear()
        end = service.tick()
        await until(changed, None if end is None else max(0.0, end - service.clock()))


async def serve(
    service: Service, scaling: Scaling, telemetry: Telemetry, listening: socket.socket, cloud: socket.socket | None
) -> None:
    """Serve the API. What it needs takes longer to import than all else: the checks go on meanwhile."""
    api = await asyncio.to_thread(importlib.import_module, "controllers.management.api")
    uvicorn = await asyncio.to_thread(importlib.import_module, "uvicorn")

    class Server(uvicorn.Server):  # type: ignore[misc, name-defined]
        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield  # they are the process's own

    options: dict[str, Any] = {"lifespan": "off", "ws": "none", "http": "h11", "loop": "asyncio"}
    logs: dict[str, Any] = {"log_config": None, "log_level": "warning", "access_log": False}
    applications = [(api.application(service, scaling, telemetry), listening)]
    if cloud:
        applications.append((api.cloud_application(service), cloud))
    servers = [Server(uvicorn.Config(one, **options, **logs)).serve([where]) for one, where in applications]
    await asyncio.gather(*servers)


def main(arguments: list[str] | None = None) -> int:
    """Run until SIGTERM or SIGINT; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m controllers.management", description="A lab's managed service.")
    parser.add_argument("--config", type=Path, required=True, help="JSON: controllers/management/configuration.py")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    try:
        configuration = load_configuration(options.config)
        listening = listen(configuration.port)
        opened: Opened = {name: Namespace(file) for name, file in configuration.namespaces.items()}
        opened[None] = Namespace(configuration.management_namespace)
        cloud = listen_cloud(configuration, opened[None])
        service = Service(configuration)
    except (ConfigurationError, TopologyError, StateError) as error:
        print(error, file=sys.stderr)
        return 2
    except (ListenError, NamespaceError) as error:
        print(error, file=sys.stderr)
        return 3
    asyncio.run(run(configuration, service, listening, cloud, opened))
    service.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
