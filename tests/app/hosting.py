"""A whole server in this process: the real app on a toy model and a real embedded Valkey."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fastapi.testclient import TestClient

from app.main import LoadModel, create_app
from app.settings import Settings
from tests.models import toys


@contextmanager
def hosted(folder: Path, load: LoadModel = lambda _: toys.model(), **settings: Any) -> Iterator[TestClient]:
    """A client of a server with a data folder; its state is `client.app.state`."""
    app = create_app(Settings(data_dir=folder, **settings), load=load)
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client
