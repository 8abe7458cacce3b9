"""Tasks that run beside the requests until the server ends."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

import structlog

from memory.store.embedded.valkey import EmbeddedValkey

AGAIN_S = 0.5
LOOK_S = 0.2  # between two looks whether the embedded store lives
PAUSE_S = 10.0  # at most, between two attempts to start it
log = structlog.get_logger()


async def keep_running(valkey: EmbeddedValkey) -> None:
    """Start the embedded store again whenever it ends by itself, as it does when it cannot write (a full disk), until cancelled.

    What was acknowledged is in its files; meanwhile writes are refused and reads go on from memory."""
    pause = LOOK_S
    while True:
        await asyncio.sleep(pause)
        if valkey.alive:
            pause = LOOK_S
            continue
        log.error("store_ended")
        try:
            await asyncio.to_thread(valkey.restart)
            log.info("store_restarted")
        except Exception as error:
            log.error("store_not_restarted", error=str(error))
        pause = min(2 * pause, PAUSE_S)


def ended(tasks: Collection[asyncio.Task[None]]) -> str:
    """The names of those that ended though the server has not; empty while all run."""
    return ", ".join(f"{task.get_name()} ended" for task in tasks if task.done())


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
