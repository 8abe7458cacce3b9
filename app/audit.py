"""Who wrote, forgot or read which fact, and when. Never what it says.

An append-only stream in the store. Entries are written in the background, many at a time: a kill of the server loses at
most the last fraction of a second of them (the changes themselves are in the tenants' logs, and lose nothing).
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from contextlib import suppress
from dataclasses import asdict, dataclass

import structlog
from redis.exceptions import RedisError

from app.exchange import Exchange
from app.metrics import Metrics
from memory.cluster import Client, near
from memory.link import reaching

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

    def record(self, exchange: Exchange) -> None:
        """Take what a request did."""
        if exchange.key is None:
            return
        now, key = time.time(), exchange.key
        for action, fact_id in exchange.events:
            if len(self._waiting) >= WAITING:
                self._metrics.audit_lost.inc()
                continue
            self._waiting.append(Entry(now, key.id, key.tenant, action, fact_id, exchange.request_id))

    async def flush(self) -> None:
        """Append what waits. Raises RedisError or OSError, and then it still waits."""
        while self._waiting:
            batch = [self._waiting[i] for i in range(min(256, len(self._waiting)))]
            pipe = near(self._client, STREAM).pipeline(transaction=True)
            for entry in batch:
                pipe.xadd(STREAM, {"entry": json.dumps(asdict(entry))}, maxlen=self._keep, approximate=True)
            await pipe.execute()
            for _ in batch:
                self._waiting.popleft()

    async def run(self) -> None:
        """Flush again and again, until cancelled."""
        while True:
            await asyncio.sleep(FLUSH_S)
            try:
                await self.flush()
            except (RedisError, OSError) as error:
                log.warning("audit_waits", error=type(error).__name__, entries=len(self._waiting))

    async def close(self) -> None:
        """A last flush."""
        with suppress(RedisError, OSError):
            await self.flush()

    async def export(self, after: str = "", limit: int = 1000) -> list[tuple[str, Entry]]:
        """Entries in order, with their ids, from the one after `after` on. Raises StoreUnavailable."""
        with reaching("the audit log cannot be read"):
            found: list[tuple[bytes, dict[bytes, bytes]]] = await near(self._client, STREAM).xrange(  # type: ignore[assignment]  # as decode_responses is off
                STREAM, f"({after}" if after else "-", "+", count=limit
            )
        return [(entry_id.decode(), Entry(**json.loads(fields[b"entry"]))) for entry_id, fields in found]
