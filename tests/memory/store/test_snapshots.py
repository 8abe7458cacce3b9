"""Taking snapshots, and what becomes of damaged ones, on the embedded Valkey and on a real Redis."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from memory.errors import FingerprintMismatch, StoreCorrupt, StoreUnavailable
from memory.store.connection import connect
from memory.store.key_names import Keys
from memory.store.recovery import Recovery
from memory.store.redis_store import RedisStore
from memory.store.snapshot_format import PART_BYTES, Manifest, cut, join, split
from tests.memory.changes import MODEL, fact, fill, forget, plain, texts, write
from tests.memory.servers import Proxy, Server

pytestmark = [pytest.mark.service, pytest.mark.anyio]


async def versions(store: RedisStore, tenant: str) -> tuple[list[int], list[int]]:
    """Of the facts in pages, and of the changes in the log."""
    recovered = await store.load(tenant, MODEL)
    stored = [fact.version for page in recovered.pages.values() for fact in page.facts]
    return sorted(stored), [change.version for change in recovered.changes]


async def taken(store: RedisStore, tenant: str, *numbers: int, version: int = 0, page: int = 0) -> bool:
    return await store.snapshot(tenant, {page: [fact(v) for v in numbers]}, version or max(numbers), MODEL)


class TestTaking:
    async def test_covers_and_trims(self, store: RedisStore, client: Redis, tenant: str) -> None:
        await fill(store, tenant, 5)
        assert await taken(store, tenant, 1, 2, 3)
        recovered = await store.load(tenant, MODEL)
        assert texts(recovered.pages[0].facts) == texts([fact(v) for v in (1, 2, 3)])
        assert [change.version for change in recovered.changes] == [4, 5]
        assert await client.xlen(Keys(tenant).log) == 5  # the log reaches back to the snapshot before
        assert await taken(store, tenant, 4, 5, page=7)
        assert await client.xlen(Keys(tenant).log) == 2
        assert await versions(store, tenant) == ([1, 2, 3, 4, 5], [])

    async def test_no_command_passes_a_mebibyte_and_parts_of_old_pages_go(
        self, store: RedisStore, client: Redis, tenant: str
    ) -> None:
        await fill(store, tenant, 300)
        for _ in range(3):
            assert await taken(store, tenant, *range(1, 301))
            await store.commit(tenant, write((await store.load(tenant, MODEL)).version + 1), fingerprint=MODEL)
            assert await taken(store, tenant, *range(1, 301), version=(await store.load(tenant, MODEL)).version)
        parts = await client.hgetall(Keys(tenant).parts)
        assert 8 < len(parts) < 16 and max(map(len, parts.values())) == PART_BYTES  # two snapshots of the page

    async def test_leaves_out_what_others_forgot(self, store: RedisStore, tenant: str) -> None:
        await fill(store, tenant, 3)
        await store.commit(tenant, forget(4, 1), fingerprint=MODEL)
        assert await taken(store, tenant, 1, 2, 3)  # as of 3, by one who has not heard of 4
        assert await versions(store, tenant) == ([2, 3], [4])

    async def test_older_one_is_refused(self, store: RedisStore, tenant: str) -> None:
        await fill(store, tenant, 5)
        assert await taken(store, tenant, 1, 2, 3, 4, 5)
        assert await taken(store, tenant, 3)  # there is nothing left to do
        assert await versions(store, tenant) == ([1, 2, 3, 4, 5], [])

    async def test_ahead_of_the_log(self, store: RedisStore, tenant: str) -> None:
        await fill(store, tenant, 1)
        with pytest.raises(StoreCorrupt, match="lost data"):
            await taken(store, tenant, 1, 2)

    async def test_one_at_a_time(
        self, server: Server, store: RedisStore, client: Redis, tenant: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        other = RedisStore(connect(server.url))
        await fill(store, tenant, 4)
        is_stored = store._snapshots._is_stored

        async def stopped(*arguments: object) -> bool:
            assert not await taken(other, tenant, 1, 2, 3)  # the lease is ours
            await client.delete(Keys(tenant).lease)  # it ran out
            assert await taken(other, tenant, 1, 2, 3, 4)
            return await is_stored(*arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(store._snapshots, "_is_stored", stopped)
        assert not await taken(store, tenant, 1, 2, 3)
        assert await versions(store, tenant) == ([1, 2, 3, 4], [])
        await other.close()

    async def test_a_part_from_before_an_erasure_is_refused_after_it(
        self, server: Server, store: RedisStore, tenant: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """One server is stopped before its first part; meanwhile another erases the tenant, and has checked the parts of a new
        snapshot when that part arrives."""
        other = RedisStore(connect(server.url))
        begun, checked, late = asyncio.Event(), asyncio.Event(), asyncio.Event()
        write_part, put_in_place = store._snapshots._write, other._snapshots._put_in_place

        async def stopped(*arguments: Any) -> bool:
            begun.set()
            await checked.wait()
            return await write_part(*arguments)

        async def between(*arguments: Any) -> bool:
            checked.set()
            await late.wait()
            return await put_in_place(*arguments)

        monkeypatch.setattr(store._snapshots, "_write", stopped)
        monkeypatch.setattr(other._snapshots, "_put_in_place", between)
        await fill(store, tenant, 3)
        taking = asyncio.create_task(taken(store, tenant, 1, 2, 3))
        await begun.wait()
        await other.drop(tenant)
        await other.commit(tenant, write(5), fingerprint=MODEL)
        anew = asyncio.create_task(taken(other, tenant, 5))
        outcome = await taking
        late.set()
        assert (outcome, await anew) == (False, True)
        assert await versions(store, tenant) == ([5], [])
        await other.close()

    @pytest.mark.parametrize("step", range(6))
    @pytest.mark.parametrize("what", ["request", "reply"])
    async def test_ended_at_any_command(
        self, server: Server, store: RedisStore, client: Redis, tenant: str, tmp_path: Path, step: int, what: str
    ) -> None:
        await fill(store, tenant, 4)
        assert await taken(store, tenant, 1, 2)
        await store.commit(tenant, forget(5, 2), fingerprint=MODEL)
        async with Proxy(server.socket, tmp_path / "p", marker=b"") as proxy:
            cut_short = RedisStore(connect(proxy.url))
            await cut_short.ping()
            proxy.cut_next(what, times=99, after=step)
            with suppress(StoreUnavailable):
                await taken(cut_short, tenant, 1, 3, 4, version=5)
            await cut_short.close()
        recovered = await store.load(tenant, MODEL)
        assert recovered.alive() == {1, 3, 4} and recovered.version == 5
        await client.delete(Keys(tenant).lease)  # it runs out
        assert await taken(store, tenant, 1, 3, 4, version=5)
        assert await versions(store, tenant) == ([1, 3, 4], [])

    async def test_bytes_changed_on_the_way(
        self, store: RedisStore, client: Redis, tenant: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        is_stored = store._snapshots._is_stored

        async def spoil(keys: Keys, manifest: Manifest) -> bool:
            (field, *_) = await client.hkeys(keys.parts)
            await client.hset(keys.parts, field, b"other")
            return await is_stored(keys, manifest)

        await fill(store, tenant, 2)
        monkeypatch.setattr(store._snapshots, "_is_stored", spoil)
        with pytest.raises(StoreCorrupt, match="the log is kept"):
            await taken(store, tenant, 1, 2)
        assert await versions(store, tenant) == ([], [1, 2])

    async def test_load_while_others_write(self, server: Server, store: RedisStore, tenant: str) -> None:
        """Pages, log and data keys fit together at any moment."""

        async def work() -> None:
            writer = RedisStore(connect(server.url))
            alive: list[int] = []
            for version in range(1, 81):
                if version % 5 == 0:
                    await writer.commit(tenant, forget(version, alive.pop(0)), fingerprint=MODEL)
                else:
                    await writer.commit(tenant, write(version), fingerprint=MODEL)
                    alive.append(version)
                if version % 4 == 0:
                    await taken(writer, tenant, *alive, version=version)
            await writer.close()

        working = asyncio.create_task(work())
        loads = 0
        while not working.done():
            try:
                recovered = await store.load(tenant, MODEL)
            except StoreUnavailable:  # five times in a row a snapshot or a forget came in between
                continue
            loads += 1
            forgotten = recovered.version // 5
            assert len(recovered.alive()) == recovered.version - 2 * forgotten
        await working
        assert loads > 3

    async def test_a_load_goes_on_with_what_is_superseded_meanwhile(
        self, store: RedisStore, tenant: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """One attempt, whatever is forgotten after the log was read, and with a snapshot in between."""
        await fill(store, tenant, 3)
        await taken(store, tenant, 1, 2, 3)
        for version in (4, 5):
            await store.commit(tenant, write(version), fingerprint=MODEL)
        superseding(monkeypatch, store, tenant, [[2, 5], [6], [7], [8], [9]], snapshot=True)
        recovered = await store.load(tenant, MODEL)
        assert (recovered.alive(), recovered.version) == ({1, 3, 4, 10}, 10)
        readable = {fact.version for page in recovered.pages.values() for fact in page.facts}
        readable |= {change.version for change in recovered.changes if change.fact is not None}
        assert readable == recovered.alive()

    async def test_a_lost_data_key_is_told_while_others_supersede(
        self, store: RedisStore, client: Redis, tenant: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await fill(store, tenant, 4)
        await client.hdel(Keys(tenant).data_keys, "3")
        superseding(monkeypatch, store, tenant, [[2], *([version] for version in range(5, 50))])
        with pytest.raises(StoreCorrupt, match="data keys of 1 facts are missing, the first that of version 3"):
            await store.load(tenant, MODEL)


def superseding(
    monkeypatch: pytest.MonkeyPatch, store: RedisStore, tenant: str, rounds: list[list[int]], *, snapshot: bool = False
) -> None:
    """Each time that a load has read the log, a write forgets the next of these versions; the first may be followed by a snapshot."""
    read, version = Recovery._entries, 0

    async def then_superseded(self: Recovery, after: int, last: int | None) -> Any:
        nonlocal version
        found = await read(self, after, last)
        if rounds:
            first, version = not version, max(version, last or 0) + 1
            await store.commit(tenant, write(version, forgets=rounds.pop(0)), fingerprint=MODEL)
            if first and snapshot:
                await taken(store, tenant, *range(1, version + 1), version=version)
        return found

    monkeypatch.setattr(Recovery, "_entries", then_superseded)


class TestDamage:
    @pytest.fixture
    async def stored(self, store: RedisStore, tenant: str) -> None:
        """Two snapshots and two changes behind them."""
        await fill(store, tenant, 2)
        await taken(store, tenant, 1, 2)
        for version in (3, 4):
            await store.commit(tenant, write(version), fingerprint=MODEL)
        await taken(store, tenant, 1, 2, 3, 4)
        for version in (5, 6):
            await store.commit(tenant, write(version), fingerprint=MODEL)

    async def newest(self, client: Redis, tenant: str) -> bytes:
        return max(await client.hkeys(Keys(tenant).parts), key=lambda field: int(field.split(b":")[1]))

    @pytest.mark.usefixtures("stored")
    @pytest.mark.parametrize("damage", [lambda raw: raw[:-1], lambda raw: raw[:9] + b"?" + raw[10:], lambda _: b""])
    async def test_a_damaged_page_is_rebuilt_from_the_snapshot_before_and_the_log(
        self, store: RedisStore, client: Redis, tenant: str, damage: Callable[[bytes], bytes]
    ) -> None:
        field = await self.newest(client, tenant)
        raw = await client.hget(Keys(tenant).parts, field)
        await client.hset(Keys(tenant).parts, field, damage(raw))  # type: ignore[arg-type]
        recovered = await store.load(tenant, MODEL)
        assert recovered.alive() == {1, 2, 3, 4, 5, 6} and "SHA-256" in recovered.repaired[0]
        assert recovered.pages[0].covered == 2 and [change.version for change in recovered.changes] == [3, 4, 5, 6]

    @pytest.mark.usefixtures("stored")
    async def test_where_both_are_damaged_the_tenant_is_refused(self, store: RedisStore, client: Redis, tenant: str) -> None:
        for field in await client.hkeys(Keys(tenant).parts):
            await client.hset(Keys(tenant).parts, field, b"?")
        with pytest.raises(StoreCorrupt, match="does not reach back"):
            await store.load(tenant, MODEL)
        assert (await store.load(f"{tenant}-o", MODEL)).version == 0

    @pytest.mark.usefixtures("stored")
    async def test_what_is_intact_is_salvaged(self, store: RedisStore, client: Redis, tenant: str) -> None:
        await store.commit(tenant, forget(7, 2), fingerprint=MODEL)
        for field in await client.hkeys(Keys(tenant).parts):
            raw = bytearray(await client.hget(Keys(tenant).parts, field) or b"")
            raw[5000] ^= 1  # in the first fact's record
            await client.hset(Keys(tenant).parts, field, bytes(raw))  # type: ignore[arg-type]
        with pytest.raises(StoreCorrupt):
            await store.load(tenant, MODEL)
        salvaged = await store.salvage(tenant)
        assert ({fact.version for fact in salvaged.facts}, salvaged.unreadable) == ({3, 4, 5, 6}, 1)
        assert salvaged.fingerprint == MODEL

    async def test_a_first_page_is_rebuilt_from_the_log_alone(self, store: RedisStore, client: Redis, tenant: str) -> None:
        await fill(store, tenant, 3)
        await taken(store, tenant, 1, 2, 3)
        await client.delete(Keys(tenant).parts)
        recovered = await store.load(tenant, MODEL)
        assert recovered.alive() == {1, 2, 3} and list(recovered.repaired) == [0]

    @pytest.mark.usefixtures("stored")
    async def test_pages_of_another_tenant(self, store: RedisStore, client: Redis, tenant: str) -> None:
        other = f"{tenant}-2"
        await fill(store, other, 4)
        for name in ("parts", "pages"):
            await client.copy(getattr(Keys(tenant), name), getattr(Keys(other), name))
        with pytest.raises(StoreCorrupt, match=re.escape(other)):
            await store.load(other, MODEL)
        assert (await store.load(tenant, MODEL)).version == 6

    @pytest.mark.usefixtures("stored")
    @pytest.mark.parametrize("field", ["page:00", "page:", "surprise"])
    async def test_unknown_field(self, store: RedisStore, client: Redis, tenant: str, field: str) -> None:
        await client.hset(Keys(tenant).pages, field, b"{}")
        with pytest.raises(StoreCorrupt, match="unknown field"):
            await store.load(tenant, MODEL)

    @pytest.mark.usefixtures("stored")
    async def test_lost_data_keys(self, store: RedisStore, client: Redis, tenant: str) -> None:
        await client.hdel(Keys(tenant).data_keys, "3", "5")
        with pytest.raises(StoreCorrupt, match="data keys of 2 facts are missing, the first that of version 3"):
            await store.load(tenant, MODEL)

    @pytest.mark.usefixtures("stored")
    async def test_a_gap_in_the_log(self, store: RedisStore, client: Redis, tenant: str) -> None:
        await client.xdel(Keys(tenant).log, "5-0")
        with pytest.raises(StoreCorrupt, match="1 changes are missing in its log, the first is version 5"):
            await store.load(tenant, MODEL)

    async def test_torn_entry(self, store: RedisStore, client: Redis, tenant: str) -> None:
        await fill(store, tenant, 2)
        ((_, fields),) = await client.xrange(Keys(tenant).log, "2-0")
        longest = max(fields, key=lambda name: len(fields[name]))
        fields[longest] = fields[longest][:-1] + bytes([fields[longest][-1] ^ 1])
        await client.xadd(Keys(tenant).log, fields, id="3-0")
        with pytest.raises(StoreCorrupt, match=re.escape(tenant)):
            await store.load(tenant, MODEL)

    async def test_entry_of_another_version(self, store: RedisStore, client: Redis, tenant: str) -> None:
        await fill(store, tenant, 2)
        ((_, fields),) = await client.xrange(Keys(tenant).log, "2-0")
        await client.xadd(Keys(tenant).log, fields, id="3-0")
        with pytest.raises(StoreCorrupt, match="3-0 holds version 2"):
            await store.load(tenant, MODEL)

    @pytest.mark.usefixtures("stored")
    async def test_log_vanished(self, store: RedisStore, client: Redis, tenant: str) -> None:
        await client.delete(Keys(tenant).log)
        with pytest.raises(StoreCorrupt, match="no log"):
            await store.load(tenant, MODEL)
        with pytest.raises(StoreCorrupt, match="no log"):
            await store.commit(tenant, write(1), fingerprint=MODEL)

    @pytest.mark.usefixtures("stored")
    async def test_log_older_than_the_pages(self, store: RedisStore, client: Redis, tenant: str) -> None:
        await client.hset(Keys(tenant).pages, "floor", 9)
        with pytest.raises(StoreCorrupt, match="version 9"):
            await store.load(tenant, MODEL)

    @pytest.mark.parametrize("snapshot", [False, True])
    async def test_other_model(self, store: RedisStore, tenant: str, snapshot: bool) -> None:
        changes = await fill(store, tenant, 1)
        if snapshot:
            await taken(store, tenant, 1)
        with pytest.raises(FingerprintMismatch):
            await store.load(tenant, "0" * 64)
        recovered = await store.load(tenant, None)
        assert recovered.alive() == {1} and (snapshot or plain(recovered.changes) == plain(changes))


@pytest.mark.parametrize("size", [0, 1, 11, 12, 13, PART_BYTES - 12, PART_BYTES, 3 * PART_BYTES])
async def test_records_join_cut_and_split(size: int) -> None:
    records = [(1, b"a"), (2**40, b"x" * size), (3, b"")]
    parts = cut(join(records))
    assert all(len(part) <= PART_BYTES for part in parts)
    assert list(split(b"".join(parts))) == records
