"""Background tasks end with the server, even one that misses its first cancellation; one keeps the embedded store running."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from app.server import background
from app.tenants import expiry
from memory.errors import StoreUnavailable
from memory.store import link
from memory.store.durability import Durability
from memory.store.embedded.valkey import EmbeddedValkey
from tests.app.holding import fact, holding
from tests.app.serving import serving

pytestmark = pytest.mark.anyio


async def test_a_task_that_misses_its_cancellation_ends_too(monkeypatch: pytest.MonkeyPatch) -> None:
    missed: list[str] = []

    async def deaf() -> None:
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                if len(missed) == 2:
                    raise
                missed.append("cancel")

    async def failing() -> None:
        raise RuntimeError

    tasks = [asyncio.create_task(deaf()), asyncio.create_task(failing())]
    await asyncio.sleep(0)
    monkeypatch.setattr(background, "AGAIN_S", 0.01)
    await background.end(tasks)
    assert len(missed) == 2 and all(task.done() for task in tasks)


@pytest.mark.service
async def test_what_fails_in_the_background_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expiry, "PERIOD_S", 0.01)
    asked: list[str] = []
    numbers = count()

    async def fails(*_: object, **__: object) -> None:
        asked.append("work")
        raise RuntimeError("nobody thought of this")

    with EmbeddedValkey(tmp_path) as valkey:
        async with holding(valkey.url, snapshot_every=1) as tenants:
            for name, work in (("due", expiry.Expiry(tenants).keep()), ("snapshot", tenants.keep_snapshots())):
                monkeypatch.setattr(tenants.store, name, fails)
                asked.clear()
                task = asyncio.create_task(work)
                while len(asked) < 3:
                    assert not task.done()
                    await tenants.write("t", fact(f"f{next(numbers)}"))
                await background.end([task])


@pytest.mark.service
def test_a_task_that_ended_is_told_by_readiness(monkeypatch: pytest.MonkeyPatch) -> None:
    async def ends(_: object) -> None:
        raise RuntimeError

    with serving() as client:
        assert client.get("/health/ready").json()["checks"]["background"] == "ok"
    monkeypatch.setattr(expiry.Expiry, "keep", ends)
    with serving() as client:
        answer = client.get("/health/ready")
        assert answer.status_code == 503 and answer.json()["checks"]["background"] == "expiry ended"


@pytest.mark.service
def test_probes_of_readiness_cost_the_store_next_to_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Anybody may probe. Nor do they make the next write ask the store what it promises."""
    asked, ask = list[object](), link.probe

    async def counted(client: Redis, *wanted: Any) -> Durability:
        asked.append(client)
        return await ask(client, *wanted)

    monkeypatch.setattr("memory.store.redis_store.PROBE_S", 3600.0)
    with serving() as client:
        monkeypatch.setattr("memory.store.link.probe", counted)
        for _ in range(20):
            answer = client.get("/health/ready")
            assert answer.status_code == 200 and answer.json()["checks"]["store"] == "ok (disk)"
        assert client.post("/facts", json={"prompt": "the capital of zor is", "target": "kal"}).status_code == 201
        assert len(asked) == 1


@pytest.mark.service
async def test_the_embedded_store_is_started_again_until_it_comes_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "LOOK_S", 0.01)
    failures = 2
    restart, came_up = EmbeddedValkey.restart, threading.Event()

    def failing_at_first(valkey: EmbeddedValkey) -> None:
        nonlocal failures
        if failures:
            failures -= 1
            raise StoreUnavailable("the disk is full")
        restart(valkey)
        came_up.set()

    monkeypatch.setattr(EmbeddedValkey, "restart", failing_at_first)
    with EmbeddedValkey(tmp_path) as valkey:
        keeping = asyncio.create_task(background.keep_running(valkey))
        first = valkey.pid
        os.kill(first, signal.SIGKILL)
        assert await asyncio.to_thread(came_up.wait, 30)
        assert valkey.alive and valkey.pid != first
        await background.end([keeping])
