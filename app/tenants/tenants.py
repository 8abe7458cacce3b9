"""Reads, changes and snapshots of the tenants' memories."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace

import structlog

from app.inference.errors import NotReady
from app.server.logs import log_defect
from app.server.shield import to_its_end
from app.tenants.cache import TenantCache
from app.tenants.errors import PromptTaken, TenantFull
from app.tenants.tenant import Committed, OnConflict, Tenant
from memory.change import Change
from memory.episodic import EpisodicMemory
from memory.errors import AnswerExists, StoreUnavailable, VersionConflict
from memory.excerpt import EVERYTHING, Excerpt, Selection
from memory.fact import Fact, held_bytes
from memory.query import AS_IT_IS, Candidate, Query, Reading, ScopeChoice
from memory.scope.two_hops import bridges
from memory.store.commit import CommitUnknown
from memory.store.redis_store import Dropped
from models.device import request_stream

Plan = Callable[[EpisodicMemory], Sequence[Change | Exception]]
Answer = Callable[[Change], tuple[str, bytes]]
BLOCK = 256  # the most facts that one commit is planned for
CONTEND_S = 5.0  # how long a commit with a version conflict is tried again
log = structlog.get_logger()


class Tenants(TenantCache):
    """Reads and changes memories. A change is committed to the store, then applied; a read sees applied changes."""

    async def write(
        self, name: str, fact: Fact, *, on_conflict: OnConflict = "supersede", answer: Answer | None = None
    ) -> Committed:
        """Write a fact. Raises the outcome that `write_many` returns for it.

        Args:
            answer: returns, for the planned change, the digest of an Idempotency-Key and the record kept under it.
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
            on_conflict: for a fact with the same prompt: `supersede` forgets it, `error` refuses the new fact, `version`
                keeps the old one as history.

        Returns:
            For each fact, in order, its Committed or its error. DuplicateId, BadKey, PromptTaken, TenantFull and errors of
            packing refuse one fact and leave the others. An error of a commit (StoreUnavailable, VersionConflict,
            QueueFull, a defect) is the outcome of that commit's facts and of all later ones; earlier ones stay committed.
        """
        outcomes: list[Committed | Exception] = []
        while len(outcomes) < len(facts):
            left = facts[len(outcomes) :]

            def plan(memory: EpisodicMemory, left: Sequence[Fact] = left) -> Sequence[Change | Exception]:
                accepted: list[Fact] = []
                weight = 0
                for fact in left[:BLOCK]:
                    if (refusal := self._refusal(memory, fact, on_conflict, len(accepted), weight)) is not None:
                        if not accepted:
                            return [refusal]
                        break
                    accepted.append(fact)
                    weight += held_bytes(fact) + self.pages.row_bytes(len(fact.key), len(fact.code))
                return memory.plan_block(accepted, keep=on_conflict == "version")

            try:
                outcomes += await self._change(name, plan, answer)
            except Exception as error:
                outcomes += [error] * len(left)
        return outcomes

    def _refusal(self, memory: EpisodicMemory, fact: Fact, on_conflict: OnConflict, pending: int, weight: int) -> Exception | None:
        taken = memory.holder(fact.prompt)
        if taken is not None and on_conflict == "error":
            return PromptTaken(taken)
        replaced = memory.get(taken) if taken is not None and on_conflict == "supersede" else None
        return self._overfull(memory, fact, replaced, pending, weight)

    def _overfull(
        self, memory: EpisodicMemory, fact: Fact, replaced: Fact | None, pending: int = 0, weight: int = 0
    ) -> TenantFull | None:
        """The error if storing `fact` would exceed the tenant's limits; `replaced` is the fact that it supersedes, if any. History
        counts, and so do `pending` facts of `weight` bytes in the same commit."""
        held, limits = len(memory) + memory.history, self.holding
        if replaced is None and 0 < limits.max_facts <= held + pending:
            return TenantFull("facts", held, limits.max_facts)
        grows = replaced is None or held_bytes(fact) > held_bytes(replaced)
        if grows and 0 < limits.max_bytes <= memory.size_bytes + weight:
            return TenantFull("bytes", memory.size_bytes, limits.max_bytes)
        return None

    async def update(self, name: str, fact_id: str, revise: Callable[[Fact], Fact]) -> Committed:
        """Replace a fact by a revision of it. Raises FactNotFound and as `write`."""

        def plan(memory: EpisodicMemory) -> Change:
            fact = memory.get(fact_id)
            revised = revise(fact)
            if (refusal := self._overfull(memory, revised, fact)) is not None:
                raise refusal
            return memory.plan_update(revised)

        return await self._one(name, plan)

    async def forget(self, name: str, fact_id: str, version: int | None = None) -> Committed:
        """Forget a fact; with a `version` only if that version wrote it.

        Raises:
            FactNotFound: no such fact, or it was changed since that version.
            StoreUnavailable, VersionConflict
        """
        (outcome,) = await self.forget_many(name, [(fact_id, version)])
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def forget_many(self, name: str, facts: Sequence[tuple[str, int | None]]) -> list[Committed | Exception]:
        """Forget facts, each as `forget`, in one atomic commit.

        Args:
            facts: id and version of each, no id twice, BLOCK at most.

        Returns:
            For each fact, in order, its Committed or FactNotFound.

        Raises:
            StoreUnavailable, VersionConflict
        """
        return await self._change(name, lambda memory: memory.plan_forgets(facts))

    async def drop(self, name: str) -> Dropped:
        """Forget a whole tenant, even one that is damaged or belongs to another model. Raises StoreUnavailable."""
        return await to_its_end(self._drop(name))

    async def _drop(self, name: str) -> Dropped:
        async with self._locked_unread(name) as tenant:
            tenant.stale = True  # a failure from here on may have erased something
            try:
                dropped = await self.store.drop(name, tenant.memory.version)
            except BaseException:
                tenant.broken = True  # erased facts must not answer, even if nothing can be loaded
                raise
            tenant.memory = self._empty()  # as the store now is: nothing can fail after the erasure
            tenant.memory.version = dropped.version
            tenant.changes_since_snapshot, tenant.changed_at, tenant.stale, tenant.broken = 0, time.time(), False, False
            self._weigh(tenant)
        return dropped

    async def read(
        self,
        name: str,
        queries: Sequence[Query],
        selection: Selection = EVERYTHING,
        *,
        choice: ScopeChoice = AS_IT_IS,
    ) -> tuple[Reading, int]:
        """Read a tenant's memory, or a selection of its facts; returns the reading and the version read.

        Args:
            choice: a threshold in place of the detector's own.

        Raises:
            FactNotFound: the selection names an unknown fact.
        """
        memory = await self.fresh(name)
        if not selection.is_excerpt:
            found = await self.worker.run(lambda: (memory.read(queries, selection.exclude, choice), memory.version))
            if (tenant := self._tenants.get(name)) is not None:
                self._weigh(tenant)  # the first read of a page solves it, which takes memory
            return found

        def sought() -> tuple[Excerpt, list[list[Candidate]]]:
            excerpt = Excerpt(memory, selection)
            return excerpt, excerpt.candidates(queries)

        excerpt, candidates = await self.lookups.run(sought)
        decisions = await self.worker.run(excerpt.decide, queries, candidates, choice=choice)  # it may ask a reader
        return await self.lookups.run(excerpt.reading, queries, decisions), excerpt.version

    async def bridges(self, name: str, queries: Sequence[Query], selection: Selection = EVERYTHING) -> list[str]:
        """As `memory.scope.two_hops.bridges`, of the facts that `read` would read."""
        memory = await self.fresh(name)
        if not selection.is_excerpt:
            return await self.worker.run(bridges, memory, queries, selection.exclude)
        return await self.lookups.run(lambda: bridges(Excerpt(memory, selection), queries))

    async def _one(self, name: str, plan: Callable[[EpisodicMemory], Change]) -> Committed:
        (outcome,) = await self._change(name, lambda memory: [plan(memory)])
        assert isinstance(outcome, Committed)
        return outcome

    async def _change(self, name: str, plan: Plan, answer: Answer | None = None) -> list[Committed | Exception]:
        return await to_its_end(self._change_locked(name, plan, answer))  # a committed change must be applied

    async def _change_locked(self, name: str, plan: Plan, answer: Answer | None) -> list[Committed | Exception]:
        async with self._locked(name) as tenant:
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
        if times:  # noted before the commit, and only for facts of the plan: a refused one leaves no mark
            await self.store.expect_expiry(tenant.name, min(times))
        try:
            await self.store.commit(tenant.name, *changes, fingerprint=self.model.fingerprint, answer=kept)
        except (VersionConflict, AnswerExists):
            raise
        except BaseException:
            tenant.stale = True  # the change may be in the store: the next one follows it first
            raise
        commit_s = time.perf_counter() - started

        def make() -> tuple[float, float, float]:
            began, solve_at = time.perf_counter(), time.time()
            with request_stream(self.model.device):
                residual = memory.apply(changes)
            return residual, time.perf_counter() - began, solve_at

        try:
            residual, solve_s, solve_at = await self._surely(tenant, make)
        except Exception as error:
            if not isinstance(error, NotReady):  # as it is while the server ends
                log_defect(error)
            told = f"version {changes[-1].version} of {tenant.name} is written, and this server could not follow it: {type(error).__name__}"
            raise CommitUnknown(told) from error
        self._count(tenant, len(changes))
        self._weigh(tenant)
        if times and min(times) < time.time():  # expiry may have looked at the mark before the fact was there
            with suppress(StoreUnavailable):
                await self.store.expect_expiry(tenant.name, min(times))
        made = iter(changes)
        return [
            outcome
            if isinstance(outcome, Exception)
            else Committed(next(made), residual, solve_s, commit_s, commit_at, solve_at)
            for outcome in planned
        ]

    async def keep_snapshots(self) -> None:
        """Snapshot changed memories after `snapshot_every` changes or `snapshot_s` seconds, until cancelled."""
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), self.holding.snapshot_s)
            self._wake.clear()
            await self.snapshot()

    async def snapshot(self) -> None:
        """Snapshot every changed memory. Readiness and a metric show a failure; the next round tries again."""
        failure = ""
        for tenant in self.loaded:
            if not tenant.changes_since_snapshot:
                continue
            try:
                await self._snapshot(tenant)
                self.metrics.snapshots.labels("ok").inc()
            except Exception as error:
                failure = type(error).__name__
                self.metrics.snapshots.labels("failed").inc()
                log.warning("snapshot_failed", error=failure)
        self.snapshot_failure = failure

    async def _snapshot(self, tenant: Tenant) -> None:
        """Write a snapshot. Written facts do not change, so the tenant takes changes meanwhile."""
        async with tenant.lock:
            if tenant.broken:
                await self._follow(tenant)
            memory, count, taken_at = tenant.memory, tenant.changes_since_snapshot, time.time()
            pages, version = await self.worker.run(lambda: (memory.snapshot(), memory.version))
        if await self.store.snapshot(tenant.name, pages, version, self.model.fingerprint):
            await self._surely(tenant, lambda: memory.mark_stored(pages, version))  # only that thread changes a memory
            tenant.changes_since_snapshot -= min(count, tenant.changes_since_snapshot)
            tenant.changed_at = taken_at


