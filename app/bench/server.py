"""A server of one's own to measure: real, on a free port of the loopback, in a fresh folder, ended with the block."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import httpx

from app.bench.free_port import free_port
from app.server.settings import Settings

START_S = 180.0


@asynccontextmanager
async def serving(settings: Settings, **environment: str) -> AsyncIterator[tuple[str, int]]:
    """The address and process id of a server with these settings' model; `environment` sets LARIMAR_ variables.

    Raises:
        RuntimeError: it did not get ready.
    """
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory(prefix="larimar-bench-") as folder:
        chosen = {"LARIMAR_DATA_DIR": folder, "LARIMAR_MODELS_DIR": str(settings.weights_dir.absolute()), "LARIMAR_PORT": str(port)}
        own = {"LARIMAR_DECODER": settings.decoder, "LARIMAR_DEVICE": settings.device, "LARIMAR_LOG_LEVEL": "warning"}
        log = Path(folder) / "server.log"
        with log.open("w") as errors:
            variables = os.environ | own | chosen | environment
            process = await asyncio.create_subprocess_exec(sys.executable, "-m", "app", env=variables, stderr=errors, stdout=errors)
        try:
            await _ready(url, process, log)
            yield url, process.pid
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()


async def _ready(url: str, process: asyncio.subprocess.Process, log: Path) -> None:
    async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
        for _ in range(int(START_S / 0.2)):
            if process.returncode is not None:
                break
            try:
                if (await client.get("/health/ready")).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            await asyncio.sleep(0.2)
    raise RuntimeError(f"the server did not get ready: {_tail(log)}")


def _tail(log: Path) -> str:
    return log.read_text()[-500:]


def resident_mib(pid: int) -> float:
    """Resident memory of a process; 0 where that cannot be seen."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    except OSError:
        return 0.0


def processor_s(pid: int) -> float:
    """Seconds that a process's living threads have run on a processor; 0 where that cannot be seen."""
    total = 0
    for task in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        with suppress(OSError):  # it has just ended
            total += int(task.read_text().split()[0])
    return 1e-9 * total
