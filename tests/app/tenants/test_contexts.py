"""Work that several requests wait for is none of theirs: it runs under no request's id, trace or audit."""

from __future__ import annotations

import asyncio
from contextvars import copy_context
from typing import Any

import pytest
from structlog.contextvars import bind_contextvars, get_contextvars

from app.access.request_context import RequestContext, current
from app.inference.fair_queue import TENANT
from app.tenants.group_commit import GroupCommit
from tests.app.holding import fact, holding
from tests.memory.servers import Server

pytestmark = [pytest.mark.service, pytest.mark.anyio]


async def test_group_commits_loads_and_following_run_under_no_requests_context(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    async with holding(server.url) as tenants:
        writes, seen = GroupCommit(tenants), dict[str, list[Any]]()

        def watched(name: str) -> None:
            work = getattr(tenants.store, name)

            async def call(*args: Any, **kwargs: Any) -> Any:
                seen.setdefault(name, []).append((get_contextvars(), current(), TENANT.get()))
                return await work(*args, **kwargs)

            monkeypatch.setattr(tenants.store, name, call)

        for name in ("load", "follow", "commit"):
            watched(name)

        async def request(number: int) -> None:
            bind_contextvars(request_id=f"r{number}")
            RequestContext(f"r{number}").enter()
            TENANT.set("contexts")
            await writes.write("contexts", fact(f"f{number}"))
            await tenants.newest("contexts")

        loop = asyncio.get_running_loop()
        await asyncio.gather(*(loop.create_task(request(number), context=copy_context()) for number in range(8)))
        assert sorted(seen) == ["commit", "follow", "load"]
        for name, contexts in seen.items():
            assert all(context == ({}, None, "contexts") for context in contexts), name
        assert len(await tenants.fresh("contexts")) == 8
