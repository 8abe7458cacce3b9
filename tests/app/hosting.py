"""A whole server in this process: the real app on a toy model and a real embedded Valkey."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from fastapi.testclient import TestClient

from app.keys import KeyRing, Scope
from app.main import LoadModel, create_app
from app.settings import Settings
from memory.cluster import close
from memory.connection import connect
from memory.embedded import running_url
from tests.models import toys


@contextmanager
def hosted(folder: Path, load: LoadModel = lambda _: toys.model(), **settings: Any) -> Iterator[TestClient]:
    """A client of a server with a data folder; its state is `client.app.state`."""
    app = create_app(Settings(data_dir=folder, **settings), load=load)
    with TestClient(app, base_url="http://localhost", raise_server_exceptions=False) as client:
        yield client


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
