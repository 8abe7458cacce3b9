"""The way to the server: what is tried again, how long, and what its failures are called here."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import ConnectionError as NotConnected
from redis.exceptions import RedisError, ResponseError

from memory.errors import PromiseBroken, StoreCorrupt, StoreUnavailable
from memory.store.cluster import ELSEWHERE, Client, near, ready, servers
from memory.store.durability import LEVELS, Durability, Level, probe

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
        self, client: Client, *, timeout_s: float, retry: Retry | None = None, level: Level | None = None, replicas: int = 1
    ) -> None:
        self.client, self.timeout_s = client, timeout_s
        self.level, self.replicas = level, replicas
        self._retry = retry or default_retry()
        self._known: dict[Redis, Durability] = {}  # of each server; unknown until asked, and after a lost connection

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
                return await self._retry.call_with_retry(lambda: self._attempt(do), self._lost)
        except TimeoutError as error:
            self.doubt()
            raise StoreUnavailable(f"no answer within {self.timeout_s:g} s") from error
        except RedisError as error:
            raise _translate(error, tenant) from error

    async def _attempt(self, do: Callable[[], Awaitable[T]]) -> T:
        await ready(self.client)
        try:
            return await do()
        except ELSEWHERE as error:
            raise NotConnected(f"the key has moved to another node: {type(error).__name__}") from error

    def near(self, key: str) -> Redis:
        """The client of the server that holds a key."""
        return near(self.client, key)

    async def run(self, script: str, keys: Sequence[str], args: Sequence[Any]) -> list[Any]:
        """A script's reply."""
        return as_list(await self.near(keys[0]).register_script(script)(keys=keys, args=args))

    async def reach(self, key: str) -> None:
        """Makes sure that there is a connection to the server that holds a key, so that what fails after this may have been sent."""
        pool = self.near(key).connection_pool
        await pool.release(await pool.get_connection())  # type: ignore[no-untyped-call]  # redis-py's

    @property
    def durability(self) -> Durability | None:
        """What commits promise on every server that was asked; None before one was, and after a lost connection."""
        return min(self._known.values(), key=lambda durability: LEVELS.index(durability.level), default=None)

    def doubt(self) -> None:
        """Have the servers asked again what they promise."""
        self._known.clear()

    async def durability_of(self, client: Redis) -> Durability:
        """What a server promises, asked for if need be. Raises PromiseBroken and what redis-py raises."""
        if client not in self._known:
            self._known[client] = await probe(client, self.level, self.replicas)
        return self._known[client]

    async def ask(self) -> Durability:
        """As `durability`, after every server was asked anew; what is known holds until they have answered. Raises as `durability_of`."""
        found: dict[Redis, Durability] = {}
        for client in servers(self.client):
            try:
                found[client] = await probe(client, self.level, self.replicas)
            except PromiseBroken:
                self._known.pop(client, None)  # commits ask for themselves, and are refused
                raise
        self._known = found
        assert self.durability is not None
        return self.durability

    async def _lost(self, _: Exception) -> None:
        self.doubt()  # who answers next may be another server, or differently configured
        with suppress(NotConnected):  # the next attempt will say so
            await ready(self.client, again=True)


@contextmanager
def reaching(purpose: str) -> Iterator[None]:
    """Calls what keeps a client of one's own from the store by its name here. Raises StoreUnavailable."""
    try:
        yield
    except (RedisError, OSError) as error:
        raise StoreUnavailable(f"{purpose}: {type(error).__name__}") from error


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
