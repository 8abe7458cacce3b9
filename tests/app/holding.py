"""Tenants over a real store, without weights: keys and codes are drawn by the fact's own name."""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator
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
from memory.fact import Fact
from memory.page import PageSettings
from memory.scope.rules import Scope
from memory.store.connection import connect
from memory.store.durability import Level
from memory.store.redis_store import RedisStore
from memory.store.vault import Vault
from models.model import Model

DIM, WIDTH = 64, 32


@dataclass(frozen=True)
class NoModel:
    """What tenants ask of a model."""

    fingerprint: str = "f" * 64
    key_dim: int = DIM
    scope: object = None  # no reader
    device: torch.device = torch.device("cpu")  # noqa: RUF009 - devices are immutable


def drawn(name: str, size: int) -> Tensor:
    return torch.nn.functional.normalize(torch.randn(size, generator=torch.Generator().manual_seed(zlib.crc32(name.encode()))), dim=0)


def fact(fact_id: str, prompt: str | None = None, target: str = "t") -> Fact:
    prompt = prompt or f"prompt of {fact_id}"
    return Fact(fact_id, prompt, target, drawn(prompt, DIM), drawn(f"{prompt}\0{target}", WIDTH), 0.0, {})


@asynccontextmanager
async def holding(
    url: str,
    *,
    slots: int = 32,
    snapshot_every: int = 10**9,
    vault: Path | None = None,
    level: Level | None = None,
    model: Any = NoModel(),
    **limits: Any,
) -> AsyncIterator[Tenants]:
    """Tenants as the server has them; `limits` are those of Holding."""
    store = RedisStore(connect(url), vault=Vault(vault) if vault else None, level=level)
    worker, lookups = InferenceWorker(1024), InferenceWorker(1024, name="look-ups")
    worker.start()
    lookups.start()
    settings = PageSettings(slots=slots)
    holding = TenantLimits(snapshot_every=snapshot_every, snapshot_s=3600.0, **limits)
    yield Tenants(store, worker, cast(Model, model), Metrics(), lookups=lookups, pages=settings, scope=Scope(), holding=holding)
    await lookups.close()
    await worker.close()
    await store.close()
