"""Tenants over a real store: what is committed, refused, caught up with."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from app.tenant import Committed
from memory.errors import DuplicateId, FactNotFound
from tests.app.holding import fact, holding
from tests.memory.servers import KINDS, Server, running

pytestmark = [pytest.mark.service, pytest.mark.anyio]


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
    """Every fact is written once, whoever wins each version, and both end equal."""
    async with holding(server.url) as one, holding(server.url) as other:

        async def work(tenants: object, name: str) -> None:
            for number in range(40):
                await (one if tenants is one else other).write("both", fact(f"{name}{number}"))
                if number % 4 == 3:
                    await (one if tenants is one else other).forget("both", f"{name}{number - 2}")

        await asyncio.gather(work(one, "l"), work(other, "r"))
        with pytest.raises(FactNotFound):
            await one.forget("both", "l1")
        with pytest.raises(FactNotFound):
            await other.forget("both", "r1")
    async with holding(server.url) as third:
        memory = (await third.get("both")).memory
        assert len(memory) == 60 and memory.version == 100


