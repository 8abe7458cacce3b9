"""The audit log: which key wrote, forgot or read which fact, and when. It never holds a fact's text.

An append-only stream in the store, written in the background, many entries at a time. A request is recorded when its answer begins,
and followed for later actions (streams). If the buffer is full and the store is up, requests wait. A hard kill loses up to FLUSH_S
of entries, and the entries of answers that had not begun. While the store is down WAITING entries are buffered; further ones are
dropped and counted. A change that commits after its request was answered with 504 is not recorded. (The tenants' logs hold every
change.)
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from contextlib import suppress
from dataclasses import asdict, dataclass
from weakref import WeakSet

import structlog
from redis.exceptions import RedisError

from app.access.request_context import RequestContext
from app.server.metrics import Metrics
from app.server.shield import to_its_end
from memory.store.cluster import Client, near
from memory.store.link import reaching

STREAM = "larimar:audit"
WAITING = 10_000  # entries that may wait for the store
FLUSH_S = 0.2
log = structlog.get_logger()


@dataclass(frozen=True)
class Entry:
    """One action on one fact."""

    at: float
    key: str
    tenant: str
    action: str
    fact: str
    request_id: str


class AuditLog:
    """Buffers entries and appends them to the stream.

    Args:
        client: of the store.
        metrics: counts entries that were dropped while the store was down.
        keep: about how many entries the stream holds; older ones are deleted.
    """

    def __init__(self, client: Client, metrics: Metrics, *, keep: int) -> None:
        self._client, self._metrics, self._keep = client, metrics, keep
        self._waiting: deque[Entry] = deque()
        # requests that may still act: streams, and commits whose client has gone
        self._followed: WeakSet[RequestContext] = WeakSet()
        self._appending = asyncio.Lock()
        self._well = True  # whether the last append succeeded

    async def record(self, exchange: RequestContext) -> None:
        """Buffer a request's actions so far, and follow it for later ones. If the buffer is full, this waits while the store is up;
        while it is down, entries are dropped."""
        now, key = time.time(), exchange.key
        self._followed.add(exchange)
        while exchange.events and key is not None:
            if self._full and self._well:
                with suppress(RedisError, OSError):
                    await self._append(for_room=True)
                continue
            action, fact_id = exchange.events.popleft()
            if self._full:
                self._metrics.audit_lost.inc()
            else:
                self._waiting.append(Entry(now, key.id, key.tenant, action, fact_id, exchange.request_id))

    @property
    def _full(self) -> bool:
        return len(self._waiting) >= WAITING

    async def flush(self) -> None:
        """Append all buffered entries. Raises RedisError or OSError; entries not appended stay buffered."""
        while self._waiting:
            await self._append()

    async def _append(self, *, for_room: bool = False) -> None:
        """Append a batch of buffered entries, not cancelled half-way: entries that were sent must not be sent again."""
        await to_its_end(self._append_in_turn(for_room))

    async def _append_in_turn(self, for_room: bool) -> None:
        async with self._appending:
            if not for_room or (self._full and self._well):  # still so after the wait for the lock
                await self._append_batch()

    async def _append_batch(self) -> None:
        batch = [self._waiting[i] for i in range(min(256, len(self._waiting)))]
        pipe = near(self._client, STREAM).pipeline(transaction=True)
        for entry in batch:
            pipe.xadd(STREAM, {"entry": json.dumps(asdict(entry))}, maxlen=self._keep, approximate=True)
        try:
            await pipe.execute()
        except (RedisError, OSError):
            self._well = False
            raise
        self._well = True
        for _ in batch:
            self._waiting.popleft()

    async def run(self) -> None:
        """Flush every FLUSH_S seconds, until cancelled."""
        while True:
            await asyncio.sleep(FLUSH_S)
            await self._follow_up()
            try:
                await self.flush()
            except (RedisError, OSError) as error:
                log.warning("audit_waits", error=type(error).__name__, entries=len(self._waiting))

    async def close(self) -> None:
        """Flush a last time."""
        await self._follow_up()
        with suppress(RedisError, OSError):
            await self.flush()

    async def _follow_up(self) -> None:
        """Buffer later actions of requests that were recorded."""
        for exchange in tuple(self._followed):
            await self.record(exchange)

    async def export(self, after: str = "", limit: int = 1000) -> list[tuple[str, Entry]]:
        """Up to `limit` entries with their ids, oldest first, after the id `after`. Raises StoreUnavailable."""
        with reaching("the audit log cannot be read"):
            found: list[tuple[bytes, dict[bytes, bytes]]] = await near(self._client, STREAM).xrange(  # type: ignore[assignment]  # as decode_responses is off
                STREAM, f"({after}" if after else "-", "+", count=limit
            )
        return [(entry_id.decode(), Entry(**json.loads(fields[b"entry"]))) for entry_id, fields in found]
