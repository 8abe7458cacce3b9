"""One contract, on the embedded Valkey and on a real Redis."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from redis.asyncio import Redis

from memory.errors import AnswerExists, AnswerSpent, FingerprintMismatch, StoreCorrupt, StoreUnavailable, VersionConflict
from memory.store.connection import connect
from memory.store.idempotency_keys import KEPT_S
from memory.store.key_names import Keys
from memory.store.redis_store import CommitUnknown, Dropped, RedisStore
from tests.memory.changes import MODEL, fact, fill, forget, plain, write
from tests.memory.servers import Proxy, Server

pytestmark = [pytest.mark.service, pytest.mark.anyio]


async def no_log(client: Redis, keys: Keys) -> None:
    await client.delete(keys.log)


async def another_log(client: Redis, keys: Keys) -> None:
    await client.set(keys.log, "not ours")


async def other_pages(client: Redis, keys: Keys) -> None:
    await client.delete(keys.pages)
    await client.set(keys.pages, "not ours")


async def no_number(client: Redis, keys: Keys) -> None:
    await client.hset(keys.pages, "floor", "1e999")


async def other_data_keys(client: Redis, keys: Keys) -> None:
    await client.delete(keys.data_keys)
    await client.set(keys.data_keys, "not ours")


async def torn_parts(client: Redis, keys: Keys) -> None:
    for field in await client.hkeys(keys.parts):
        await client.hset(keys.parts, field, b"?")  # type: ignore[arg-type]  # redis-py wants str


async def nothing(client: Redis, keys: Keys) -> None:
    pass


DAMAGE = {
    "without a log": no_log,
    "log of another kind": another_log,
    "pages of another kind": other_pages,
    "floor that is no version": no_number,
    "data keys of another kind": other_data_keys,
    "torn parts": torn_parts,
    "of another model": nothing,
}


class TestCommit:
    async def test_load_gives_what_was_committed(self, store: RedisStore, tenant: str) -> None:
        changes = await fill(store, tenant, 3)
        recovered = await store.load(tenant, MODEL)
        assert plain(recovered.changes) == plain(changes)
        assert (recovered.version, recovered.pages) == (3, {})

    async def test_new_tenant_is_empty(self, store: RedisStore, tenant: str) -> None:
        recovered = await store.load(tenant, MODEL)
        assert (recovered.version, recovered.changes, recovered.pages) == (0, [], {})

    async def test_log_longer_than_one_read(self, store: RedisStore, tenant: str) -> None:
        await fill(store, tenant, 257)
        recovered = await store.load(tenant, MODEL)
        assert [change.version for change in recovered.changes] == list(range(1, 258))

    async def test_version_taken(self, store: RedisStore, tenant: str) -> None:
        changes = await fill(store, tenant, 2)
        with pytest.raises(VersionConflict) as caught:
            await store.commit(tenant, write(2, "another"), fingerprint=MODEL)
        assert (caught.value.expected, caught.value.found) == (1, 2)
        recovered = await store.load(tenant, MODEL)
        assert plain(recovered.changes) == plain(changes) and recovered.pages == {}

    async def test_store_behind_the_memory(self, store: RedisStore, tenant: str) -> None:
        await fill(store, tenant, 1)
        with pytest.raises(StoreCorrupt, match="version 1, the memory at 4"):
            await store.commit(tenant, write(5), fingerprint=MODEL)

    async def test_forgetting_destroys_the_data_key_in_the_same_step(
        self, store: RedisStore, client: Redis, tenant: str
    ) -> None:
        changes = await fill(store, tenant, 3)
        await store.commit(tenant, forget(4, 2), fingerprint=MODEL)
        await store.commit(tenant, write(5, forgets=[3]), fingerprint=MODEL)
        assert sorted(await client.hkeys(Keys(tenant).data_keys)) == [b"1", b"5"]
        recovered = await store.load(tenant, MODEL)
        assert [change.version for change in recovered.changes if change.fact] == [1, 5]
        assert plain(recovered.changes[:1]) == plain(changes[:1])
        assert recovered.alive() == {1, 5}

    async def test_nothing_of_a_fact_is_stored_in_the_clear(self, store: RedisStore, client: Redis, tenant: str) -> None:
        await fill(store, tenant, 2)
        assert await store.snapshot(tenant, {0: [fact(1), fact(2)]}, 2, MODEL)
        held = b"".join([await client.dump(key) or b"" for key in Keys(tenant).all])
        for needle in (b"rocket", b"fact-1", fact(1).key.numpy().tobytes()[:16], fact(1).code.numpy().tobytes()[:16]):
            assert needle not in held

    async def test_answers_live_as_long_as_their_fact(self, store: RedisStore, tenant: str) -> None:
        await store.commit(tenant, write(1), fingerprint=MODEL, answer=("digest", b"the answer"))
        assert await store.answer(tenant, "digest") == b"the answer"
        assert await store.answer(tenant, "another") is None
        with pytest.raises(AnswerExists):
            await store.commit(tenant, write(2), fingerprint=MODEL, answer=("digest", b"again"))
        assert (await store.load(tenant, MODEL)).version == 1

    async def test_a_key_whose_fact_is_gone_is_spent_for_a_day(self, server: Server, store: RedisStore, client: Redis, tenant: str) -> None:
        keys, now = Keys(tenant), time.time()
        for version, name in enumerate(("digest", "older"), 1):
            await store.commit(tenant, write(version), fingerprint=MODEL, answer=(name, b"the answer"))
        gone = replace(forget(3, 1, 2), answers=(("digest", now - KEPT_S + 100), ("older", now - KEPT_S)))
        await store.commit(tenant, gone, fingerprint=MODEL)
        assert await client.hgetall(keys.answers) == {} and await client.zrange(keys.spent, 0, -1) == [b"digest"]
        other = RedisStore(connect(server.url))
        with pytest.raises(AnswerSpent):
            await other.answer(tenant, "digest")
        with pytest.raises(AnswerExists):
            await other.commit(tenant, write(4), fingerprint=MODEL, answer=("digest", b"again"))
        await other.close()
        assert await store.answer(tenant, "older") is None
        await client.zadd(keys.spent, {"digest": now - KEPT_S})
        assert await store.answer(tenant, "digest") is None
        await store.commit(tenant, write(4), fingerprint=MODEL, answer=("digest", b"again"))
        assert await store.answer(tenant, "digest") == b"again"
        await store.commit(tenant, replace(forget(5, 4), answers=(("another", now),)), fingerprint=MODEL)
        assert await client.zrange(keys.spent, 0, -1) == [b"another"]  # what is over goes with the next

    async def test_spent_keys_are_bounded_and_expire(
        self, store: RedisStore, client: Redis, tenant: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("memory.store.idempotency_keys.MOST_SPENT", 3)
        spent, now = Keys(tenant).spent, time.time()
        await store.commit(tenant, write(1), fingerprint=MODEL)
        for version in range(2, 7):
            gone = replace(write(version, forgets=[version - 1]), answers=((f"key {version}", now + version),))
            await store.commit(tenant, gone, fingerprint=MODEL)
        assert await client.zrange(spent, 0, -1) == [b"key 4", b"key 5", b"key 6"]
        assert KEPT_S - 60 < await client.ttl(spent) <= KEPT_S

    async def test_follow(self, store: RedisStore, tenant: str) -> None:
        changes = await fill(store, tenant, 5)
        assert plain(await store.follow(tenant, 2, MODEL) or []) == plain(changes[2:])
        assert await store.follow(tenant, 5, MODEL) == []
        with pytest.raises(StoreCorrupt, match="lost data"):
            await store.follow(tenant, 6, MODEL)
        for version in (3, 5):  # the second one trims up to the first
            assert await store.snapshot(tenant, {0: [fact(v) for v in range(1, version + 1)]}, version, MODEL)
        assert await store.follow(tenant, 2, MODEL) is None
        assert plain(await store.follow(tenant, 3, MODEL) or []) == plain(changes[3:])

    async def test_drop_leaves_only_two_numbers(self, store: RedisStore, client: Redis, tenant: str) -> None:
        await fill(store, tenant, 3)
        await store.snapshot(tenant, {0: [fact(v) for v in (1, 2, 3)]}, 3, MODEL)
        keys = Keys(tenant)
        await client.set(keys.lease, 1)
        assert await store.drop(tenant) == Dropped(version=4, facts=3)
        assert {key for key in keys.all if await client.exists(key)} == {keys.log, keys.pages, keys.fence}
        assert await client.hgetall(keys.pages) == {b"floor": b"4", b"reach": b"4"}
        assert (await client.xlen(keys.log), await client.get(keys.fence)) == (0, b"1")
        recovered = await store.load(tenant, MODEL)
        assert (recovered.version, recovered.pages, recovered.changes) == (4, {}, [])
        assert await store.follow(tenant, 3, MODEL) is None
        await store.commit(tenant, write(5), fingerprint=MODEL)
        assert await store.drop("never-written") == Dropped(version=0, facts=0)

    async def test_a_tenant_of_which_only_the_fence_is_left_is_none(self, store: RedisStore, client: Redis, tenant: str) -> None:
        await client.set(Keys(tenant).fence, 7)
        assert tenant not in [name async for name in store.tenants()]
        assert await store.drop(tenant) == Dropped(version=0, facts=0)
        assert (await store.load(tenant, MODEL)).version == 0
        assert {key for key in Keys(tenant).all if await client.exists(key)} == {Keys(tenant).fence}

    @pytest.mark.parametrize("broken", sorted(DAMAGE))
    async def test_drop_needs_no_reading(self, store: RedisStore, client: Redis, tenant: str, broken: str) -> None:
        """Whatever is wrong with a tenant's keys. Versions go on even where nothing says any more which the last one was."""
        await fill(store, tenant, 4)
        for version in (3, 4):
            assert await store.snapshot(tenant, {0: [fact(v) for v in range(1, version + 1)]}, version, MODEL)
        keys = Keys(tenant)
        await DAMAGE[broken](client, keys)
        with pytest.raises((StoreCorrupt, FingerprintMismatch)):
            await store.load(tenant, "0" * 64 if broken == "of another model" else MODEL)
        dropped = await store.drop(tenant)
        assert dropped.version >= 5 and dropped.facts == (0 if broken == "data keys of another kind" else 4)
        assert {key for key in keys.all if await client.exists(key)} == {keys.log, keys.pages, keys.fence}
        recovered = await store.load(tenant, MODEL)
        assert (recovered.version, recovered.pages, recovered.changes) == (dropped.version, {}, [])
        assert await store.follow(tenant, 4, MODEL) is None  # other servers notice
        await store.commit(tenant, write(dropped.version + 1), fingerprint=MODEL)
        assert (await store.load(tenant, MODEL)).alive() == {dropped.version + 1}

    async def test_versions_go_on_from_the_memory_where_the_store_lost_some(self, store: RedisStore, tenant: str) -> None:
        await fill(store, tenant, 2)
        assert (await store.drop(tenant, 9)).version == 10

    @pytest.mark.parametrize("way", ["trimmed", "trimmed twice"])
    async def test_version_goes_on_when_entries_are_gone(self, store: RedisStore, client: Redis, tenant: str, way: str) -> None:
        await fill(store, tenant, 3)
        for _ in range(1 + (way == "trimmed twice")):
            assert await store.snapshot(tenant, {0: [fact(v) for v in (1, 2, 3)]}, 3, MODEL)
        await client.xtrim(Keys(tenant).log, maxlen=0, approximate=False)
        assert (await store.load(tenant, MODEL)).version == 3
        with pytest.raises(VersionConflict):
            await store.commit(tenant, write(1), fingerprint=MODEL)
        await store.commit(tenant, write(4), fingerprint=MODEL)
        assert (await store.load(tenant, MODEL)).version == 4

    async def test_refused_script_writes_nothing(self, store: RedisStore, client: Redis, tenant: str) -> None:
        await fill(store, tenant, 1)
        await client.set(Keys(tenant).pages, "not a hash")
        with pytest.raises(StoreCorrupt, match=tenant):
            await store.commit(tenant, write(2), fingerprint=MODEL)
        assert await client.xrange(Keys(tenant).log, "2-0") == []
        assert await client.xlen(Keys(tenant).log) == 1

    async def test_a_block_is_one_step(self, store: RedisStore, tenant: str) -> None:
        await fill(store, tenant, 2)
        block = [write(version) for version in (3, 4, 5)]
        await store.commit(tenant, *block, fingerprint=MODEL)
        recovered = await store.load(tenant, MODEL)
        assert [change.version for change in recovered.changes] == [1, 2, 3, 4, 5]
        with pytest.raises(VersionConflict) as caught:
            await store.commit(tenant, *(write(version, "late") for version in (5, 6)), fingerprint=MODEL)
        assert (caught.value.expected, caught.value.found) == (4, 5)
        assert (await store.load(tenant, MODEL)).version == 5

    async def test_out_of_memory(self, store: RedisStore, client: Redis, tenant: str) -> None:
        await fill(store, tenant, 1)
        await client.config_set("maxmemory", 1)
        try:
            with pytest.raises(StoreUnavailable) as caught:
                await store.commit(tenant, write(2), fingerprint=MODEL)
        finally:
            await client.config_set("maxmemory", 0)
        assert not isinstance(caught.value, CommitUnknown)
        assert (await store.load(tenant, MODEL)).version == 1

    async def test_two_writers(self, server: Server, tenant: str) -> None:
        """Each version is taken once, however the two interleave."""

        async def writer(name: str) -> list[str]:
            store = RedisStore(connect(server.url))
            done: list[str] = []
            version = 1
            while len(done) < 40:
                try:
                    await store.commit(tenant, write(version, name), fingerprint=MODEL)
                    done.append(f"{name} {version}")
                    version += 1
                except VersionConflict as conflict:
                    version = conflict.found + 1
            await store.close()
            return done

        left, right = await asyncio.gather(writer("left"), writer("right"))
        store = RedisStore(connect(server.url))
        changes = (await store.load(tenant, MODEL)).changes
        await store.close()
        prompts = [change.fact.prompt for change in changes if change.fact]
        assert [change.version for change in changes] == list(range(1, 81))
        assert sorted(prompts) == sorted(left + right)


