"""The way to the server: what is tried again, how long, and what its failures are called here."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import RedisError, ResponseError

from memory.durability import Durability, Level, probe
from memory.errors import StoreCorrupt, StoreUnavailable

T = TypeVar("T")


def default_retry(retries: int = 3) -> Retry:
    """25 to 500 ms between attempts, exponentially longer, with full jitter."""
    return Retry(ExponentialWithJitterBackoff(base=0.025, cap=0.5), retries)


class Link:
    """A client together with the patience to use it.

    Args:
        client: one that retries nothing itself (connection.py).
        timeout_s: for one `call` with `hurry`, its retries included.
        retry: for attempts that lost their connection.
        level, replicas: the durability that commits promise (durability.probe).
    """

    def __init__(
        self, client: Redis, *, timeout_s: float, retry: Retry | None = None, level: Level | None = None, replicas: int = 1
    ) -> None:
        self.client, self.timeout_s = client, timeout_s
        self.level, self.replicas = level, replicas
        self._retry = retry or default_retry()
        self.durability: Durability | None = None  # unknown until asked, and after a lost connection

    async def call(self, do: Callable[[], Awaitable[T]], *, tenant: str = "", hurry: bool = False) -> T:
        """Awaits `do()`, again after a lost connection; `do` must be such that twice is as good as once.

        Args:
            tenant: named in the error when its keys are not ours.
            hurry: give up after `timeout_s`; without it each command has the client's own time-out.

        Raises:
            StoreUnavailable, StoreCorrupt
        """
        try:
            async with asyncio.timeout(self.timeout_s if hurry else None):
                return await self._retry.call_with_retry(do, self._lost)
        except TimeoutError as error:
            self.durability = None
            raise StoreUnavailable(f"no answer within {self.timeout_s:g} s") from error
        except RedisError as error:
            raise _translate(error, tenant) from error

    async def reach(self) -> None:
        """Makes sure that there is a connection, so that what fails after this may have been sent."""
        pool = self.client.connection_pool
        await pool.release(await pool.get_connection())  # type: ignore[no-untyped-call]  # redis-py's

    async def known_durability(self) -> Durability:
        """As `durability`, asked for if need be. Raises PromiseBroken and what redis-py raises."""
        if self.durability is None:
            self.durability = await probe(self.client, self.level, self.replicas)
        return self.durability

    async def _lost(self, _: Exception) -> None:
        self.durability = None  # who answers next may be another server, or differently configured


def _translate(error: RedisError, tenant: str) -> Exception:
    # Some replies quote the command they refuse, and with it what people wrote.
    text = str(error).partition(", with args beginning with")[0][:200]
    if isinstance(error, ResponseError) and "WRONGTYPE" in text:
        return StoreCorrupt(tenant, "one of its keys is not what this store writes")
    return StoreUnavailable(f"{type(error).__name__}: {text}")


def as_list(reply: Any) -> list[Any]:
    """A script's reply; the type that redis-py gives it is wider."""
    assert isinstance(reply, list)
    return reply
