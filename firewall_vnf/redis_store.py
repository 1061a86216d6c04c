"""The session store in a Redis server: the backend of :class:`firewall_vnf.session_store.Sharing`.

Look-ups wait for the server, but no longer than :data:`TIMEOUT`; a thread of its own writes. Give the server by
address: a name would be resolved with each new connection, for as long as that takes.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Sequence

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from firewall_vnf.session_store import Change, StoreError

#: Seconds that a look-up may wait.
TIMEOUT = 0.05
#: Seconds that the writing thread may wait, and that closing may take.
PATIENCE = 1.0
#: Changes that one round trip makes, at least where so many wait.
BATCH = 1000


class RedisBackend:
    """Records in the server at *url* (``redis://ADDRESS:PORT``). Connects when it is first needed.

    ``lost`` is the number of changes that were not made: the server failed, or *capacity* calls of :meth:`put` were
    waiting for it.
    """

    def __init__(self, url: str, *, capacity: int = 1000) -> None:
        self._reader = _client(url, TIMEOUT)
        self._writer = _client(url, PATIENCE)
        server = self._reader.connection_pool.connection_kwargs
        self.name = f"{server['host']}:{server['port']}"
        self.error: str | None = None
        self.lost = 0
        self._waiting: queue.Queue[Sequence[Change] | None] = queue.Queue(capacity)
        self._thread = threading.Thread(target=self._run, name="session store", daemon=True)
        self._thread.start()

    def get(self, key: str) -> bytes | None:
        """Return the record, None if there is none. Raises :class:`StoreError`."""
        try:
            record = self._reader.get(key)
        except (redis.RedisError, OSError) as error:
            self.error = " ".join(str(error).split())
            raise StoreError(self.error) from error
        self.error = None
        return record if isinstance(record, bytes) else None

    def put(self, changes: Sequence[Change]) -> None:
        """Have *changes* made by the writing thread."""
        try:
            self._waiting.put_nowait(changes)
        except queue.Full:
            self.lost += len(changes)

    def close(self) -> None:
        """Write what waits, but not for long."""
        with contextlib.suppress(queue.Full):
            self._waiting.put(None, timeout=PATIENCE)
            self._thread.join(PATIENCE)

    def _next(self) -> tuple[list[Change], bool]:
        """Wait for changes. Return them, with more that wait, and whether others may follow."""
        changes: list[Change] = []
        waiting = self._waiting.get()
        while waiting is not None:
            changes += waiting
            if len(changes) >= BATCH or self._waiting.empty():
                return changes, True
            waiting = self._waiting.get()
        return changes, False

    def _run(self) -> None:
        more = True
        while more:
            changes, more = self._next()
            if changes:
                self._write(changes)

    def _write(self, changes: Sequence[Change]) -> None:
        try:
            with self._writer.pipeline(transaction=False) as pipeline:
                for key, record, lifetime in changes:
                    if record is None:
                        pipeline.delete(key)
                    else:
                        pipeline.set(key, record, ex=lifetime)
                pipeline.execute()
        except (redis.RedisError, OSError) as error:
            self.lost += len(changes)
            self.error = " ".join(str(error).split())
        else:
            self.error = None


def _client(url: str, timeout: float) -> redis.Redis:
    # Whoever calls tries again, or not: by itself the library would, for seconds.
    return redis.Redis.from_url(
        url, socket_timeout=timeout, socket_connect_timeout=timeout, retry=Retry(NoBackoff(), 0)
    )
