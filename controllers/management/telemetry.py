"""What the firewalls say of themselves, asked for over the management network.

A firewall serves its metrics as CloudWatch's PutMetricData takes them, with the time when they were measured: a count
of sessions that is older than a decision says nothing about it.
"""

from __future__ import annotations

import asyncio
import importlib
import math
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from controllers.management.configuration import ApplianceConfiguration
from controllers.management.namespace import Namespace
from controllers.management.timeout import within

#: How long a firewall may take to answer, in seconds.
TIMEOUT = 1.0
SESSIONS = "panSessionActive"


@dataclass(frozen=True)
class Sample:
    """A firewall's metrics by CloudWatch's names, and when they were measured (Unix time)."""

    time: float
    values: Mapping[str, float]


def parse(document: Any) -> Sample:
    """Return the sample in a PutMetricData document. Raises ValueError, TypeError or KeyError if it is none."""
    data = document["MetricData"]
    values = {str(metric["MetricName"]): float(metric["Value"]) for metric in data}
    # Python 3.10 does not read the Z.
    times = [datetime.fromisoformat(metric["Timestamp"].replace("Z", "+00:00")).timestamp() for metric in data]
    return Sample(min(times), {name: value for name, value in values.items() if math.isfinite(value)})


class Telemetry:
    """Asks *appliances* in *namespace*, the management network's. To be used in a running event loop."""

    def __init__(self, namespace: Namespace, appliances: Mapping[str, ApplianceConfiguration]) -> None:
        self._namespace = namespace
        self._appliances = appliances
        self._session: Any = None

    async def read(self, names: Iterable[str]) -> dict[str, Sample]:
        """Return a sample of each of those that answer."""
        names = [name for name in names if name in self._appliances]
        if not names:
            return {}
        if self._session is None:
            aiohttp = await asyncio.to_thread(importlib.import_module, "aiohttp")
            self._session = self._session or self._open(aiohttp)
        samples = await asyncio.gather(*(self._read(name) for name in names))
        return {name: sample for name, sample in zip(names, samples, strict=True) if sample is not None}

    async def close(self) -> None:
        if self._session:
            await self._session.close()

    async def _read(self, name: str) -> Sample | None:
        appliance = self._appliances[name]
        url = f"http://{appliance.management_address}:{appliance.management_port}/cloudwatch"
        try:
            return await within(TIMEOUT, self._request(url))
        except Exception:  # whatever an answer makes the libraries raise: it is none
            return None

    async def _request(self, url: str) -> Sample:
        async with self._session.get(url, allow_redirects=False) as response:
            return parse(await response.json(content_type=None))

    def _open(self, aiohttp: Any) -> Any:
        def made(information: tuple[Any, ...]) -> socket.socket:
            return self._namespace.socket(*information[:2])

        connector = aiohttp.TCPConnector(force_close=True, limit=0, socket_factory=made)
        return aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())
