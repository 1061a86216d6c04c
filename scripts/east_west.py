"""East-west: web1 in spoke 1 talks to app2 in spoke 2, and one firewall sees both directions."""

from testbed.proofs import followed_the_model, inspected_on_the_models_path, one_firewall_saw_both_directions
from testbed.run import Run
from testbed.scenario import main


def story(run: Run, seconds: int = 3, streams: int = 8) -> None:
    with run.lab("gwlb") as lab:
        web1, app2 = lab.host("web1"), lab.host("app2")

        # A few pings, watched all along their way: over the Transit Gateway to the security VPC, and on to spoke 2.
        with run.observe(web1, app2) as trip:
            echo = run.ping(web1, app2)
        run.check("every ping was answered", echo.loss == 0, f"{echo.received} of {echo.sent}")
        run.prove(*inspected_on_the_models_path(trip))

        # Nobody translates addresses between spokes.
        with run.observe(web1, app2) as trip:
            page = run.http(web1, app2)
        run.check("app2 saw web1's own address", page.peer == web1.address, f"it saw {page.peer}")
        run.prove(followed_the_model(trip), one_firewall_saw_both_directions(trip))

        # How fast?
        one = run.iperf3(web1, app2, seconds=seconds)
        many = run.iperf3(web1, app2, seconds=seconds, streams=streams)
        run.iperf3(web1, app2, seconds=seconds, udp_rate=50e6)
        lost = max(one.retransmission_ratio, many.retransmission_ratio)
        run.check("TCP ran clean", lost < 0.01, f"{lost:.2%} of segments sent again")
        run.connections(web1, app2, seconds=seconds)


if __name__ == "__main__":
    main(__file__)
