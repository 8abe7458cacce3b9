"""Clients of the module's server, and stores on it."""

from __future__ import annotations

import re
import zlib
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from memory.store.connection import connect
from memory.store.redis_store import RedisStore
from tests.memory.servers import Server


@pytest.fixture
async def client(server: Server) -> AsyncIterator[Redis]:
    client = connect(server.url)
    yield client
    await client.aclose()


@pytest.fixture
async def store(server: Server) -> AsyncIterator[RedisStore]:
    store = RedisStore(connect(server.url))
    yield store
    await store.close()


@pytest.fixture
def tenant(request: pytest.FixtureRequest) -> str:
    """Another for each test, as they share a server."""
    name = request.node.name
    return f"{re.sub('[^A-Za-z0-9_.-]', '-', name)[:50]}-{zlib.crc32(name.encode()):08x}"
