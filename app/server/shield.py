"""Work that outlasts who asked for it, or is not theirs alone."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextvars import Context
from typing import Any, TypeVar

from app.inference.fair_queue import TENANT

T = TypeVar("T")


async def to_its_end(work: Coroutine[Any, Any, T]) -> T:
    """What the work gives. Who is cancelled meanwhile leaves it to its end: what is half done must not stay so."""
    return await asyncio.shield(asyncio.ensure_future(work))


def apart(work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """Start work that is done for whoever waits for it: in the caller's line of the queue, and under no request's id, trace or audit."""
    context = Context()
    context.run(TENANT.set, TENANT.get())
    return asyncio.create_task(work, context=context)
