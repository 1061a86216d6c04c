"""A load balancer's process: HAProxy in a node's network namespace."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from pathlib import Path

from testbed.errors import Error
from testbed.load_balancer import (
    LoadBalancer,
    TargetHealth,
    configuration,
    first_alert,
    parse_statistics,
    reply_routing,
    socket_file,
    state_file,
)
from testbed.probes.child import Node, program
from testbed.service import Part, last_line

#: Seconds that HAProxy may take to listen, or to take a new configuration; emulated machines are slow.
PATIENCE = 30.0
#: Seconds that it may take to answer on its socket.
ANSWER = 5.0


class LoadBalancerError(Error):
    """HAProxy did not do what it was asked to. One line: which load balancer, and what it said."""


class HaproxyProcess(Part):
    """HAProxy as *balancer* on *node*; configuration, log and sockets are ``NAME.*`` in *directory*.

    A master process with one worker: a new configuration gets a new worker, which takes over the listening sockets, and
    the old one ends with its last connection.
    """

    def __init__(self, node: Node, balancer: LoadBalancer, directory: Path, time_scale: float = 1) -> None:
        self.name = balancer.name
        self.balancer = balancer
        self.log = directory / f"{balancer.name}.log"
        self._node = node
        self._directory = directory
        self._time_scale = time_scale
        self._configuration = directory / f"{balancer.name}.cfg"
        self._socket = socket_file(balancer, directory)
        self._master = directory / f"{balancer.name}.master.sock"
        self._state = state_file(balancer, directory)
        self.start()

    def start(self) -> None:
        """Start it; what an earlier one knew of its targets is forgotten. Raises MachineError where it is missing."""
        for file in (self._socket, self._master):
            file.unlink(missing_ok=True)
        self._state.write_text("1\n")  # the file's version; no targets yet
        self._write()
        self._route_replies()
        command = [program("haproxy"), "-W", "-S", f"{self._master},mode,600", "-f", str(self._configuration)]
        self._from = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("a") as log:
            self.process = self._node.popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def ready(self) -> bool:
        """Whether its listeners are open, and it can be loaded anew: a master that starts anew loses signals."""
        try:
            self.ask("show proc", master=True)
        except LoadBalancerError:
            return False
        return self._worker() is not None

    def wait_ready(self, timeout: float = PATIENCE) -> None:
        """Wait until its listeners are open. Raises LoadBalancerError when it ends before, or not in time."""
        deadline = time.monotonic() + timeout
        while not self.ready():
            if problem := self.problem():
                raise LoadBalancerError(problem)
            if time.monotonic() > deadline:
                raise LoadBalancerError(f"load balancer {self.name}: does not listen after {timeout:g} s")
            time.sleep(0.01)

    def targets(self) -> list[TargetHealth]:
        """Return how its targets are. Raises LoadBalancerError when it does not answer."""
        return parse_statistics(self.ask("show stat"))

    def reload(self, balancer: LoadBalancer, timeout: float = PATIENCE) -> None:
        """Become *balancer*, without losing a connection, and return when its listeners are open.

        Targets that stay keep their health. Raises LoadBalancerError when HAProxy refuses; it goes on as it was then.
        """
        self.wait_ready(timeout)
        before, known, logged = self._worker(), self.balancer, self.log.stat().st_size
        self._state.write_text(self.ask("show servers state"))
        self.balancer = balancer
        self._write()
        self._route_replies()
        self.process.send_signal(signal.SIGUSR2)
        deadline = time.monotonic() + timeout
        while self._worker() in (before, None):
            alert = first_alert(self._logged(logged))
            if alert or self.process.poll() is not None or time.monotonic() > deadline:
                self.balancer = known
                self._write()
                raise LoadBalancerError(
                    f"load balancer {self.name}: the new configuration is not in force: {alert or 'no answer'}"
                )
            time.sleep(0.01)

    def ask(self, command: str, master: bool = False) -> str:
        """Return the answer of the worker, or the *master*, to a command of HAProxy's "Management Guide".

        Raises LoadBalancerError without one.
        """
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(ANSWER)
                connection.connect(str(self._master if master else self._socket))
                connection.sendall(f"{command}\n".encode())
                connection.shutdown(socket.SHUT_WR)  # the master waits for more
                with connection.makefile() as answer:
                    return answer.read().strip() + "\n"
        except OSError as error:
            raise LoadBalancerError(
                f"load balancer {self.name}: no answer to {command!r}: {error.strerror or error}"
            ) from None

    def problem(self) -> str | None:
        """Return a line when the process is gone, with what it said first."""
        code = self.process.poll()
        if code is None:
            return None
        words = first_alert(self._logged(self._from)) or last_line(self.log)
        return f"load balancer {self.name} ended with {code}: {words}"

    def _worker(self) -> int | None:
        """Return the process id of the worker that answers, if one does."""
        try:
            lines = self.ask("show info").splitlines()
        except LoadBalancerError:
            return None
        return next((int(line.split(":")[1]) for line in lines if line.startswith("Pid:")), None)

    def _write(self) -> None:
        self._configuration.write_text(configuration(self.balancer, self._directory, self._time_scale))

    def _route_replies(self) -> None:
        """Have the node keep what targets answer to clients. Raises LoadBalancerError where the kernel cannot."""
        for command in reply_routing(self.balancer):
            ip = self._node.popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            said = ip.communicate()[1].decode().strip()
            if ip.returncode and "File exists" not in said:  # of a start before, or a configuration before
                raise LoadBalancerError(f"load balancer {self.name}: {' '.join(command)}: {said}")

    def _logged(self, offset: int) -> str:
        """Return what the log says from *offset* on."""
        with self.log.open(errors="replace") as log:
            log.seek(offset)
            return log.read()
