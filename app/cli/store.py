"""The store that the settings name, for commands that need no server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from app.cli.serve import fail, settings_or_exit
from app.server.settings import Settings

if TYPE_CHECKING:
    from memory.store.cluster import Client

T = TypeVar("T")


def named(settings: Settings) -> str:
    """Which store these settings name, without a password, and by which setting."""
    if not settings.store_url:
        return f"the embedded store in {settings.data_dir.absolute()} (LARIMAR_DATA_DIR)"
    parts = urlsplit(settings.store_url)  # what follows a `?` may hold a password too
    return f"the store {parts._replace(netloc=parts.netloc.rpartition('@')[2], query='', fragment='').geturl()} (LARIMAR_STORE_URL)"


@asynccontextmanager
async def connected() -> AsyncIterator[Client]:
    """A client of it; an embedded store is started for the moment if no server has it running."""
    from memory.store.cluster import close, ready
    from memory.store.connection import connect
    from memory.store.embedded.valkey import EmbeddedValkey, running_url

    settings = settings_or_exit()
    url, valkey = settings.store_address or running_url(settings.data_dir), None
    if not url:
        valkey = EmbeddedValkey(settings.data_dir)
        await asyncio.to_thread(valkey.start)
        url = valkey.url
    client = connect(url, timeout_s=settings.store_timeout_s)
    try:
        await ready(client)
        yield client
    finally:
        await close(client)
        if valkey is not None:
            await asyncio.to_thread(valkey.close)


def with_store(work: Callable[[Client], Awaitable[T]]) -> T:
    """Do something with the store; what keeps it from being done ends the command with one line."""
    from redis.exceptions import AuthenticationError, RedisError

    from memory.errors import MemoryError_

    async def run() -> T:
        async with connected() as client:
            return await work(client)

    try:
        return asyncio.run(run())
    except AuthenticationError as error:
        fail(f"the store refuses the password ({error}); set LARIMAR_STORE_PASSWORD")
    except (RedisError, OSError) as error:
        fail(f"the store cannot be reached ({error}); look at LARIMAR_STORE_URL, or run `larimar doctor`")
    except (ValueError, MemoryError_) as error:
        fail(str(error))
