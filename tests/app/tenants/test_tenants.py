"""Tenants over a real store: what is committed, refused, caught up with."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.tenants.cache import FOLLOW_S
from app.tenants.errors import TenantFull, VersionNotReached
from app.tenants.expiry import Expiry
from app.tenants.idempotency import Idempotency
from app.tenants.tenant import Committed
from app.tenants.tenants import Tenants
from memory.errors import AnswerExists, AnswerSpent, DuplicateId, FactNotFound, FingerprintMismatch, StoreCorrupt, StoreUnavailable
from memory.excerpt import Selection
from memory.fact import Fact
from memory.query import Query
from memory.store.commit import CommitUnknown
from memory.store.idempotency_keys import KEPT_S
from memory.store.key_names import Keys, tenant_of
from memory.store.redis_store import Dropped
from memory.store.vault import Vault
from tests.app.holding import DIM, NoModel, drawn, fact, holding
from tests.memory.servers import Server

pytestmark = [pytest.mark.service, pytest.mark.anyio]
INTERLEAVED = int(os.environ.get("TEST_INTERLEAVED", "200"))  # changes by two servers; the recorded run makes 10,000


async def test_many_facts_take_few_commits_and_load_bit_for_bit(server: Server) -> None:
    names = [f"n{number:04}" for number in range(500)]
    async with holding(server.url) as tenants:
        committed = await tenants.write_many("many", [fact(name, target="word " * 300) for name in names])
        changes = [outcome.change for outcome in committed if isinstance(outcome, Committed)]
        assert [change.version for change in changes] == list(range(1, 501))
        assert 1 < len({change.block for change in changes}) < 10
        live = (await tenants.get("many")).memory.checksum()
    async with holding(server.url) as tenants:
        assert (await tenants.get("many")).memory.checksum() == live


async def test_a_refused_fact_leaves_the_others(server: Server) -> None:
    async with holding(server.url) as tenants:
        await tenants.write("some", fact("a"))
        first, taken, newer, last = await tenants.write_many(
            "some", [fact("b"), fact("a", "other"), fact("c", "prompt of b"), fact("d", "prompt of a")]
        )
        assert isinstance(first, Committed) and isinstance(taken, DuplicateId)
        assert isinstance(newer, Committed) and newer.change.replaced == ("b",)
        assert isinstance(last, Committed) and last.change.replaced == ("a",)
        assert [f.id for f in (await tenants.get("some")).memory.facts()] == ["c", "d"]


async def test_two_servers_at_once(server: Server) -> None:
    """Every fact is written once, whoever wins each version, and both end bitwise equal once their pages are solved anew."""
    async with holding(server.url) as one, holding(server.url) as other:

        async def work(tenants: Tenants, name: str) -> None:
            for number in range(INTERLEAVED // 2 * 4 // 5):
                await tenants.write("both", fact(f"{name}{number}"))
                if number % 4 == 3:
                    await tenants.forget("both", f"{name}{number - 2}")

        await asyncio.gather(work(one, "l"), work(other, "r"))
        for tenants in (one, other):
            for gone in ("l1", "r1"):
                with pytest.raises(FactNotFound):
                    await tenants.forget("both", gone)
        memories = [await tenants.fresh("both") for tenants in (one, other)]
        written = 2 * (INTERLEAVED // 2 * 4 // 5)
        for memory in memories:
            assert memory.version == written + 2 * (written // 8) and len(memory) == written - 2 * (written // 8)
            for sheet in memory._pages.values():
                sheet.page.settle()
        assert memories[0].checksum() == memories[1].checksum()
    async with holding(server.url) as third:
        assert (await third.get("both")).memory.version == memories[0].version


async def test_who_may_speak_is_decided_on_the_memory_that_is_read(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memory.readable.LEAST_WEIGHT", 0.0)  # so that all who may are seen to
    async with holding(server.url) as tenants:
        await tenants.write_many("past", [fact("a", "prompt"), fact("b")])
        await tenants.write("past", fact("newer", "prompt", "another"), on_conflict="version")
        await tenants.write("past", fact("d"))

        async def spoke(version: int | None, **named: list[str]) -> set[str]:
            selection = Selection(version, **named)  # type: ignore[arg-type]
            reading, _ = await tenants.read("past", [Query("prompt", drawn("prompt", DIM))], selection)
            await tenants.bridges("past", [Query("prompt", drawn("prompt", DIM))], selection)
            return {fact_id for fact_id, _ in reading.facts}

        assert await spoke(2) == {"a", "b"} and await spoke(None) == {"newer", "b", "d"}
        assert await spoke(2, only=["a"]) == {"a"}
        assert await spoke(2, only=["b"]) == {"b"}  # not what is history now and was current then
        assert await spoke(2, exclude=["a"]) == {"b"}
        assert await spoke(None, only=["d"]) == {"d"}
        for named in ({"exclude": ["d"]}, {"only": ["a", "d"]}):
            with pytest.raises(FactNotFound, match="'d'"):
                await spoke(2, **named)


async def test_a_key_stays_spent_through_snapshots_and_on_other_servers(server: Server) -> None:
    once = Idempotency.of("spent", "K1", {"prompt": "prompt of k", "target": "t"})
    async with holding(server.url) as tenants:
        await tenants.write("spent", replace(fact("k"), created_at=time.time()), answer=once.answer)
        assert (written := await once.recall(tenants.store, "spent")) is not None and written["id"] == "k"
        await tenants.snapshot()
    async with holding(server.url) as tenants:
        await tenants.write("spent", fact("newer", "prompt of k", "another"))
        await tenants.snapshot()
    async with holding(server.url) as tenants:
        with pytest.raises(AnswerSpent):
            await once.recall(tenants.store, "spent")
        with pytest.raises(AnswerExists):  # who asked before it was spent and writes after
            await tenants.write("spent", fact("again", "prompt of k"), answer=once.answer)
        assert [f.id for f in (await tenants.fresh("spent")).facts()] == ["newer"]
        await tenants.drop("spent")
        assert await once.recall(tenants.store, "spent") is None


@pytest.mark.parametrize("prompt", ["prompt of k", "another prompt"])
async def test_a_key_used_again_after_a_day_has_its_new_answer(server: Server, prompt: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first, again = (Idempotency.of("day", "K1", {"prompt": asked, "target": "t"}) for asked in ("prompt of k", prompt))
    now = time.time()
    async with holding(server.url) as tenants:
        with monkeypatch.context() as yesterday:
            yesterday.setattr(time, "time", lambda: now - KEPT_S - 60)
            await tenants.write("day", replace(fact("k"), created_at=time.time()), answer=first.answer)
        assert await again.recall(tenants.store, "day") is None
        await tenants.write("day", replace(fact("new", prompt), created_at=now), answer=again.answer)
        assert (written := await again.recall(tenants.store, "day")) is not None and written["id"] == "new"
        await Expiry(tenants)._discard_answers()
        if prompt == "another prompt":
            await tenants.forget("day", "k")
        assert (written := await again.recall(tenants.store, "day")) is not None and written["id"] == "new"
        await tenants.forget("day", "new")
        with pytest.raises(AnswerSpent):
            await again.recall(tenants.store, "day")
        await tenants.drop("day")


async def test_an_evicted_memory_comes_back(server: Server) -> None:
    async with holding(server.url, budget_bytes=1) as tenants:
        for name in ("e1", "e2", "e3"):
            await tenants.write_many(name, [fact(f"{name}-{number}") for number in range(20)])
        assert [tenant.name for tenant in tenants.loaded] == ["e3"]
        for name in ("e1", "e2"):
            assert len(await tenants.fresh(name)) == 20
        assert len(tenants.loaded) == 1


async def test_a_change_made_while_a_snapshot_is_marked_is_in_the_next(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    async with holding(server.url) as tenants:
        await tenants.write("marked", fact("a"))
        memory = (await tenants.get("marked")).memory
        marked, changing = threading.Event(), threading.Event()
        mark_stored = memory.mark_stored

        def marking(*stored: Any) -> None:
            mark_stored(*stored)
            marked.set()

        class Slow(dict[int, int]):
            """Whoever marks pages while this is written does not know yet that the page has changed again."""

            def __setitem__(self, page: int, version: int) -> None:
                changing.set()
                marked.wait(0.5)
                super().__setitem__(page, version)

        monkeypatch.setattr(memory, "mark_stored", marking)
        memory._changed_at = Slow(memory._changed_at)
        take = tenants.store.snapshot

        async def meanwhile(*stored: Any) -> bool:
            done = await take(*stored)
            writing.append(asyncio.create_task(tenants.write("marked", fact("b"))))
            await asyncio.to_thread(changing.wait)
            return done

        writing: list[asyncio.Task[Committed]] = []
        monkeypatch.setattr(tenants.store, "snapshot", meanwhile)
        await tenants.snapshot()
        await writing[0]
        assert memory._dirty == {0}


@pytest.mark.parametrize("then", ["read", "write", "snapshot"])
async def test_a_memory_whose_change_failed_half_way_is_loaded_anew(server: Server, then: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, url = f"half-{then}", server.url
    async with holding(url, slots=2) as tenants:
        await tenants.write_many(name, [fact(letter) for letter in "abcd"])
        for letter in "ad":
            await tenants.forget(name, letter)
        memory = (await tenants.get(name)).memory
        after, pages = memory._after, []

        def fails(*args: Any) -> Any:
            pages.append(args)
            if len(pages) == 2:
                raise RuntimeError("out of memory")
            return after(*args)

        monkeypatch.setattr(memory, "_after", fails)
        outcomes = await tenants.write_many(name, [fact("e"), fact("g")])
        assert [type(outcome) for outcome in outcomes] == [CommitUnknown] * 2 and len(pages) == 2

        async def away(*_: object) -> None:
            raise StoreUnavailable("gone for a moment")

        for asked in ("load", "follow"):
            monkeypatch.setattr(tenants.store, asked, away)
        with pytest.raises(StoreUnavailable):
            await tenants.fresh(name)
        await tenants.snapshot()
        monkeypatch.undo()
        if then == "write":
            await tenants.write(name, fact("h"))
        if then == "snapshot":
            await tenants.snapshot()
            assert not tenants.snapshot_failure
        live = (await tenants.fresh(name)).checksum()
    async with holding(url, slots=2) as tenants:
        loaded = await tenants.fresh(name)
        assert loaded.checksum() == live and sorted(f.id for f in loaded.facts())[:4] == ["b", "c", "e", "g"]


async def test_nothing_grows_beyond_the_limits(server: Server) -> None:
    """Neither history nor longer and longer targets, written or put in a fact's place."""
    name = "full"

    def longer(fact: Fact) -> Fact:
        return replace(fact, target=fact.target * 2)

    async with holding(server.url, max_facts=3) as tenants:
        await tenants.write(name, fact("a", "the same"))
        for number in range(2):
            await tenants.write(name, fact(f"h{number}", "the same", f"t{number}"), on_conflict="version")
        for refused, on_conflict in ((fact("h", "the same"), "version"), (fact("b"), "supersede")):
            with pytest.raises(TenantFull, match="3 facts"):
                await tenants.write(name, refused, on_conflict=on_conflict)
        await tenants.write(name, fact("c", "the same"))  # it takes the place of another
        await tenants.forget(name, "a")
        await tenants.write(name, fact("b"))
        several = await tenants.write_many(name, [fact("d", "the same"), fact("e")])
        assert isinstance(several[0], Committed) and isinstance(several[1], TenantFull)
    async with holding(server.url, max_bytes=1) as tenants:
        with pytest.raises(TenantFull, match="bytes"):
            await tenants.write(name, fact("long", "the same", "longer than before"))
        with pytest.raises(TenantFull, match="bytes"):
            await tenants.write(name, fact("long", "the same"), on_conflict="version")
        with pytest.raises(TenantFull, match="bytes"):
            await tenants.update(name, "b", longer)
        await tenants.update(name, "b", lambda fact: replace(fact, expires_at=time.time() + 1e6))
        await tenants.write(name, fact("f", "the same"))
        assert sorted(f.id for f in (await tenants.fresh(name)).facts()) == ["b", "f"]


