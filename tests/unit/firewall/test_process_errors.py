"""What the process says, in one line, when it cannot start; and with which exit code."""

from __future__ import annotations

from pathlib import Path

import pytest

from firewall_vnf.__main__ import main

CONFIG = "{name: fw1, interface: nope0, policy: policy.yaml, log_directory: logs, control: fw1.sock%s}"
POLICY = "rules: [{name: a, action: allow}]"


@pytest.mark.parametrize(
    ("config", "policy", "code", "message"),
    [
        (CONFIG % ", colour: blue", POLICY, 2, "fw1.yaml: colour: unknown setting; known are address, bypass, "),
        (CONFIG % "", "rules: [{name: a, action: alow}]", 2, "unknown action 'alow'; did you mean 'allow'?"),
        (CONFIG % ", inspections: [words]", POLICY, 2, "inspection 'words': write it as module:Class"),
        # Without root it is the raw socket, with root the interface that is not there.
        (CONFIG % "", POLICY, 3, ("run as root", "interface nope0: no such interface; name one of ")),
    ],
)
def test_errors(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    config: str,
    policy: str,
    code: int,
    message: str | tuple[str, str],
) -> None:
    (tmp_path / "fw1.yaml").write_text(config)
    (tmp_path / "policy.yaml").write_text(policy)
    with pytest.raises(SystemExit) as exit_:
        main(["--config", str(tmp_path / "fw1.yaml")])
    assert exit_.value.code == code
    said = capsys.readouterr().err
    assert said.startswith("firewall_vnf: ")
    assert said.count("\n") == 1
    assert any(text in said for text in ((message,) if isinstance(message, str) else message))
    assert not (tmp_path / "logs").exists()


def test_turnaround_needs_an_interface(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["--turnaround"])
    assert exit_.value.code == 2
    assert "--turnaround needs --interface NAME" in capsys.readouterr().err
