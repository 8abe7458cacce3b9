"""Group commit: facts that arrive while a tenant's block is committed become its next block."""

from __future__ import annotations

import asyncio

from app.inference.fair_queue import apart
from app.tenants.tenant import Committed
from app.tenants.tenants import BLOCK, Tenants
from memory.fact import Fact


class GroupCommit:
    """Gathers the waiting facts of each tenant into blocks."""

    def __init__(self, tenants: Tenants) -> None:
        self._tenants = tenants
        self._waiting: dict[str, list[tuple[Fact, asyncio.Future[Committed]]]] = {}
        self._writing: dict[str, asyncio.Task[None]] = {}

    async def write(self, tenant: str, fact: Fact) -> Committed:
        """Write one fact; it is durable when this returns. Raises the outcome that `Tenants.write_many` returns for it.

        Cancelling the caller withdraws a waiting fact; a fact whose block has begun is written.
        """
        future: asyncio.Future[Committed] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(tenant, []).append((fact, future))
        if tenant not in self._writing:
            self._writing[tenant] = apart(self._write_all(tenant))
        return await future

    async def _write_all(self, tenant: str) -> None:
        try:
            while waiting := self._waiting.pop(tenant, None):
                block = [(fact, future) for fact, future in waiting[:BLOCK] if not future.done()]
                if waiting[BLOCK:]:
                    self._waiting[tenant] = waiting[BLOCK:]
                await self._write(tenant, block)
        finally:
            del self._writing[tenant]

    async def _write(self, tenant: str, block: list[tuple[Fact, asyncio.Future[Committed]]]) -> None:
        try:
            outcomes = await self._tenants.write_many(tenant, [fact for fact, _ in block])
        except Exception as error:
            outcomes = [error] * len(block)
        for (_, future), outcome in zip(block, outcomes, strict=True):
            if future.done():
                continue
            if isinstance(outcome, Exception):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)
