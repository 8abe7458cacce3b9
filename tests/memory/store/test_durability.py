"""What a server promises, and what happens when it cannot keep it."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from memory.errors import PromiseBroken, StoreUnavailable
from memory.store import link
from memory.store.connection import connect
from memory.store.durability import Durability, Level
from memory.store.redis_store import CommitUnknown, RedisStore
from tests.memory.changes import MODEL, fill, write
from tests.memory.servers import Proxy, Server, no_rewrite, running

pytestmark = [pytest.mark.service, pytest.mark.anyio]


class TestDurability:
    @pytest.fixture
    async def configured(self, client: Redis) -> AsyncIterator[Redis]:
        yield client
        await client.config_set("appendfsync", "always")
        await client.config_set("appendonly", "yes")
        await no_rewrite(client)  # a server that is still writing its first file refuses to end

    async def test_is_unknown_before_the_first_answer(self, store: RedisStore) -> None:
        assert store.durability is None
        await store.ping()
        assert store.durability == "disk"

    async def test_what_is_known_holds_until_the_server_has_answered_again(
        self, store: RedisStore, tenant: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A commit meanwhile asks nothing."""
        asked, answer, ask = asyncio.Event(), asyncio.Event(), link.probe

        async def slow(client: Redis, *wanted: Any) -> Durability:
            assert not asked.is_set()
            asked.set()
            await answer.wait()
            return await ask(client, *wanted)

        await store.ping()
        monkeypatch.setattr("memory.store.link.probe", slow)
        asking = asyncio.create_task(store.ping())
        await asked.wait()
        assert store.durability == "disk"
        await store.commit(tenant, write(1), fingerprint=MODEL)
        answer.set()
        assert (await asking).level == store.durability == "disk"

    async def test_all_who_only_want_to_know_share_an_answer(
        self, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked, ask = list[object](), link.probe

        async def counted(client: Redis, *wanted: Any) -> Durability:
            asked.append(client)
            return await ask(client, *wanted)

        monkeypatch.setattr("memory.store.link.probe", counted)
        store = RedisStore(connect(server.url))
        told = await asyncio.gather(*(store.probed() for _ in range(20)))
        assert len(asked) == 1 and {known.level for known in told} == {"disk"}
        assert (await store.probed()).level == "disk" and len(asked) == 1
        monkeypatch.setattr("memory.store.redis_store.PROBE_S", 0.0)
        assert (await store.probed()).level == "disk" and len(asked) == 2
        await store.close()
        lost = RedisStore(connect(f"unix://{tmp_path}/nothing"), timeout_s=0.2)
        failures = await asyncio.gather(*(lost.probed() for _ in range(5)), return_exceptions=True)
        assert [type(failure) for failure in failures] == [StoreUnavailable] * 5
        await lost.close()

    async def test_without_a_file(self, store: RedisStore, configured: Redis, tenant: str) -> None:
        await configured.config_set("appendonly", "no")
        assert (await store.ping()).level == "memory"
        await store.commit(tenant, write(1), fingerprint=MODEL)

    async def test_fsync_every_second(
        self, server: Server, store: RedisStore, configured: Redis, tenant: str, tmp_path: Path
    ) -> None:
        await configured.config_set("appendfsync", "everysec")
        known = await store.ping()
        knows_waitaof = server.kind == "embedded"  # Redis 7.0 does not, 7.2 and Valkey do
        assert (known.level, known.wait) == (("disk", "WAITAOF") if knows_waitaof else ("memory", None))
        await fill(store, tenant, 1)
        async with Proxy(server.socket, tmp_path / "p") as proxy:
            through = RedisStore(connect(proxy.url))
            await through.ping()
            proxy.cut_next("reply")
            await through.commit(tenant, write(2), fingerprint=MODEL)
            await through.close()
        assert (await store.load(tenant, MODEL)).version == 2

    async def test_file_switched_off_behind_our_back(
        self, server: Server, store: RedisStore, configured: Redis, tenant: str
    ) -> None:
        if server.kind == "redis":
            pytest.skip("Redis 7.0 has no WAITAOF")
        await configured.config_set("appendfsync", "everysec")
        await store.ping()
        await configured.config_set("appendonly", "no")
        with pytest.raises(CommitUnknown, match="not fsynced"):
            await store.commit(tenant, write(1), fingerprint=MODEL)
        assert store.durability is None
        assert (await store.ping()).level == "memory"

    @pytest.mark.parametrize("wanted", ["disk", "replica"])
    async def test_a_promise_that_cannot_be_kept_refuses_every_write(
        self, server: Server, configured: Redis, tenant: str, wanted: Level
    ) -> None:
        await configured.config_set("appendonly", "no")
        strict = RedisStore(connect(server.url), level=wanted)
        with pytest.raises(PromiseBroken, match=wanted):
            await strict.ping()
        with pytest.raises(PromiseBroken, match="nothing is written"):
            await strict.commit(tenant, write(1), fingerprint=MODEL)
        assert (await strict.load(tenant, MODEL)).version == 0
        if wanted == "disk":
            await configured.config_set("appendonly", "yes")
            await no_rewrite(configured)
            await strict.commit(tenant, write(1), fingerprint=MODEL)
        await strict.close()

    async def test_memory_is_kept_without_a_file(self, server: Server, configured: Redis, tenant: str) -> None:
        await configured.config_set("appendonly", "no")
        lax = RedisStore(connect(server.url), level="memory")
        assert (await lax.ping()).level == "memory"
        await lax.commit(tenant, write(1), fingerprint=MODEL)
        await lax.close()


async def test_a_write_at_level_replica_is_on_the_replica(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    at_once = {"repl-diskless-sync-delay": "0"}
    with running("redis", tmp_path / "one", port=True, options=at_once) as first, running("redis", tmp_path / "two") as second:
        follower = connect(second.url)
        await follower.replicaof("127.0.0.1", first.port)
        store = RedisStore(connect(first.url), level="replica", timeout_s=2.0)
        for _ in range(200):
            with suppress(PromiseBroken):
                await store.ping()
                break
            await asyncio.sleep(0.05)
        for version in (1, 2, 3):
            await store.commit("default", write(version), fingerprint=MODEL)
            assert (await follower.xinfo_stream("larimar:{default}:log"))["last-generated-id"] == b"%d-0" % version
        os.kill(second.pid, signal.SIGSTOP)
        try:
            with pytest.raises(CommitUnknown, match="0 of 1 replicas"):
                await store.commit("default", write(4), fingerprint=MODEL)
        finally:
            os.kill(second.pid, signal.SIGCONT)
        await store.close()
        await follower.aclose()
