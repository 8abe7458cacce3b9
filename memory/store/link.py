"""Calls to the store: retries, time-outs and the translation of errors."""

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
    """Exponential pauses of 25 to 500 ms between attempts, with full jitter."""
    return Retry(ExponentialWithJitterBackoff(base=0.025, cap=0.5), retries)


class Link:
    """A client with retries and time-outs.

    Args:
        client: without a retry of its own (connection.py).
        timeout_s: for one `call` with `hurry`, retries included.
        retry: for attempts that lost their connection.
        level, replicas: the durability of commits (durability.probe).
    """

    def __init__(
        self, client: Client, *, timeout_s: float, retry: Retry | None = None, level: Level | None = None, replicas: int = 1
    ) -> None:
        self.client, self.timeout_s = client, timeout_s
        self.level, self.replicas = level, replicas
        self._retry = retry or default_retry()
        self._known: dict[Redis, Durability] = {}  # by server; unknown before the first probe and after a lost connection

    async def call(self, do: Callable[[], Awaitable[T]], *, tenant: str = "", hurry: bool = False) -> T:
        """Await `do()`, and again after a lost connection: `do` must be idempotent.

        Args:
            tenant: named in the error if one of its keys has a foreign type.
            hurry: give up after `timeout_s`; without it only the client's time-out for each command holds.

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
        """Run a script; returns its reply."""
        return as_list(await self.near(keys[0]).register_script(script)(keys=keys, args=args))

    async def reach(self, key: str) -> None:
        """Connect to the server that holds a key. A failure here is before any command was sent; a later one may be after it."""
        pool = self.near(key).connection_pool
        await pool.release(await pool.get_connection())  # type: ignore[no-untyped-call]  # redis-py's

    @property
    def durability(self) -> Durability | None:
        """The weakest durability of the probed servers; None before a probe and after a lost connection."""
        return min(self._known.values(), key=lambda durability: LEVELS.index(durability.level), default=None)

    def doubt(self) -> None:
        """Probe the servers again before the next commit."""
        self._known.clear()

    async def durability_of(self, client: Redis) -> Durability:
        """The durability of a server, probed if unknown. Raises PromiseBroken and redis.RedisError."""
        if client not in self._known:
            self._known[client] = await probe(client, self.level, self.replicas)
        return self._known[client]

    async def ask(self) -> Durability:
        """As `durability`, after a new probe of every server; until all have answered the old result holds. Raises as `durability_of`."""
        found: dict[Redis, Durability] = {}
        for client in servers(self.client):
            try:
                found[client] = await probe(client, self.level, self.replicas)
            except PromiseBroken:
                self._known.pop(client, None)  # the next commit probes again, and is refused
                raise
        self._known = found
        assert self.durability is not None
        return self.durability

    async def _lost(self, _: Exception) -> None:
        self.doubt()  # the next server may be another one, or be configured differently
        with suppress(NotConnected):  # the next attempt raises it
            await ready(self.client, again=True)


@contextmanager
def reaching(purpose: str) -> Iterator[None]:
    """For direct use of the client: turns redis.RedisError and OSError into StoreUnavailable, with `purpose` in the message."""
    try:
        yield
    except (RedisError, OSError) as error:
        raise StoreUnavailable(f"{purpose}: {type(error).__name__}") from error


def _translate(error: RedisError, tenant: str) -> Exception:
    # Some replies quote the refused command, and with it users' texts.
    text = str(error).partition(", with args beginning with")[0][:200]
    if isinstance(error, ResponseError) and "WRONGTYPE" in text:
        return StoreCorrupt(tenant, "one of its keys has another type than this store writes")
    return StoreUnavailable(f"{type(error).__name__}: {text}")


def as_list(reply: Any) -> list[Any]:
    """A script's reply as a list; redis-py's type is wider."""
    assert isinstance(reply, list)
    return reply
