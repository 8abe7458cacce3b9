"""The whole server in this process, on a toy model and a real embedded Valkey; and over a real socket where that matters."""

from __future__ import annotations

import asyncio
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import uvicorn

from app.cli.serve import uvicorn_config
from app.server.main import create_app
from app.server.settings import Settings
from models.adapter import Adapter
from models.code import SlotCode
from models.model import Model
from tests.models import toys


def toy_model(_: Settings | None = None) -> Model:
    """Random parts of real architectures; its texts mean nothing, but they are texts."""
    decoder, encoder = toys.decoder(), toys.encoder()
    mean, projection = SlotCode.fit(decoder.embedding.weight, toys.SLOT_DIM)
    return Model(encoder, decoder, Adapter(toys.prefix(decoder), mean, projection, encoder.idf))


@contextmanager
def serving(**settings: object) -> Iterator[httpx.Client]:
    """A client of a server on a free port of the loopback, ended with the block. Its data folder is its own."""
    with tempfile.TemporaryDirectory() as folder, socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        configured = Settings(data_dir=Path(folder), **settings)  # type: ignore[arg-type]
        app = create_app(configured, load=toy_model)
        server = uvicorn.Server(uvicorn_config(app, configured))
        thread = threading.Thread(target=lambda: asyncio.run(server.serve([sock])), daemon=True)
        thread.start()
        with httpx.Client(base_url=f"http://127.0.0.1:{sock.getsockname()[1]}", timeout=30) as client:
            client.app = app  # type: ignore[attr-defined]
            deadline = time.monotonic() + 30
            while not server.started:
                assert time.monotonic() < deadline and thread.is_alive(), "the server did not start"
                time.sleep(0.02)
            yield client
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()
