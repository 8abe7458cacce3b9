"""An open-loop load: requests arrive at their own times, whether or not earlier ones are answered.

A latency is counted from the time a request was due, so that a stalled server is not forgiven what it stalled
(coordinated omission). Arrivals are a Poisson process; tenants are drawn evenly.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import httpx

from app.bench.latency import fact
from app.bench.server import resident_mib, serving
from app.bench.statistic import summary
from app.client import AsyncClient, LarimarError
from app.server.settings import Settings

MIX = {"generate": 0.70, "write": 0.25, "forget": 0.05}
SAMPLES = 60  # of the server's memory over the run


async def load(
    settings: Settings,
    *,
    rate: float,
    seconds: float,
    tenants: int,
    seed: int = 0,
    tick: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """70% generate (16 tokens), 25% write, 5% forget at `rate` requests a second, against a server of our own.

    Returns:
        Goodput (answers within the deadline a second), errors by code, latencies from the due times, resident memory of
        the server over the run.
    """
    keys = {f"bench-key-{number:04d}": f"tenant-{number}" for number in range(tenants)}
    environment = {"LARIMAR_API_KEYS": ",".join(f"{key}:{tenant}" for key, tenant in keys.items())}
    async with serving(settings, **environment) as (url, pid):
        run = _Run(url, list(keys), random.Random(seed))
        memory = [resident_mib(pid)]
        started, due, sampled = time.perf_counter(), 0.0, 0
        while due < seconds:
            await asyncio.sleep(max(0.0, started + due - time.perf_counter()))
            run.begin(started + due)
            due += run.rng.expovariate(rate)
            while due * SAMPLES / seconds > sampled:
                sampled += 1
                memory.append(resident_mib(pid))
                tick()
        await run.end()
        elapsed = time.perf_counter() - started
        third = len(memory) // 3
        return {
            "asked_per_second": rate,
            "seconds": seconds,
            "tenants": tenants,
            "goodput_per_second": sum(len(found) for found in run.latencies.values()) / elapsed,
            "latency": {kind: summary(found) for kind, found in run.latencies.items()},
            "late_start": summary(run.late),
            "errors": dict(run.errors),
            "tokens_per_second": run.tokens / elapsed,
            "memory_mib": {
                "start": memory[0],
                "first_third": sum(memory[1 : third + 1]) / max(1, third),
                "last_third": sum(memory[-third:]) / max(1, third),
                "most": max(memory),
            },
            "memory_mib_over_time": [round(value) for value in memory],
        }


class _Run:
    def __init__(self, url: str, keys: list[str], rng: random.Random) -> None:
        limits = httpx.Limits(max_connections=512)
        self.clients = [AsyncClient(url, key, timeout_s=60, retries=0, limits=limits) for key in keys]
        self.rng, self.number, self.tokens = rng, 0, 0
        self.held: list[list[tuple[str, str]]] = [[] for _ in keys]
        self.latencies: dict[str, list[float]] = {kind: [] for kind in MIX}
        self.late: list[float] = []
        self.errors: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, due: float) -> None:
        """Send a request, without waiting for it."""
        (kind,) = self.rng.choices(list(MIX), list(MIX.values()))
        task = asyncio.create_task(self._ask(kind, self.rng.randrange(len(self.clients)), due))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def end(self) -> None:
        """Wait for what is on its way."""
        await asyncio.gather(*self._tasks)
        for client in self.clients:
            await client.close()

    async def _ask(self, kind: str, tenant: int, due: float) -> None:
        self.late.append(time.perf_counter() - due)
        try:
            await getattr(self, f"_{kind}")(self.clients[tenant], self.held[tenant])
            self.latencies[kind].append(time.perf_counter() - due)
        except LarimarError as error:
            self.errors[f"{kind}: {error.code}"] += 1
        except httpx.TransportError as error:
            self.errors[f"{kind}: {type(error).__name__}"] += 1

    async def _generate(self, client: AsyncClient, held: list[tuple[str, str]]) -> None:
        prompt = self.rng.choice(held)[1] if held else "Once upon a time"
        answer = await client.generate(prompt, max_new_tokens=16)
        self.tokens += answer.usage.completion_tokens

    async def _write(self, client: AsyncClient, held: list[tuple[str, str]]) -> None:
        self.number += 1
        taught = fact(self.number)
        held.append(((await client.teach(**taught)).id, f"What is the {taught['prompt'][4:-3]}?"))

    async def _forget(self, client: AsyncClient, held: list[tuple[str, str]]) -> None:
        if held:
            await client.forget(held.pop(self.rng.randrange(len(held)))[0])
