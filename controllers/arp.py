"""ARP answered by flows: the request is turned into its answer and sent back."""

from __future__ import annotations

from controllers.flows import IN_PORT, Action, Move, Output, SetField

REQUEST, REPLY = 1, 2


def answer(mac: str) -> tuple[Action, ...]:
    """Return the actions that answer a request, for whichever address it asks, with *mac*."""
    return (
        Move("eth_src", "eth_dst"),
        SetField("eth_src", mac),
        SetField("arp_op", REPLY),
        Move("arp_sha", "arp_tha"),
        SetField("arp_sha", mac),
        Move("arp_tpa", "reg0"),
        Move("arp_spa", "arp_tpa"),
        Move("reg0", "arp_spa"),
        Output(IN_PORT),
    )
