"""What tenants and facts take: memory of the server, of the store, of the disk; and how fast facts come in."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx

from app.bench.latency import fill
from app.bench.server import resident_mib, serving
from app.client import AsyncClient
from app.server.settings import Settings

GB = 1e9


async def size(
    settings: Settings, *, tenants: int, facts: int, tick: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """Fill tenants with facts in bulk on a server of our own, at durability `disk`, and weigh it.

    Args:
        tenants: how many; the first half warms the server up, the second is weighed. facts: in each.

    Returns:
        Bytes a fact and a tenant, facts a second, and how many such tenants one GB of the server's memory holds.
    """
    keys = {f"bench-key-{number:04d}": f"tenant-{number}" for number in range(tenants)}
    with TemporaryDirectory(prefix="larimar-size-") as folder:
        environment = {
            "LARIMAR_API_KEYS": ",".join(f"{key}:{tenant}" for key, tenant in keys.items()),
            "LARIMAR_DATA_DIR": folder,
            "LARIMAR_MEMORY_BUDGET_MB": "0",
        }
        async with serving(settings, **environment) as (url, pid):
            for key in list(keys)[: tenants // 2]:  # they pay for what every server takes: kernels, arenas, caches
                await _filled(url, key, facts)
                tick()
            before, started = resident_mib(pid), time.perf_counter()
            weighed = list(keys)[tenants // 2 :]
            for key in weighed:
                await _filled(url, key, facts)
                tick()
            seconds = time.perf_counter() - started
            resident = (resident_mib(pid) - before) * 2**20
            stats = [await _stats(url, key, keys[key]) for key in weighed]
            disk = _disk_bytes(Path(folder))
    count = facts * len(weighed)
    pages = sum(found["memory_bytes"] for found in stats)
    store = sum(found["store_bytes"] for found in stats)
    return {
        "tenants": len(weighed),
        "facts_each": facts,
        "facts_per_second": count / seconds,
        "pages_bytes_per_fact": pages / count,
        "resident_bytes_per_fact": resident / count,
        "store_bytes_per_fact": store / count,
        "disk_bytes_per_fact": disk / (facts * tenants),
        "resident_bytes_per_tenant": resident / len(weighed),
        "tenants_per_gb": GB * len(weighed) / resident,
    }


def _disk_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and path.suffix != ".log")


async def _filled(url: str, key: str, facts: int) -> None:
    async with AsyncClient(url, key, timeout_s=600) as larimar:
        await fill(larimar.http, 0, facts)


async def _stats(url: str, key: str, tenant: str) -> dict[str, Any]:
    async with httpx.AsyncClient(base_url=url, trust_env=False, headers={"X-API-Key": key}, timeout=60) as client:
        return dict((await client.get(f"/tenants/{tenant}/stats")).raise_for_status().json())
