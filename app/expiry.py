"""Facts with a time to live are forgotten when it is over, by exactly one of the servers that share a store."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress

import structlog

from app.idempotency import KEPT_S
from app.tenants import Tenants
from memory.episodic import EpisodicMemory
from memory.errors import FactNotFound

PERIOD_S = 0.25
PAUSE_S = 10.0  # at most, before a tenant that failed is tried again
PATIENCE_S = 2.0  # for a tenant's newest memory, before the next tenant's turn
TURN = 32  # facts of a tenant that are forgotten before the next tenant's turn
ANSWERS_PERIOD_S = 600.0
log = structlog.get_logger()


class Expiry:
    """Asks the store which tenants have facts whose time is over, loaded or not, and forgets those facts.

    Every server does; a forget is committed under the next version, so of two servers one comes first and the other then
    finds nothing to forget.
    """

    def __init__(self, tenants: Tenants) -> None:
        self._tenants = tenants
        self._answers_at = time.monotonic()
        self._pauses: dict[str, tuple[float, float]] = {}  # of tenants that failed: until when, and how long

    async def keep(self) -> None:
        """Until cancelled. What fails is tried again."""
        while True:
            forgotten = 0
            try:
                forgotten = await self.forget_expired()
                if time.monotonic() - self._answers_at > ANSWERS_PERIOD_S:
                    self._answers_at = time.monotonic()
                    await self._discard_answers()
            except Exception as error:
                log.warning("expiry_failed", error=type(error).__name__)
                await asyncio.sleep(PERIOD_S)
            await asyncio.sleep(0 if forgotten else PERIOD_S)

    async def forget_expired(self) -> int:
        """A turn for each tenant of which something is due; returns how many facts this server forgot. A tenant that fails is left
        for later, alone."""
        forgotten = 0
        for name, marks in (await self._due()).items():
            until, pause = self._pauses.get(name, (0.0, PERIOD_S / 2))
            if until > time.monotonic():
                continue
            try:
                forgotten += await self._forget_expired_of(name, marks)
                self._pauses.pop(name, None)
            except Exception as error:
                pause = min(PAUSE_S, 2 * pause)
                self._pauses[name] = time.monotonic() + pause, pause
                log.warning("expiry_failed", tenant=name, error=type(error).__name__)
        return forgotten

    async def _due(self) -> dict[str, list[float]]:
        """The marks of each tenant."""
        marks: dict[str, list[float]] = defaultdict(list)
        now, read = time.time(), 0
        while page := await self._tenants.store.due(now, skip=read):
            read += len(page)
            for name, noted in page:
                marks[name].append(noted)
        return marks

    async def _forget_expired_of(self, name: str, marks: Sequence[float]) -> int:
        """Its marks stay while there is more to forget."""
        forgotten = 0
        async with asyncio.timeout(PATIENCE_S):
            memory = await self._tenants.newest(name)
        over = await self._tenants.worker.run(memory.expired, time.time())
        for fact_id in over[:TURN]:
            with suppress(FactNotFound):  # another server was first
                await self._tenants.forget(name, fact_id)
                self._tenants.metrics.changes.labels("expired").inc()
                forgotten += 1
        if over[TURN:]:
            return forgotten
        memory = (await self._tenants.get(name)).memory
        upcoming = await self._tenants.worker.run(lambda: memory.next_expiry)
        for noted in marks:
            await self._tenants.store.expired(name, noted, upcoming)
        return forgotten

    async def _discard_answers(self) -> None:
        before = time.time() - KEPT_S

        def old(memory: EpisodicMemory) -> list[tuple[str, int]]:
            kept = memory.facts(limit=len(memory), where=lambda fact: bool(fact.answer) and fact.created_at < before)
            return [(fact.answer, fact.version) for fact in kept]

        for tenant in self._tenants.loaded:
            await self._tenants.store.discard_answers(tenant.name, await self._tenants.worker.run(old, tenant.memory))
