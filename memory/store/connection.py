"""Connects to a server of the Redis protocol."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from redis.asyncio import BlockingConnectionPool, Redis, Sentinel, SentinelConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from memory.store.cluster import Client, Cluster

SCHEMES = (
    "redis://",
    "rediss://",
    "unix://",
    "redis+sentinel://",
    "rediss+sentinel://",
    "redis+cluster://",
    "rediss+cluster://",
)


def connect(url: str, *, timeout_s: float = 5.0, connections: int = 32) -> Client:
    """A client for `url`; it connects at its first use.

    It has no retry of its own: only the store knows which operations may be sent twice.

    Args:
        url: redis://[user:password@]host:port/db, rediss:// (TLS), unix:///path, or
            redis+sentinel://[user:password@]host:port,host:port/master-name[/db], where user and password are the
            master's, or redis+cluster://[user:password@]host:port,host:port. `rediss` takes ?ssl_ca_certs=…&ssl_certfile=…&ssl_keyfile=….
        timeout_s: for connecting and for each read and write on a socket.
        connections: the most to each node; further commands wait up to `timeout_s` for a free one.

    Raises:
        ValueError: the URL has another scheme, or names no sentinel, master or node.
    """
    if not url.startswith(SCHEMES):
        scheme = url.partition("://")[0]  # the rest may hold a password
        raise ValueError(f"store URL with scheme {scheme!r}: wanted one of {', '.join(SCHEMES)}")
    options: dict[str, Any] = {
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        "health_check_interval": 30,
        "retry": Retry(NoBackoff(), 0),
        "decode_responses": False,
    }
    if "+sentinel://" in url:
        return _through_sentinels(url, options, connections)
    if "+cluster://" in url:
        return _cluster(url, options, timeout_s, connections)
    pool = BlockingConnectionPool.from_url(url, max_connections=connections, timeout=timeout_s, **options)
    return Redis.from_pool(pool)


def _through_sentinels(url: str, options: dict[str, Any], connections: int) -> Redis:
    parts = urlsplit(url)
    sentinels, credentials, tls = _several(url)
    options = options | credentials
    service, _, database = parts.path.strip("/").partition("/")
    if not sentinels or not service:
        raise ValueError("a sentinel URL is redis+sentinel://host:port,host:port/master-name")
    watched = Sentinel(  # type: ignore[no-untyped-call]  # redis-py's
        sentinels, sentinel_kwargs={"socket_timeout": 0.5, "socket_connect_timeout": 0.5}
    )
    pool = SentinelConnectionPool(  # type: ignore[no-untyped-call]  # redis-py's
        service,
        watched,
        ssl=parts.scheme.startswith("rediss"),
        max_connections=connections * 8,  # this pool does not wait for a free connection
        check_connection=True,
        db=int(database or 0),
        **options,
        **tls,
    )
    return Redis.from_pool(pool)


def _cluster(url: str, options: dict[str, Any], timeout_s: float, connections: int) -> Cluster:
    nodes, credentials, tls = _several(url)
    if not nodes or urlsplit(url).path.strip("/"):
        raise ValueError("a cluster URL is redis+cluster://host:port,host:port; a cluster has no numbered databases")
    secured = url.startswith("rediss")
    return Cluster(nodes, tls=secured, timeout_s=timeout_s, connections=connections, options=options | credentials | tls)


def _several(url: str) -> tuple[list[tuple[str, int]], dict[str, Any], dict[str, str]]:
    """Addresses, credentials and TLS options of a URL that names several hosts."""
    parts = urlsplit(url)
    known, _, hosts = parts.netloc.rpartition("@")
    user, _, password = known.partition(":")
    addresses = [(host, int(port)) for host, _, port in (one.rpartition(":") for one in hosts.split(",")) if host]
    credentials = {"username": unquote(user) or None, "password": unquote(password)} if known else {}
    return addresses, credentials, dict(parse_qsl(parts.query))