class TestTenants:
    @pytest.mark.parametrize(
        "name", ["", "a" * 65, "a:b", "a}b", "{a}", "a b", "a\n", "ä", "a/b", "*", "a\0"]
    )
    async def test_refused_names(self, store: RedisStore, name: str) -> None:
        with pytest.raises(ValueError, match="wanted 1 to 64"):
            await store.load(name, MODEL)
        with pytest.raises(ValueError, match="wanted 1 to 64"):
            await store.commit(name, write(1), fingerprint=MODEL)
        with pytest.raises(ValueError, match="wanted 1 to 64"):
            await store.snapshot(name, {}, 0, MODEL)

    @pytest.mark.parametrize(
        ("one", "other"), [("1", "10"), ("a", "A"), ("b", "b.log"), ("log", "pages"), ("-", "--")]
    )
    async def test_apart(self, store: RedisStore, one: str, other: str) -> None:
        await fill(store, one, 2)
        await store.snapshot(one, {0: [fact(1)]}, 1, MODEL)
        assert (await store.load(other, MODEL)).version == 0


class TestLostConnection:
    @pytest.fixture
    async def proxy(self, server: Server, tmp_path: Path) -> AsyncIterator[Proxy]:
        async with Proxy(server.socket, tmp_path / "p") as proxy:
            yield proxy

    @pytest.fixture
    async def through(self, proxy: Proxy, tenant: str) -> AsyncIterator[RedisStore]:
        store = RedisStore(connect(proxy.url))
        await fill(store, tenant, 1)
        yield store
        await store.close()

    @pytest.mark.parametrize("what", ["request", "reply"])
    @pytest.mark.parametrize("times", [1, 3])
    async def test_commit_is_sent_again_and_written_once(
        self, proxy: Proxy, through: RedisStore, tenant: str, what: str, times: int
    ) -> None:
        proxy.cut_next(what, times)
        await through.commit(tenant, write(2), fingerprint=MODEL)
        assert proxy.times == 0
        await through.commit(tenant, write(3), fingerprint=MODEL)
        await through.commit(tenant, write(4), write(5), fingerprint=MODEL)
        assert [change.version for change in (await through.load(tenant, MODEL)).changes] == [1, 2, 3, 4, 5]

    @pytest.mark.parametrize(("what", "version"), [("request", 1), ("reply", 2)])
    async def test_commit_is_unknown_when_nobody_answers(
        self, proxy: Proxy, through: RedisStore, store: RedisStore, tenant: str, what: str, version: int
    ) -> None:
        proxy.cut_next(what, times=99)
        with pytest.raises(CommitUnknown, match="unknown"):
            await through.commit(tenant, write(2), fingerprint=MODEL)
        assert (await store.load(tenant, MODEL)).version == version

    async def test_version_taken_by_another_meanwhile(
        self, proxy: Proxy, through: RedisStore, store: RedisStore, tenant: str
    ) -> None:
        proxy.cut_next("request", on_cut=lambda: store.commit(tenant, write(2, "theirs"), fingerprint=MODEL))
        with pytest.raises(VersionConflict):
            await through.commit(tenant, write(2, "ours"), fingerprint=MODEL)

    async def test_nobody_there(self, tmp_path: Path, tenant: str) -> None:
        store = RedisStore(connect(f"unix://{tmp_path}/nobody"))
        with pytest.raises(StoreUnavailable) as caught:
            await store.commit(tenant, write(1), fingerprint=MODEL)
        assert not isinstance(caught.value, CommitUnknown)
        for call in (store.ping(), store.load(tenant, MODEL), store.snapshot(tenant, {}, 0, MODEL)):
            with pytest.raises(StoreUnavailable):
                await call
        assert store.durability is None
        await store.close()

    async def test_frozen_server(self, server: Server, tenant: str) -> None:
        """Late replies to commands that were given up reach nobody, and the late commit is found in the
        log."""
        store = RedisStore(connect(server.url), timeout_s=0.3)
        await fill(store, tenant, 1)
        os.kill(server.pid, signal.SIGSTOP)
        try:
            with pytest.raises(CommitUnknown):
                await store.commit(tenant, write(2), fingerprint=MODEL)
            with pytest.raises(StoreUnavailable):
                await store.ping()
        finally:
            os.kill(server.pid, signal.SIGCONT)
        patient = RedisStore(connect(server.url))
        assert (await patient.ping()).level == "disk"
        with pytest.raises(VersionConflict):
            await patient.commit(tenant, write(2, "another"), fingerprint=MODEL)
        await patient.commit(tenant, write(3), fingerprint=MODEL)
        await patient.close()
        assert (await store.load(tenant, MODEL)).version == 3
        await store.close()

    async def test_cancelled_commit_leaves_the_client_whole(self, store: RedisStore, tenant: str) -> None:
        await fill(store, tenant, 1)
        for _ in range(20):
            version = (await store.load(tenant, MODEL)).version
            commit = asyncio.create_task(store.commit(tenant, write(version + 1), fingerprint=MODEL))
            for _ in range(version % 7):
                await asyncio.sleep(0)
            commit.cancel()
            await asyncio.gather(commit, return_exceptions=True)
        recovered = await store.load(tenant, MODEL)
        assert [change.version for change in recovered.changes] == list(range(1, recovered.version + 1))


