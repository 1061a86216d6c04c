"""Inbound: a client on the internet visits web1 by its public address, and a firewall sees who it is."""

from testbed.proofs import followed_the_model, inspected_on_the_models_path, one_firewall_saw_both_directions
from testbed.run import Run
from testbed.scenario import main


def story(run: Run, seconds: int = 3) -> None:
    with run.lab("gwlb") as lab:
        client, web1 = lab.host("client"), lab.host("web1")

        # The internet gateway's edge table sends the packet to GWLBE1 before it reaches web1's subnet.
        with run.observe(client, web1) as trip:
            echo = run.ping(client, web1)
        run.check("every ping was answered", echo.loss == 0, f"{echo.received} of {echo.sent}")
        run.prove(*inspected_on_the_models_path(trip))

        # No load balancer sandwich, no source NAT: the web server's log names the real client.
        with run.observe(client, web1) as trip:
            page = run.http(client, web1)
        run.check("web1 saw the client's own address", page.peer == client.address, f"it saw {page.peer}")
        run.prove(followed_the_model(trip), one_firewall_saw_both_directions(trip))

        test = run.iperf3(client, web1, seconds=seconds)
        lost = test.retransmission_ratio
        run.check("TCP ran clean", lost < 0.01, f"{lost:.2%} of segments sent again")


if __name__ == "__main__":
    main(__file__)
