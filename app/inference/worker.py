"""The inference thread, the only one that runs the model; and the look-up thread, which works through views of memories beside it.

The inference thread takes jobs from a bounded queue in which tenants take turns, runs jobs of one kind together, and between them decodes
one token for every text in the making. The look-up thread takes its own in the same way.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

import structlog

from app.inference.errors import NotReady, QueueFull
from app.inference.fair_queue import TENANT, FairQueue
from app.server import tracing
from models.engine.batch import Batch
from models.engine.sampling import Generation, TokenLogProb
from models.engine.sequence import TextSequence

P = ParamSpec("P")
T = TypeVar("T")
Item = TypeVar("Item")
TOGETHER = 32  # jobs of one kind that run as one, and texts that one job encodes
ROUND_S = 0.02  # how long jobs may hold up the next token
FOLLOW_UP_S = 0.0003  # a request's next job comes this soon after its last one: wait for it before the next token
SHARE = 0.75  # of the queue that one tenant may fill
log = structlog.get_logger()


@dataclass(frozen=True)
class Chunk:
    """A text in the making: what of it is settled, or with `generation` all of it."""

    text: str
    log_probs: tuple[TokenLogProb, ...]
    generation: Generation | None


class _Job:
    """Work, and the future of the task that waits for it."""

    def __init__(self, work: Callable[[list[Any]], Sequence[Any]], item: Any) -> None:
        self.work, self.item = work, item
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Any] = self.loop.create_future()
        self.queued_at, self.trace = time.perf_counter(), tracing.here()

    def settle(self, outcome: Any) -> None:
        with suppress(RuntimeError):  # the loop is closed: no one waits
            self.loop.call_soon_threadsafe(_settle, self.future, outcome)


class _Speech:
    """A text that is waiting or in the making, and where its tokens go."""

    def __init__(self, begin: Callable[[], TextSequence], each_token: bool) -> None:
        self.begin, self.each_token, self.gone = begin, each_token, False
        self.sequence: TextSequence | None = None
        self.loop = asyncio.get_running_loop()
        self.said: asyncio.Queue[Chunk | BaseException] = asyncio.Queue()
        self.queued_at, self.trace = time.perf_counter(), tracing.here()

    def say(self, said: Chunk | BaseException) -> None:
        with suppress(RuntimeError):  # as above
            self.loop.call_soon_threadsafe(self.said.put_nowait, said)


class InferenceWorker:
    """Runs jobs and decodes texts on one thread.

    Args:
        size: how many jobs and texts may wait; one tenant may fill three quarters of it.
        observe_wait: told how many seconds each of them waited.
        observe_batch: told the kind and size of what ran together.
        name: of the thread.
        batch: an empty batch of the decoder, made on the inference thread; None where nothing is decoded.
        batch_size: how many texts are decoded together.
        batch_tokens: how many tokens their caches hold together; a longer text is decoded alone.
    """

    def __init__(
        self,
        size: int,
        observe_wait: Callable[[float], None] = lambda _: None,
        *,
        name: str = "inference",
        observe_batch: Callable[[str, int], None] = lambda _kind, _size: None,
        batch: Callable[[], Batch] | None = None,
        batch_size: int = 16,
        batch_tokens: int = 32_768,
    ) -> None:
        self.size, self.batch_size, self.batch_tokens = size, batch_size, batch_tokens
        self._observe_wait, self._observe_batch, self._open_batch = observe_wait, observe_batch, batch
        self._changed = threading.Condition()  # guards the queues
        self._jobs: FairQueue[_Job] = FairQueue()
        self._speeches: FairQueue[_Speech] = FairQueue()
        self._speaking: dict[TextSequence, _Speech] = {}
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._closing = False

    def start(self) -> None:
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def depth(self) -> int:
        """Jobs and texts that wait."""
        return len(self._jobs) + len(self._speeches)

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `work` on the inference thread. A job whose awaiter is gone before it starts is skipped.

        Raises:
            QueueFull, NotReady, or whatever `work` raises.
        """
        job = _Job(lambda _: [work(*args, **kwargs)], None)
        self._put(self._jobs, job)
        out: T = await job.future
        return out

    async def run_together(self, work: Callable[[list[Item]], Sequence[T | Exception]], item: Item) -> T:
        """Run `work` on the inference thread, for this item and those of others that wait for the same work.

        Args:
            work: items to one outcome for each, in order; an exception is raised for its item alone.

        Raises:
            QueueFull, NotReady, or the item's exception.
        """
        job = _Job(work, item)
        self._put(self._jobs, job)
        out: T = await job.future
        return out

    def speak(self, begin: Callable[[], TextSequence], *, each_token: bool = False) -> AsyncGenerator[Chunk]:
        """Decode a text in the running batch. When the listener goes away, its decoding ends within one token.

        Args:
            begin: makes the sequence, on the inference thread.
            each_token: tell every step; otherwise only the end.

        Raises:
            QueueFull, NotReady at once; while iterating, whatever `begin` raises.
        """
        speech = _Speech(begin, each_token)
        self._put(self._speeches, speech)
        return self._listen(speech)

    async def _listen(self, speech: _Speech) -> AsyncGenerator[Chunk]:
        try:
            while True:
                said = await speech.said.get()
                if isinstance(said, BaseException):
                    raise said
                yield said
                if said.generation is not None:
                    return
        finally:
            speech.gone = True

    def _put(self, line: FairQueue[Any], item: _Job | _Speech) -> None:
        if self._closing or not self.alive:
            raise NotReady
        tenant = TENANT.get()
        with self._changed:
            own = self._jobs.waiting(tenant) + self._speeches.waiting(tenant) if tenant else 0
            if self.depth >= self.size or own >= max(1, self.size * SHARE):
                raise QueueFull
            line.put(tenant, item)
            self._changed.notify()

    def _work(self) -> None:
        batch = self._open_batch() if self._open_batch else None
        while True:
            with self._changed:
                while not (self._jobs or self._speeches or self._speaking):
                    if self._closing:
                        return
                    self._changed.wait()
            self._run_jobs()
            if batch is not None:
                try:
                    self._decode(batch)
                except Exception as error:  # the device failed in the middle of a step: none of its texts can go on
                    log.error("decoding_failed", error=type(error).__name__)
                    for speech in self._speaking.values():
                        speech.say(error)
                    self._speaking.clear()
                    batch = self._open_batch() if self._open_batch else None

    def _run_jobs(self) -> None:
        until = time.perf_counter() + ROUND_S
        while time.perf_counter() < until:
            with self._changed:
                if not self._jobs:
                    return
                jobs = self._take_jobs()
            self._run(jobs)
            del jobs
            with self._changed:
                if not self._jobs and (self._speeches or self._speaking):
                    self._changed.wait(FOLLOW_UP_S)

    def _take_jobs(self) -> list[_Job]:
        first = self._jobs.take()
        return [first, *self._jobs.take_if(lambda job: job.work == first.work, TOGETHER - 1)]

    def _run(self, jobs: list[_Job]) -> None:
        jobs = [job for job in jobs if not job.future.cancelled()]
        if not jobs:
            return
        for job in jobs:
            self._observe_wait(time.perf_counter() - job.queued_at)
            tracing.waited(job.queued_at, job.trace)
        self._observe_batch("job", len(jobs))
        outcomes = each(jobs[0].work, [job.item for job in jobs])
        for job, outcome in zip(jobs, outcomes, strict=True):
            job.settle(outcome)

    def _decode(self, batch: Batch) -> None:
        """Let texts leave and join, and decode one token of each."""
        for sequence in [sequence for sequence, speech in self._speaking.items() if speech.gone]:
            batch.remove(sequence)
            del self._speaking[sequence]
        self._join(batch)
        if not len(batch):
            return
        self._observe_batch("decode", len(batch))
        for sequence in batch.step():
            speech = self._speaking[sequence]
            if sequence.finish or sequence.error:
                del self._speaking[sequence]
            if sequence.error:
                log.error("text_failed", error=type(sequence.error).__name__)
                speech.say(sequence.error)
                continue
            if sequence.finish or speech.each_token:
                made = sequence.generation if sequence.finish else None
                speech.say(Chunk(sequence.settled, tuple(sequence.log_probs), made))

    def _join(self, batch: Batch) -> None:
        """Let the next texts join while there is room."""
        with self._changed:
            self._speeches.drop(lambda speech: speech.gone)
        while len(batch) < self.batch_size:
            with self._changed:
                if not self._speeches:
                    return
                speech = self._speeches.peek()  # only this thread takes: it stays first
            try:
                sequence = speech.sequence = speech.sequence or speech.begin()
            except Exception as error:
                speech.say(error)
            else:
                if len(batch) and batch.tokens + sequence.capacity > self.batch_tokens:
                    return
                self._observe_wait(time.perf_counter() - speech.queued_at)
                tracing.waited(speech.queued_at, speech.trace)
                self._speaking[sequence] = speech
                batch.add(sequence)
            with self._changed:
                self._speeches.take()

    async def close(self) -> None:
        """Finish what is queued or in the making, then end the thread."""
        self._closing = True
        with self._changed:
            self._changed.notify()
        if self.alive:
            await asyncio.to_thread(self._thread.join)


def each(work: Callable[[list[Item]], Sequence[T | Exception]], items: list[Item]) -> Sequence[T | Exception]:
    """A result or an error for each item; where the work fails as a whole, each item is tried alone."""
    try:
        return work(items)
    except Exception as error:
        return [error] if len(items) == 1 else [outcome for item in items for outcome in each(work, [item])]


def _settle(future: asyncio.Future[Any], outcome: Any) -> None:
    if future.done():
        return
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
