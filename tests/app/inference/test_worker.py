"""The inference thread: takes turns, runs alike jobs together, decodes many texts at once, and lets go of who is gone."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager

import pytest
from torch import Tensor

from app.inference.errors import NotReady, QueueFull
from app.inference.fair_queue import TENANT
from app.inference.worker import InferenceWorker
from models.engine.decoder import Decoder
from models.engine.pointer import Pointer
from models.engine.sampling import Generation, Sampling
from models.engine.sequence import TextSequence
from tests.models.architectures import toy_decoder

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    decoder = toy_decoder()
    decoder.end_ids = frozenset()
    return decoder


@asynccontextmanager
async def working(decoder: Decoder | None = None, size: int = 256, **settings: int) -> AsyncIterator[InferenceWorker]:
    worker = InferenceWorker(size, batch=decoder.batch if decoder else None, **settings)
    worker.start()
    try:
        yield worker
    finally:
        await worker.close()
        assert not worker.alive


class Gate:
    """A job that holds the inference thread until it is opened."""

    def __init__(self, worker: InferenceWorker) -> None:
        self._open, self._entered = threading.Event(), threading.Event()
        self._job = asyncio.ensure_future(worker.run(self._hold))

    def _hold(self) -> None:
        self._entered.set()
        self._open.wait(10)

    async def closed(self) -> None:
        await asyncio.to_thread(self._entered.wait, 10)

    async def open(self) -> None:
        self._open.set()
        await self._job


def text(decoder: Decoder, prompt: str, count: int) -> TextSequence:
    return decoder.sequence(decoder.tokens(prompt), None, Sampling(count))


async def spoken(worker: InferenceWorker, decoder: Decoder, prompt: str, count: int, tenant: str = "") -> Generation:
    TENANT.set(tenant)
    async with aclosing(worker.speak(lambda: text(decoder, prompt, count))) as steps:
        async for step in steps:
            if step.generation:
                return step.generation
    raise AssertionError


async def test_jobs_of_one_kind_run_together_and_errors_hit_their_own_item() -> None:
    calls: list[int] = []

    def invert(items: list[int]) -> Sequence[float | Exception]:
        calls.append(len(items))
        return [1 / item if item else ZeroDivisionError() for item in items]

    async with working() as worker:
        gate = Gate(worker)
        await gate.closed()
        waiting = [asyncio.ensure_future(worker.run_together(invert, item)) for item in (1, 2, 0, 4)]
        await asyncio.sleep(0)
        await gate.open()
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert calls == [4]
    assert outcomes[:2] == [1, 0.5] and isinstance(outcomes[2], ZeroDivisionError) and outcomes[3] == 0.25


async def test_work_that_fails_as_a_whole_fails_the_item_to_blame_alone() -> None:
    async with working() as worker:
        gate = Gate(worker)
        await gate.closed()
        waiting = [asyncio.ensure_future(worker.run_together(_inverses, item)) for item in (1, 0, 4)]
        await asyncio.sleep(0)
        await gate.open()
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert outcomes[::2] == [1, 0.25] and isinstance(outcomes[1], ZeroDivisionError)


def _inverses(items: list[int]) -> list[float]:
    return [1 / item for item in items]


async def test_an_exception_of_a_job_reaches_its_awaiter_and_the_thread_goes_on() -> None:
    async with working() as worker:
        with pytest.raises(ZeroDivisionError):
            await worker.run(lambda: 1 // 0)
        assert await worker.run(lambda: 5) == 5
        assert await worker.run(lambda: ValueError) is ValueError


async def test_a_full_queue_refuses_and_one_tenant_cannot_fill_it() -> None:
    async with working(size=8) as worker:
        gate = Gate(worker)
        await gate.closed()
        TENANT.set("greedy")
        waiting = [asyncio.ensure_future(worker.run(lambda: 0)) for _ in range(6)]
        await asyncio.sleep(0)
        with pytest.raises(QueueFull):
            await worker.run(lambda: 0)
        for name in ("modest", "shy"):
            TENANT.set(name)
            waiting.append(asyncio.ensure_future(worker.run(lambda: 0)))
        await asyncio.sleep(0)
        with pytest.raises(QueueFull):
            await worker.run(lambda: 0)
        assert worker.depth == 8
        await gate.open()
        assert await asyncio.gather(*waiting) == [0] * 8
    with pytest.raises(NotReady):
        await worker.run(lambda: 0)


async def test_a_job_whose_awaiter_is_gone_is_skipped() -> None:
    ran: list[str] = []
    async with working() as worker:
        gate = Gate(worker)
        await gate.closed()
        gone = asyncio.ensure_future(worker.run(ran.append, "gone"))
        await asyncio.sleep(0)
        gone.cancel()
        await gate.open()
        await worker.run(ran.append, "stays")
    assert ran == ["stays"]


async def test_texts_of_many_tenants_are_decoded_together_and_equal_those_decoded_alone(decoder: Decoder) -> None:
    wanted = {prompt: decoder.generate([decoder.tokens(prompt)], [None], [Sampling(9)])[0].text for prompt in "abcdefgh"}
    async with working(decoder, batch_size=3) as worker:
        made = await asyncio.gather(*(spoken(worker, decoder, prompt, 9, prompt) for prompt in "abcdefgh"))
    assert {prompt: generation.text for prompt, generation in zip("abcdefgh", made, strict=True)} == wanted


async def test_one_request_is_not_held_up_by_a_thousand_of_another_tenant(decoder: Decoder) -> None:
    """With the batch full of the other's texts, it joins when the first of them ends."""
    order: list[str] = []

    async def one(tenant: str, prompt: str) -> None:
        await spoken(worker, decoder, prompt, 3, tenant)
        order.append(tenant)

    async with working(decoder, size=2000, batch_size=4) as worker:
        gate = Gate(worker)
        await gate.closed()
        many = [asyncio.ensure_future(one("many", "x")) for _ in range(1000)]
        await asyncio.sleep(0)
        single = asyncio.ensure_future(one("single", "y"))
        await asyncio.sleep(0)
        await gate.open()
        await single
        place = order.index("single")
        for task in many:
            task.cancel()
        await asyncio.gather(*many, return_exceptions=True)
    assert place <= 2 * worker.batch_size


