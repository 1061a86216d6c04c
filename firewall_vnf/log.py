"""The logs: traffic, threat and system, one JSON object a line, with the field names of PAN-OS's log formats.

Field names: PAN-OS administrator's guide, "Traffic Log Fields", "Threat Log Fields", "System Log Fields".
``vpce_id`` and ``app_detail`` (TLS server name, HTTP host, DNS name) are ours. Times are local, as PAN-OS
writes them; ``high_res_timestamp`` has milliseconds and the offset.

The data path only formats a line and puts it into a bounded buffer; a thread writes the buffer to the files
every ``interval`` seconds. If the disk stalls, packets do not: lines that find the buffer full are lost, and
counted.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import deque
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from firewall_vnf.applications import NOT_APPLICABLE, Action
from firewall_vnf.counters import new_counters
from firewall_vnf.inspection import Finding
from firewall_vnf.session import PROTOCOLS, Session

TRAFFIC, THREAT, SYSTEM = "traffic", "threat", "system"

_encode = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode


class LogError(Exception):
    """The log directory cannot be written; one line."""


class LogWriter:
    """Takes lines from the data path and appends them to ``traffic.jsonl``, ``threat.jsonl`` and
    ``system.jsonl``.

    ``capacity`` is the number of lines that wait at most. Raises :class:`LogError` if *directory* cannot be
    used.
    """

    def __init__(self, directory: Path, *, capacity: int = 100_000, interval: float = 0.5) -> None:
        self.lost = 0
        self._capacity = capacity
        self._lines: deque[tuple[str, str]] = deque()
        self._stopping = threading.Event()
        self._interval = interval
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._files = {
                name: (directory / f"{name}.jsonl").open("ab", buffering=0) for name in (TRAFFIC, THREAT, SYSTEM)
            }
        except OSError as error:
            raise LogError(f"log directory {directory}: {error.strerror}; name one that can be written") from error
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def write(self, log: str, line: str) -> None:
        """Buffer one line; never waits."""
        if len(self._lines) < self._capacity:
            self._lines.append((log, line))
        else:
            self.lost += 1

    def close(self) -> None:
        """Write what is left and close the files."""
        self._stopping.set()
        self._thread.join()
        for file in self._files.values():
            file.close()

    def _run(self) -> None:
        while not self._stopping.wait(self._interval):
            self._flush()
        self._flush()

    def _flush(self) -> None:
        lines = [self._lines.popleft() for _ in range(len(self._lines))]
        for name, file in self._files.items():
            data = "".join([line + "\n" for log, line in lines if log == name])
            if data:
                try:
                    file.write(data.encode())
                except OSError:
                    self.lost += sum(log == name for log, _ in lines)


class Log:
    """Formats the records and counts them.

    *write* takes the log's name and a line; *epoch* is the wall time at 0 of the engine's clock.
    """

    def __init__(self, name: str, write: Callable[[str, str], None], epoch: float) -> None:
        self._name = name
        self._serial = f"{int.from_bytes(hashlib.blake2b(name.encode(), digest_size=6).digest(), 'big'):015d}"
        self._write = write
        self._epoch = epoch
        self.counters = new_counters()
        self._second = (-1, "", "")

    def traffic(self, session: Session, subtype: str, action: str, now: float) -> None:
        """Write a traffic record; *subtype* is start, end, drop (before App-ID knew) or deny."""
        self.counters["log_traffic_cnt"] += 1
        record = self._common("TRAFFIC", subtype, now) | self._session(session)
        record |= {
            "action": action,
            "bytes": session.bytes_sent + session.bytes_received,
            "bytes_sent": session.bytes_sent,
            "bytes_received": session.bytes_received,
            "packets": session.packets_sent + session.packets_received,
            "pkts_sent": session.packets_sent,
            "pkts_received": session.packets_received,
            "start": self.time(session.start),
            "elapsed": int(session.last - session.start),
            "session_end_reason": session.end_reason.value if session.end_reason and subtype != "start" else "n/a",
            "action_source": "from-policy",
        }
        if subtype == "drop":
            record["app"] = NOT_APPLICABLE
        self._write(TRAFFIC, _encode(record))

    def threat(self, session: Session, finding: Finding, direction: int, now: float) -> None:
        """Write a threat record; an allowed finding is PAN-OS's action ``alert``."""
        self.counters["log_threat_cnt"] += 1
        record = self._common("THREAT", "vulnerability", now) | self._session(session)
        record |= {
            "action": "alert" if finding.action is Action.ALLOW else finding.action.value,
            "threatid": finding.threat,
            "severity": "informational" if finding.action is Action.ALLOW else "high",
            "direction": "server-to-client" if direction else "client-to-server",
        }
        self._write(THREAT, _encode(record))

    def system(self, event: str, severity: str, text: str, now: float) -> None:
        """Write a system record: *event* is its ``eventid``, *severity* from informational to critical."""
        self.counters["log_system_cnt"] += 1
        record = self._common("SYSTEM", "general", now)
        self._write(SYSTEM, _encode(record | {"eventid": event, "severity": severity, "opaque": text}))

    def time(self, moment: float) -> str:
        """Format a moment of the engine's clock as PAN-OS does: ``2026/11/22 13:37:00``."""
        return self._times(moment)[0]

    def _times(self, moment: float) -> tuple[str, str]:
        wall = moment + self._epoch
        second = int(wall)
        if second != self._second[0]:
            local = datetime.fromtimestamp(second).astimezone()
            offset = local.strftime("%z")
            self._second = (
                second,
                local.strftime("%Y/%m/%d %H:%M:%S"),
                local.strftime("%Y-%m-%dT%H:%M:%S.{:03d}") + f"{offset[:3]}:{offset[3:]}",
            )
        return self._second[1], self._second[2].format(int((wall - second) * 1000))

    def _common(self, kind: str, subtype: str, now: float) -> dict[str, Any]:
        received, precise = self._times(now)
        return {
            "receive_time": received,
            "serial": self._serial,
            "type": kind,
            "subtype": subtype,
            "time_generated": received,
            "high_res_timestamp": precise,
            "device_name": self._name,
        }

    def _session(self, session: Session) -> dict[str, Any]:
        return {
            "src": str(session.source),
            "dst": str(session.destination),
            "sport": session.source_port,
            "dport": session.destination_port,
            "proto": PROTOCOLS.get(session.protocol, str(session.protocol)),
            "app": session.application,
            "from": session.zone,
            "to": session.zone_to,
            "rule": session.rule.name,
            "vsys": "vsys1",
            "sessionid": session.id,
            "repeatcnt": 1,
            "flags": "0x0",
            "vpce_id": session.endpoint.name,
            "app_detail": session.detail,
        }
