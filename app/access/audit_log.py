"""Who wrote, forgot or read which fact, and when. Never what it says.

An append-only stream in the store. Entries are written in the background, many at a time. A request is recorded when its answer
begins, and followed for what it does later (streams). While the store is well a request waits where there is no room, and a kill of
the server loses the entries of its last fraction of a second and of answers that had not begun. While the store is away `WAITING`
entries wait for it, and further ones are dropped and counted. A change that is committed after its request has got 504 is not
recorded. (The changes themselves are in the tenants' logs, and lose nothing.)
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
    """Appends entries to the stream.

    Args:
        client: of the store.
        metrics: counts the entries that were lost, because the store was away for too long.
        keep: about how many entries the stream holds; older ones go.
    """

    def __init__(self, client: Client, metrics: Metrics, *, keep: int) -> None:
        self._client, self._metrics, self._keep = client, metrics, keep
        self._waiting: deque[Entry] = deque()
        # those that may go on: streams, and what is committed though its client has gone
        self._followed: WeakSet[RequestContext] = WeakSet()
        self._appending = asyncio.Lock()
        self._well = True  # whether the store took the last entries

    async def record(self, exchange: RequestContext) -> None:
        """Take what a request did until now, and follow it for what it does yet. While the store is well this waits for room; while it
        is not, what finds none is lost."""
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
        """Append what waits. Raises RedisError or OSError, and then it still waits."""
        while self._waiting:
            await self._append()

    async def _append(self, *, for_room: bool = False) -> None:
        """Append some of what waits; to its end, since what was sent must not be sent again."""
        await to_its_end(self._append_in_turn(for_room))

    async def _append_in_turn(self, for_room: bool) -> None:
        async with self._appending:
            if not for_room or (self._full and self._well):  # still, after the wait for others
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
        """Flush again and again, until cancelled."""
        while True:
            await asyncio.sleep(FLUSH_S)
            await self._follow_up()
            try:
                await self.flush()
            except (RedisError, OSError) as error:
                log.warning("audit_waits", error=type(error).__name__, entries=len(self._waiting))

    async def close(self) -> None:
        """A last flush."""
        await self._follow_up()
        with suppress(RedisError, OSError):
            await self.flush()

    async def _follow_up(self) -> None:
        """Take what requests did since they were recorded."""
        for exchange in tuple(self._followed):
            await self.record(exchange)

    async def export(self, after: str = "", limit: int = 1000) -> list[tuple[str, Entry]]:
        """Entries in order, with their ids, from the one after `after` on. Raises StoreUnavailable."""
        with reaching("the audit log cannot be read"):
            found: list[tuple[bytes, dict[bytes, bytes]]] = await near(self._client, STREAM).xrange(  # type: ignore[assignment]  # as decode_responses is off
                STREAM, f"({after}" if after else "-", "+", count=limit
            )
        return [(entry_id.decode(), Entry(**json.loads(fields[b"entry"]))) for entry_id, fields in found]
