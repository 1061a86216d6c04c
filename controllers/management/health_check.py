"""Health checks: TCP, HTTP and HTTPS, from a load balancer node's own address, outside GENEVE.

Each node checks each target that it uses on its own schedule, which the target's watch keeps
(:mod:`controllers.management.target_health`).

Facts: AWS GWLB guide, "Health checks for your target groups": a TCP check passes when the connection is made, an HTTP
or HTTPS check when the status code is one of ``matcher``, both in time; redirects are not followed, certificates not
verified, and targets that speak TLS 1.3 only fail.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import socket
import ssl
from collections.abc import Coroutine, Mapping
from typing import Any

from controllers.management.namespace import Namespace, NamespaceError
from controllers.management.service import Service
from controllers.management.timeout import until, within
from topologies.fabric import node_addresses
from topologies.model import HealthCheck

USER_AGENT = "ELB-HealthChecker/2.0"
#: Seconds that a check may take however ``time_scale`` divides: shorter minutes make no target answer faster.
LEAST_TIMEOUT = 0.5


def matches(matcher: str, status: int) -> bool:
    """Return whether *status* is one of a matcher's codes: ``200``, ``200,202``, ``200-399``."""
    ranges = (part.split("-") for part in matcher.split(","))
    return any(int(codes[0]) <= status <= int(codes[-1]) for codes in ranges)


def scaled_timeout(check: HealthCheck, time_scale: float) -> float:
    """Return the seconds that *check* may take."""
    return max(check.timeout_seconds / time_scale, LEAST_TIMEOUT)


def words(error: OSError) -> str:
    """Return what went wrong, without asyncio's and aiohttp's addresses."""
    cause = getattr(error, "os_error", error)
    if isinstance(cause, ssl.SSLError) or cause.errno is None:
        return "TLS handshake failed"
    return os.strerror(cause.errno)


class Node:
    """A load balancer node that checks targets: from *address* in *namespace*, any address where it is empty."""

    def __init__(self, namespace: Namespace, address: str = "") -> None:
        self._namespace = namespace
        self._address = address
        self._session: Any = None

    async def check(self, target: str, check: HealthCheck, timeout: float) -> str | None:
        """Check the target with address *target* once; return None if it passed, else what failed in a few words.

        *timeout* is in seconds, of the whole check.
        """
        probe: Coroutine[Any, Any, str | None]
        if check.protocol == "TCP":
            probe = self._connect(target, check.port)
        else:
            await self._import()  # not in the check's time
            probe = self._request(target, check)
        try:
            return await within(timeout, probe)
        except asyncio.TimeoutError:
            return "timed out"
        except OSError as error:
            return words(error)
        except NamespaceError as error:
            return str(error)

    async def close(self) -> None:
        if self._session:
            await self._session.close()

    async def _import(self) -> None:
        if self._session is None:
            # The library takes a while to import; what else the process does goes on.
            aiohttp = await asyncio.to_thread(importlib.import_module, "aiohttp")
            self._session = self._session or self._open(aiohttp)

    async def _connect(self, target: str, port: int) -> None:
        with self._namespace.socket(address=self._address) as connection:
            await asyncio.get_running_loop().sock_connect(connection, (target, port))

    async def _request(self, target: str, check: HealthCheck) -> str | None:
        url = f"{check.protocol.lower()}://{target}:{check.port}{check.path}"
        try:
            async with self._session.get(url, allow_redirects=False) as response:
                status: int = response.status
        except OSError:
            raise
        except Exception as error:  # whatever it is that an answer makes the library raise: the target failed
            return f"no HTTP: {type(error).__name__}"
        return None if matches(check.matcher, status) else f"HTTP {status}"

    def _open(self, aiohttp: Any) -> Any:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.maximum_version = ssl.TLSVersion.TLSv1_2

        def made(information: tuple[Any, ...]) -> socket.socket:
            family, kind, *_ = information
            return self._namespace.socket(family, kind, self._address)

        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=context, force_close=True, limit=0, socket_factory=made),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": USER_AGENT},
            timeout=aiohttp.ClientTimeout(total=None),
        )


class HealthChecks:
    """Makes every check of a service's target groups when it is due, and tells the service the result.

    *namespaces* are the load balancers', by name; one that has none is checked from the process's own. To be made in a
    running event loop.
    """

    def __init__(self, service: Service, namespaces: Mapping[str | None, Namespace]) -> None:
        self._service = service
        self._loop = asyncio.get_running_loop()
        self._nodes = {
            (name, az): Node(namespaces.get(name) or Namespace(), str(address))
            for name, gwlb in service.topology.gateway_load_balancers.items()
            for az, address in node_addresses(service.topology, gwlb).items()
        }
        self._tasks: dict[tuple[str, str, str], asyncio.Task[None]] = {}
        self._changed = asyncio.Event()
        self._publication: asyncio.Handle | None = None
        #: Done when a check could not be made for a reason of our own.
        self.failed: asyncio.Future[None] = self._loop.create_future()
        self.update()

    def update(self) -> None:
        """Take what the service wants now: new checks begin, old ones end, the others look when they are due."""
        wanted = {
            (name, az, target) for name, group in self._service.groups.items() for az, target, _ in group.watches()
        }
        for key in self._tasks.keys() - wanted:
            self._tasks.pop(key).cancel()
        for key in wanted - self._tasks.keys():
            self._tasks[key] = self._loop.create_task(self._check(*key))
            self._tasks[key].add_done_callback(self._ended)
        self._changed.set()
        self._changed = asyncio.Event()

    async def close(self) -> None:
        """End all checks."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for node in self._nodes.values():
            await node.close()

    async def _check(self, gwlb: str, az: str, target: str) -> None:
        node = self._nodes[gwlb, az]
        while True:
            group, changed = self._service.groups[gwlb], self._changed
            delay = group.targets[target].watches[az].due - self._service.clock()
            if delay > 0:
                await until(changed, delay)
                continue
            started = self._service.clock()
            address = str(self._service.topology.gateway_load_balancers[gwlb].appliances[target].address)
            failure = await node.check(address, group.check, scaled_timeout(group.check, self._service.time_scale))
            if self._service.checked(gwlb, az, target, failure, started) and self._publication is None:
                # What other checks find out in the same turn of the loop is published with it.
                self._publication = self._loop.call_soon(self._publish)

    def _publish(self) -> None:
        self._publication = None
        self._service.publish()

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and not self.failed.done():
            error = task.exception()
            if error:
                self.failed.set_exception(error)
