"""The health port: alive, stuck, unknown path, port in use."""

from __future__ import annotations

import socket
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from firewall_vnf.health import HealthError, HealthPort

AGE = [0.0]


@pytest.fixture
def health() -> Iterator[HealthPort]:
    health = HealthPort(0, lambda: AGE[0], limit=2.0)
    yield health
    health.close()


def get(health: HealthPort, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{health.port}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_alive_then_stuck_then_alive(health: HealthPort) -> None:
    AGE[0] = 0.1
    assert get(health, "/") == get(health, "/healthz") == (200, "healthy\n")
    AGE[0] = 2.5
    assert get(health, "/") == (503, "unhealthy: data path stuck for 2.5 s\n")
    AGE[0] = 0.1
    assert get(health, "/")[0] == 200
    assert get(health, "/admin")[0] == 404


def test_a_silent_client_does_not_block_the_next_probe(health: HealthPort) -> None:
    AGE[0] = 0.1
    with socket.create_connection(("127.0.0.1", health.port)):
        assert get(health, "/")[0] == 200


def test_port_in_use(health: HealthPort) -> None:
    with pytest.raises(HealthError) as error:
        HealthPort(health.port, lambda: 0.0, limit=1.0)
    message = f"health port {health.port}: Address already in use; stop what uses it or set 'health_port'"
    assert str(error.value) == message
