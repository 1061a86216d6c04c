"""The tour: inbound, outbound and east-west traffic through the firewalls of one lab, then a policy that refuses."""

from scripts import east_west, inbound, outbound, policy
from testbed.run import Run
from testbed.scenario import main


def story(run: Run, seconds: int = 3, streams: int = 8) -> None:
    with run.lab("gwlb"):
        with run.chapter("east-west"):
            east_west.story(run, seconds, streams)
        with run.chapter("outbound"):
            outbound.story(run, seconds)
        with run.chapter("inbound"):
            inbound.story(run, seconds)
    with run.chapter("policy"):
        policy.story(run)


if __name__ == "__main__":
    main(__file__)