async def test_a_listener_that_goes_away_ends_its_text_within_one_token(decoder: Decoder) -> None:
    steps: list[TextSequence] = []

    def begin() -> TextSequence:
        steps.append(text(decoder, "long", 100_000))
        return steps[0]

    async with working(decoder) as worker:
        async with aclosing(worker.speak(begin, each_token=True)) as spoken_:
            async for step in spoken_:
                if len(step.text) > 3:
                    break
        said = len(steps[0].ids)
        await worker.run(time.sleep, 0.05)
        for _ in range(5):
            await worker.run(lambda: None)
        assert len(steps[0].ids) <= said + 2  # one step may have been under way, and one begun


async def test_a_text_that_cannot_begin_tells_its_listener_alone(decoder: Decoder) -> None:
    def begin() -> TextSequence:
        raise ValueError("no")

    async with working(decoder) as worker:
        other = asyncio.ensure_future(spoken(worker, decoder, "fine", 5))
        with pytest.raises(ValueError, match="no"):
            await anext(worker.speak(begin))
        assert (await other).completion_tokens == 5


async def test_a_failing_step_ends_the_texts_in_it_and_not_the_thread(decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    async with working(decoder) as worker:
        with monkeypatch.context() as patch:
            patch.setattr(decoder.trunk, "logits", lambda _: 1 // 0)
            with pytest.raises(ZeroDivisionError):
                await spoken(worker, decoder, "x", 5)
        assert (await spoken(worker, decoder, "x", 5)).completion_tokens == 5


async def test_a_text_that_fails_leaves_the_others_of_its_batch_alone(decoder: Decoder) -> None:
    class Broken(Pointer):
        def apply(self, logits: Tensor) -> Tensor:
            return logits if len(broken.ids) < 2 else logits[: 1 // 0]

    broken = decoder.sequence(decoder.tokens("x"), None, Sampling(9), Broken([[1]]))
    unread = decoder.sequence(decoder.tokens("y"), None, Sampling(9))
    unread.capacity = -1  # no such cache
    wanted = decoder.generate([decoder.tokens("fine")], [None], [Sampling(6)])[0].text
    async with working(decoder) as worker:
        other = asyncio.ensure_future(spoken(worker, decoder, "fine", 6))
        for sequence in (broken, unread):
            with pytest.raises((ZeroDivisionError, RuntimeError)):
                async for _ in worker.speak(lambda made=sequence: made):  # type: ignore[misc]
                    pass
        assert (await other).text == wanted == (await spoken(worker, decoder, "fine", 6)).text


async def test_caches_keep_within_their_budget(decoder: Decoder) -> None:
    async with working(decoder, batch_tokens=100) as worker:
        made = await asyncio.gather(*(spoken(worker, decoder, "x" * 40, 30) for _ in range(4)), spoken(worker, decoder, "y" * 300, 5))
    assert [generation.completion_tokens for generation in made] == [30, 30, 30, 30, 5]
