"""Forgets expired facts; of the servers that share a store exactly one forgets each."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress

import structlog

from app.server.shield import to_its_end
from app.tenants.idempotency import KEPT_S
from app.tenants.tenants import Tenants
from memory.errors import FactNotFound
from memory.fact import Fact
from memory.view import View

PERIOD_S = 0.25
PAUSE_S = 10.0  # at most, before a tenant that failed is tried again
PATIENCE_S = 2.0  # time-out of a tenant's turn
TURN = 32  # facts of a tenant that are forgotten in a turn
TURNS, TURNS_AGAIN = 8, 4  # turns at once: in general, and apart from those for tenants that failed last time
ANSWERS_PERIOD_S = 600.0
log = structlog.get_logger()


class Expiry:
    """Asks the store which tenants, loaded or not, have expired facts, and forgets them.

    Every server does this. A forget is committed as the next version, so of two servers one commits and the other finds the fact
    gone.
    """

    def __init__(self, tenants: Tenants) -> None:
        self._tenants = tenants
        self._answers_at = time.monotonic()
        self._pauses: dict[str, tuple[float, float]] = {}  # of tenants that failed: until when, and how long
        self._turns: dict[str, asyncio.Task[int]] = {}  # under way
        self._first, self._again = asyncio.Semaphore(TURNS), asyncio.Semaphore(TURNS_AGAIN)

    async def keep(self) -> None:
        """Run until cancelled. A turn that fails is tried again."""
        try:
            while True:
                forgotten = await self._pass()
                await asyncio.sleep(0 if forgotten else PERIOD_S)
        finally:
            for turn in self._turns.values():
                turn.cancel()
            await asyncio.gather(*self._turns.values(), return_exceptions=True)

    async def _pass(self) -> int:
        """Begin turns and wait PERIOD_S for them; slower ones go on beside the next pass."""
        try:
            begun = await self._begin()
            if time.monotonic() - self._answers_at > ANSWERS_PERIOD_S:
                self._answers_at = time.monotonic()
                await self._discard_answers()
        except Exception as error:
            log.warning("expiry_failed", error=type(error).__name__)
            return 0
        if not begun:
            return 0
        done, _ = await asyncio.wait(begun, timeout=PERIOD_S)
        return sum(turn.result() for turn in done)

    async def forget_expired(self) -> int:
        """Take one turn for each tenant with expired facts; returns how many facts this server forgot. A tenant that fails delays no
        other."""
        return sum(await asyncio.gather(*await self._begin()))

    async def _begin(self) -> list[asyncio.Task[int]]:
        """Begin a turn for each tenant with expired facts, except tenants whose turn is under way or that pause."""
        begun = []
        for name, marks in (await self._due()).items():
            until, _ = self._pauses.get(name, (0.0, 0.0))
            if name not in self._turns and until <= time.monotonic():
                self._turns[name] = asyncio.create_task(self._turn(name, marks))
                self._turns[name].add_done_callback(lambda _, name=name: self._turns.pop(name))  # type: ignore[misc]
                begun.append(self._turns[name])
        return begun

    async def _turn(self, name: str, marks: Sequence[float]) -> int:
        """Forget expired facts of the tenant; returns how many. At a time-out a begun forget is finished, and the marks stay."""
        forgotten: list[str] = []
        async with self._again if name in self._pauses else self._first:
            try:
                async with asyncio.timeout(PATIENCE_S):
                    await self._forget_expired_of(name, marks, forgotten)
                self._pauses.pop(name, None)
            except Exception as error:
                _, pause = self._pauses.get(name, (0.0, PERIOD_S / 2))
                pause = PERIOD_S if forgotten else min(PAUSE_S, 2 * pause)
                self._pauses[name] = time.monotonic() + pause, pause
                log.warning("expiry_failed", tenant=name, error=type(error).__name__)
        return len(forgotten)

    async def _due(self) -> dict[str, list[float]]:
        """The expiry marks that are due, by tenant: Unix times."""
        marks: dict[str, list[float]] = defaultdict(list)
        for name, noted in await self._tenants.store.due(time.time()):
            marks[name].append(noted)
        return marks

    async def _forget_expired_of(self, name: str, marks: Sequence[float], forgotten: list[str]) -> None:
        """Forget up to TURN facts, appended to `forgotten`. The marks stay while more are expired."""
        memory = await self._tenants.newest(name)
        over = await self._tenants.lookups.run(memory.view.expired, time.time())
        for fact in over[:TURN]:
            await to_its_end(self._forget(name, fact, forgotten))  # a forget that was begun is counted
        if over[TURN:]:
            return
        view = (await self._tenants.get(name)).memory.view
        upcoming = await self._tenants.lookups.run(lambda: view.next_expiry)
        await self._tenants.store.expired(name, marks, upcoming)

    async def _forget(self, name: str, fact: Fact, forgotten: list[str]) -> None:
        with suppress(FactNotFound):  # another server was first, or the fact was changed and may expire later
            await self._tenants.forget(name, fact.id, fact.version)
            self._tenants.metrics.changes.labels("expired").inc()
            forgotten.append(fact.id)

    async def _discard_answers(self) -> None:
        before = time.time() - KEPT_S

        def old(view: View) -> list[tuple[str, int]]:
            kept = view.facts(where=lambda fact: bool(fact.answer) and fact.created_at < before)
            return [(fact.answer, fact.version) for fact in kept]

        for tenant in self._tenants.loaded:
            await self._tenants.store.discard_answers(tenant.name, await self._tenants.lookups.run(old, tenant.memory.view))
