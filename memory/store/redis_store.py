"""The store: for each tenant a log of changes and a snapshot of pages, in Redis."""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextvars import Context
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

from redis.asyncio.retry import Retry

from memory import packed_fact
from memory.change import Change
from memory.errors import AnswerSpent, StoreUnavailable
from memory.fact import Fact
from memory.store import key_names as names
from memory.store import lua, sealed_record
from memory.store.cluster import Client, close, ready, servers
from memory.store.commit import HINDSIGHT_S, Commit, CommitUnknown
from memory.store.durability import Durability, Level
from memory.store.idempotency_keys import KEPT_S, spent
from memory.store.key_names import Keys
from memory.store.link import Link
from memory.store.recovery import DataKeys, Recovered, Recovery, Salvaged
from memory.store.sealed_record import DataKey
from memory.store.snapshots import Pages, Snapshots
from memory.store.vault import Vault

__all__ = ["CommitUnknown", "Dropped", "Recovered", "RedisStore"]

TURN_MS = 1000
EXACT_S = 16.0  # an expiry sooner than this has a mark at its exact time
MARKS = 1000  # expiry marks in one command
PROBE_S = 1.0  # how long readiness reuses the last probe


@dataclass(frozen=True)
class Dropped:
    """The result of an erasure.

    Attributes:
        version: the tenant's last one, after which its versions go on; 0 if the tenant had no keys.
        facts: number of destroyed data keys, history included; with a vault also those of commits that never succeeded.
    """

    version: int
    facts: int


