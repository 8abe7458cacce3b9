"""Every byte of what is stored, damaged in turn: the memory that is read is the true one, bit for bit, or a documented error.

TEST_SWEEP_FACTS=100 pytest tests/memory/store/test_recovery.py      the recorded one, of pages over a mebibyte in several parts
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
from redis.asyncio import Redis

from memory.episodic import EpisodicMemory
from memory.errors import FingerprintMismatch, StoreCorrupt
from memory.page import PageSettings
from memory.scope.rules import Scope
from memory.store.key_names import Keys
from memory.store.redis_store import RedisStore
from tests.memory.changes import MODEL, fact, fill, forget

pytestmark = [pytest.mark.service, pytest.mark.anyio]

FACTS = int(os.environ.get("TEST_SWEEP_FACTS", "4"))  # of a snapshot; a fact is about 8 KB
FLIP_EVERY, CUT_EVERY = 64, 1024


class Stored:
    """A tenant with a snapshot of `FACTS` facts, a newer one of two more, and a write and a forget behind them."""

    def __init__(self, store: RedisStore, client: Redis, tenant: str) -> None:
        self.store, self.client, self.tenant, self.keys = store, client, tenant, Keys(tenant)
        self.truth = ""

    async def fill(self) -> Stored:
        kept = [fact(version) for version in range(1, FACTS + 1)]
        await fill(self.store, self.tenant, FACTS + 2)
        assert await self.store.snapshot(self.tenant, {0: kept}, FACTS, MODEL)
        await self.store.commit(self.tenant, forget(FACTS + 3, FACTS + 1), fingerprint=MODEL)
        newer = [*kept, fact(FACTS + 2)]
        assert await self.store.snapshot(self.tenant, {0: newer}, FACTS + 3, MODEL)
        await self.store.commit(self.tenant, forget(FACTS + 4, 2), fingerprint=MODEL)
        self.truth = await self.read()
        return self

    async def read(self) -> str:
        """Checksum of the memory that a server would have; raises as RedisStore.load."""
        found = await self.store.load(self.tenant, MODEL)
        memory = EpisodicMemory.restore(
            896, PageSettings(), Scope(), pages=found.pages, changes=found.changes, version=found.version
        )
        return memory.checksum()

    async def parts(self) -> list[list[bytes]]:
        """The fields of the older snapshot and of the newer one, each in order."""
        fields = [tuple(map(int, field.split(b":"))) for field in await self.client.hkeys(self.keys.parts)]
        tokens = sorted({token for _, token, _ in fields})
        return [[b"%d:%d:%d" % field for field in sorted(fields) if field[1] == token] for token in tokens]

    async def outcome(self) -> str:
        """`true`, or the documented error. Anything else fails."""
        try:
            assert await self.read() == self.truth, "a wrong memory"
            return "true"
        except (StoreCorrupt, FingerprintMismatch) as error:
            return type(error).__name__

    async def damaged(self, key: str, field: bytes, damage: Iterator[bytes]) -> set[str]:
        """The outcomes of all these bytes in one field, which is then what it was."""
        raw, outcomes = await self.client.hget(key, field), set()
        for bad in damage:
            await self.client.hset(key, field, bad)  # type: ignore[arg-type]  # redis-py wants str
            outcomes.add(await self.outcome())
        await self.client.hset(key, field, raw)  # type: ignore[arg-type]
        assert await self.outcome() == "true"
        return outcomes


def flipped(raw: bytes, every: int) -> Iterator[bytes]:
    for at in range(0, len(raw), every):
        yield raw[:at] + bytes([raw[at] ^ (1 << at // every % 8)]) + raw[at + 1 :]


def each_bit(raw: bytes) -> Iterator[bytes]:
    for at, value in enumerate(raw):
        yield from (raw[:at] + bytes([value ^ (1 << bit)]) + raw[at + 1 :] for bit in range(8))


def cut_short(raw: bytes, every: int) -> Iterator[bytes]:
    return (raw[:at] for at in range(0, len(raw), every))


@pytest.fixture
async def stored(store: RedisStore, client: Redis, tenant: str) -> AsyncIterator[Stored]:
    yield await Stored(store, client, tenant).fill()
    await store.drop(tenant)


@pytest.mark.parametrize(("damage", "every"), [(flipped, FLIP_EVERY), (cut_short, CUT_EVERY)])
async def test_a_snapshot(stored: Stored, damage: Callable[[bytes, int], Iterator[bytes]], every: int) -> None:
    """The newer one is rebuilt from the older and the log. Where the older one is damaged, too, the tenant is refused."""
    older, newer = await stored.parts()
    for field in newer:
        raw = await stored.client.hget(stored.keys.parts, field)
        assert raw is not None
        assert await stored.damaged(stored.keys.parts, field, damage(raw, every)) == {"true"}
    await stored.client.hset(stored.keys.parts, newer[0], b"?")  # type: ignore[arg-type]
    for field in older:
        raw = await stored.client.hget(stored.keys.parts, field)
        assert raw is not None
        for bad in damage(raw, every * 16):
            await stored.client.hset(stored.keys.parts, field, bad)  # type: ignore[arg-type]
            assert await stored.outcome() == "StoreCorrupt"
        await stored.client.hset(stored.keys.parts, field, raw)  # type: ignore[arg-type]
    assert await stored.outcome() == "true"


async def test_a_manifest(stored: Stored) -> None:
    for field in (b"page:0", b"old:0"):
        raw = await stored.client.hget(stored.keys.pages, field)
        assert raw is not None
        for damage in (flipped(raw, 1), cut_short(raw, 1)):
            assert await stored.damaged(stored.keys.pages, field, damage) <= {"true", "FingerprintMismatch"}
    for field in (b"floor", b"reach"):
        raw = await stored.client.hget(stored.keys.pages, field)
        assert raw is not None
        assert await stored.damaged(stored.keys.pages, field, each_bit(raw)) <= {"true", "StoreCorrupt"}


async def test_a_page_with_a_damaged_manifest_is_stored_anew(stored: Stored, store: RedisStore) -> None:
    await stored.client.hset(stored.keys.pages, "page:0", "{")
    assert await stored.outcome() == "true"
    found = await store.load(stored.tenant, MODEL)
    facts = [fact(version) for version in sorted(found.alive())]
    assert await store.snapshot(stored.tenant, {0: facts}, found.version, MODEL)
    again = await store.load(stored.tenant, MODEL)
    assert (again.alive(), again.repaired) == (found.alive(), {})
    assert not await stored.client.exists(stored.keys.lease)
    fields = await stored.client.hkeys(stored.keys.parts)
    assert len({field.split(b":")[1] for field in fields}) == 1  # what no manifest names is gone


async def test_data_keys(stored: Stored) -> None:
    for field, raw in (await stored.client.hgetall(stored.keys.data_keys)).items():
        for damage in (flipped(raw, 1), cut_short(raw, 1)):
            assert await stored.damaged(stored.keys.data_keys, field, damage) == {"StoreCorrupt"}


async def test_the_log(stored: Stored) -> None:
    """A stream's entries cannot be altered, so all of it is written anew around one that differs."""
    entries = await stored.client.xrange(stored.keys.log)

    async def rewritten(number: int, name: bytes, bad: bytes) -> None:
        await stored.client.delete(stored.keys.log)
        for at, (entry, fields) in enumerate(entries):
            given = fields | {name: bad} if at == number else fields
            await stored.client.xadd(stored.keys.log, given, id=entry)

    first, last = 0, len(entries) - 1  # behind the older snapshot and behind the newer one
    outcomes: dict[int, set[str]] = {first: set(), last: set()}
    for number, found in outcomes.items():
        for name, raw in entries[number][1].items():
            for bad in flipped(raw, FLIP_EVERY if len(raw) > 999 else 1):
                await rewritten(number, name, bad)
                found.add(await stored.outcome())
    assert outcomes[first] == {"true"}  # it is read only where the newer snapshot is damaged
    assert "StoreCorrupt" in outcomes[last] and outcomes[last] <= {"true", "StoreCorrupt"}


