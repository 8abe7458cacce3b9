"""Facts with a time to live, over a real store: each is forgotten when it is over, whatever else goes wrong."""

from __future__ import annotations

import asyncio
import math
import time
from bisect import bisect_right
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from app.server.background import end
from app.tenants import expiry
from app.tenants.expiry import Expiry
from app.tenants.tenant import Committed
from app.tenants.tenants import Tenants
from memory.errors import StoreUnavailable
from memory.store import redis_store
from memory.store.connection import connect
from memory.store.key_names import EARLIER_EXPIRIES, EXPIRIES
from tests.app.holding import NoModel, fact, holding
from tests.memory.servers import Server

pytestmark = [pytest.mark.service, pytest.mark.anyio]


async def test_tenants_that_cannot_be_read_do_not_keep_the_others_from_expiring(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_store, "MARKS", 50)  # fewer are asked for at once
    bad = [f"bad{number:03}" for number in range(101)]
    async with holding(server.url, model=NoModel(fingerprint="a" * 64)) as old:
        await asyncio.gather(*(old.write(name, replace(fact("x"), expires_at=1.0)) for name in bad))
    async with holding(server.url) as tenants:
        await tenants.write("good", replace(fact("y"), expires_at=time.time()))
        keeper = Expiry(tenants)
        assert await keeper.forget_expired() == 1 and len(await tenants.fresh("good")) == 0
        await tenants.write("good", replace(fact("z"), expires_at=time.time()))
        assert await keeper.forget_expired() == 1
        assert {name for name, _ in await tenants.store.due(time.time())} == set(bad)
        await asyncio.gather(*(tenants.store.drop(name) for name in bad))
        assert await Expiry(tenants).forget_expired() == 0 and await tenants.store.due(time.time()) == []


async def test_a_tenant_that_is_slow_or_has_much_to_forget_does_not_keep_the_others_waiting(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expiry, "PATIENCE_S", 0.5)
    monkeypatch.setattr(expiry, "TURN", 3)
    async with holding(server.url) as tenants:
        for name, count in (("much", 10), ("slow", 1), ("last", 1)):
            await tenants.write_many(name, [replace(fact(f"{name}{number}"), expires_at=time.time()) for number in range(count)])
        forget, forgotten = tenants.forget, list[str]()

        async def noted(name: str, fact_id: str, version: int | None = None) -> Committed:
            forgotten.append(name)
            return await forget(name, fact_id, version)

        monkeypatch.setattr(tenants, "forget", noted)
        async with (await tenants.get("slow")).lock:
            assert await Expiry(tenants).forget_expired() == 4
        assert sorted(forgotten) == ["last"] + ["much"] * 3 and await gone(tenants, "much")
        assert await gone(tenants, "slow")


