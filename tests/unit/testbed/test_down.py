"""``bumpwire down`` ends the lab that runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from testbed import journal, lab

#: Holds the lock, says who it is, and ends at the second SIGTERM.
DEAF = """
import fcntl, json, pathlib, os, signal, sys
directory = pathlib.Path(sys.argv[1])
file = (directory / "lock").open("w")
fcntl.flock(file, fcntl.LOCK_EX)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
record = {"token": "", "pid": os.getpid(), "topology": "gwlb", "datapath": "netdev"}
(directory / "lab.json").write_text(json.dumps(record))
print("ready", flush=True)
signal.sigwait([signal.SIGTERM])
signal.sigwait([signal.SIGTERM])
(directory / "lab.json").unlink()
"""


def test_a_lab_that_has_not_heard_it_is_told_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "RUN_DIRECTORY", tmp_path)
    monkeypatch.setattr(lab, "TELL_AGAIN", 0.1)
    monkeypatch.setattr(lab.bridges, "running", lambda: False)
    with subprocess.Popen([sys.executable, "-c", DEAF, str(tmp_path)], stdout=subprocess.PIPE) as deaf:
        assert deaf.stdout
        deaf.stdout.readline()
        assert lab.end_running_lab() == "nothing is left"
        assert deaf.wait(60) == 0
