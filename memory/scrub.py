"""Rewriting the append-only file after erasures, so that what was forgotten is in no file of the server."""

from __future__ import annotations

import asyncio
import contextlib
import logging

from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from memory import lua
from memory.keys import ERASURES

_POLL_S = 0.02
_log = logging.getLogger(__name__)


class Scrub:
    """One background task that answers any number of requests with as few rewrites as will do.

    A commit that erases also counts up `ERASURES`, in the same atomic step. The count is taken down when a
    rewrite that began after it is complete. So an erasure whose rewrite a kill prevented is known at the next
    start.

    `failure` says why the last attempt failed, None when it did not; the task then tries again.

    Args:
        pause_s: rest after a rewrite, in which further requests gather.
        retry_s: rest after a failure.
    """

    def __init__(self, client: Redis, *, pause_s: float = 1.0, retry_s: float = 5.0) -> None:
        self._client, self._pause_s, self._retry_s = client, pause_s, retry_s
        self._settle = client.register_script(lua.SETTLE)
        self._wanted, self._settled = asyncio.Event(), asyncio.Event()
        self._settled.set()
        self._task: asyncio.Task[None] | None = None
        self.failure: str | None = None

    @property
    def pending(self) -> bool:
        """Whether something erased may still be in a file."""
        return not self._settled.is_set()

    def request(self) -> None:
        """Something was erased. Returns at once."""
        self._settled.clear()
        self._wanted.set()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="scrub of the append-only file")

    async def resume(self) -> None:
        """Requests what an earlier server of these files left undone.

        Raises:
            redis.RedisError: the server does not answer.
        """
        if await self._client.exists(ERASURES):
            self.request()

    async def settled(self) -> None:
        """Returns when nothing is pending."""
        await self._settled.wait()

    async def close(self) -> None:
        """Ends the task; what is pending stays counted in the server."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    async def _run(self) -> None:
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            try:
                await self._rewrite()
                self.failure = None
            except (RedisError, OSError) as error:
                self.failure = f"{type(error).__name__}: {error}"
                _log.warning("the append-only file could not be rewritten: %s", self.failure)
                self._wanted.set()
                await asyncio.sleep(self._retry_s)
                continue
            if not self._wanted.is_set():
                self._settled.set()
            await asyncio.sleep(self._pause_s)

    async def _rewrite(self) -> None:
        counted = await self._client.get(ERASURES)
        if counted is None:
            return
        await no_rewrite(self._client)  # one that is under way began before the erasure
        with contextlib.suppress(ResponseError):  # the server began one itself just now, later than the count
            await self._client.bgrewriteaof()
        state = await no_rewrite(self._client)
        if state["aof_last_bgrewrite_status"] != "ok":
            raise ResponseError("the last rewrite failed; see the server's log")
        await self._settle(keys=[ERASURES], args=[counted])


async def no_rewrite(client: Redis) -> dict[str, object]:
    """Waits until none is under way or due; returns what INFO persistence says then."""
    while True:
        state: dict[str, object] = await client.info("persistence")
        if not (state["aof_rewrite_in_progress"] or state["aof_rewrite_scheduled"]):
            return state
        await asyncio.sleep(_POLL_S)
