"""Sockets in another network namespace."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from controllers.management.namespace import Namespace, NamespaceError


@pytest.fixture
def namespace() -> Iterator[str]:
    """The file of a network namespace whose loopback interface is down."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to make a network namespace")
    process = subprocess.Popen(["unshare", "--net", "sleep", "60"])
    file = f"/proc/{process.pid}/ns/net"
    deadline = time.monotonic() + 10
    while os.readlink(file) == os.readlink("/proc/self/ns/net"):
        assert time.monotonic() < deadline, "unshare did not make a namespace"
        time.sleep(0.01)
    yield file
    process.kill()
    process.wait()


def test_a_socket_is_in_the_other_namespace_and_the_thread_in_its_own(namespace: str) -> None:
    before = os.readlink("/proc/thread-self/ns/net")
    there = Namespace(namespace)
    with socket.create_server(("127.0.0.1", 0)) as server, there.socket() as made:
        assert os.readlink("/proc/thread-self/ns/net") == before
        assert made.connect_ex(server.getsockname()) == errno.ENETUNREACH
        with Namespace().socket() as own:
            assert own.connect_ex(server.getsockname()) in (0, errno.EINPROGRESS)
    there.close()


def test_a_socket_is_bound_to_the_address(namespace: str) -> None:
    with Namespace().socket(address="127.0.0.9") as made:
        assert made.getsockname()[0] == "127.0.0.9"
        assert not made.getblocking()
    with pytest.raises(OSError, match="Cannot assign requested address"):
        Namespace().socket(address="203.0.113.200")


def test_a_namespace_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(NamespaceError, match=r"^network namespace /proc/0/ns/net: No such file or directory$"):
        Namespace("/proc/0/ns/net")
    (tmp_path / "file").touch()
    with pytest.raises(NamespaceError, match=f"^cannot enter network namespace {tmp_path}/file: .*; run it as root$"):
        Namespace(str(tmp_path / "file")).socket()
    assert os.readlink("/proc/thread-self/ns/net") == os.readlink("/proc/self/ns/net")