class RedisStore:
    """The persistence of memories. `key_names.py` lists the stored keys.

    Every fact is sealed with a data key of its own (sealed_record.py). Forgetting destroys that key before its answer.

    Every method may raise StoreUnavailable (no answer, or a refusal: out of memory, read-only, loading);
    methods with a tenant also ValueError (its name) and StoreCorrupt (one of its keys has a foreign type).

    Args:
        client: from `connection.connect`; `close` closes it.
        timeout_s: for a commit or a ping, retries included. Reading or writing a whole tenant has only the client's
            time-out for each command.
        vault: the files of data keys; None: data keys are in the store, and change in the same step as the log.
        retry: after a lost connection.
        level: the durability of commits; None for the strongest that the server keeps without replicas.
        replicas: how many replicas must have a commit at level `replica`.
    """

    def __init__(
        self,
        client: Client,
        *,
        timeout_s: float = 5.0,
        vault: Vault | None = None,
        retry: Retry | None = None,
        level: Level | None = None,
        replicas: int = 1,
    ) -> None:
        self._link = Link(client, timeout_s=timeout_s, retry=retry, level=level, replicas=replicas)
        self._vault = vault
        self._snapshots = Snapshots(self._link)
        self._writer = os.urandom(8)
        self._probe: asyncio.Task[Durability] | None = None
        self._probed_at = 0.0

    @property
    def durability(self) -> Level | None:
        """The durability of an acknowledged commit; None before the first probe and after a lost connection."""
        return self._link.durability.level if self._link.durability else None

    @property
    def shared(self) -> bool:
        """Whether other servers may write to this store."""
        return self._vault is None

    @property
    def index_bytes(self) -> int:
        """About how many bytes the index of the vault's files takes in this process."""
        return self._vault.size_bytes if self._vault is not None else 0

    async def ping(self) -> Durability:
        """Probe the server's durability.

        Raises:
            PromiseBroken: the server cannot keep the level of commits.
        """

        return await self._link.call(self._link.ask, hurry=True)

    async def probed(self) -> Durability:
        """As `ping`, at most once in PROBE_S for all callers: readiness needs no key, so anybody may ask for it often."""
        if self._probe is None or (self._probe.done() and time.monotonic() - self._probed_at > PROBE_S):
            self._probe = asyncio.create_task(self.ping(), context=Context())  # shared, so of no request
            self._probe.add_done_callback(self._answered)
        return await asyncio.shield(self._probe)

    def _answered(self, probe: asyncio.Task[Durability]) -> None:
        self._probed_at = time.monotonic()
        if not probe.cancelled():
            probe.exception()  # nobody may be waiting any more

    async def close(self) -> None:
        """Close all connections; may be called again."""
        if self._probe is not None:
            self._probe.cancel()
        await close(self._link.client)

    async def load(self, tenant: str, fingerprint: str | None) -> Recovered:
        """All of a tenant, as of one version.

        Args:
            fingerprint: of the model that must have written it; None for any.

        Raises:
            StoreCorrupt: pages or entries are torn, foreign or missing, or data keys are.
            FingerprintMismatch: another model wrote it.
        """
        recovered = await Recovery(self._link, Keys(tenant), self._vault, fingerprint).recover()
        if self._vault is not None:
            gone = {version for change in recovered.changes for version in change.forgets}
            await asyncio.to_thread(self._vault.sweep, tenant, recovered.alive, gone)
        return recovered

    async def follow(self, tenant: str, version: int, fingerprint: str) -> list[Change] | None:
        """The changes after `version`, made by other servers; None if the log is trimmed beyond it: load again.

        Raises:
            StoreCorrupt: a change is damaged, or the store is behind `version`: it lost data.
            FingerprintMismatch: another model made a change.
        """
        changes = await Recovery(self._link, Keys(tenant), self._vault, fingerprint).follow(version)
        if self._vault is not None and changes:  # our own commits whose reply was lost
            await asyncio.to_thread(self._vault.erase, tenant, [gone for change in changes for gone in change.forgets])
        return changes

    async def commit(self, tenant: str, *changes: Change, fingerprint: str, answer: tuple[str, bytes] | None = None) -> None:
        """Append `changes` in one step, and wait until they are durable and the data keys of forgotten facts are destroyed.

        Args:
            changes: with consecutive versions from the tenant's last one plus 1 on.
            fingerprint: of the model that made their keys and codes.
            answer: digest of an Idempotency-Key and the answer for its repetition, sealed with the first fact's key.

        Raises:
            VersionConflict: another writer took this version; nothing is written.
            AnswerExists: the key has an answer already, or is spent; nothing is written.
            StoreCorrupt: the store is behind the memory: it lost data, or is an older copy.
            CommitUnknown: the changes may be written; or they are, and the data keys of forgotten facts are not destroyed
                yet. (A cancelled commit is as unknown.)
            StoreUnavailable: nothing is written.
        """
        keys = Keys(tenant)
        data_keys = {change.version: DataKey.new() for change in changes if change.fact is not None}
        entries = await asyncio.to_thread(_entries, tenant, changes, data_keys, fingerprint)
        forgotten = [version for change in changes for version in change.forgets]
        ended: list[str | bytes] = [
            part for change in changes for name, _ in change.answers for gone in change.forgets for part in (name, str(gone))
        ]
        lists: list[list[str | bytes]] = [[], [], [], ended, spent(changes)]
        if answer is not None:
            name, content = answer
            sealed = data_keys[changes[0].version].seal(tenant, changes[0].version, content)
            lists[2] = [name, b"%d:" % changes[0].version + sealed]
        if self._vault is not None:
            await asyncio.to_thread(self._vault.put, tenant, data_keys)
        else:
            lists[0] = [part for version, key in data_keys.items() for part in (str(version), key.raw)]
            lists[1] = [str(version) for version in forgotten]
        scripted = [keys.log, keys.pages, keys.data_keys, keys.answers, keys.turn, keys.spent]
        await Commit(self._link, scripted, changes[0].version, entries, lists, self._writer).run(tenant)
        if self._vault is not None and forgotten:
            try:
                await asyncio.to_thread(self._vault.erase, tenant, forgotten)
            except StoreUnavailable as error:  # the next `follow` or `load` erases them
                written = f"version {changes[-1].version} of {tenant} is written"
                raise CommitUnknown(f"{written}; the data keys of the forgotten facts are not destroyed yet: {error}") from error

    async def claim(self, tenant: str) -> None:
        """Claim the tenant's next commit, after losing to other writers. The claim lapses after TURN_MS."""
        keys = Keys(tenant)

        async def ask() -> None:
            await self._link.near(keys.turn).set(keys.turn, self._writer, nx=True, px=TURN_MS)

        await self._link.call(ask, tenant=tenant, hurry=True)

    async def answer(self, tenant: str, name: str) -> bytes | None:
        """The answer kept under the digest of an Idempotency-Key; None if there is none.

        Raises:
            AnswerSpent: the answer's fact has been replaced or forgotten since.
            CorruptRecord: the answer is damaged.
        """
        keys = Keys(tenant)

        async def get() -> list[Any]:
            async with self._link.near(keys.answers).pipeline(transaction=False) as pipe:
                pipe.hget(keys.answers, name)
                pipe.zscore(keys.spent, name)
                return await pipe.execute()

        raw, used = await self._link.call(get, tenant=tenant, hurry=True)
        if raw is None:
            if used is not None and used > time.time() - KEPT_S:
                raise AnswerSpent
            return None
        number, _, sealed = raw.partition(b":")
        version = int(number)
        data_key = (await self._data_keys(keys, [version])).get(version, {}).get(sealed_record.key_id(sealed))
        return None if data_key is None else data_key.open(tenant, version, sealed)

    async def discard_answers(self, tenant: str, answers: Sequence[tuple[str, int]]) -> None:
        """Delete answers, by name and version of their fact."""
        if answers:
            keys = Keys(tenant)
            gone = [str(part) for answer in answers for part in answer]

            async def delete() -> list[int]:
                return await self._link.run(lua.DISCARD, [keys.log, keys.pages, keys.answers], [len(gone), *gone])

            await self._link.call(delete, tenant=tenant)

    async def snapshot(self, tenant: str, pages: Mapping[int, Sequence[Fact]], version: int, fingerprint: str) -> bool:
        """Write pages, read them back, switch to them, and trim the log up to the previous snapshot.

        Interrupted at any point, it leaves a tenant that `load` can read.

        Args:
            pages: the facts of all pages that changed since the last snapshot, in row order.
            version: the last one that they cover.
            fingerprint: of the model that made their keys and codes.

        Returns:
            Whether the snapshot is in place. It is not if another server takes one now or has taken a newer one.

        Raises:
            StoreCorrupt: other bytes were read back than written, or the store is behind the memory.
        """
        return await self._snapshots.take(Keys(tenant), await self._pages(tenant, pages, fingerprint), version)

    async def replace(self, tenant: str, pages: Mapping[int, Sequence[Fact]], version: int, fingerprint: str) -> bool:
        """Replace all pages by the same facts with keys and codes of another model, as the next version.

        Args:
            pages: all facts of all pages, in row order.
            version: the last one, of which the pages are.
            fingerprint: of the model that made their keys and codes.

        Returns:
            Whether the pages are replaced. They are not if another server has changed the tenant or takes a snapshot.

        Raises:
            StoreCorrupt: other bytes were read back than written.
        """
        return await self._snapshots.replace(Keys(tenant), await self._pages(tenant, pages, fingerprint), version)

    async def _pages(self, tenant: str, facts: Mapping[int, Sequence[Fact]], fingerprint: str) -> Pages:
        versions = [fact.version for page in facts.values() for fact in page]
        return Pages(facts, fingerprint, await self._data_keys(Keys(tenant), versions))

    async def salvage(self, tenant: str) -> Salvaged:
        """Every readable fact of a tenant, which may be damaged and of any model."""
        return await Recovery(self._link, Keys(tenant), self._vault, None).salvage()

    async def drop(self, tenant: str, known: int = 0) -> Dropped:
        """Erase all of a tenant without reading it: it may be damaged or of another model. A version above the last one and the
        last fencing token stay.

        Args:
            known: the last version that the caller knows; versions go on from it if the store has lost some.

        Raises:
            CommitUnknown: the tenant is erased, and its data keys are not.
        """
        keys = Keys(tenant)

        async def drop() -> list[int]:
            return await self._link.run(lua.DROP, keys.all, [known])

        _, version, destroyed = await self._link.call(drop, tenant=tenant)
        if self._vault is not None:
            try:
                destroyed += await asyncio.to_thread(self._vault.drop, tenant)
            except StoreUnavailable as error:
                raise CommitUnknown(f"{tenant} is erased, but its data keys are not: {error}; erase it again") from error
        return Dropped(version, destroyed)

    async def tenants(self) -> AsyncIterator[str]:
        """Every tenant of the store, in no order; for administrators only."""
        await ready(self._link.client)
        for server in servers(self._link.client):
            async for name in server.scan_iter(names.LOGS, count=1000):
                yield names.tenant_of(name)

    async def expect_expiry(self, tenant: str, at: float) -> None:
        """Mark, before its commit, that a fact of the tenant expires at `at` (Unix time).

        A server deletes a mark once it has looked for expired facts after the mark's time. The commit may come after that look. So
        an expiry within HINDSIGHT_S gets a second mark, for a look when the commit has succeeded or never will.
        """
        now = time.time()
        marks = [_mark(at, now)]
        if marks[0] < now + HINDSIGHT_S:
            marks.append(HINDSIGHT_S * (now // HINDSIGHT_S + 2))

        async def note() -> None:
            await self._link.near(names.EXPIRIES).zadd(names.EXPIRIES, {f"{tenant}:{mark!r}": mark for mark in marks})

        await self._link.call(note, hurry=True)

    async def due(self, now: float) -> list[tuple[str, float]]:
        """The marks up to `now`: tenant and time (Unix) of each."""
        found: list[tuple[bytes, float]] = []

        async def ask(key: str, skip: int) -> list[tuple[bytes, float]]:
            page = await self._link.near(key).zrangebyscore(key, "-inf", now, start=skip, num=MARKS, withscores=True)
            return cast("list[tuple[bytes, float]]", page)

        for key in (names.EXPIRIES, names.EARLIER_EXPIRIES):
            read = 0
            while page := await self._link.call(partial(ask, key, read), hurry=True):
                found += page
                read += len(page)
                if len(page) < MARKS:
                    break
        return [(mark.decode().partition(":")[0], at) for mark, at in found]

    async def expired(self, tenant: str, noted: Sequence[float], upcoming: float | None) -> None:
        """Delete marks after a look at the newest memory, and mark its next expiry `upcoming`; None for none."""
        expires = ["", ""] if upcoming is None else [repr(upcoming), repr(_mark(upcoming, time.time()))]

        async def note(marks: Sequence[float]) -> None:
            script = self._link.near(names.EXPIRIES).register_script(lua.EXPIRED)
            await script(keys=[names.EXPIRIES, names.EARLIER_EXPIRIES], args=[tenant, *expires, *map(repr, marks)])

        for start in range(0, len(noted), MARKS):
            await self._link.call(partial(note, noted[start : start + MARKS]), hurry=True)

    async def size_bytes(self, tenant: str) -> int:
        """About how many bytes the tenant takes in the store's server."""
        keys = Keys(tenant)

        async def ask() -> int:
            async with self._link.near(keys.log).pipeline(transaction=False) as pipe:
                for key in keys.all:
                    pipe.memory_usage(key)
                return sum(size or 0 for size in await pipe.execute())

        return await self._link.call(ask, tenant=tenant)

    async def _data_keys(self, keys: Keys, versions: Sequence[int]) -> DataKeys:
        return await Recovery(self._link, keys, self._vault, None).data_keys(versions)


def _entries(tenant: str, changes: Sequence[Change], data_keys: Mapping[int, DataKey], fingerprint: str) -> list[list[bytes]]:
    """The fields of each change's log entry, name and value in turn."""
    entries = []
    for change in changes:
        sealed = None
        if change.fact is not None:
            sealed = data_keys[change.version].seal(tenant, change.version, packed_fact.pack(change.fact))
        entries.append([part for item in change.to_fields(sealed, fingerprint).items() for part in item])
    return entries


def _mark(at: float, now: float) -> float:
    """The mark for an expiry at `at`: that time or, if it is far off, up to 1/32 of the remaining time earlier, on a grid. So a tenant
    has few marks for many expiring facts; the look at an early mark sets a nearer one."""
    ahead = at - now
    if not EXACT_S <= ahead < math.inf:
        return at
    step = 2.0 ** math.floor(math.log2(ahead / 32))
    return at // step * step
