"""What the server does, without HTTP: teach, forget, query, generate."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ulid import ULID

from app.metrics import Metrics
from app.tenants import Committed, Tenants
from app.worker import InferenceWorker
from memory.fact import Fact, Scalar
from memory.query import Query, Reading
from models.decoder import Generation, Sampling
from models.model import Model

Use = Literal["auto", "on", "off"]


@dataclass(frozen=True)
class Taught:
    fact: Fact
    committed: Committed
    encode_s: float
    total_s: float


@dataclass(frozen=True)
class Forgotten:
    committed: Committed
    forgotten_at: float
    total_s: float


@dataclass(frozen=True)
class Answered:
    generation: Generation
    reading: Reading | None
    used: bool
    version: int
    read_s: float
    total_s: float


class Service:
    """One model and many tenants."""

    def __init__(self, model: Model, tenants: Tenants, worker: InferenceWorker, metrics: Metrics) -> None:
        self.model, self.tenants, self.worker, self.metrics = model, tenants, worker, metrics

    async def teach(
        self, tenant: str, prompt: str, target: str, *, fact_id: str | None = None, metadata: Mapping[str, Scalar] | None = None
    ) -> Taught:
        """Write one fact; it is durable when this returns.

        Raises:
            EmptyText, PromptTooLong, TargetTooLong, DuplicateId, StoreUnavailable, VersionConflict, QueueFull
        """
        started = time.perf_counter()
        key, code = await self.worker.run(self.model.encode_fact, prompt, target)
        encode_s = time.perf_counter() - started
        fact = Fact(fact_id or str(ULID()), prompt, target, key, code, time.time(), dict(metadata or {}))
        committed = await self.tenants.write(tenant, fact)
        assert committed.change.fact is not None
        total_s = time.perf_counter() - started
        self._observe("write", encode_s, committed, total_s)
        return Taught(committed.change.fact, committed, encode_s, total_s)

    async def forget(self, tenant: str, fact_id: str) -> Forgotten:
        """Forget one fact for good. Raises FactNotFound, StoreUnavailable, VersionConflict, QueueFull."""
        started = time.perf_counter()
        committed = await self.tenants.forget(tenant, fact_id)
        total_s = time.perf_counter() - started
        self._observe("forget", 0.0, committed, total_s)
        return Forgotten(committed, time.time(), total_s)

    async def query(self, tenant: str, prompt: str, exclude: Sequence[str] = ()) -> tuple[Reading, str | None, int]:
        """Read without generating: the reading, the readout as text, the memory's version."""
        started = time.perf_counter()
        found = await self.worker.run(self.model.encode_query, prompt)
        self.metrics.encode.observe(time.perf_counter() - started)
        reading, version = await self.tenants.read(tenant, [Query(*asked) for asked in found], exclude)
        self.metrics.read.observe(time.perf_counter() - started)
        self.metrics.scope.labels("in" if reading.in_scope else "out").inc()
        text = None if reading.code is None else await self.worker.run(self.model.read_code, reading.code)
        return reading, text, version

    async def generate(
        self, tenant: str, prompt: str, sampling: Sampling, *, use: Use = "auto", exclude: Sequence[str] = ()
    ) -> Answered:
        """Generate, with what the memory says where it is in scope; out of scope the plain model answers.

        Raises:
            EmptyText, PromptTooLong, FactNotFound (an excluded id), QueueFull
        """
        started = time.perf_counter()
        await self.worker.run(self.model.prompt_tokens, prompt, sampling.max_new_tokens)  # refuse before reading
        reading, version = None, (await self.tenants.get(tenant)).memory.version
        if use != "off":
            reading, _, version = await self.query(tenant, prompt, exclude)
        read_s = time.perf_counter() - started
        used = reading is not None and reading.code is not None and (reading.in_scope or use == "on")
        code = (reading.readouts or reading.code) if reading is not None and used else None
        generation = await self.worker.run(self.model.generate, prompt, code=code, sampling=sampling)
        self.metrics.generate.observe(generation.total_s)
        self.metrics.first_token.observe(generation.first_token_s)
        self.metrics.tokens.inc(generation.completion_tokens)
        self.metrics.prompt_tokens.inc(generation.prompt_tokens)
        return Answered(generation, reading, used, version, read_s, time.perf_counter() - started)

    def _observe(self, operation: str, encode_s: float, committed: Committed, total_s: float) -> None:
        phases = {"encode": encode_s, "solve": committed.solve_s, "commit": committed.commit_s, "total": total_s}
        for phase, seconds in phases.items():
            if phase != "encode" or operation == "write":
                self.metrics.update.labels(operation, phase).observe(seconds)
        self.metrics.residual(committed.residual)
        if operation == "forget":
            self.metrics.changes.labels("forgotten").inc()
        else:
            self.metrics.encode.observe(encode_s)
            self.metrics.changes.labels("written").inc()
            self.metrics.changes.labels("superseded").inc(len(committed.change.forgets))
