"""A tenant of many facts, over the embedded store and without a model: writes, look-ups, forgets, and loading it again."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from app.inference.worker import InferenceWorker
from app.server.metrics import Metrics
from app.tenants.tenant import TenantLimits
from app.tenants.tenants import Tenants
from memory.episodic import EpisodicMemory
from memory.fact import Fact
from memory.page import PageSettings
from memory.scope.rules import Scope
from memory.store.connection import connect
from memory.store.embedded.valkey import EmbeddedValkey
from memory.store.redis_store import RedisStore
from memory.store.vault import Vault
from models.model import Model

DIM, WIDTH = 896, 640  # of the default model's keys, and of a code of ten tokens
TENANT = "bench"


@dataclass(frozen=True)
class Codes:
    """What tenants ask of a model."""

    fingerprint: str = "0" * 64
    key_dim: int = DIM
    device: torch.device = torch.device("cpu")  # noqa: RUF009  (devices are immutable)


@asynccontextmanager
async def opened(folder: Path, url: str) -> AsyncIterator[Tenants]:
    """Tenants as the server has them."""
    store = RedisStore(connect(url), vault=Vault(folder / "keys"), level="disk")
    worker, lookups = InferenceWorker(1024), InferenceWorker(1024, name="look-ups")
    worker.start()
    lookups.start()
    model = cast("Model", Codes())
    yield Tenants(store, worker, model, Metrics(), lookups=lookups, pages=PageSettings(), scope=Scope(), holding=TenantLimits())
    await lookups.close()
    await worker.close()
    await store.close()


def facts(first: int, count: int) -> list[Fact]:
    """Facts with random unit keys."""
    generator = torch.Generator().manual_seed(first)
    keys = torch.nn.functional.normalize(torch.randn(count, DIM, generator=generator))
    codes = torch.randn(count, WIDTH, generator=generator)
    return [_fact(first + row, keys[row].clone(), codes[row].clone()) for row in range(count)]


def _fact(number: int, key: Tensor, code: Tensor) -> Fact:
    return Fact(f"fact-{number:07}", f"The value of item {number} is", f"value {number}", key, code, 0.0, {})


async def measure(count: int, repeats: int, step: Callable[[int], None]) -> dict[str, Any]:
    """Figures of a tenant of `count` facts; `step` hears how many more are written.

    Returns milliseconds unless the name says otherwise.
    """
    with tempfile.TemporaryDirectory(prefix="larimar-bench-") as name, EmbeddedValkey(name) as valkey:
        folder = Path(name)
        async with opened(folder, valkey.url) as tenants:
            await tenants.write_many(TENANT, facts(0, 100))
            small = [await _timed(tenants.write(TENANT, fact)) for fact in facts(10_000_000, repeats)]
            started = time.perf_counter()
            for first in range(100 + repeats, count, 1000):
                size = min(1000, count - first)
                outcomes = await tenants.write_many(TENANT, facts(first, size))
                assert not any(isinstance(outcome, Exception) for outcome in outcomes)
                step(size)
            filled_s = time.perf_counter() - started
            memory = (await tenants.get(TENANT)).memory
            large = [await _timed(tenants.write(TENANT, fact)) for fact in facts(20_000_000, repeats)]
            lookups = [_looked_up(memory, fact.key) for fact in facts(30_000_000, repeats)]
            await tenants.snapshot()
            known = [fact.id for fact in memory.facts(limit=count)]
            gone = known[:: max(1, len(known) // repeats)][:repeats]
            forgets, residuals = [], []
            for fact_id in gone:
                await tenants.worker.run(memory.recall, fact_id)  # a page that is not solved yet is solved first
                began = time.perf_counter()
                residuals.append((await tenants.forget(TENANT, fact_id)).residual)
                forgets.append(1e3 * (time.perf_counter() - began))
            version, bytes_here = memory.version, memory.size_bytes
            del memory  # a server that starts has no other memory beside the one it loads
        async with opened(folder, valkey.url) as tenants:
            began = time.perf_counter()
            memory = (await tenants.get(TENANT)).memory
            loaded_s = time.perf_counter() - began
            assert (memory.version, memory.size_bytes > 0) == (version, True)
            return {
                "facts": len(memory),
                "pages": memory.pages,
                "memory_mb": bytes_here / 2**20,
                "bulk_facts_per_s": (count - 100 - repeats) / filled_s,
                "write_at_100": _spread(small),
                "write_at_all": _spread(large),
                "lookup": _spread(lookups),
                "forget": _spread(forgets),
                "forget_residual_max": max(residuals),
                "load_s": loaded_s,
            }


async def _timed(work: Any) -> float:
    started = time.perf_counter()
    await work
    return 1e3 * (time.perf_counter() - started)


def _looked_up(memory: EpisodicMemory, key: Tensor) -> float:
    started = time.perf_counter()
    memory.nearest(key[None], 4)
    return 1e3 * (time.perf_counter() - started)


def _spread(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {"p50_ms": ordered[len(ordered) // 2], "p99_ms": ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))]}


def run(count: int, repeats: int, step: Callable[[int], None]) -> dict[str, Any]:
    return asyncio.run(measure(count, repeats, step))
