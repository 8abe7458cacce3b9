"""A memory moves to another model in one step, while servers of the old one read and write."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from app.tenants.reencoding import Unencodable, reencode
from memory.errors import FingerprintMismatch
from memory.page import PageSettings
from memory.store.connection import connect
from memory.store.redis_store import RedisStore
from models.errors import ModelError, TargetTooLong
from models.model import EncodedFact
from tests.app.holding import DIM as OLD_DIM
from tests.app.holding import WIDTH as OLD_WIDTH
from tests.app.holding import NoModel, drawn, fact, holding
from tests.memory.servers import KINDS, Proxy, running

pytestmark = [pytest.mark.service, pytest.mark.anyio]
PAGES = PageSettings(slots=32)
DIM, WIDTH, STATED = 48, 20, 12


@dataclass(frozen=True)
class NewModel(NoModel):
    """Other keys of another width, other codes. Attributes: meanwhile: called before facts are encoded."""

    fingerprint: str = "e" * 64
    key_dim: int = DIM
    meanwhile: Callable[[], object] = lambda: None

    def encode_facts(self, facts: Sequence[tuple[str, str]]) -> list[EncodedFact | ModelError]:
        self.meanwhile()
        return [
            TargetTooLong(99, 64)
            if "too long" in target
            else EncodedFact(drawn(f"new {prompt}", DIM), drawn(f"new {prompt} {target}", WIDTH), drawn(f"whole {prompt} {target}", STATED))
            for prompt, target in facts
        ]


@pytest.fixture(params=KINDS)
async def url(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    with running(request.param, tmp_path) as server:
        yield server.url


async def test_the_old_model_serves_until_the_new_one_does(url: str) -> None:
    loop, wrote = asyncio.get_running_loop(), list[str]()
    async with holding(url, slots=32, snapshot_every=7) as old, holding(url, model=NewModel()) as new:
        for number in range(70):
            await old.write("t", fact(f"fact-{number:02}"))
        await old.forget("t", "fact-03")
        await old.write("t", fact("newer", "prompt of fact-05", "u"), on_conflict="version")
        await old.snapshot()

        def meanwhile() -> None:
            if not wrote:
                wrote.append("meanwhile")
                asyncio.run_coroutine_threadsafe(old.write("t", fact("meanwhile")), loop).result()

        told: list[tuple[int, int]] = []
        with pytest.raises(FingerprintMismatch):
            await new.fresh("t")
        count = await reencode(old.store, "t", NewModel(meanwhile=meanwhile), PAGES, lambda *done: told.append(done))  # type: ignore[arg-type]
        assert count == 71 and told[-1] == (71, 71) and (64, 70) in told
        with pytest.raises(FingerprintMismatch):
            await old.fresh("t")
        memory = await new.fresh("t")
        assert memory.version == 74 and len(memory) == 70 and memory.history == 1
        for number in (0, 5, 31, 69):
            if number != 5:
                torch.testing.assert_close(
                    memory.recall(f"fact-{number:02}").float(), drawn(f"new prompt of fact-{number:02} t", WIDTH), atol=1e-5, rtol=0
                )
                whole = memory.get(f"fact-{number:02}").statement
                assert whole is not None and torch.equal(whole, drawn(f"whole prompt of fact-{number:02} t", STATED))
        assert memory.get("fact-05").until == memory.get("newer").version
        assert memory.get("meanwhile").version == 73 and memory.dim == DIM
        await new.write("t", replace(fact("later"), key=drawn("k", DIM), code=drawn("c", WIDTH)))
        await new.forget("t", "fact-07")
        assert await reencode(new.store, "t", NewModel(), PAGES) is None  # type: ignore[arg-type]
    async with holding(url, model=NewModel()) as again:
        memory = await again.fresh("t")
        assert memory.version == 76 and "fact-07" not in {f.id for f in memory.facts(limit=100)} and memory.get("later")


async def test_a_fact_that_cannot_be_encoded_changes_nothing(url: str) -> None:
    async with holding(url) as old:
        await old.write("t", fact("a"))
        await old.write("t", fact("b", target="too long"))
        with pytest.raises(Unencodable, match="the fact b cannot be encoded by this model"):
            await reencode(old.store, "t", NewModel(), PAGES)  # type: ignore[arg-type]
        assert (await old.fresh("t")).version == 2
    async with holding(url) as old:
        assert len(await old.fresh("t")) == 2


async def test_cut_short_at_each_command_it_leaves_the_old_memory_or_the_new(url: str, tmp_path: Path) -> None:
    async with holding(url) as old:
        for number in range(40):
            await old.write("t", fact(f"fact-{number:02}"))
        await old.snapshot()
    seen = set()
    for cut in ("request", "reply"):
        for after in range(12):
            async with Proxy(Path(url.removeprefix("unix://")), tmp_path / f"{cut}-{after}") as proxy:
                cutting = RedisStore(connect(proxy.url), timeout_s=1.0)
                proxy.cut_next(cut, times=100, after=after)
                task = asyncio.create_task(reencode(cutting, "t", NewModel(), PAGES))  # type: ignore[arg-type]
                await asyncio.wait([task], timeout=1.0)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                await cutting.close()
            async with holding(url) as old, holding(url, model=NewModel()) as new:
                whole = []
                for tenants in (old, new):
                    try:
                        memory = await tenants.fresh("t")
                        whole.append(len(memory))
                        seen.add(memory.version)
                    except FingerprintMismatch:
                        pass
                assert whole == [40]
            store = RedisStore(connect(url))
            await store._link.client.delete("larimar:{t}:lease")  # type: ignore[union-attr]  # of the one that was cut short
            await store.close()
    assert seen == {40, 41}  # some attempts came through


async def test_an_empty_memory_moves_too(url: str) -> None:
    async with holding(url) as old, holding(url, model=NewModel()) as new:
        await old.write("t", fact("a"))
        await old.forget("t", "a")
        assert await reencode(old.store, "t", NewModel(), PAGES) == 0  # type: ignore[arg-type]
        memory = await new.fresh("t")
        assert memory.version == 3 and len(memory) == 0
        assert await reencode(old.store, "nobody", NewModel(), PAGES) is None  # type: ignore[arg-type]


@dataclass(frozen=True)
class StatingModel(NoModel):
    """The model that wrote the memory, now with a reader, which makes statement keys. Attributes: scope: not None is all that is asked."""

    scope: object = "a reader"

    def encode_facts(self, facts: Sequence[tuple[str, str]]) -> list[EncodedFact | ModelError]:
        return [
            EncodedFact(drawn(prompt, OLD_DIM), drawn(f"{prompt}\0{target}", OLD_WIDTH), drawn(f"whole {prompt} {target}", 16))
            for prompt, target in facts
        ]


async def test_a_memory_of_before_the_reader_gets_statement_keys(url: str) -> None:
    async with holding(url) as serving:
        for number in range(5):
            await serving.write("t", fact(f"fact-{number}"))
        await serving.forget("t", "fact-2")
        await serving.snapshot()
        await serving.write("t", fact("later"))
        assert await reencode(serving.store, "t", NoModel(), PAGES) is None  # type: ignore[arg-type]  # without a reader nothing is missing
        assert await reencode(serving.store, "t", StatingModel(), PAGES) == 5  # type: ignore[arg-type]
        memory = await serving.fresh("t")  # a server that runs meanwhile follows
        assert {name: memory.get(name).statement is not None for name in ("fact-0", "fact-4", "later")} == dict.fromkeys(
            ("fact-0", "fact-4", "later"), True
        )
        assert memory.get("fact-0").target == "t" and len(memory) == 5
        assert await reencode(serving.store, "t", StatingModel(), PAGES) is None  # type: ignore[arg-type]
