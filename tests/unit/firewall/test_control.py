"""The control socket: a client in a thread against the server in the loop's manner, and the text forms."""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from firewall_vnf.control import Control, ControlError, format_session, format_sessions
from firewall_vnf.control_server import ControlServer
from firewall_vnf.counters import format_counters
from tests.unit.firewall.traffic import Bench, Connection, icmp


class Served:
    """A bench whose engine a thread serves on ``path``, as the data path's loop does."""

    def __init__(self, path: Path) -> None:
        self.bench, self.path = Bench(), path
        self.reload_error = ""
        self.longest_turn = 0
        info = {"name": "fw1"}
        engine = self.bench.engine
        self.server = ControlServer(path, engine, 0.0, lambda: engine.counters, self._reload, info)
        self.running = True
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _reload(self, now: float) -> None:
        if self.reload_error:
            raise ValueError(self.reload_error)

    def _run(self) -> None:
        poll = select.poll()
        self.server.register(poll)
        while self.running:
            self.server.serve([descriptor for descriptor, _ in poll.poll(20)], self.bench.now)

    def stop(self) -> None:
        self.running = False
        self.thread.join()
        self.server.close()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    served = Served(tmp_path / "fw1.sock")
    yield served
    served.stop()


def test_sessions_with_filters(served: Served) -> None:
    Connection(served.bench).ssh()
    served.bench.send(icmp(8))
    control = Control(served.path)
    assert {session["application"] for session in control.sessions()} == {"ssh", "ping"}
    [session] = control.sessions(application="ssh", source="10.1.0.1", destination_port=22, state="active")
    assert session["zone"] == "transit"
    assert session["endpoint"] == "vpce-00123456789abcdef"
    assert control.sessions(application="dns") == []
    assert len(control.sessions(limit=1)) == 1
    assert control.session(session["id"]) == session
    with pytest.raises(ControlError, match="session 99: there is none, or it has ended; look into the traffic log"):
        control.session(99)


def test_a_full_table_comes_in_one_piece(served: Served) -> None:
    for number in range(1, 3000):
        served.bench.send(icmp(8, number))
    sessions = Control(served.path).sessions()
    assert {session["source_port"] for session in sessions} == set(range(1, 3000))


def test_clear_info_counters_reload(served: Served) -> None:
    Connection(served.bench).ssh()
    control = Control(served.path)
    assert control.info() == {"name": "fw1", "sessions": 1, "capacity": 250_000}
    assert control.counters()["session_installed"] == 1
    assert control.clear(application="ping") == 0
    assert control.clear(application="ssh") == 1
    assert control.sessions() == []
    control.reload()
    served.reload_error = "policy.yaml: wrong"
    with pytest.raises(ControlError, match=r"^policy.yaml: wrong$"):
        control.reload()


@pytest.mark.parametrize(
    ("request_line", "message"),
    [
        (b"hello\n", "Expecting value"),
        (b"[1]\n", "a request is a JSON object"),
        (b'{"command": "dance"}\n', "unknown command 'dance'; known are info, counters, sessions, clear, reload"),
        (b'{"command": "sessions", "sauce": 1}\n', "unknown filter 'sauce'; known are id, application, state"),
        (b"[" * 60000 + b"\n", "recursion"),
    ],
)
def test_wrong_requests_get_an_error_and_the_next_one_an_answer(
    served: Served, request_line: bytes, message: str
) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(5)
        client.connect(os.fspath(served.path))
        client.sendall(request_line + b'{"command": "info"}\n')
        with client.makefile("rb") as answers:
            assert message in json.loads(answers.readline())["error"]
            assert json.loads(answers.readline())["name"] == "fw1"


def test_clients_that_leave_or_babble_do_no_harm(served: Served) -> None:
    for number in range(1, 2000):
        served.bench.send(icmp(8, number))
    for request in (b'{"command": "sessions"}\n', b"", b"x" * 200_000):
        with socket.socket(socket.AF_UNIX) as client, contextlib.suppress(BrokenPipeError, ConnectionResetError):
            client.settimeout(5)
            client.connect(os.fspath(served.path))
            client.sendall(request)
    assert Control(served.path).answers()


def test_socket_of_a_dead_firewall_is_taken_over_but_not_that_of_a_living_one(served: Served, tmp_path: Path) -> None:
    with pytest.raises(ControlError, match="a firewall answers there already; stop it"):
        Served(served.path)
    stale = tmp_path / "stale.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(os.fspath(stale))
    Served(stale).stop()
    assert not stale.exists()


def test_nobody_answers(tmp_path: Path) -> None:
    control = Control(tmp_path / "none.sock")
    assert not control.answers()
    with pytest.raises(ControlError, match=r"none.sock: no firewall answers \(.*\); is it running\?"):
        control.info()


SESSION = {
    "id": 34, "application": "ssh", "state": "ACTIVE", "source": "10.200.0.20", "source_port": 40000,
    "destination": "10.250.0.52", "destination_port": 22, "protocol": "tcp", "zone": "transit",
    "endpoint": "vpce-00123456789abcdef", "rule": "management", "start_time": 0.0, "timeout": 3600,
    "time_to_live": 3599, "packets_sent": 4, "packets_received": 2, "bytes_sent": 240, "bytes_received": 120,
    "logged_at_end": True, "offloaded": False, "layer7": False, "detail": "", "end_reason": "unknown",
}  # fmt: skip


def test_show_session_all() -> None:
    assert format_sessions([SESSION]).splitlines()[1:] == [
        "ID          Application       State    Type  Flag  Src[Sport]/Zone/Proto (translated IP[Port])",
        "Vsys                                               Dst[Dport]/Zone (translated IP[Port])",
        "-" * 100,
        "34          ssh               ACTIVE   FLOW        10.200.0.20[40000]/transit/6  (10.200.0.20[40000])",
        "vsys1                                              10.250.0.52[22]/transit  (10.250.0.52[22])",
    ]
    assert (
        format_sessions([SESSION | {"offloaded": True}])
        .splitlines()[4]
        .startswith("34          ssh               ACTIVE   FLOW  O     10.200.0.20[40000]/transit/6")
    )


def test_show_session_id() -> None:
    lines = format_session(SESSION).splitlines()
    assert lines[0] == "Session              34"
    assert lines[2:7] == [
        "        c2s flow:",
        "                source:      10.200.0.20 [transit]",
        "                dst:         10.250.0.52",
        "                proto:       6",
        "                sport:       40000           dport:      22",
    ]
    assert "        total byte count(c2s)                : 240" in lines
    assert "        ingress interface                    : vpce-00123456789abcdef" in lines


def test_show_counter_global() -> None:
    text = format_counters({"pkt_recv": 5, "flow_land": 0, "flow_policy_deny": 2})
    assert "pkt_recv                                   5  Frames that came to the engine" in text
    assert "flow_land" not in text
    assert text.endswith("Total counters shown: 2")
