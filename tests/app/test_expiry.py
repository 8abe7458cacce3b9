"""Facts with a time to live, over a real store: each is forgotten when it is over, whatever else goes wrong."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from app.expiry import Expiry
from tests.app.holding import NoModel, fact, holding
from tests.memory.servers import KINDS, Server, running

pytestmark = [pytest.mark.service, pytest.mark.anyio]


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module", params=KINDS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(request.param, tmp_path_factory.mktemp("e")) as server:
        yield server


async def test_tenants_that_cannot_be_read_do_not_keep_the_others_from_expiring(server: Server) -> None:
    bad = [f"bad{number:03}" for number in range(101)]  # more than are asked for at once
    async with holding(server.url, model=NoModel(fingerprint="a" * 64)) as old:
        await asyncio.gather(*(old.write(name, replace(fact("x"), expires_at=1.0)) for name in bad))
    async with holding(server.url) as tenants:
        await tenants.write("good", replace(fact("y"), expires_at=time.time()))
        expiry = Expiry(tenants)
        assert await expiry.forget_expired() == 1 and len(await tenants.fresh("good")) == 0
        await tenants.write("good", replace(fact("z"), expires_at=time.time()))
        assert await expiry.forget_expired() == 1
        assert {name for name, _ in [*await tenants.store.due(time.time()), *await tenants.store.due(time.time(), skip=100)]} == set(bad)
