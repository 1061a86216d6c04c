"""``bumpwire sessions``"""

from __future__ import annotations

from typing import Any

import typer


def command(
    firewall: str = typer.Argument("", help="A firewall's name; all of them when it is left out"),
    number: int = typer.Option(0, "--id", help="Show one session in full, as `show session id` does"),
    counters: bool = typer.Option(False, "--counters", help="Show the global counters instead of the sessions"),
    as_json: bool = typer.Option(False, "--json", help="Print JSON"),
) -> None:
    """Show the sessions of the running lab's firewalls, in the form of PAN-OS's `show session all`."""
    import json

    from firewall_vnf.control import Control, ControlError, format_session, format_sessions
    from testbed.errors import MachineError, RequestError
    from testbed.journal import read_journal

    journal = read_journal()
    if journal is None:
        raise MachineError("no lab is running: start one with `bumpwire up`")
    controls = {path.stem: Control(path) for path in sorted(journal.directory.glob("*.sock"))}
    if firewall and firewall not in controls:
        raise RequestError(f"{firewall} is no firewall of the running lab: it has {', '.join(controls)}")
    if number and not firewall:
        raise RequestError("--id needs the name of the firewall: bumpwire sessions fw1 --id 7")
    answers: dict[str, Any] = {}
    texts: dict[str, str] = {}
    for name in [firewall] if firewall else controls:
        try:
            if counters:
                answers[name] = controls[name].counters()
                texts[name] = format_counters(answers[name])
            elif number:
                answers[name] = controls[name].session(number)
                texts[name] = format_session(answers[name])
            else:
                answers[name] = controls[name].sessions()
                texts[name] = format_sessions(answers[name])
        except ControlError as error:
            if firewall:
                raise MachineError(f"{name}: {error}") from None
            texts[name] = str(error)  # firewalls come and go; the others have something to show
    if as_json:
        print(json.dumps(answers, indent=1))
    else:
        print("\n\n".join(f"{name}\n{text}" for name, text in texts.items()))


def format_counters(counters: dict[str, int]) -> str:
    width = max(map(len, counters), default=0)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in counters.items() if value)
