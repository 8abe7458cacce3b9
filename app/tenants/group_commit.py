"""Facts that arrive while a tenant's memory is being changed are committed and solved together, as one block."""

from __future__ import annotations

import asyncio

from app.inference.fair_queue import apart
from app.tenants.tenant import Committed
from app.tenants.tenants import BLOCK, Tenants
from memory.fact import Fact


class GroupCommit:
    """Gathers the facts of each tenant: what waits while one block is written is the next block."""

    def __init__(self, tenants: Tenants) -> None:
        self._tenants = tenants
        self._waiting: dict[str, list[tuple[Fact, asyncio.Future[Committed]]]] = {}
        self._writing: dict[str, asyncio.Task[None]] = {}

    async def write(self, tenant: str, fact: Fact) -> Committed:
        """Write one fact; it is durable when this returns. Raises what `Tenants.write_many` returns for it.

        A caller that goes away while its fact waits takes it along; once its block is being written it will be.
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
