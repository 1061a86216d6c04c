"""Measurements of real traffic between two nodes. One module a probe:

============== ===========================================================
``iperf3``      throughput and retransmissions (TCP), loss and jitter (UDP)
``ping``        ICMP round trips and loss
``web``         one HTTP request: status, time to first byte
``ssh``         one login with a real ``sshd``
``connections`` new TCP connections per second
``flows``       long flows and a stream of new connections, while something fails
============== ===========================================================

Each starts what it needs as child processes on the nodes, waits until the server listens, and ends them by their
ids. Parsers are pure. A probe that comes to no result raises :class:`testbed.probes.child.ProbeError`.
"""
