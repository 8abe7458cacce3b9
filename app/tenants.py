"""The tenants' memories: loaded from the store, changed through it, snapshotted back to it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import structlog

from app.errors import NotReady, QueueFull
from app.metrics import Metrics
from app.worker import InferenceWorker
from memory.change import Change
from memory.episodic import EpisodicMemory
from memory.errors import MemoryError_, VersionConflict
from memory.fact import Fact
from memory.page import PageSettings
from memory.query import Query, Reading
from memory.scope import Scope
from memory.store import CommitUnknown, RedisStore
from models.device import request_stream
from models.model import Model

Plan = Callable[[EpisodicMemory], Sequence[Change | MemoryError_]]
ATTEMPTS = 5  # of a commit that lost against another writer
log = structlog.get_logger()


@dataclass
class Tenant:
    """One tenant's memory and the lock under which it changes."""

    name: str
    memory: EpisodicMemory
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    changes_since_snapshot: int = 0
    changed_at: float = 0.0  # Unix time of the oldest change since the snapshot
    stale: bool = False  # the store may be ahead: load again before the next change


@dataclass(frozen=True)
class Committed:
    """A change that is durable and made."""

    change: Change
    residual: float
    stored_rewritten: bool
    solve_s: float
    commit_s: float


class Tenants:
    """Holds the loaded memories. A change is committed to the store first and then made; a read sees what is made."""

    def __init__(
        self,
        store: RedisStore,
        worker: InferenceWorker,
        model: Model,
        metrics: Metrics,
        *,
        pages: PageSettings,
        scope: Scope,
        snapshot_every: int,
        snapshot_s: float,
    ) -> None:
        self.store, self.worker, self.model, self.metrics = store, worker, model, metrics
        self.pages, self.scope = pages, scope
        self.snapshot_every, self.snapshot_s = snapshot_every, snapshot_s
        self.snapshot_failure = ""
        self._tenants: dict[str, Tenant] = {}
        self._loading: dict[str, asyncio.Lock] = {}
        self._wake = asyncio.Event()

    @property
    def loaded(self) -> Sequence[Tenant]:
        """The tenants that are in memory."""
        return tuple(self._tenants.values())

    async def get(self, name: str) -> Tenant:
        """The tenant, loaded from the store if it is not here yet."""
        async with self._loading.setdefault(name, asyncio.Lock()):
            if name not in self._tenants:
                self._tenants[name] = Tenant(name, await self._load(name))
            return self._tenants[name]

    async def _load(self, name: str) -> EpisodicMemory:
        found = await self.store.load(name, self.model.fingerprint)
        return await self.worker.run(
            EpisodicMemory.restore,
            self.model.key_dim,
            self.pages,
            self.scope,
            pages=found.pages,
            changes=found.changes,
            version=found.version,
            device=self.model.device,
        )

    async def write(self, name: str, fact: Fact) -> Committed:
        """Write a fact. Raises DuplicateId, BadKey, StoreUnavailable, VersionConflict."""
        (outcome,) = await self.write_many(name, [fact])
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def write_many(self, name: str, facts: Sequence[Fact]) -> list[Committed | Exception]:
        """Write facts in as few atomic commits as commands under 1 MiB allow.

        Returns:
            For each fact, in order, what was committed or why it was not: DuplicateId and BadKey refuse one fact and leave
            the others; StoreUnavailable, VersionConflict and QueueFull refuse a whole commit and all that come after.
        """
        outcomes: list[Committed | Exception] = []
        while len(outcomes) < len(facts):
            left = facts[len(outcomes) :]

            def plan(memory: EpisodicMemory, left: Sequence[Fact] = left) -> list[Change | MemoryError_]:
                return memory.plan_block(left)

            try:
                outcomes += await self._change(name, plan)
            except (MemoryError_, QueueFull, NotReady) as error:
                outcomes += [error] * len(left)
        return outcomes

    async def forget(self, name: str, fact_id: str) -> Committed:
        """Forget a fact. Raises FactNotFound, StoreUnavailable, VersionConflict."""
        (outcome,) = await self._change(name, lambda memory: [memory.plan_forget(fact_id)])
        assert isinstance(outcome, Committed)
        return outcome

    async def read(self, name: str, queries: Sequence[Query], exclude: Collection[str] = ()) -> tuple[Reading, int]:
        """Read a tenant's memory; also the version read."""
        tenant = await self.get(name)
        async with tenant.lock:  # a change in the making works on the same pages
            memory = tenant.memory
            return await self.worker.run(memory.read, queries, exclude), memory.version

    async def _change(self, name: str, plan: Plan) -> list[Committed | Exception]:
        # A client that goes away must not leave a committed change unmade: the change runs to its end.
        return await asyncio.shield(asyncio.ensure_future(self._change_locked(name, plan)))

    async def _change_locked(self, name: str, plan: Plan) -> list[Committed | Exception]:
        tenant = await self.get(name)
        async with tenant.lock:
            for attempt in range(ATTEMPTS):
                if tenant.stale:
                    tenant.memory = await self._load(name)
                    tenant.stale = False
                try:
                    return await self._attempt(tenant, plan)
                except VersionConflict:
                    tenant.stale = True
                    if attempt == ATTEMPTS - 1:
                        raise
                    await asyncio.sleep(0.01 * 2**attempt)
        raise AssertionError("unreachable")

    async def _attempt(self, tenant: Tenant, plan: Plan) -> list[Committed | Exception]:
        memory = tenant.memory
        planned = await self.worker.run(plan, memory)
        changes = [outcome for outcome in planned if isinstance(outcome, Change)]
        if not changes:
            return [outcome for outcome in planned if isinstance(outcome, MemoryError_)]
        self.metrics.batch.labels("commit").observe(len(changes))
        solve_s, prepared = 0.0, None
        if any(change.forgets for change in changes):
            started = time.perf_counter()
            prepared = await self.worker.run(memory.prepare, changes)
            solve_s += time.perf_counter() - started
        started = time.perf_counter()
        try:
            await self.store.commit(
                tenant.name,
                *changes,
                fingerprint=self.model.fingerprint,
                erase=prepared.erase if prepared else (),
                pages=prepared.stored if prepared else None,
            )
        except CommitUnknown:
            tenant.stale = True  # it may be in the store: the next change looks
            raise
        commit_s = time.perf_counter() - started

        def make() -> tuple[float, float]:
            began = time.perf_counter()
            with request_stream(self.model.device):
                residual = memory.apply(changes, prepared)
            return residual, time.perf_counter() - began

        residual, applied_s = await self._made(tenant, make)
        if not tenant.changes_since_snapshot:
            tenant.changed_at = time.time()
        tenant.changes_since_snapshot += len(changes)
        if tenant.changes_since_snapshot >= self.snapshot_every:
            self._wake.set()
        rewritten = bool(prepared and prepared.stored)
        return [
            Committed(outcome, residual, rewritten, solve_s + applied_s, commit_s) if isinstance(outcome, Change) else outcome
            for outcome in planned
        ]

    async def _made(self, tenant: Tenant, make: Callable[[], tuple[float, float]]) -> tuple[float, float]:
        """What is committed is made, however busy the worker is."""
        while True:
            try:
                return await self.worker.run(make)
            except QueueFull:
                await asyncio.sleep(0.01)
            except BaseException:
                tenant.stale = True
                raise

    async def keep_snapshots(self) -> None:
        """Snapshot changed memories every so many changes or seconds, until cancelled."""
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), self.snapshot_s)
            self._wake.clear()
            await self.snapshot()

    async def snapshot(self) -> None:
        """Snapshot every memory that changed. A failure is told by readiness and a metric, and tried again."""
        failure = ""
        for tenant in list(self._tenants.values()):
            if not tenant.changes_since_snapshot:
                continue
            try:
                async with tenant.lock:
                    version, count, taken_at = tenant.memory.version, tenant.changes_since_snapshot, time.time()
                    pages = await self.worker.run(tenant.memory.dirty_pages)
                    if await self.store.snapshot(tenant.name, pages, version):
                        tenant.memory.mark_stored(pages, version)
                        tenant.changes_since_snapshot -= count
                        tenant.changed_at = taken_at
                self.metrics.snapshots.labels("ok").inc()
            except MemoryError_ as error:
                failure = type(error).__name__
                self.metrics.snapshots.labels("failed").inc()
                log.warning("snapshot_failed", error=failure)
        self.snapshot_failure = failure
