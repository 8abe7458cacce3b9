"""Work that outlasts who asked for it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def to_its_end(work: Coroutine[Any, Any, T]) -> T:
    """What the work gives. Who is cancelled meanwhile leaves it to its end: what is half done must not stay so."""
    return await asyncio.shield(asyncio.ensure_future(work))
