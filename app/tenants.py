"""The tenants' memories: loaded from the store, changed through it, followed in it, evicted when they are idle."""

from __future__ import annotations

import asyncio
import random
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Literal, TypeVar

import structlog

from app.errors import NotReady, PromptTaken, QueueFull, TenantFull, VersionNotReached
from app.metrics import Metrics
from app.tenant import Committed, Holding, Tenant
from app.worker import InferenceWorker
from memory.bridge import bridges
from memory.change import Change
from memory.episodic import EpisodicMemory
from memory.errors import AnswerExists, MemoryError_, StoreUnavailable, VersionConflict
from memory.fact import Fact
from memory.page import PageSettings
from memory.query import Query, Reading
from memory.scope import Scope
from memory.store import RedisStore
from models.device import request_stream
from models.model import Model

T = TypeVar("T")
Plan = Callable[[EpisodicMemory], Sequence[Change | Exception]]
Exclude = Callable[[EpisodicMemory], Collection[str]]
OnConflict = Literal["supersede", "error", "version"]
Answer = Callable[[Change], tuple[str, bytes]]
BLOCK = 256  # the most facts that one commit is planned for
CONTEND_S = 5.0  # how long a commit that lost against other writers is tried again
FOLLOW_S = 0.25  # how long a read asks the store whether others wrote, before it goes on with what it has
LOST_S = 1.0  # for how long reads do not ask a store that did not answer
log = structlog.get_logger()


