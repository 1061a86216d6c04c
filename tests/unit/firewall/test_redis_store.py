"""The Redis backend: against a server of its own, and against none."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from firewall_vnf.redis_store import RedisBackend
from firewall_vnf.session_store import Change, Sharing, StoreError
from tests.unit.firewall.traffic import Bench, Connection

pytestmark = pytest.mark.skipif(not shutil.which("redis-server"), reason="there is no redis-server")


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """A Redis server on loopback that keeps nothing on disk."""

    def __init__(self, directory: Path) -> None:
        self.port = free_port()
        self.client = redis.Redis(port=self.port)
        self._directory = directory
        self.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def start(self) -> None:
        options = f"--bind 127.0.0.1 --port {self.port} --save --appendonly no --dir {self._directory}"
        self.process = subprocess.Popen(["redis-server", *options.split()], stdout=subprocess.DEVNULL)
        wait_for(self._answers)

    def end(self) -> None:
        self.process.terminate()
        self.process.wait()

    def _answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except redis.ConnectionError:
            return False


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    yield server
    server.end()


@pytest.fixture
def backend(server: Server) -> Iterator[RedisBackend]:
    backend = RedisBackend(server.url)
    yield backend
    backend.close()


def test_records_are_written_read_and_removed(server: Server, backend: RedisBackend) -> None:
    assert backend.get("a") is None
    backend.put([Change("a", "one", 100), Change("b", "two", 100), Change("a", "three", 200)])
    wait_for(lambda: backend.get("a") == b"three")
    assert backend.get("b") == b"two"
    assert 190 <= int(server.client.ttl("a")) <= 200
    backend.put([Change("a", None, 0)])
    wait_for(lambda: backend.get("a") is None)
    assert (backend.error, backend.lost, backend.name) == (None, 0, f"127.0.0.1:{server.port}")


def test_closing_writes_what_waits(server: Server) -> None:
    backend = RedisBackend(server.url)
    for number in range(200):
        backend.put([Change(f"key {number}", "record", 100)])
    backend.close()
    assert server.client.dbsize() == 200


def test_two_firewalls_share(server: Server) -> None:
    benches = Bench(), Bench()
    backends = RedisBackend(server.url), RedisBackend(server.url)
    for bench, backend in zip(benches, backends, strict=True):
        bench.sharing = bench.engine._store = Sharing(backend, bench.engine._log, 1.7e9)
    connection = Connection(benches[0]).ssh()
    benches[0].turn()
    wait_for(lambda: server.client.dbsize() == 1)
    connection.bench = benches[1]
    assert connection.client(b"data")
    assert benches[1].session.application == "ssh"
    benches[1].turn()
    assert connection.server(b"data")
    for backend in backends:
        backend.close()


def test_a_server_that_is_gone_and_comes_back(server: Server, backend: RedisBackend) -> None:
    assert backend.get("a") is None
    server.end()
    with pytest.raises(StoreError, match=rf"127\.0\.0\.1:{server.port}|[Cc]onnection"):
        backend.get("a")
    assert backend.error
    assert "\n" not in backend.error
    backend.put([Change("a", "one", 100)])
    wait_for(lambda: backend.lost == 1)
    server.start()
    assert backend.get("a") is None
    assert backend.error is None
    backend.put([Change("a", "two", 100)])
    wait_for(lambda: backend.get("a") == b"two")


def test_a_server_that_accepts_and_says_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        backend = RedisBackend(f"redis://127.0.0.1:{silent.getsockname()[1]}", capacity=2)
        with pytest.raises(StoreError, match=r"[Tt]imeout"):
            backend.get("a")
        for _ in range(20):  # the first keeps the writer waiting, the next two wait for it
            backend.put([Change("a", "one", 100)])
        assert backend.lost >= 17
    backend.close()
