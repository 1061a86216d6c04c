"""``bumpwire set``"""

from __future__ import annotations

import typer

from testbed.errors import RequestError


def command(
    resource: str = typer.Argument(help="A load balancer, an attachment, or an auto scaling group (gwlb-asg)"),
    assignments: list[str] = typer.Argument(
        None, metavar="ATTRIBUTE=VALUE …", help="By AWS's names; all are changed or none. Left out: they are listed"
    ),
    as_json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """Change attributes of a resource of the running lab, for example tcp.idle_timeout.seconds=60; or list them."""
    import json

    from testbed.running import management, refusals

    values = dict(map(parse, assignments or []))
    client = management()
    with refusals():
        attributes = client.set_attributes(resource, values) if values else client.attributes(resource)
    # Asked for by one name, an attribute may be listed by another: then the whole list says what holds.
    shown = {name: attributes[name] for name in values} if values.keys() <= attributes.keys() and values else attributes
    if as_json:
        print(json.dumps(shown, indent=1))
        return
    width = max(map(len, shown), default=0)
    for name, value in shown.items():
        print(f"{name:<{width}}  {value}")


def parse(assignment: str) -> tuple[str, str]:
    """Return the name and the value. Raises RequestError."""
    name, equals, value = assignment.partition("=")
    if not (name and equals):
        raise RequestError(f"{assignment!r} is no ATTRIBUTE=VALUE, such as tcp.idle_timeout.seconds=60")
    return name, value
