"""SSH between two nodes: a real ``sshd`` with keys of its own, and a login with the key.

Nothing of the machine's own SSH is used: keys, configuration and the list of known hosts live in a directory that is
gone afterwards.
"""

from __future__ import annotations

import getpass
import os
import subprocess
import tempfile
import time
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

from testbed.probes.child import Child, Node, ProbeError, program

PORT = 22
TIMEOUT = 10.0


@dataclass(frozen=True)
class Login:
    """A login that ran a command: ``seconds`` it took in all, and the client's address as the server saw it."""

    seconds: float
    peer: IPv4Address


def login(
    client: Node,
    server: Node,
    address: IPv4Address | None = None,
    *,
    port: int = PORT,
    timeout: float = TIMEOUT,
    hold: float = 0,
) -> Login:
    """Start an sshd on *server*, log in with a key and run a command there, which takes *hold* seconds.

    Raises ProbeError when there is no login within *timeout* seconds.
    """
    address = address or server.address
    title = f"ssh {client.name} → {server.name} ({address})"
    with tempfile.TemporaryDirectory(prefix="bumpwire-ssh-") as name:
        directory = Path(name)
        (directory / "sshd_config").write_text(server_configuration(directory, port))
        make_keys(directory)
        with Child(server, f"{title}, server", server_command(directory / "sshd_config")) as listener:
            listener.wait_listening(port)
            start = time.monotonic()
            command = f'echo "$SSH_CONNECTION"; sleep {hold:g}'
            with Child(client, title, client_command(directory, address, port, timeout, command)) as child:
                code = child.wait(timeout + hold + 20)
                if code:
                    raise child.failure(code)
                return Login(time.monotonic() - start, parse_peer(child.output, title))


def parse_peer(connection: str, title: str = "ssh") -> IPv4Address:
    """Return the client's address in ``$SSH_CONNECTION``. Raises ProbeError when it is none."""
    try:
        return IPv4Address(connection.split()[0])
    except (IndexError, ValueError):
        raise ProbeError(f"{title}: no address in {connection.strip()!r}") from None


def server_configuration(directory: Path, port: int) -> str:
    """Return the configuration of an sshd that takes the key in *directory* and nothing else."""
    settings = {
        "Port": port,
        "AddressFamily": "inet",
        "HostKey": directory / "host_key",
        "AuthorizedKeysFile": directory / "user_key.pub",
        "AuthenticationMethods": "publickey",
        "PermitRootLogin": "prohibit-password",
        "StrictModes": "no",  # the directory is the invoking user's, as it should be, but below /tmp
        "UsePAM": "yes" if is_locked(getpass.getuser()) else "no",  # without PAM, sshd refuses a locked account
        "UseDNS": "no",
        "PidFile": "none",
    }
    return "".join(f"{key} {value}\n" for key, value in settings.items())


def client_command(directory: Path, address: IPv4Address, port: int, timeout: float, command: str) -> list[str]:
    """Return the command line of a client that asks nothing and trusts only the server's key."""
    options = {
        "BatchMode": "yes",
        "ConnectTimeout": f"{timeout:.0f}",
        "HostKeyAlias": "bumpwire",
        "IdentitiesOnly": "yes",
        "LogLevel": "ERROR",
        "StrictHostKeyChecking": "yes",
        "UserKnownHostsFile": directory / "known_hosts",
    }
    flags = [word for key, value in options.items() for word in ("-o", f"{key}={value}")]
    target = f"{getpass.getuser()}@{address}"
    return [program("ssh"), "-F", "none", "-i", str(directory / "user_key"), *flags, "-p", str(port), target, command]


def make_keys(directory: Path) -> None:
    """Make a host key, a user's key and the list of known hosts."""
    for key in ("host_key", "user_key"):
        command = [program("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-C", "bumpwire", "-f", str(directory / key)]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL, capture_output=True)
    host_key = (directory / "host_key.pub").read_text()
    (directory / "known_hosts").write_text(f"bumpwire {host_key}")


def server_command(configuration: Path) -> list[str]:
    """Return the command line of an sshd in the foreground.

    Root's sshd wants the directory /run/sshd, which the package's service makes where it runs. Here it is in a /run
    that only this process sees, so that the machine's own stays as it is.
    """
    sshd = [program("sshd"), "-D", "-e", "-f", str(configuration)]
    if os.geteuid() != 0:
        return sshd
    private = 'mount -t tmpfs tmpfs /run && mkdir /run/sshd && exec "$@"'
    return [program("unshare"), "--mount", "sh", "-c", private, "sh", *sshd]


def is_locked(user: str) -> bool:
    """Whether the account has no password that could match, by ``!``; False where that is not ours to read."""
    try:
        rows = [line.split(":") for line in Path("/etc/shadow").read_text().splitlines()]
    except OSError:
        return False
    return any(row[0] == user and row[1].startswith("!") for row in rows)
