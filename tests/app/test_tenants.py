"""Tenants over a real store: what is committed, refused, caught up with."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.expiry import Expiry
from app.idempotency import Idempotency
from app.schemas import FactIn
from app.service import Request, excluded
from app.tenant import Committed
from app.tenants import Tenants
from memory.errors import AnswerExists, AnswerSpent, DuplicateId, FactNotFound
from memory.keys import Keys, tenant_of
from memory.query import Query
from memory.vault import Vault
from tests.app.holding import DIM, drawn, fact, holding
from tests.memory.servers import KINDS, Server, running

pytestmark = [pytest.mark.service, pytest.mark.anyio]
INTERLEAVED = int(os.environ.get("TEST_INTERLEAVED", "200"))  # changes by two servers; the recorded run makes 10,000


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module", params=KINDS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(request.param, tmp_path_factory.mktemp("t")) as server:
        yield server


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
            for sheet in memory._sheets.values():
                sheet.page.settle()
        assert memories[0].checksum() == memories[1].checksum()
    async with holding(server.url) as third:
        assert (await third.get("both")).memory.version == memories[0].version


async def test_who_may_speak_is_decided_on_the_memory_that_is_read(server: Server) -> None:
    async with holding(server.url) as tenants:
        await tenants.write_many("past", [fact("a", "prompt"), fact("b")])
        await tenants.write("past", fact("newer", "prompt", "another"), on_conflict="version")
        await tenants.write("past", fact("d"))

        async def spoke(version: int | None, **named: list[str]) -> set[str]:
            exclude = partial(excluded, Request("", **named))  # type: ignore[arg-type]
            reading, _ = await tenants.read("past", [Query("prompt", drawn("prompt", DIM))], exclude, as_of=version)
            await tenants.bridges("past", [Query("prompt", drawn("prompt", DIM))], exclude, as_of=version)
            return {fact_id for fact_id, _ in reading.facts}

        assert await spoke(2) == {"a", "b"} and await spoke(None) == {"newer", "b", "d"}
        assert await spoke(2, include_only=["a"]) == {"a"}
        assert await spoke(2, include_only=["b"]) == {"b"}  # not what is history now and was current then
        assert await spoke(2, exclude=["a"]) == {"b"}
        assert await spoke(None, include_only=["d"]) == {"d"}
        for named in ({"exclude": ["d"]}, {"include_only": ["a", "d"]}):
            with pytest.raises(FactNotFound, match="'d'"):
                await spoke(2, **named)


async def test_a_key_stays_spent_through_snapshots_and_on_other_servers(server: Server) -> None:
    once = Idempotency.of("spent", "K1", FactIn(prompt="prompt of k", target="t"))
    async with holding(server.url) as tenants:
        await tenants.write("spent", replace(fact("k"), created_at=time.time()), answer=once.answer)
        assert (written := await once.recall(tenants.store, "spent")) is not None and written.id == "k"
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


async def test_an_evicted_memory_comes_back(server: Server) -> None:
    async with holding(server.url, budget_bytes=1) as tenants:
        for name in ("e1", "e2", "e3"):
            await tenants.write_many(name, [fact(f"{name}-{number}") for number in range(20)])
        assert [tenant.name for tenant in tenants.loaded] == ["e3"]
        for name in ("e1", "e2"):
            assert len(await tenants.fresh(name)) == 20
        assert len(tenants.loaded) == 1


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
        assert await one.store.due(time.time() + 100) == []


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
