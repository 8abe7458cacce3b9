"""The inference thread: the only one that runs torch, fed by a bounded queue."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

from app.errors import NotReady, QueueFull

P = ParamSpec("P")
T = TypeVar("T")


@dataclass
class _Job:
    work: Callable[[], Any]
    future: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop
    queued_at: float


class InferenceWorker:
    """Runs jobs one after the other on one thread.

    Args:
        size: how many jobs may wait.
        observe_wait: told how many seconds each job waited.
    """

    def __init__(self, size: int, observe_wait: Callable[[float], None] = lambda _: None) -> None:
        self.size = size
        self._jobs: queue.Queue[_Job | None] = queue.Queue(size)
        self._observe_wait = observe_wait
        self._thread = threading.Thread(target=self._work, name="inference", daemon=True)
        self._closing = False

    def start(self) -> None:
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def depth(self) -> int:
        return self._jobs.qsize()

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `work` on the inference thread. A job whose awaiter is gone before it starts is skipped.

        Raises:
            QueueFull, NotReady, or whatever `work` raises.
        """
        if self._closing or not self.alive:
            raise NotReady
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        try:
            self._jobs.put_nowait(_Job(lambda: work(*args, **kwargs), future, loop, time.perf_counter()))
        except queue.Full:
            raise QueueFull from None
        return await future

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            if job.future.cancelled():
                continue
            self._observe_wait(time.perf_counter() - job.queued_at)
            try:
                result, error = job.work(), None
            except Exception as caught:
                result, error = None, caught
            job.loop.call_soon_threadsafe(_settle, job.future, result, error)
            del job, result, error

    async def close(self) -> None:
        """Finish what is queued, then end the thread."""
        self._closing = True
        if self.alive:
            await asyncio.to_thread(self._jobs.put, None)
            await asyncio.to_thread(self._thread.join)


def _settle(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