async def test_the_limit_of_bytes_counts_what_the_same_commit_writes(server: Server) -> None:
    async with holding(server.url, max_bytes=30_000) as tenants:
        outcomes = await tenants.write_many("block", [fact(f"f{number}") for number in range(256)])
        one = (await tenants.get("block")).memory.size_bytes / (accepted := sum(isinstance(told, Committed) for told in outcomes))
        assert all(isinstance(told, Committed) for told in outcomes[:accepted]) and isinstance(outcomes[-1], TenantFull)
        assert 30_000 <= accepted * one < 30_000 + 1.1 * one  # as one by one: the fact that reaches the limit is the last
        await tenants.drop("block")


async def others_wrote(writer: Tenants, reader: Tenants, name: str) -> None:
    """A fact that the reader has is forgotten, among other changes."""
    await writer.write(name, fact("gone"))
    assert len(await reader.fresh(name)) == 1
    await writer.forget(name, "gone")
    await writer.write_many(name, [fact(f"f{number}") for number in range(3)])


@pytest.mark.parametrize("way", ["load", "replay"])
async def test_reads_wait_for_one_and_the_same_catching_up(server: Server, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long it takes: what it has done is not lost when a read stops waiting, or is cancelled."""
    name, begun = f"behind-{way}", list[float]()
    async with holding(server.url) as writer, holding(server.url) as reader:
        await others_wrote(writer, reader, name)
        if way == "load":
            await writer.snapshot()
            await writer.write(name, fact("last"))
            await writer.snapshot()  # the log does not reach back any more
            load = reader.store.load

            async def slowly(*args: Any) -> Any:
                begun.append(time.monotonic())
                await asyncio.sleep(3 * FOLLOW_S)
                return await load(*args)

            monkeypatch.setattr(reader.store, "load", slowly)
        else:
            memory = (await reader.get(name)).memory
            replay = memory.replay

            def replayed(changes: Any) -> None:
                begun.append(time.monotonic())
                time.sleep(3 * FOLLOW_S)
                replay(changes)

            monkeypatch.setattr(memory, "replay", replayed)
        started = time.monotonic()
        cancelled = asyncio.create_task(reader.fresh(name))
        await asyncio.sleep(FOLLOW_S / 2)
        cancelled.cancel()
        while "gone" in {f.id for f in (await reader.fresh(name)).facts()}:
            assert time.monotonic() - started < 5
        assert len(begun) == 1
        assert (await reader.fresh(name)).version == (await writer.fresh(name)).version


async def test_a_load_goes_on_when_the_one_who_asked_for_it_goes_away(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    async with holding(server.url) as writer, holding(server.url) as reader:
        await writer.write("large", fact("a"))
        load, begun = reader.store.load, list[str]()

        async def slowly(*args: Any) -> Any:
            begun.append("load")
            await asyncio.sleep(0.2)
            return await load(*args)

        monkeypatch.setattr(reader.store, "load", slowly)
        for _ in range(20):
            with suppress(TimeoutError):
                async with asyncio.timeout(0.1):  # as requests have
                    await reader.fresh("large")
        assert len(await reader.fresh("large")) == 1 and begun == ["load"]


async def test_a_tenant_is_not_evicted_while_a_change_waits_for_it(server: Server, tmp_path: Path) -> None:
    """Else there would be two memories of it, and one would not hear of the change."""
    async with holding(server.url, vault=tmp_path, budget_bytes=1) as tenants:
        await tenants.write("waits", fact("secret"))
        tenant = await tenants.get("waits")
        await tenant.lock.acquire()
        forgetting = asyncio.create_task(tenants.forget("waits", "secret"))
        await asyncio.sleep(0.05)
        tenant.lock.release()
        tenants._release(tenant)  # as loading another tenant does just now
        reading = asyncio.create_task(tenants.fresh("waits"))
        await asyncio.gather(forgetting, reading)
        assert (await tenants.fresh("waits")).facts() == []


async def test_a_version_is_waited_for_as_long_as_may_be(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    async with holding(server.url) as writer, holding(server.url, read_wait_s=0.1) as reader:
        await others_wrote(writer, reader, "reached")
        follow = reader.store.follow

        async def slowly(*args: Any) -> Any:
            await asyncio.sleep(0.3)
            return await follow(*args)

        monkeypatch.setattr(reader.store, "follow", slowly)
        with pytest.raises(VersionNotReached):
            await reader.reach("reached", 5)
        tenant = await reader.get("reached")
        if tenant.following is not None:
            await asyncio.wait([tenant.following])
        assert tenant.memory.version == 5


async def test_reads_go_on_while_the_store_is_lost(server: Server) -> None:
    async with holding(server.url) as tenants:
        await tenants.write("lost", fact("a"))
        os.kill(server.pid, signal.SIGSTOP)
        try:
            started = time.monotonic()
            for _ in range(20):
                reading, version = await tenants.read("lost", [Query("prompt of a", drawn("prompt of a", DIM))])
                assert reading.facts[0][0] == "a" and version == 1
            assert time.monotonic() - started < 5  # it asks the store once a second, and not for long
        finally:
            os.kill(server.pid, signal.SIGCONT)


@pytest.mark.parametrize("gone", ["the store", "the client"])
async def test_what_is_erased_answers_no_more_whatever_goes_away(
    server: Server, gone: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = gone.removeprefix("the ")
    async with holding(server.url, vault=tmp_path) as tenants:
        await tenants.write(name, fact("secret"))
        drop, erased = tenants.store.drop, asyncio.Event()

        async def away(*_: object) -> None:
            raise StoreUnavailable("gone for a moment")

        async def dropped(tenant: str, known: int) -> Dropped:
            done = await drop(tenant, known)
            monkeypatch.setattr(tenants.store, "load", away)
            monkeypatch.setattr(tenants.store, "follow", away)
            erased.set()
            await asyncio.sleep(0.05)
            return done

        monkeypatch.setattr(tenants.store, "drop", dropped)
        dropping = asyncio.create_task(tenants.drop(name))
        await erased.wait()
        if gone == "the client":
            dropping.cancel()
        await asyncio.wait([dropping])
        await asyncio.sleep(0.1)
        assert (await tenants.fresh(name)).facts() == []
        monkeypatch.undo()
        assert (await tenants.write(name, fact("new"))).change.version == 3
        live = (await tenants.fresh(name)).checksum()
    async with holding(server.url, vault=tmp_path) as tenants:
        assert (await tenants.fresh(name)).checksum() == live


async def erased_without_an_answer(tenants: Tenants, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store erases a tenant, and fails before it says so."""
    drop = tenants.store.drop

    async def unheard(tenant: str, known: int) -> Dropped:
        await drop(tenant, known)
        raise StoreUnavailable("no answer")

    monkeypatch.setattr(tenants.store, "drop", unheard)
    with pytest.raises(StoreUnavailable):
        await tenants.drop(name)


async def test_an_erasure_that_may_have_been_is_looked_up(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with holding(server.url, vault=tmp_path) as tenants:
        await tenants.write("maybe", fact("secret"))
        await erased_without_an_answer(tenants, "maybe", monkeypatch)
        assert (await tenants.fresh("maybe")).facts() == []


async def test_what_is_half_erased_does_not_answer(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with holding(server.url, vault=tmp_path) as tenants:
        await tenants.write("half", fact("secret"))

        async def unread(*_: object) -> None:
            raise StoreUnavailable("and goes on failing")

        monkeypatch.setattr(tenants.store, "load", unread)
        await erased_without_an_answer(tenants, "half", monkeypatch)
        with pytest.raises(StoreUnavailable):
            await tenants.fresh("half")


async def torn(tenants: Tenants, name: str) -> None:
    """Of its log the first entry is lost."""
    near = tenants.store._link.near(Keys(name).log)
    assert await near.xdel(Keys(name).log, "1-0") == 1


@pytest.mark.parametrize("unreadable", ["damaged", "of another model"])
@pytest.mark.parametrize("kept", ["files", "the store"])
async def test_what_cannot_be_read_is_erased_on_every_server(server: Server, unreadable: str, kept: str, tmp_path: Path) -> None:
    name = f"unread-{unreadable}-{kept}".replace(" ", "-")
    vault = tmp_path if kept == "files" else None
    another = NoModel("a" * 64) if unreadable == "of another model" else NoModel()
    async with holding(server.url, vault=vault) as had:
        await had.write_many(name, [fact("a"), fact("b")])
        await had.write(name, fact("c", "prompt of a", "newer"), on_conflict="version")
        async with holding(server.url, vault=vault, model=another) as tenants:
            if unreadable == "damaged":
                await torn(tenants, name)
            with pytest.raises((StoreCorrupt, FingerprintMismatch)):
                await tenants.fresh(name)
            assert await tenants.drop(name) == Dropped(version=4, facts=3)
            assert (await tenants.fresh(name)).facts() == []
            if vault is not None:
                assert set(Vault(vault)._known(name).places) == set()
            assert (await tenants.write(name, fact("new"))).change.version == 5
            assert [f.id for f in (await tenants.fresh(name)).facts()] == ["new"]
            await tenants.drop(name)
        if kept == "the store":  # files belong to one server
            assert (await had.fresh(name)).facts() == [] and (await had.fresh(name)).version == 6
            assert (await had.write(name, fact("d"))).change.version == 7


async def test_erasing_waits_for_a_load_and_asks_for_none(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was read before the erasure is not put in place after it, and who asks meanwhile sees nothing of it."""
    async with holding(server.url, vault=tmp_path) as tenants:
        await tenants.write("loading", fact("secret"))
    async with holding(server.url, vault=tmp_path) as tenants:
        load, drop = tenants.store.load, tenants.store.drop
        read, go_on, erasing = asyncio.Event(), asyncio.Event(), asyncio.Event()

        async def slow(*arguments: Any) -> Any:
            found = await load(*arguments)
            read.set()
            await go_on.wait()
            return found

        async def erase(*arguments: Any) -> Dropped:
            erasing.set()
            await asyncio.sleep(0.1)
            return await drop(*arguments)

        monkeypatch.setattr(tenants.store, "load", slow)
        monkeypatch.setattr(tenants.store, "drop", erase)
        reading = asyncio.create_task(tenants.get("loading"))
        await read.wait()
        dropping = asyncio.create_task(tenants.drop("loading"))
        await asyncio.sleep(0.05)
        assert not erasing.is_set()
        go_on.set()
        assert (await dropping).facts == 1
        await reading
        assert (await tenants.fresh("loading")).facts() == []
        tenants._release(await tenants.get("loading"))

        async def unasked(*_: Any) -> Any:
            raise AssertionError("it was read")

        monkeypatch.setattr(tenants.store, "load", unasked)
        erasing.clear()
        dropping = asyncio.create_task(tenants.drop("loading"))
        await erasing.wait()
        assert (await tenants.fresh("loading")).facts() == []
        assert await dropping == Dropped(version=3, facts=0)


async def test_an_erasure_that_failed_leaves_what_there_was(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with holding(server.url, vault=tmp_path) as tenants:
        await tenants.write("failed", fact("a"))
        tenants._release(await tenants.get("failed"))

        async def away(*_: Any) -> Any:
            raise StoreUnavailable("no answer")

        with monkeypatch.context() as without:
            without.setattr(tenants.store, "drop", away)
            with pytest.raises(StoreUnavailable):
                await tenants.drop("failed")
        assert [f.id for f in (await tenants.fresh("failed")).facts()] == ["a"]
        assert (await tenants.write("failed", fact("b"))).change.version == 2


async def test_only_one_server_forgets_what_expires(server: Server) -> None:
    async with holding(server.url) as one, holding(server.url) as other:
        facts = [replace(fact(f"x{number}"), expires_at=time.time() + 0.2) for number in range(10)]
        await one.write_many("ttl", [*facts, fact("stays")])
        await asyncio.sleep(0.25)
        counts = await asyncio.gather(Expiry(one).forget_expired(), Expiry(other).forget_expired())
        assert sum(counts) == 10
        told = [tenants.metrics.changes.labels("expired")._value.get() for tenants in (one, other)]
        assert told == counts  # each server counts what it forgot
        for tenants in (one, other):
            memory = await tenants.fresh("ttl")
            assert [f.id for f in memory.facts()] == ["stays"] and memory.version == 21
        assert "ttl" not in {name for name, _ in await one.store.due(time.time() + 50)}


HOSTILE = st.text(alphabet="aA1.-_{}:*%/\\\0é \n", min_size=1, max_size=6)


@given(HOSTILE, HOSTILE)
@hypothesis.settings(max_examples=int(os.environ.get("TEST_PAIRS", "500")), deadline=None)
def test_no_two_tenants_share_a_key_or_a_file(one: str, other: str) -> None:
    reached = []
    for name in (one, other):
        try:
            keys = Keys(name)
        except ValueError:
            return  # refused: it reaches nothing
        reached.append({*keys.all, str(Vault(Path("/nowhere"))._path(name)).casefold()})
    assert one == other or not reached[0] & reached[1]
    for name, known in zip((one, other), reached, strict=True):
        assert all(f"{{{name}}}" in key for key in known if key.startswith("larimar:"))
        assert tenant_of(Keys(name).log.encode()) == name
