"""What firewalls say of themselves."""

from __future__ import annotations

import asyncio
import json
from ipaddress import IPv4Address

import pytest

from controllers.management.configuration import ApplianceConfiguration
from controllers.management.namespace import Namespace
from controllers.management.telemetry import Sample, Telemetry, parse
from firewall_vnf import metrics

ADDRESS = "127.0.0.4"
VALUES = {metric.name: float(number) for number, metric in enumerate(metrics.METRICS)}


def test_what_a_firewall_publishes_is_understood() -> None:
    document = json.loads(json.dumps(metrics.cloudwatch("fw1", VALUES, 1_700_000_000.25)))
    assert parse(document) == Sample(1_700_000_000.25, VALUES)


def test_a_value_that_is_no_number_is_left_out() -> None:
    document = metrics.cloudwatch("fw1", {**VALUES, "panSessionActive": float("nan")}, 1.0)
    assert "panSessionActive" not in parse(document).values
    assert len(parse(document).values) == len(VALUES) - 1


@pytest.mark.parametrize(
    "answer",
    [b"", b"{", b"[]", b'{"MetricData": []}', b'{"MetricData": [{"MetricName": "a", "Value": "x", "Timestamp": 3}]}'],
)
def test_only_those_count_that_answer(answer: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        body = json.dumps(metrics.cloudwatch("good", VALUES, 5.0)).encode() if b"127.0.0.4" in request else answer
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        await writer.drain()
        writer.close()

    async def run() -> dict[str, Sample]:
        servers = [await asyncio.start_server(serve, address, 0) for address in (ADDRESS, "127.0.0.5")]
        (good, port), (bad, other) = (server.sockets[0].getsockname() for server in servers)
        appliances = {
            name: ApplianceConfiguration(management_address=IPv4Address(address), management_port=used)
            for name, address, used in (("good", good, port), ("bad", bad, other), ("dead", ADDRESS, 1))
        }
        telemetry = Telemetry(Namespace(), appliances)
        try:
            return await telemetry.read(["good", "bad", "dead", "unknown"])
        finally:
            await telemetry.close()
            for server in servers:
                server.close()

    assert asyncio.run(run()) == {"good": Sample(5.0, VALUES)}
