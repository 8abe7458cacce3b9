"""Rolling restarts: two servers on one store behind a small proxy are restarted in turn, and no request fails.

ROLLING_RESTARTS and ROLLING_REQUESTS set how many; the defaults keep the run short.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from app.bench.free_port import free_port
from tests.memory.servers import running

pytestmark = pytest.mark.service
RESTARTS = int(os.environ.get("ROLLING_RESTARTS", "2"))
REQUESTS = int(os.environ.get("ROLLING_REQUESTS", "300"))
NOTICE_S = 0.3  # between leaving the proxy's list and SIGTERM, as a preStop hook gives it


class Replica:
    """A server process on its own port."""

    def __init__(self, folder: Path, store_url: str) -> None:
        self.port = free_port()
        own = {"LARIMAR_PORT": str(self.port), "LARIMAR_DATA_DIR": str(folder), "LARIMAR_STORE_URL": store_url, "OMP_NUM_THREADS": "1"}
        self.environment = os.environ | own
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "tests.app.toy_server"]
        self.process = subprocess.Popen(command, env=self.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                if httpx.get(f"http://127.0.0.1:{self.port}/health/ready", timeout=5).status_code == 200:
                    return
            except httpx.TransportError:
                time.sleep(0.1)
        raise AssertionError("the replica did not get ready")

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(60) in (0, -signal.SIGTERM)


@contextmanager
def proxy(ports: list[int]) -> Iterator[int]:
    """A TCP proxy that gives each connection to the next of `ports`, which may change; it tries nothing again."""
    loop, turn = asyncio.new_event_loop(), iter(range(1 << 30))

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while part := await reader.read(65536):
                writer.write(part)
                await writer.drain()
        except ConnectionError:
            pass
        writer.close()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", ports[next(turn) % len(ports)])
        await asyncio.gather(pump(reader, back), pump(there, writer))

    async def serve(started: threading.Event, found: list[int]) -> None:
        server = await asyncio.start_server(connected, "127.0.0.1", 0)
        found.append(server.sockets[0].getsockname()[1])
        started.set()
        await asyncio.Event().wait()

    started, found = threading.Event(), list[int]()
    task = loop.create_task(serve(started, found))
    thread = threading.Thread(target=lambda: loop.run_until_complete(asyncio.gather(task, return_exceptions=True)), daemon=True)
    thread.start()
    assert started.wait(10)
    yield found[0]
    loop.call_soon_threadsafe(task.cancel)
    thread.join(10)


@pytest.mark.skipif(shutil.which("redis-server") is None, reason="no redis-server")
def test_no_request_fails_while_servers_restart(tmp_path: Path) -> None:
    with running("redis", tmp_path) as store:
        replicas = [Replica(tmp_path / str(n), store.url) for n in range(2)]
        ports = [replica.port for replica in replicas]
        failures, done, finished = list[str](), 0, threading.Event()

        def ask(port: int) -> None:
            nonlocal done
            while not finished.is_set() or done < REQUESTS:
                done += 1
                body = {"prompt": f"the river {done % 50} is", "target": f"kal {done}"}
                try:
                    answer = httpx.post(f"http://127.0.0.1:{port}/facts", json=body, timeout=60)
                    if answer.status_code != 201:
                        failures.append(f"{answer.status_code} {answer.text}")
                except httpx.HTTPError as error:
                    failures.append(repr(error))

        try:
            with proxy(ports) as port:
                asking = threading.Thread(target=ask, args=(port,))
                asking.start()
                for number in range(RESTARTS):
                    replica = replicas[number % 2]
                    ports.remove(replica.port)
                    time.sleep(NOTICE_S)
                    replica.stop()
                    replica.start()
                    ports.append(replica.port)
                finished.set()
                asking.join(600)
        finally:
            for replica in replicas:
                replica.process.kill()
                replica.process.wait()
    assert done >= REQUESTS
    assert not failures, f"{len(failures)} of {done} failed: {failures[:3]}"