async def test_many_tenants_whose_store_does_not_answer_do_not_delay_another_s_fact(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with holding(server.url) as tenants:
        slow = {f"slow{number}" for number in range(12)}
        await asyncio.gather(*(tenants.write(name, replace(fact(name), expires_at=time.time())) for name in slow))
        follow = tenants.store.follow

        async def hanging(name: str, *asked: Any) -> Any:
            return await (asyncio.sleep(3600) if name in slow else follow(name, *asked))

        monkeypatch.setattr(tenants.store, "follow", hanging)
        keeping = asyncio.create_task(Expiry(tenants).keep())
        for number in range(3):
            await asyncio.sleep(1)
            await tenants.write("good", replace(fact(f"good{number}"), expires_at=time.time() + 0.5))
            deadline = time.monotonic() + 4
            while len(await tenants.fresh("good")):
                assert time.monotonic() < deadline
                await asyncio.sleep(0.05)
        await end([keeping])
        await end([tenant.following for tenant in tenants.loaded if tenant.following is not None])
        monkeypatch.undo()
        await asyncio.gather(*(tenants.drop(name) for name in slow))


async def test_a_forget_that_outlasts_its_turn_is_made_and_counted(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expiry, "PATIENCE_S", 0.2)
    async with holding(server.url) as tenants:
        await tenants.write("long", replace(fact("x"), expires_at=time.time()))
        gate, keeper = held_up(monkeypatch, tenants), Expiry(tenants)
        while not gate.reached:  # a turn may be over before it begins to forget
            assert await keeper.forget_expired() == 0
        assert await marked(tenants, "long")
        gate.set()
        assert len(await tenants.newest("long")) == 0
        monkeypatch.undo()
        await asyncio.sleep(0.5)  # longer than the tenant's pause
        assert await keeper.forget_expired() == 0 and not await marked(tenants, "long")
        assert tenants.metrics.changes.labels("expired")._value.get() == 1


async def test_what_is_renewed_while_others_are_forgotten_stays(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    async with holding(server.url) as tenants:
        await tenants.write_many("ttl", [replace(fact(f"x{number}"), expires_at=time.time()) for number in range(3)])
        forget, later = tenants.forget, time.time() + 3600

        async def meanwhile(name: str, fact_id: str, version: int | None = None) -> Committed:
            if fact_id == "x0":
                await tenants.update(name, "x1", lambda renewed: replace(renewed, expires_at=later))
                await tenants.write(name, fact("new", "prompt of x2"), on_conflict="version")
            return await forget(name, fact_id, version)

        monkeypatch.setattr(tenants, "forget", meanwhile)
        assert await Expiry(tenants).forget_expired() == 2
        left = (await tenants.fresh("ttl")).facts(where=lambda _: True)
        assert [(kept.id, kept.expires_at) for kept in left] == [("new", None), ("x1", later)], "history's time is over too"
        await tenants.drop("ttl")


async def gone(tenants: Tenants, name: str, within_s: float = 2.0) -> bool:
    """Whether passes make the tenant empty in time."""
    deadline = time.monotonic() + within_s
    while len(await tenants.fresh(name)):
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.05)
        await Expiry(tenants).forget_expired()
    return True


def at_time(monkeypatch: pytest.MonkeyPatch, now: float) -> None:
    """Passes see this Unix time, however long they take."""
    monkeypatch.setattr(expiry, "time", SimpleNamespace(time=lambda: now, monotonic=time.monotonic))


async def marked(tenants: Tenants, name: str) -> bool:
    """Whether a mark of the tenant is left but that for hindsight."""
    return name in {tenant for tenant, _ in await tenants.store.due(time.time() + 50)}


class Gate(asyncio.Event):
    """An event that knows whether anything has come to wait for it."""

    reached = False


def held_up(monkeypatch: pytest.MonkeyPatch, tenants: Tenants) -> Gate:
    """Commits wait for this."""
    commit, gate = tenants.store.commit, Gate()

    async def later(*args: Any, **kwargs: Any) -> None:
        gate.reached = True
        await gate.wait()
        await commit(*args, **kwargs)

    monkeypatch.setattr(tenants.store, "commit", later)
    return gate


async def test_a_renewal_under_way_while_what_is_due_is_forgotten_expires_too(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    async with holding(server.url) as writer, holding(server.url) as tenants:
        await writer.write("renewed", replace(fact("one"), expires_at=time.time()))
        expired, writing = tenants.store.expired, list[asyncio.Task[Committed]]()

        async def meanwhile(*looked_at: Any) -> None:
            await writer.newest("renewed")
            gate = held_up(monkeypatch, writer)
            writing.append(asyncio.create_task(writer.write("renewed", replace(fact("two"), expires_at=time.time() + 0.5))))
            await asyncio.sleep(0.1)
            await expired(*looked_at)
            gate.set()

        monkeypatch.setattr(tenants.store, "expired", meanwhile)
        assert await Expiry(tenants).forget_expired() == 1
        monkeypatch.undo()
        await asyncio.gather(*writing)
        assert await gone(tenants, "renewed")


async def test_a_fact_whose_time_is_over_before_it_is_committed_expires(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    async with holding(server.url) as writer, holding(server.url) as tenants:
        gate = held_up(monkeypatch, writer)
        writing = asyncio.create_task(writer.write("late", replace(fact("x"), expires_at=time.time())))
        await asyncio.sleep(0.1)
        assert await Expiry(tenants).forget_expired() == 0
        gate.set()
        await writing
        assert await gone(tenants, "late")


async def test_so_it_does_if_its_server_ends_meanwhile(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_store, "HINDSIGHT_S", 0.5)
    async with holding(server.url) as writer, holding(server.url) as tenants:
        at = time.time()
        await writer.store.expect_expiry("ended", at)
        assert await Expiry(tenants).forget_expired() == 0

        async def ended(*_: object) -> None:
            pass

        monkeypatch.setattr(writer.store, "expect_expiry", ended)
        await writer.write("ended", replace(fact("x"), expires_at=at))
        assert await gone(tenants, "ended")


async def test_a_memory_that_cannot_be_brought_up_to_date_keeps_its_marks(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    async with holding(server.url) as writer, holding(server.url) as tenants:
        assert len(await tenants.fresh("behind")) == 0
        await writer.write("behind", replace(fact("x"), expires_at=time.time()))

        async def away(*_: object) -> None:
            raise StoreUnavailable("gone for a moment")

        monkeypatch.setattr(tenants.store, "follow", away)
        assert await Expiry(tenants).forget_expired() == 0
        monkeypatch.undo()
        assert await gone(tenants, "behind")


async def test_each_fact_of_a_block_expires_at_its_own_time(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    async with holding(server.url) as tenants:
        now = time.time()
        times = [now, now + 5, now + 10]
        await tenants.write_many("block", [replace(fact(f"b{number}"), expires_at=at) for number, at in enumerate(times)])
        for at, upcoming in zip(times, [*times[1:], None], strict=True):
            at_time(monkeypatch, at)
            assert await Expiry(tenants).forget_expired() == 1
            assert (await tenants.fresh("block")).view.next_expiry == upcoming
        assert not await marked(tenants, "block")


async def test_a_mark_of_an_earlier_version_is_read_and_moved_as_by_that(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    async with holding(server.url) as tenants:

        async def one_of_each_tenant(tenant: str, at: float) -> None:
            await client.zadd(EARLIER_EXPIRIES, {tenant: at}, lt=True)

        monkeypatch.setattr(tenants.store, "expect_expiry", one_of_each_tenant)
        client, now = connect(server.url), time.time()
        await tenants.write_many("old", [replace(fact(f"o{number}"), expires_at=now + number * 10) for number in range(2)])
        monkeypatch.undo()
        at_time(monkeypatch, now)
        assert await Expiry(tenants).forget_expired() == 1
        assert await client.zscore(EARLIER_EXPIRIES, "old") == now + 10
        at_time(monkeypatch, now + 10)
        assert await Expiry(tenants).forget_expired() == 1 and not await marked(tenants, "old")
        assert await client.zscore(EARLIER_EXPIRIES, "old") is None
        await client.aclose()


async def test_marks_of_an_erased_tenant_go(server: Server) -> None:
    async with holding(server.url) as tenants:
        await tenants.write("erased", replace(fact("x"), expires_at=time.time()))
        await tenants.drop("erased")
        assert await Expiry(tenants).forget_expired() == 0
        assert not await marked(tenants, "erased")


async def test_a_tenant_has_few_marks_however_many_of_its_facts_expire(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    async with holding(server.url) as tenants:
        client, now = connect(server.url), time.time()
        await client.delete(EXPIRIES, EARLIER_EXPIRIES)
        ahead = [20 * 1.006**number for number in range(2500)]  # 20 s to two years
        for seconds in ahead:
            await tenants.store.expect_expiry("many", now + seconds)
        marks = sorted([at async for _, at in client.zscan_iter(EXPIRIES)])
        assert len(marks) < 64 * math.log2(ahead[-1] / ahead[0])
        for seconds in ahead:
            mark = marks[bisect_right(marks, now + seconds) - 1]
            assert seconds - (mark - now) <= seconds / 31
        monkeypatch.setattr(redis_store, "MARKS", 300)  # in several steps
        await tenants.store.expired("many", marks, None)
        assert await client.exists(EXPIRIES, EARLIER_EXPIRIES) == 0  # an earlier version would fail at these marks
        await client.aclose()


async def test_a_mark_that_was_early_is_made_again(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    async with holding(server.url) as tenants:
        at = float(int(time.time()) + 40) + 0.5  # whose mark is at a whole second
        await tenants.write("early", replace(fact("x"), expires_at=at))
        (mark,) = [noted for tenant, noted in await tenants.store.due(at) if tenant == "early"]
        assert mark < at
        at_time(monkeypatch, mark)
        assert await Expiry(tenants).forget_expired() == 0 and await marked(tenants, "early")
        at_time(monkeypatch, at)
        assert await Expiry(tenants).forget_expired() == 1 and not await marked(tenants, "early")
