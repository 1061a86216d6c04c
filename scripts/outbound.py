"""Outbound: app1, which has no public address, reaches the internet through a firewall and a NAT gateway."""

from testbed.proofs import followed_the_model, inspected_on_the_models_path, one_firewall_saw_both_directions
from testbed.run import Run
from testbed.scenario import main


def story(run: Run, seconds: int = 3) -> None:
    with run.lab("gwlb") as lab:
        app1, server = lab.host("app1"), lab.host("server")
        nat_gateways = lab.topology.vpcs["security"].nat_gateways.values()
        public = {nat.public_address for nat in nat_gateways}

        # A few pings, watched all along their way: TGW, firewall, NAT gateway, internet gateway.
        with run.observe(app1, server) as trip:
            echo = run.ping(app1, server)
        run.check("every ping was answered", echo.loss == 0, f"{echo.received} of {echo.sent}")
        run.prove(*inspected_on_the_models_path(trip))

        # The NAT gateway comes after the firewall: the firewall knows who it was, the server does not.
        with run.observe(app1, server) as trip:
            page = run.http(app1, server)
        run.check("the server saw a NAT gateway's public address", page.peer in public, f"it saw {page.peer}")
        inside = [session for session in trip.sessions if session.source == app1.address]
        run.check("the firewall saw app1's private address", bool(inside), f"{len(inside)} session from {app1.address}")
        run.prove(followed_the_model(trip), one_firewall_saw_both_directions(trip))

        test = run.iperf3(app1, server, seconds=seconds)
        lost = test.retransmission_ratio
        run.check("TCP ran clean", lost < 0.01, f"{lost:.2%} of segments sent again")


if __name__ == "__main__":
    main(__file__)
