"""The store, measured: seconds, faults and retries of its calls."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff

from app.server.metrics import Metrics
from memory.change import Change
from memory.errors import StoreUnavailable
from memory.store.cluster import Client
from memory.store.durability import Durability
from memory.store.redis_store import Recovered, RedisStore


class _Counted(ExponentialWithJitterBackoff):
    """The store's usual patience, each further attempt counted."""

    def __init__(self, metrics: Metrics) -> None:
        super().__init__(base=0.025, cap=0.5)
        self._metrics = metrics

    def compute(self, failures: int) -> float:
        self._metrics.store_retries.inc()
        return float(super().compute(failures))


class MeasuredStore(RedisStore):
    """A RedisStore whose calls are observed."""

    def __init__(self, client: Client, metrics: Metrics, **options: Any) -> None:
        super().__init__(client, retry=Retry(_Counted(metrics), 3), **options)
        self.client, self._metrics = client, metrics

    @contextmanager
    def _measured(self, operation: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        except StoreUnavailable:
            self._metrics.store_up.set(0)
            self._metrics.store_faults.labels(operation).inc()
            raise
        else:
            self._metrics.store_up.set(1)
        finally:
            self._metrics.store_time.labels(operation).observe(time.perf_counter() - started)

    async def ping(self) -> Durability:
        with self._measured("ping"):
            return await super().ping()

    async def load(self, *args: Any, **kwargs: Any) -> Recovered:
        with self._measured("load"):
            return await super().load(*args, **kwargs)

    async def follow(self, *args: Any, **kwargs: Any) -> list[Change] | None:
        with self._measured("follow"):
            return await super().follow(*args, **kwargs)

    async def commit(self, *args: Any, **kwargs: Any) -> None:
        with self._measured("commit"):
            await super().commit(*args, **kwargs)

    async def snapshot(self, *args: Any, **kwargs: Any) -> bool:
        with self._measured("snapshot"):
            return await super().snapshot(*args, **kwargs)
