"""Policy: between the web and the application group, ICMP is blocked and SSH is allowed, as the firewall's log shows.

The case of VMware NSX with a VM-Series firewall: two dynamic address groups, DAG-WEB and DAG-APP, and two rules.
"""

from typing import Any

from testbed.proofs import one_firewall_saw_both_directions, stopped_at_the_firewall
from testbed.run import Run
from testbed.scenario import main


def story(run: Run) -> None:
    with run.lab("gwlb", policy="seed") as lab:
        web1, app2 = lab.host("web1"), lab.host("app2")

        # web1 may not ping app2 …
        with run.observe(web1, app2) as trip:
            echo = run.ping(web1, app2)
        run.check("no ping was answered", echo.received == 0, f"{echo.received} of {echo.sent}")
        run.prove(stopped_at_the_firewall(trip))
        table = [session for session in trip.sessions if session.rule == "block-icmp"]
        run.check("the session table holds the refusal", bool(table), "; ".join(map(str, table)))
        line = run.logged(rule="block-icmp", src=web1.address, dst=app2.address)
        run.check("the log tells of the refusal", line.get("action") == "drop", describe(line))

        # … but may log in, which takes a real sshd.
        with run.observe(web1, app2) as trip:
            login = run.ssh(web1, app2)
        run.check("app2 saw web1's own address", login.peer == web1.address, f"it saw {login.peer}")
        table = [session for session in trip.sessions if session.application == "ssh"]
        run.check("the session table holds the login", bool(table), "; ".join(map(str, table)))
        run.prove(one_firewall_saw_both_directions(trip))

        # A session is logged when it ends: clear it, as an operator would, instead of waiting for TCP's time-wait.
        for session in table:
            lab.firewalls[session.firewall].control.clear(id=session.id)
        line = run.logged(rule="allow-ssh", subtype="end", src=web1.address, dst=app2.address)
        run.check("the log tells of the login", line.get("app") == "ssh", describe(line))


def describe(line: dict[str, Any]) -> str:
    return (
        " ".join(f"{key}={line[key]}" for key in ("subtype", "app", "rule", "action") if key in line) or "no such line"
    )


if __name__ == "__main__":
    main(__file__)
