"""One contract, on the embedded Valkey and on a real Redis."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import torch
from redis.asyncio import Redis

from memory.change import Change
from memory.connection import connect
from memory.errors import FingerprintMismatch, StoreCorrupt, StoreUnavailable, VersionConflict
from memory.fact import Fact
from memory.keys import Keys
from memory.scrub import no_rewrite
from memory.store import CommitUnknown, RedisStore
from tests.memory.servers import KINDS, Proxy, Server, running

pytestmark = [pytest.mark.service, pytest.mark.anyio]
MODEL = "f" * 64


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module", params=KINDS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(request.param, tmp_path_factory.mktemp("s")) as server:
        yield server


@pytest.fixture
async def client(server: Server) -> AsyncIterator[Redis]:
    client = connect(server.url)
    yield client
    await client.aclose()


@pytest.fixture
async def store(server: Server) -> AsyncIterator[RedisStore]:
    store = RedisStore(connect(server.url))
    yield store
    await store.close()


@pytest.fixture
def tenant(request: pytest.FixtureRequest) -> str:
    """Another for each test, as they share a server."""
    return re.sub(r"[^A-Za-z0-9_.-]", "-", request.node.name)[:64]


def write(version: int, text: str = "the rocket is red") -> Change:
    generator = torch.Generator().manual_seed(version)
    key, code = torch.randn(896, generator=generator), torch.randn(1024, generator=generator)
    fact = Fact(f"fact-{version}", f"{text} {version}", "yes", key, code, 1.5, {"source": "test"}, version)
    return Change(version=version, kind="write", fact=fact, page=0, forgets=())


def forget(version: int, *ids: str) -> Change:
    return Change(version=version, kind="forget", fact=None, page=0, forgets=ids)


async def fill(store: RedisStore, tenant: str, last: int, text: str = "the rocket is red") -> list[Change]:
    changes = [write(version, text) for version in range(1, last + 1)]
    for change in changes:
        await store.commit(tenant, change, fingerprint=MODEL)
    return changes


def as_bytes(changes: list[Change]) -> list[dict[bytes, bytes]]:
    return [dict(change.to_fields()) for change in changes]


class TestCommit:
    async def test_load_gives_what_was_committed(self, store: RedisStore, tenant: str) -> None:
        changes = await fill(store, tenant, 3)
        recovered = await store.load(tenant, MODEL)
        assert as_bytes(recovered.changes) == as_bytes(changes)
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
            await store.commit(tenant, write(2, "another"), fingerprint=MODEL, erase=[1], pages={0: b"x"})
        assert (caught.value.expected, caught.value.found) == (1, 2)
        recovered = await store.load(tenant, MODEL)
        assert as_bytes(recovered.changes) == as_bytes(changes) and recovered.pages == {}

    async def test_store_behind_the_memory(self, store: RedisStore, tenant: str) -> None:
        await fill(store, tenant, 1)
        with pytest.raises(StoreCorrupt, match="version 1, the memory at 4"):
            await store.commit(tenant, write(5), fingerprint=MODEL)

    async def test_erases_and_replaces_in_the_same_step(self, store: RedisStore, tenant: str) -> None:
        await fill(store, tenant, 3)
        await store.snapshot(tenant, {0: b"old page", 1: b"page of the forgotten"}, 1)
        change = forget(4, "fact-2")
        await store.commit(tenant, change, fingerprint=MODEL, erase=[2], pages={0: b"new page", 1: None})
        recovered = await store.load(tenant, MODEL)
        assert [change.version for change in recovered.changes] == [3, 4]
        assert (recovered.version, recovered.pages) == (4, {0: b"new page"})

    @pytest.mark.parametrize("way", ["erased", "trimmed"])
    async def test_version_goes_on_when_every_entry_is_gone(
        self, store: RedisStore, client: Redis, tenant: str, way: str
    ) -> None:
        await fill(store, tenant, 3)
        if way == "trimmed":
            assert await store.snapshot(tenant, {0: b"page"}, 3)
        else:
            await client.xdel(Keys(tenant).log, "1-0", "2-0", "3-0")
        assert await client.xlen(Keys(tenant).log) == 0
        assert (await store.load(tenant, MODEL)).version == 3
        with pytest.raises(VersionConflict):
            await store.commit(tenant, write(1), fingerprint=MODEL)
        await store.commit(tenant, write(4), fingerprint=MODEL)
        assert (await store.load(tenant, MODEL)).version == 4

    async def test_refused_script_writes_nothing(self, store: RedisStore, client: Redis, tenant: str) -> None:
        await fill(store, tenant, 1)
        await client.set(Keys(tenant).pages, "not a hash")
        with pytest.raises(StoreCorrupt, match=tenant):
            await store.commit(tenant, write(2), fingerprint=MODEL, erase=[1], pages={0: b"x"})
        assert await client.xrange(Keys(tenant).log, "2-0") == []
        assert await client.xlen(Keys(tenant).log) == 1

    async def test_a_block_is_one_step(self, store: RedisStore, tenant: str) -> None:
        await fill(store, tenant, 2)
        block = [write(version) for version in (3, 4, 5)]
        await store.commit(tenant, *block, fingerprint=MODEL, erase=[2], pages={0: b"page"})
        recovered = await store.load(tenant, MODEL)
        assert [change.version for change in recovered.changes] == [1, 3, 4, 5]
        with pytest.raises(VersionConflict) as caught:
            await store.commit(tenant, *(write(version, "late") for version in (5, 6)), fingerprint=MODEL)
        assert (caught.value.expected, caught.value.found) == (4, 5)
        assert not await store.snapshot(tenant, {0: b"old"}, 4)  # the block erased at its last version
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


class TestSnapshot:
    async def test_trims_what_it_covers(self, store: RedisStore, tenant: str) -> None:
        await fill(store, tenant, 5)
        assert await store.snapshot(tenant, {0: b"zero", 7: b"seven"}, 3)
        recovered = await store.load(tenant, MODEL)
        assert recovered.pages == {0: b"zero", 7: b"seven"}
        assert [change.version for change in recovered.changes] == [4, 5]
        assert await store.snapshot(tenant, {7: None}, 5)
        assert (await store.load(tenant, MODEL)).pages == {0: b"zero"}

    async def test_one_from_before_an_erasure_is_refused(self, store: RedisStore, tenant: str) -> None:
        await fill(store, tenant, 3)
        await store.commit(tenant, forget(4, "fact-1"), fingerprint=MODEL, erase=[1])
        assert not await store.snapshot(tenant, {0: b"knows fact-1"}, 3)
        recovered = await store.load(tenant, MODEL)
        assert recovered.pages == {} and [change.version for change in recovered.changes] == [2, 3, 4]

    async def test_older_one_is_refused(self, store: RedisStore, tenant: str) -> None:
        await fill(store, tenant, 5)
        assert await store.snapshot(tenant, {0: b"at five"}, 5)
        assert not await store.snapshot(tenant, {0: b"at three"}, 3)
        assert (await store.load(tenant, MODEL)).pages == {0: b"at five"}

    async def test_ahead_of_the_log(self, store: RedisStore, tenant: str) -> None:
        await fill(store, tenant, 1)
        with pytest.raises(StoreCorrupt, match="lost data"):
            await store.snapshot(tenant, {0: b"page"}, 2)

    async def test_ended_before_the_trim(
        self, server: Server, store: RedisStore, tenant: str, tmp_path: Path
    ) -> None:
        await fill(store, tenant, 3)
        async with Proxy(server.socket, tmp_path / "p", marker=b"XTRIM") as proxy:
            proxy.cut_next("request", times=99)
            cut = RedisStore(connect(proxy.url))
            with pytest.raises(StoreUnavailable):
                await cut.snapshot(tenant, {0: b"page"}, 3)
            await cut.close()
        recovered = await store.load(tenant, MODEL)
        assert recovered.pages == {0: b"page"} and len(recovered.changes) == 3
        assert await store.snapshot(tenant, {0: b"page"}, 3)
        assert (await store.load(tenant, MODEL)).changes == []

    async def test_bytes_changed_on_the_way(
        self, store: RedisStore, client: Redis, tenant: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        verify = store._is_stored

        async def spoil(keys: Keys, field: bytes, sent: bytes, version: int) -> bool:
            await client.hset(keys.pages, field, b"other")
            return await verify(keys, field, sent, version)

        await fill(store, tenant, 2)
        monkeypatch.setattr(store, "_is_stored", spoil)
        with pytest.raises(StoreCorrupt, match="the log is kept"):
            await store.snapshot(tenant, {0: b"page"}, 2)
        assert await client.xlen(Keys(tenant).log) == 2

    async def test_trimmed_between_reading_pages_and_log(
        self, server: Server, store: RedisStore, tenant: str, tmp_path: Path
    ) -> None:
        await fill(store, tenant, 3)
        async with Proxy(server.socket, tmp_path / "p", marker=b"XRANGE") as proxy:
            proxy.cut_next("request", on_cut=lambda: store.snapshot(tenant, {0: b"page"}, 3))
            through = RedisStore(connect(proxy.url))
            recovered = await through.load(tenant, MODEL)
            await through.close()
        assert (recovered.pages, recovered.changes, recovered.version) == ({0: b"page"}, [], 3)

    async def test_load_while_others_write(self, server: Server, store: RedisStore, tenant: str) -> None:
        """Pages and log fit together at any moment: here the page lists the versions it covers."""

        async def work() -> None:
            writer = RedisStore(connect(server.url))
            for version in range(1, 61):
                await writer.commit(tenant, write(version), fingerprint=MODEL)
                if version % 4 == 0:
                    await writer.snapshot(tenant, {0: str(version).encode()}, version)
            await writer.close()

        working = asyncio.create_task(work())
        while not working.done():
            try:
                recovered = await store.load(tenant, MODEL)
            except StoreUnavailable:  # five times in a row a snapshot came in between
                continue
            covered = int(recovered.pages.get(0, b"0"))
            newer = [change.version for change in recovered.changes if change.version > covered]
            assert newer == list(range(covered + 1, recovered.version + 1))
        await working


class TestDamage:
    @pytest.fixture
    async def sealed(self, store: RedisStore, client: Redis, tenant: str) -> bytes:
        await fill(store, tenant, 2)
        await store.snapshot(tenant, {0: b"page " * 100}, 1)
        stored = await client.hget(Keys(tenant).pages, "page:0")
        assert isinstance(stored, bytes)
        return stored

    @pytest.mark.parametrize("at", [0, 7, 8, 39, 40, -1])
    async def test_flipped_byte(
        self, store: RedisStore, client: Redis, tenant: str, sealed: bytes, at: int
    ) -> None:
        torn = bytearray(sealed)
        torn[at] ^= 1
        await client.hset(Keys(tenant).pages, "page:0", bytes(torn))
        with pytest.raises(StoreCorrupt, match=re.escape(tenant)):
            await store.load(tenant, MODEL)

    @pytest.mark.parametrize("size", [0, 7, 8, 39, 40, 300])
    async def test_truncated(
        self, store: RedisStore, client: Redis, tenant: str, sealed: bytes, size: int
    ) -> None:
        await client.hset(Keys(tenant).pages, "page:0", sealed[:size])
        with pytest.raises(StoreCorrupt, match=re.escape(tenant)):
            await store.load(tenant, MODEL)

    @pytest.mark.parametrize("field", ["page:1", "page:00", "page:", "surprise"])
    async def test_page_under_another_name(
        self, store: RedisStore, client: Redis, tenant: str, sealed: bytes, field: str
    ) -> None:
        await client.hset(Keys(tenant).pages, field, sealed)
        with pytest.raises(StoreCorrupt, match=re.escape(tenant)):
            await store.load(tenant, MODEL)

    async def test_page_of_another_tenant(
        self, store: RedisStore, client: Redis, tenant: str, sealed: bytes
    ) -> None:
        other = f"{tenant}-2"
        await fill(store, other, 1)
        await client.hset(Keys(other).pages, "page:0", sealed)
        with pytest.raises(StoreCorrupt, match=re.escape(other)):
            await store.load(other, MODEL)
        assert (await store.load(tenant, MODEL)).version == 2

    async def test_torn_entry(self, store: RedisStore, client: Redis, tenant: str) -> None:
        await fill(store, tenant, 1)
        fields = {**write(2).to_fields(), b"fingerprint": MODEL.encode()}
        longest = max(fields, key=lambda name: len(fields[name]))
        fields[longest] = fields[longest][:-1] + bytes([fields[longest][-1] ^ 1])
        await client.xadd(Keys(tenant).log, fields, id="2-0")  # type: ignore[arg-type]
        with pytest.raises(StoreCorrupt, match=re.escape(tenant)):
            await store.load(tenant, MODEL)

    async def test_entry_of_another_version(self, store: RedisStore, client: Redis, tenant: str) -> None:
        fields = {**write(2).to_fields(), b"fingerprint": MODEL.encode()}
        await client.xadd(Keys(tenant).log, fields, id="1-0")  # type: ignore[arg-type]
        with pytest.raises(StoreCorrupt, match="1-0 holds version 2"):
            await store.load(tenant, MODEL)

    @pytest.mark.usefixtures("sealed")
    async def test_log_vanished(self, store: RedisStore, client: Redis, tenant: str) -> None:
        await client.delete(Keys(tenant).log)
        with pytest.raises(StoreCorrupt, match="no log"):
            await store.load(tenant, MODEL)
        with pytest.raises(StoreCorrupt, match="no log"):
            await store.commit(tenant, write(1), fingerprint=MODEL)

    @pytest.mark.usefixtures("sealed")
    async def test_log_older_than_the_pages(self, store: RedisStore, client: Redis, tenant: str) -> None:
        await client.hset(Keys(tenant).pages, "floor", 9)
        with pytest.raises(StoreCorrupt, match="version 9"):
            await store.load(tenant, MODEL)

    async def test_other_model(self, store: RedisStore, tenant: str) -> None:
        await fill(store, tenant, 1)
        with pytest.raises(FingerprintMismatch):
            await store.load(tenant, "0" * 64)


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
            await store.snapshot(name, {}, 0)

    @pytest.mark.parametrize(
        ("one", "other"), [("1", "10"), ("a", "A"), ("b", "b.log"), ("log", "pages"), ("-", "--")]
    )
    async def test_apart(self, store: RedisStore, one: str, other: str) -> None:
        await fill(store, one, 2)
        await store.snapshot(one, {0: b"page"}, 1)
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

    async def test_erased_by_another_meanwhile(
        self, proxy: Proxy, through: RedisStore, store: RedisStore, tenant: str
    ) -> None:
        def erase() -> object:
            return store.commit(tenant, forget(3, "fact-2"), fingerprint=MODEL, erase=[2])

        proxy.cut_next("reply", on_cut=erase)  # type: ignore[arg-type]
        with pytest.raises(CommitUnknown, match="erased since"):
            await through.commit(tenant, write(2), fingerprint=MODEL)

    async def test_nobody_there(self, tmp_path: Path, tenant: str) -> None:
        store = RedisStore(connect(f"unix://{tmp_path}/nobody"))
        with pytest.raises(StoreUnavailable) as caught:
            await store.commit(tenant, write(1), fingerprint=MODEL)
        assert not isinstance(caught.value, CommitUnknown)
        for call in (store.ping(), store.load(tenant, MODEL), store.snapshot(tenant, {}, 0)):
            with pytest.raises(StoreUnavailable):
                await call
        assert store.durability == "unknown"
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


class TestDurability:
    @pytest.fixture
    async def configured(self, client: Redis) -> AsyncIterator[Redis]:
        yield client
        await client.config_set("appendfsync", "always")
        await client.config_set("appendonly", "yes")
        await no_rewrite(client)  # a server that is still writing its first file refuses to end

    async def test_is_unknown_before_the_first_answer(self, store: RedisStore) -> None:
        assert store.durability == "unknown"
        await store.ping()
        assert store.durability in ("disk",)

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
        assert (known.level, known.waits) == (("disk", True) if knows_waitaof else ("memory", False))
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
        assert store.durability == "unknown"
        assert (await store.ping()).level == "memory"
