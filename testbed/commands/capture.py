"""``bumpwire capture``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer


def command(
    link: Annotated[str, typer.Argument(help="A node (web1, fw1) or a firewall's GENEVE side (gwlb-fw1)")],
    count: Annotated[int, typer.Option(min=1, help="Packets after which it ends.")] = 1000,
    seconds: Annotated[int, typer.Option(min=1, help="Seconds after which it ends.")] = 60,
    write: Annotated[Optional[Path], typer.Option(help="The file; LINK.pcapng if not given.")] = None,  # noqa: UP045
    filter: Annotated[str, typer.Option(help="pcap-filter(7), for example 'udp port 6081'.")] = "",
) -> None:
    """Write the packets of a link of the running lab to a pcapng file, which Wireshark opens. Ctrl-C ends it."""
    from testbed.capture import capture, running_link

    found = running_link(link)
    file = write or Path(f"{found.name}.pcapng")
    typer.echo(f"capturing on {found.name}: {count} packets or {seconds} s, Ctrl-C ends it")
    captured = capture(found, file, count, seconds, filter)
    lost = f", {captured.dropped} more came too fast" if captured.dropped else ""
    typer.echo(f"{captured.packets} packets{lost} in {file}: open it with `wireshark {file}`")