class Tenants:
    """Holds the loaded memories. A change is committed to the store first and then made; a read sees what is made.

    With a shared store a read first asks it, in one round trip (0.2 ms), whether others wrote, and makes their changes. (A
    blocking XREAD for every loaded tenant would keep a connection for each node and wake all servers on each write.)
    """

    def __init__(
        self,
        store: RedisStore,
        worker: InferenceWorker,
        model: Model,
        metrics: Metrics,
        *,
        pages: PageSettings,
        scope: Scope,
        holding: Holding,
    ) -> None:
        self.store, self.worker, self.model, self.metrics = store, worker, model, metrics
        self.pages, self.scope, self.holding = pages, scope, holding
        self.snapshot_failure = ""
        self._tenants: OrderedDict[str, Tenant] = OrderedDict()  # least recently used first
        self._loading: dict[str, asyncio.Lock] = {}
        self._bytes = 0
        self._lost_at = -LOST_S
        self._wake = asyncio.Event()

    @property
    def loaded(self) -> Sequence[Tenant]:
        """The tenants that are in memory."""
        return tuple(self._tenants.values())

    async def get(self, name: str) -> Tenant:
        """The tenant, loaded from the store if it is not here yet."""
        if (tenant := self._tenants.get(name)) is None:
            async with self._loading.setdefault(name, asyncio.Lock()):
                if (tenant := self._tenants.get(name)) is None:
                    tenant = Tenant(name, EpisodicMemory(self.model.key_dim, self.pages, self.scope, self.model.device))
                    await self._load(tenant)
                    self._tenants[name] = tenant
            self._loading.pop(name, None)
            self._weigh(tenant)
        self._tenants.move_to_end(name)
        return tenant

    async def _load(self, tenant: Tenant) -> None:
        found = await self.store.load(tenant.name, self.model.fingerprint)
        for page, reason in found.repaired.items():
            log.warning("page_rebuilt", page=page, reason=reason)

        def restore() -> EpisodicMemory:
            return EpisodicMemory.restore(
                self.model.key_dim,
                self.pages,
                self.scope,
                pages=found.pages,
                changes=found.changes,
                version=found.version,
                repaired=tuple(found.repaired),
                device=self.model.device,
            )

        on_cpu = self.model.device.type == "cpu"  # it solves nothing yet, and much is to be read: not on the inference thread
        tenant.memory = await (asyncio.to_thread(restore) if on_cpu else self.worker.run(restore))
        tenant.changes_since_snapshot = len(found.changes) + len(found.repaired)
        tenant.changed_at, tenant.stale = time.time(), False

    def _weigh(self, tenant: Tenant) -> None:
        """Notes what the tenant takes now, and evicts idle ones beyond the budget. They come back from the store."""
        if self._tenants.get(tenant.name) is not tenant:
            return
        size = tenant.memory.size_bytes
        self._bytes += size - tenant.size_bytes
        tenant.size_bytes = size
        if not 0 < self.holding.budget_bytes < self._bytes:
            return
        for idle in list(self._tenants.values()):
            if self._bytes <= self.holding.budget_bytes:
                break
            if idle is not tenant and not idle.lock.locked():
                self._release(idle)

    def _release(self, tenant: Tenant) -> None:
        del self._tenants[tenant.name]
        self._bytes -= tenant.size_bytes

    async def write(
        self, name: str, fact: Fact, *, on_conflict: OnConflict = "supersede", answer: Answer | None = None
    ) -> Committed:
        """Write a fact. Raises as `write_many` returns.

        Args:
            answer: gives, for the planned change, the digest of an Idempotency-Key and what is kept under it.
        """
        (outcome,) = await self.write_many(name, [fact], on_conflict=on_conflict, answer=answer)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def write_many(
        self, name: str, facts: Sequence[Fact], *, on_conflict: OnConflict = "supersede", answer: Answer | None = None
    ) -> list[Committed | Exception]:
        """Write facts in as few atomic commits as commands under 1 MiB allow.

        Args:
            on_conflict: what becomes of a fact with the same prompt: it is forgotten, or refuses the new one, or is kept
                as history.

        Returns:
            For each fact, in order, what was committed or why it was not: DuplicateId, BadKey, PromptTaken and TenantFull
            refuse one fact and leave the others; StoreUnavailable, VersionConflict and QueueFull refuse a whole
            commit and all that come after.
        """
        outcomes: list[Committed | Exception] = []
        while len(outcomes) < len(facts):
            left = facts[len(outcomes) :]

            def plan(memory: EpisodicMemory, left: Sequence[Fact] = left) -> Sequence[Change | Exception]:
                accepted: list[Fact] = []
                for fact in left[:BLOCK]:
                    if (refusal := self._refusal(memory, fact, on_conflict, len(accepted))) is not None:
                        if not accepted:
                            return [refusal]
                        break
                    accepted.append(fact)
                return memory.plan_block(accepted, keep=on_conflict == "version")

            try:
                outcomes += await self._change(name, plan, answer)
            except (MemoryError_, QueueFull, NotReady) as error:
                outcomes += [error] * len(left)
        return outcomes

    def _refusal(self, memory: EpisodicMemory, fact: Fact, on_conflict: OnConflict, pending: int) -> Exception | None:
        taken = memory.holder(fact.prompt)
        if taken is not None:
            return PromptTaken(taken) if on_conflict == "error" else None
        if 0 < self.holding.max_facts <= len(memory) + pending:
            return TenantFull("facts", len(memory), self.holding.max_facts)
        if 0 < self.holding.max_bytes <= memory.size_bytes:
            return TenantFull("bytes", memory.size_bytes, self.holding.max_bytes)
        return None

    async def update(self, name: str, fact_id: str, revise: Callable[[Fact], Fact]) -> Committed:
        """Put a revised fact in the place of one. Raises FactNotFound and as `write`."""
        return await self._one(name, lambda memory: memory.plan_update(revise(memory.get(fact_id))))

    async def forget(self, name: str, fact_id: str) -> Committed:
        """Forget a fact. Raises FactNotFound, StoreUnavailable, VersionConflict."""
        return await self._one(name, lambda memory: memory.plan_forget(fact_id))

    async def drop(self, name: str) -> int:
        """Forget a tenant whole; returns the version after it."""
        tenant = await self.get(name)
        async with tenant.lock:
            version = await self.store.drop(name)
            await self._load(tenant)
            self._weigh(tenant)
        return version

    async def reach(self, name: str, version: int) -> None:
        """Returns when the memory is at `version` or later. Raises VersionNotReached."""
        tenant, deadline = await self.get(name), time.monotonic() + self.holding.read_wait_s
        while tenant.memory.version < version:
            with suppress(StoreUnavailable, TimeoutError):
                async with asyncio.timeout(max(0.0, deadline - time.monotonic())), tenant.lock:
                    await self._follow(tenant)
            if tenant.memory.version < version:
                if time.monotonic() >= deadline:
                    raise VersionNotReached(tenant.memory.version, version)
                await asyncio.sleep(0.02)

    async def fresh(self, name: str) -> EpisodicMemory:
        """The tenant's memory with what others wrote, as far as the store can be asked."""
        tenant = await self.get(name)
        asks = (self.store.shared or tenant.stale) and not tenant.lock.locked()
        if asks and time.monotonic() - self._lost_at > LOST_S:
            try:
                async with asyncio.timeout(FOLLOW_S), tenant.lock:
                    await self._follow(tenant)
            except (StoreUnavailable, TimeoutError):
                self._lost_at = time.monotonic()
        return tenant.memory

    async def read(
        self,
        name: str,
        queries: Sequence[Query],
        exclude: Exclude = lambda _: (),
        *,
        threshold: float | None = None,
        as_of: int | None = None,
    ) -> tuple[Reading, int]:
        """Read a tenant's memory, or what is kept of it as it was at a version; also the version read.

        Args:
            exclude: gives the ids of the facts that must not speak, of the memory that is read.
        """
        memory = await self.fresh(name)

        def read() -> tuple[Reading, int]:
            asked = memory if as_of is None else memory.as_of(as_of)
            return asked.read(queries, exclude(asked), threshold), asked.version

        found = await self.worker.run(read)
        if (tenant := self._tenants.get(name)) is not None:
            self._weigh(tenant)  # a page that is read for the first time is solved
        return found

    async def bridges(self, name: str, queries: Sequence[Query], exclude: Exclude, *, as_of: int | None = None) -> list[str]:
        """As `memory.bridge.bridges`, of the memory or of what is kept of it as it was at a version."""
        memory = await self.fresh(name)

        def bridge() -> list[str]:
            asked = memory if as_of is None else memory.as_of(as_of)
            return bridges(asked, queries, exclude(asked))

        return await self.worker.run(bridge)

    async def _follow(self, tenant: Tenant) -> None:
        """Makes the changes that others committed."""
        changes = await self.store.follow(tenant.name, tenant.memory.version, self.model.fingerprint)
        if changes is None:
            await self._load(tenant)
        elif changes:
            await self._surely(tenant, lambda: tenant.memory.replay(changes))
            self._count(tenant, len(changes))
        tenant.stale = False
        self._weigh(tenant)

    async def _one(self, name: str, plan: Callable[[EpisodicMemory], Change]) -> Committed:
        (outcome,) = await self._change(name, lambda memory: [plan(memory)])
        assert isinstance(outcome, Committed)
        return outcome

    async def _change(self, name: str, plan: Plan, answer: Answer | None = None) -> list[Committed | Exception]:
        # A client that goes away must not leave a committed change unmade: the change runs to its end.
        return await asyncio.shield(asyncio.ensure_future(self._change_locked(name, plan, answer)))

    async def _change_locked(self, name: str, plan: Plan, answer: Answer | None) -> list[Committed | Exception]:
        tenant = await self.get(name)
        async with tenant.lock:
            deadline = time.monotonic() + CONTEND_S
            while True:
                if tenant.stale:
                    await self._follow(tenant)
                try:
                    return await self._attempt(tenant, plan, answer)
                except VersionConflict:
                    tenant.stale = True
                    if time.monotonic() > deadline:
                        raise
                    await self.store.claim(name)
                    await asyncio.sleep(random.uniform(0, 0.005))

    async def _attempt(self, tenant: Tenant, plan: Plan, answer: Answer | None) -> list[Committed | Exception]:
        memory = tenant.memory
        planned = await self.worker.run(plan, memory)
        changes = [outcome for outcome in planned if isinstance(outcome, Change)]
        if not changes:
            return [outcome for outcome in planned if isinstance(outcome, Exception)]
        self.metrics.batch.labels("commit").observe(len(changes))
        started, commit_at = time.perf_counter(), time.time()
        kept = None
        if answer is not None and changes[0].fact is not None:
            kept = answer(changes[0])
            changes[0] = replace(changes[0], fact=replace(changes[0].fact, answer=kept[0]))
        times = [c.fact.expires_at for c in changes if c.fact is not None and c.fact.expires_at is not None]
        if times:  # noted before they are committed, and only for what is: a refusal leaves nothing behind
            await self.store.expect_expiry(tenant.name, min(times))
        try:
            await self.store.commit(tenant.name, *changes, fingerprint=self.model.fingerprint, answer=kept)
        except (VersionConflict, AnswerExists):
            raise
        except BaseException:
            tenant.stale = True  # it may be in the store: the next change looks
            raise
        commit_s = time.perf_counter() - started

        def make() -> tuple[float, float, float]:
            began, solve_at = time.perf_counter(), time.time()
            with request_stream(self.model.device):
                residual = memory.apply(changes)
            return residual, time.perf_counter() - began, solve_at

        residual, solve_s, solve_at = await self._surely(tenant, make)
        self._count(tenant, len(changes))
        self._weigh(tenant)
        made = iter(changes)
        return [
            outcome
            if isinstance(outcome, Exception)
            else Committed(next(made), residual, solve_s, commit_s, commit_at, solve_at)
            for outcome in planned
        ]

    async def _surely(self, tenant: Tenant, make: Callable[[], T]) -> T:
        """What is committed is made, however busy the worker is."""
        while True:
            try:
                return await self.worker.run(make)
            except QueueFull:
                await asyncio.sleep(0.01)
            except BaseException:
                tenant.stale = True
                raise

    def _count(self, tenant: Tenant, changes: int) -> None:
        if not tenant.changes_since_snapshot:
            tenant.changed_at = time.time()
        tenant.changes_since_snapshot += changes
        if tenant.changes_since_snapshot >= self.holding.snapshot_every:
            self._wake.set()

    async def keep_snapshots(self) -> None:
        """Snapshot changed memories every so many changes or seconds, until cancelled."""
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), self.holding.snapshot_s)
            self._wake.clear()
            await self.snapshot()

    async def snapshot(self) -> None:
        """Snapshot every memory that changed. A failure is told by readiness and a metric, and tried again."""
        failure = ""
        for tenant in self.loaded:
            if not tenant.changes_since_snapshot:
                continue
            try:
                await self._snapshot(tenant)
                self.metrics.snapshots.labels("ok").inc()
            except (MemoryError_, QueueFull) as error:
                failure = type(error).__name__
                self.metrics.snapshots.labels("failed").inc()
                log.warning("snapshot_failed", error=failure)
        self.snapshot_failure = failure

    async def _snapshot(self, tenant: Tenant) -> None:
        """Facts do not change once they are written, so the tenant takes changes meanwhile."""
        async with tenant.lock:
            memory, count, taken_at = tenant.memory, tenant.changes_since_snapshot, time.time()
            pages, version = await self.worker.run(lambda: (memory.snapshot(), memory.version))
        if await self.store.snapshot(tenant.name, pages, version, self.model.fingerprint):
            memory.mark_stored(pages, version)
            tenant.changes_since_snapshot -= min(count, tenant.changes_since_snapshot)
            tenant.changed_at = taken_at


