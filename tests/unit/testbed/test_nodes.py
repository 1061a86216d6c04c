"""How nodes are configured: a node's shell reads from a terminal, which cuts long lines."""

from __future__ import annotations

import pytest

from testbed import nodes
from testbed.nodes import LINE, command_lines, configure, steer


def test_few_commands_are_one_line() -> None:
    assert command_lines(["true", "ip link set lo up"]) == ["true && ip link set lo up"]
    assert command_lines([]) == []


def test_many_commands_are_lines_that_a_terminal_takes() -> None:
    commands = [f"ip link set interface-{number} up" for number in range(1000)]
    lines = command_lines(commands)
    assert [command for line in lines for command in line.split(" && ")] == commands
    assert max(len(line) for line in lines) < LINE + len(" && ")
    assert len(lines) == -(-len(" && ".join(commands)) // LINE)


class Shell:
    """A node's shell that says *answer* to one of its lines."""

    def __init__(self, name: str, answer: str = "") -> None:
        self.name = name
        self.answer = answer
        self.lines: list[str] = []

    def sendCmd(self, line: str) -> None:  # Mininet's spelling
        self.lines.append(line)

    def waitOutput(self) -> str:
        return self.answer if "wrong" in self.lines[-1] else ""


def test_every_line_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes, "LINE", 10)
    one, other, idle = Shell("one"), Shell("other"), Shell("idle")
    configure([(one, ["first one", "second one"]), (other, ["only one"]), (idle, [])])
    assert (one.lines, other.lines, idle.lines) == (["first one", "second one"], ["only one"], [])


def test_what_a_node_prints_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes, "LINE", 10)
    with pytest.raises(RuntimeError, match=r"^web1: no such thing$"):
        configure([(Shell("web1", "no such thing\n"), ["right way", "wrong way"])])


@pytest.mark.parametrize(
    ("processors", "mask"), [(1, "1"), (2, "3"), (32, "ffffffff"), (40, "ff,ffffffff"), (64, "ffffffff,ffffffff")]
)
def test_any_processor_may_receive(processors: int, mask: str) -> None:
    """Words of 32 bits: what the kernel takes (lib/bitmap-str.c)."""
    assert f"; then echo {mask} > /sys/class/net/fw1/queues/rx-0/rps_cpus;" in steer("fw1", processors)