async def test_snapshots_exchanged(stored: Stored, store: RedisStore, client: Redis, tenant: str) -> None:
    """Between two tenants, between two pages, and the older for the newer one."""
    other = await Stored(store, client, f"{tenant}-2").fill()
    older, newer = await stored.parts()
    for mine, theirs in zip(newer, (await other.parts())[1], strict=True):
        bad = await client.hget(other.keys.parts, theirs)
        assert bad is not None
        assert await stored.damaged(stored.keys.parts, mine, iter([bad])) == {"true"}
    for mine, before in zip(newer, older, strict=False):
        bad = await client.hget(stored.keys.parts, before)
        assert bad is not None
        assert await stored.damaged(stored.keys.parts, mine, iter([bad])) == {"true"}
    manifest = await client.hget(stored.keys.pages, "page:0")
    await client.hset(stored.keys.pages, "page:1", manifest)  # type: ignore[arg-type]
    assert await stored.outcome() == "StoreCorrupt"
    await client.hdel(stored.keys.pages, "page:1")
    for name in ("log", "parts", "pages", "data_keys"):
        await client.delete(getattr(stored.keys, name))
        await client.copy(getattr(other.keys, name), getattr(stored.keys, name))
    assert await stored.outcome() == "StoreCorrupt"
    assert await other.outcome() == "true"
    await store.drop(other.tenant)
