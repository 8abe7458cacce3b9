"""Tasks that run beside the requests until the server ends."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

AGAIN_S = 0.5


async def end(tasks: Collection[asyncio.Task[None]]) -> None:
    """Cancel tasks and wait for them.

    A cancellation that arrives just as an awaited answer does can be lost (asyncio.wait_for before Python 3.12), so it is
    said again until it is heard.
    """
    running = set(tasks)
    while running:
        for task in running:
            task.cancel()
        _, running = await asyncio.wait(running, timeout=AGAIN_S)
