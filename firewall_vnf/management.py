"""The management port: ``/metrics`` for Prometheus, ``/cloudwatch`` as CloudWatch's PutMetricData takes them.

It serves what a thread of its own measures every interval; the data path takes no part in that.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from ipaddress import IPv4Address

from firewall_vnf.http_port import HttpPort
from firewall_vnf.metrics import Reading, cloudwatch, measure, prometheus


class ManagementError(Exception):
    """The port cannot be opened; one line."""


class ManagementPort:
    """Serves the metrics of *firewall* on *port* of *address*; 0 takes a free port, see ``port``.

    *read* is called now and every *interval* seconds, in another thread; *epoch* is the wall time at 0 of its clock.
    Rates are those of the last interval, 0 in the first. Raises :class:`ManagementError`.
    """

    def __init__(
        self,
        address: IPv4Address,
        port: int,
        firewall: str,
        read: Callable[[], Reading],
        interval: float,
        epoch: float,
    ) -> None:
        self._firewall, self._read, self._interval, self._epoch = firewall, read, interval, epoch
        reading = read()
        self._sample = reading.time, measure(reading, reading)
        try:
            self._http = HttpPort(str(address), port, "management", self._answer)
        except OSError as error:
            raise ManagementError(
                f"management port {address}:{port}: {error.strerror};"
                " set 'management_address' to one of this machine's and 'management_port' to a free port"
            ) from error
        self.port = self._http.port
        self._stopping = threading.Event()
        self._sampler = threading.Thread(target=self._run, args=(reading,), name="metrics", daemon=True)
        self._sampler.start()

    def close(self) -> None:
        self._http.close()
        self._stopping.set()
        self._sampler.join()

    def _run(self, before: Reading) -> None:
        while not self._stopping.wait(self._interval):
            after = self._read()
            self._sample = after.time, measure(before, after)
            before = after

    def _answer(self, path: str) -> tuple[int, str, str]:
        moment, values = self._sample
        if path == "/metrics":
            return 200, "text/plain; version=0.0.4; charset=utf-8", prometheus(self._firewall, values)
        if path == "/cloudwatch":
            document = cloudwatch(self._firewall, values, moment + self._epoch)
            return 200, "application/json", json.dumps(document) + "\n"
        return 404, "text/plain", "not found; there are /metrics and /cloudwatch\n"
