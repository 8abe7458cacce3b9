"""Background tasks end with the server, even one that misses its first cancellation."""

from __future__ import annotations

import asyncio

import pytest

from app import background

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


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
