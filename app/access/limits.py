"""Rate limits of a key: requests, tokens and facts a window, counted over all replicas that share a store."""

from __future__ import annotations

import math
import time
from typing import Any

from limits import RateLimitItem, parse
from limits.aio.storage import MemoryStorage, RedisClusterStorage, RedisStorage
from limits.aio.strategies import FixedWindowRateLimiter
from redis.exceptions import RedisClusterException, RedisError

from app.access.api_keys import ApiKey
from app.access.request_context import RequestContext
from memory.store.cluster import Client, Cluster


class RateLimited(Exception):
    """The key has used up a limit of the current window."""

    def __init__(self, what: str, limit: RateLimitItem, retry_after_s: int) -> None:
        super().__init__(f"the key may use {limit.amount} {what} in {limit.get_expiry()} s; try again in {retry_after_s} s")
        self.retry_after_s = retry_after_s


class Limits:
    """Counts the use of keys. If the store's counters cannot be reached, this process counts alone: a limit never stops the service.

    Args:
        client: of a shared store; None counts in this process.
        requests, tokens, facts: limits of a key without its own, such as 600/minute; empty: no limit.
    """

    def __init__(self, client: Client | None, *, requests: str = "", tokens: str = "", facts: str = "") -> None:
        self._own = {"requests": requests, "tokens": tokens, "facts": facts}
        self._alone = FixedWindowRateLimiter(MemoryStorage())
        self._shared = self._alone
        if client is not None:
            self._shared = FixedWindowRateLimiter(_storage(client))

    def _limit(self, key: ApiKey, what: str) -> str:
        own: str = getattr(key, what)
        return own or self._own[what]

    async def admit(self, key: ApiKey, exchange: RequestContext, *, writes: bool) -> None:
        """Count one request. Raises RateLimited if the key's requests, tokens or (for a write) facts of this window are used up."""
        left: list[tuple[str, RateLimitItem, int, int]] = []
        for what in ("requests", "tokens", *(["facts"] if writes else [])):
            if text := self._limit(key, what):
                limit = parse(text)
                admitted, remaining, reset_s = await self._hit(limit, what, key.id, cost=1 if what == "requests" else 0)
                left.append((what, limit, remaining, reset_s))
                if not admitted or (what != "requests" and remaining <= 0):
                    exchange.headers |= _headers(left)
                    raise RateLimited(what, limit, reset_s)
        exchange.headers |= _headers(left)

    async def spend(self, key: ApiKey, **used: int) -> None:
        """Count used tokens and facts. An excess is charged to later requests of the window."""
        for what, cost in used.items():
            if cost and (text := self._limit(key, what)):
                await self._hit(parse(text), what, key.id, cost=cost)

    async def _hit(self, limit: RateLimitItem, what: str, key_id: str, *, cost: int) -> tuple[bool, int, int]:
        """Whether the limit admits it; the amount left; whole seconds until the window ends."""
        try:
            return await _count(self._shared, limit, what, key_id, cost)
        except (RedisError, RedisClusterException, OSError):
            return await _count(self._alone, limit, what, key_id, cost)


def _storage(client: Client) -> RedisStorage:
    """Counters in the store, under the prefix larimar:limits."""
    named: dict[str, Any] = {"implementation": "redispy", "key_prefix": "larimar:limits"}
    if isinstance(client, Cluster):  # counters lie on any node
        hosts = ",".join(f"{host}:{port}" for host, port in client.addresses)
        return RedisClusterStorage(f"async+redis+cluster://{hosts}", ssl=client.tls, **named, **client.own_patience)
    return RedisStorage("async+redis://unused:6379", connection_pool=client.connection_pool, **named)  # type: ignore[arg-type]  # passed on


async def _count(limiter: FixedWindowRateLimiter, limit: RateLimitItem, what: str, key_id: str, cost: int) -> tuple[bool, int, int]:
    admitted = await limiter.hit(limit, what, key_id, cost=cost) if cost else True
    stats = await limiter.get_window_stats(limit, what, key_id)
    return admitted, stats.remaining, max(1, math.ceil(stats.reset_time - time.time()))


def _headers(left: list[tuple[str, RateLimitItem, int, int]]) -> dict[str, str]:
    """RateLimit and RateLimit-Policy of the IETF's draft (structured fields)."""
    if not left:
        return {}
    return {
        "RateLimit-Policy": ", ".join(f'"{what}";q={limit.amount};w={limit.get_expiry()}' for what, limit, _, _ in left),
        "RateLimit": ", ".join(f'"{what}";r={max(0, remaining)};t={reset_s}' for what, _, remaining, reset_s in left),
    }
