"""The connection to a server that speaks the Redis protocol."""

from __future__ import annotations

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

SCHEMES = ("redis://", "rediss://", "unix://")


def connect(url: str, *, timeout_s: float = 5.0, connections: int = 32) -> Redis:
    """A client for `url`; it connects when first used.

    It retries nothing itself: only the store knows which of its operations may be sent twice.

    Args:
        url: redis://[user:password@]host:port/db, rediss:// (TLS) or unix:///path.
        timeout_s: for connecting and for each read and write on a socket.
        connections: how many it opens at most; further commands wait up to `timeout_s` for one.

    Raises:
        ValueError: the URL has another scheme.
    """
    if not url.startswith(SCHEMES):
        scheme = url.partition("://")[0]  # the rest may hold a password
        raise ValueError(f"store URL with scheme {scheme!r}: wanted one of {', '.join(SCHEMES)}")
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=connections,
        timeout=timeout_s,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        health_check_interval=30,
        retry=Retry(NoBackoff(), 0),
        decode_responses=False,
    )
    return Redis.from_pool(pool)
