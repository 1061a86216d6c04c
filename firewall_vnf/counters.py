"""What the firewall counts, in the manner of ``show counter global``: a name, a value, what it means.

Names are PAN-OS's where it counts the same event. Every counter exists from the start with the value 0, so
that a misspelt name is an error and a reader can rely on a name. Each packet that comes in is counted exactly
once more on its way out: in ``pkt_forwarded`` or in one of the counters whose meaning starts with "Packets
dropped".
"""

from __future__ import annotations

MEANINGS: dict[str, str] = {
    "pkt_recv": "Frames that came to the engine",
    "pkt_forwarded": "Frames that were turned around",
    "pkt_injected": "Frames that the firewall made itself (resets, ICMP unreachable)",
    "pkt_buffer_lost": "Frames that the interface's receive buffer had no room for; not in pkt_recv",
    "pkt_send_errors": "Frames that the interface did not take",
    "geneve_outer_ip": "Packets dropped: outer Ethernet or IPv4 header malformed or fragmented",
    "geneve_outer_udp": "Packets dropped: outer UDP header malformed or not for port 6081",
    "geneve_header": "Packets dropped: GENEVE version, control flag, VNI or option length is not AWS's",
    "geneve_options": "Packets dropped: not exactly AWS's three GENEVE options in AWS's order",
    "geneve_protocol": "Packets dropped: GENEVE payload is neither IPv4 nor IPv6",
    "pkt_offloaded": "Packets of offloaded sessions, carried by the kernel without the engine; not in pkt_recv",
    "session_offload": "Sessions offloaded to the kernel, each time that they were",
    "session_offload_full": "Sessions left to the engine because there was no room to offload them",
    "flow_no_zone": "Packets dropped: came from or would leave by an interface that is in no zone",
    "flow_ha_not_active": "Packets dropped: this firewall of a pair is not the active one",
    "flow_ipv6": "IPv6 packets passed uninspected, as configured",
    "flow_ipv6_disabled": "Packets dropped: IPv6, as configured",
    "flow_ipfrag": "Fragments passed uninspected, as configured",
    "flow_ipfrag_drop": "Packets dropped: IP fragment, as configured",
    "flow_parse_ip": "Packets dropped: inner IP header malformed or its length wrong",
    "flow_parse_l4_tcp": "Packets dropped: TCP header malformed",
    "flow_parse_l4_tcpflags": "Packets dropped: TCP flags that no TCP sends (SYN+FIN, SYN+RST, FIN+RST, none)",
    "flow_parse_l4_udp": "Packets dropped: UDP header malformed",
    "flow_parse_l4_icmp": "Packets dropped: ICMP header or quoted packet malformed",
    "flow_parse_l4_port": "Packets dropped: TCP or UDP port 0",
    "flow_land": "Packets dropped: source and destination address are the same (land attack)",
    "flow_icmp_error_no_session": "Packets dropped: ICMP error that quotes no packet of an allowed session",
    "flow_icmp_reply_no_session": "Packets dropped: ICMP reply that nobody asked for",
    "flow_tcp_non_syn": "Sessions set up by a TCP packet without SYN, as configured",
    "flow_tcp_non_syn_drop": "Packets dropped: non-SYN TCP without session match",
    "tcp_drop_handshake": "Packets dropped: no part of the three-way handshake under way",
    "tcp_drop_out_of_wnd": "Packets dropped: RST or FIN outside the receiver's window",
    "tcp_drop_out_of_order": "Packets dropped: TCP segment beyond a gap before App-ID has decided; TCP repeats it",
    "flow_policy_deny": "Packets dropped: session set-up denied by policy",
    "session_discard_drop": "Packets dropped: session is in discard state",
    "flow_inspection_drop": "Packets dropped: by the finding of an inspection",
    "flow_app_deny": "Packets dropped: application shifted to one that the policy denies",
    "flow_rematch_deny": "Packets dropped: denied by a newly committed policy",
    "session_alloc_failure": "Packets dropped: session table full",
    "flow_action_close": "TCP sessions closed by injecting RST",
    "session_installed": "Sessions installed",
    "session_freed": "Sessions ended",
    "session_aged_out": "Sessions ended by their timer",
    "session_discard": "Sessions set to discard by policy or inspection",
    "session_rematch": "Sessions matched again after a policy commit",
    "session_shared_published": "Records of sessions given to the session store",
    "session_shared_removed": "Records taken out of the session store",
    "session_shared_resumed": "Sessions continued that another firewall had begun; also in session_installed",
    "session_shared_missed": "Look-ups of a session that the session store does not have",
    "session_shared_skipped": "Look-ups left out: the session store failed, or look-ups took too much of the time",
    "session_shared_lost": "Records lost because the session store failed or could not keep up",
    "appid_shift": "Changes of a session's application",
    "inspection_errors": "Inspections that failed; their packet was handled as without a finding",
    "log_traffic_cnt": "Traffic log lines",
    "log_threat_cnt": "Threat log lines",
    "log_system_cnt": "System log lines",
    "log_lost": "Log lines lost because the log buffer was full or the file could not be written",
    "policy_commit": "Policies loaded",
    "policy_commit_failed": "Policies refused; the one before stayed in force",
}


def new_counters() -> dict[str, int]:
    """Return all counters at 0."""
    return dict.fromkeys(MEANINGS, 0)


def format_counters(values: dict[str, int]) -> str:
    """Return the counters that are not 0 as text, in the form of ``show counter global``."""
    lines = [f"{'name':<30}{'value':>14}  description", "-" * 110]
    lines += [f"{name:<30}{value:>14}  {MEANINGS.get(name, '')}" for name, value in values.items() if value]
    return "\n".join([*lines, "-" * 110, f"Total counters shown: {len(lines) - 2}"])
