"""Real servers for the tests of the service tier, and a proxy that cuts connections."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from redis.asyncio import Redis

from app.bench.free_port import free_port
from memory.store.embedded.process import Child
from memory.store.embedded.valkey import EmbeddedValkey, _ping

KINDS = ("embedded", "redis")


@dataclass(frozen=True)
class Server:
    kind: str
    socket: Path
    pid: int
    port: int = 0

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"


@contextmanager
def running(kind: str, folder: Path, *, port: bool = False, options: Mapping[str, str] | None = None) -> Iterator[Server]:
    """The embedded Valkey, or Debian's Redis as an operator would set it up for durability; on a free port too if asked."""
    if kind == "embedded":
        with EmbeddedValkey(folder) as valkey:
            yield Server(kind, Path(valkey.url.removeprefix("unix://")), valkey.pid)
        return
    binary = shutil.which("redis-server")
    if binary is None:
        pytest.skip("no redis-server on PATH (apt-get install redis-server)")
    path = folder / "redis.sock"
    number = free_port() if port else 0
    options = {
        "port": str(number),
        "bind": "127.0.0.1",
        "unixsocket": str(path),
        "save": "",
        "appendonly": "yes",
        "appendfsync": "always",
        "dir": str(folder),
        **(options or {}),
    }
    command = [binary, *(part for name, value in options.items() for part in (f"--{name}", value))]
    with (folder / "redis.log").open("wb") as output:
        child = Child(command, cwd=folder, output=output)
    try:
        while not _ping(path).startswith(b"+PONG"):
            assert child.alive, (folder / "redis.log").read_text()
            time.sleep(0.01)
        yield Server(kind, path, child.pid, number)
    finally:
        child.stop()


class Proxy:
    """Passes bytes between a client and a server, until told to cut.

    `cut` names what happens to the next commands that hold `marker`, less the first `after`: `request` drops it on the way there,
    `reply` lets the server do it and drops the answer. Either way the connection is closed after `on_cut` was
    awaited."""

    def __init__(self, upstream: Path, path: Path, marker: bytes = b"EVALSHA") -> None:
        self._upstream, self._path, self._marker = upstream, path, marker
        self._tasks: set[asyncio.Task[None]] = set()
        self.cut: str | None = None
        self.times, self.after = 0, 0
        self.on_cut: Callable[[], Awaitable[object]] | None = None

    @property
    def url(self) -> str:
        return f"unix://{self._path}"

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_unix_server(self._accept, self._path)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut_next(
        self, what: str, times: int = 1, on_cut: Callable[[], Awaitable[object]] | None = None, after: int = 0
    ) -> None:
        self.cut, self.times, self.on_cut, self.after = what, times, on_cut, after

    def _accept(self, client_in: asyncio.StreamReader, client_out: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(client_in, client_out))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, client_in: asyncio.StreamReader, client_out: asyncio.StreamWriter) -> None:
        server_in, server_out = await asyncio.open_unix_connection(self._upstream)
        doomed = asyncio.Event()

        async def there() -> None:
            while data := await client_in.read(1 << 16):
                marked = self.times > 0 and self._marker in data
                self.after -= marked
                if marked and self.after < 0:
                    self.times -= 1
                    if self.cut == "request":
                        return
                    doomed.set()
                server_out.write(data)
                await server_out.drain()

        async def back() -> None:
            while data := await server_in.read(1 << 16):
                if doomed.is_set():
                    return
                client_out.write(data)
                await client_out.drain()

        ways = [asyncio.create_task(there()), asyncio.create_task(back())]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            if self.on_cut is not None:
                hook, self.on_cut = self.on_cut, None
                await hook()
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            for writer in (client_out, server_out):
                writer.close()
                with suppress(OSError):
                    await writer.wait_closed()


async def no_rewrite(client: Redis) -> None:
    """Waits until no rewrite of the append-only file is under way or due."""
    while True:
        state = await client.info("persistence")
        if not (state["aof_rewrite_in_progress"] or state["aof_rewrite_scheduled"]):
            return
        await asyncio.sleep(0.01)
