"""A real server of each kind, shared by the tests of a module."""

from __future__ import annotations

import re
import zlib
from collections.abc import AsyncIterator, Iterator

import pytest
from redis.asyncio import Redis

from memory.connection import connect
from memory.store import RedisStore
from tests.memory.servers import KINDS, Server, running


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module", params=KINDS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(request.param, tmp_path_factory.mktemp("s")) as server:
        yield server


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
