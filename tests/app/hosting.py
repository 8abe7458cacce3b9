"""A whole server in this process: the real app on a toy model and a real embedded Valkey."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI
from fastapi.testclient import TestClient
from starlette.types import Scope as HTTPScope

from app.access.api_keys import KeyRing, Scope
from app.server.main import LoadModel, create_app
from app.server.settings import Settings
from memory.store.cluster import close
from memory.store.connection import connect
from memory.store.embedded.valkey import running_url
from tests.models import toys


@contextmanager
def hosted(folder: Path, load: LoadModel = lambda _: toys.model(), **settings: Any) -> Iterator[TestClient]:
    """A client of a server with a data folder; its state is `client.app.state`."""
    app = create_app(Settings(data_dir=folder, **settings), load=load)
    with TestClient(app, base_url="http://localhost", raise_server_exceptions=False) as client:
        yield client


@asynccontextmanager
async def opened(folder: Path, load: LoadModel = lambda _: toys.model(), **settings: Any) -> AsyncIterator[FastAPI]:
    """The app, started in this loop: to be called as a server calls it, or by its state."""
    app = create_app(Settings(data_dir=folder, **settings), load=load)
    async with app.router.lifespan_context(app):
        yield app


def scope_of(method: str, path: str, content_type: str = "application/json") -> HTTPScope:
    """What a server tells an app of a request."""
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"127.0.0.1"), (b"content-type", content_type.encode()), (b"transfer-encoding", b"chunked")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }


def make_key(client: httpx.Client, tenant: str, *scopes: Scope) -> str:
    """A key in the store of a server of this process, made beside it, as `larimar keys create` does."""
    settings: Settings = client.app.state.settings  # type: ignore[attr-defined]  # of `hosted` and `serving`

    async def made() -> str:
        store = connect(settings.store_address or running_url(settings.data_dir))
        try:
            secret, _ = await KeyRing(store).create(tenant, scopes)
        finally:
            await close(store)
        return secret

    return asyncio.run(made())
