"""What the server does, without HTTP: teach, forget, query, generate."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby
from typing import Literal, TypeVar

from torch import Tensor
from ulid import ULID

from app.access.request_context import note, spend
from app.inference.errors import NotReady
from app.inference.worker import TOGETHER, Chunk, InferenceWorker, each
from app.server import tracing
from app.server.metrics import Metrics
from app.tenants.group_commit import GroupCommit
from app.tenants.tenant import Committed, OnConflict
from app.tenants.tenants import Answer, Tenants
from memory.episodic import EpisodicMemory
from memory.errors import FactNotFound
from memory.excerpt import Selection
from memory.fact import Fact, Scalar
from memory.query import AS_IT_IS, Considered, Query, Reading, ScopeChoice
from memory.scope.two_hops import best
from models.engine.sampling import Generation, Sampling
from models.model import EncodedFact, Model, Prompt, asked_by
from models.scope.decision import kind_of

Use = Literal["auto", "on", "off"]
Kept = Literal["as it is"]
T = TypeVar("T")
U = TypeVar("U")
READ_TOGETHER = 8  # queries that one job reads with, and with the reader


@dataclass(frozen=True)
class NewFact:
    """A fact to be taught; its fields are those of `Service.teach`."""

    prompt: str
    target: str
    id: str | None = None
    metadata: Mapping[str, Scalar] = field(default_factory=dict)
    ttl_s: float | None = None
    on_conflict: OnConflict = "supersede"


@dataclass(frozen=True)
class Taught:
    fact: Fact
    committed: Committed
    encode_s: float
    total_s: float


@dataclass(frozen=True)
class Encoded:
    """Facts that are ready to be written.

    Attributes:
        rows: for each, in order, what becomes of the fact with the same prompt, and the fact, or why it could not be encoded.
        seconds: that encoding all of them took.
    """

    rows: Sequence[tuple[OnConflict, Fact | Exception]]
    seconds: float


@dataclass(frozen=True)
class Forgotten:
    committed: Committed
    forgotten_at: float
    total_s: float


@dataclass(frozen=True)
class Request:
    """What is asked of the model.

    Attributes:
        use: `auto` uses the memory where it is in scope, `on` always, `off` never.
        exclude, include_only: ids of facts, of the version that is asked; the answer is what it would be without the others.
        as_of: the version of the memory that is asked; None for the newest.
        scope: how it is decided, where not as the server does.
        hops: 2 lets a fact be asked for by what another one answers (memory.scope.two_hops).
        asks: texts that may ask for a fact, tried in order until one is in scope; empty: the prompt.
        before: the turns of the conversation before what is asked.
        fit: whether the text may end where the context does, in place of PromptTooLong where not all its tokens have room.
    """

    prompt: str
    sampling: Sampling = field(default_factory=Sampling)
    use: Use = "auto"
    exclude: Sequence[str] = ()
    include_only: Sequence[str] | None = None
    asks: Sequence[str] = ()
    before: str = ""
    as_of: int | None = None
    scope: ScopeChoice = AS_IT_IS
    hops: int = 1
    fit: bool = False


@dataclass(frozen=True)
class Read:
    """A prompt understood, and what the memory says to it.

    Attributes:
        reading: None where the memory was not asked.
        used: whether the memory conditions the answer.
        similarities: cosine of the query with each fact that spoke.
        read_by: by what the reading's query finds facts.
        considered: the facts that scope weighed for the best query, those that are still there.
        maybe: the probability from which a fact may be meant.
    """

    tokens: list[int]
    reading: Reading | None
    used: bool
    version: int
    similarities: Mapping[str, float]
    seconds: float
    read_by: Literal["meaning", "wording"]
    considered: Sequence[tuple[Fact, Considered]] = ()
    maybe: float = 1.0


@dataclass(frozen=True)
class Answered:
    generation: Generation
    read: Read
    total_s: float


def fact_of(
    encoded: EncodedFact,
    fact_id: str,
    prompt: str,
    target: str,
    created_at: float,
    metadata: Mapping[str, Scalar] | None = None,
    expires_at: float | None = None,
) -> Fact:
    """A fact that was encoded, not yet written."""
    key, code, statement = encoded
    return Fact(fact_id, prompt, target, key, code, created_at, dict(metadata or {}), expires_at=expires_at, statement=statement)


class Service:
    """One model and many tenants."""

    def __init__(self, model: Model, tenants: Tenants, worker: InferenceWorker, metrics: Metrics) -> None:
        self.model, self.tenants, self.worker, self.metrics = model, tenants, worker, metrics
        self.writes, self.started_at = GroupCommit(tenants), int(time.time())
        self.background: Sequence[asyncio.Task[None]] = ()  # what runs beside the requests until the server ends

    async def teach(
        self,
        tenant: str,
        prompt: str,
        target: str,
        *,
        fact_id: str | None = None,
        metadata: Mapping[str, Scalar] | None = None,
        ttl_s: float | None = None,
        on_conflict: OnConflict = "supersede",
        answer: Answer | None = None,
    ) -> Taught:
        """Write one fact; it is durable when this returns.

        Args:
            ttl_s, on_conflict, answer: as `Tenants.write` has them.

        Raises:
            EmptyText, PromptTooLong, TargetTooLong, DuplicateId, PromptTaken, TenantFull, AnswerExists, StoreUnavailable,
            PromiseBroken, VersionConflict, QueueFull
        """
        started = time.perf_counter()
        encoded = await self.encode(prompt, target)
        encode_s = time.perf_counter() - started
        now = time.time()
        expires_at = None if ttl_s is None else now + ttl_s
        fact = fact_of(encoded, fact_id or str(ULID()), prompt, target, now, metadata or {}, expires_at)
        if answer is None and on_conflict == "supersede":
            committed = await self.writes.write(tenant, fact)
        else:
            committed = await self.tenants.write(tenant, fact, on_conflict=on_conflict, answer=answer)
        assert committed.change.fact is not None
        total_s = time.perf_counter() - started
        self._observe("write", encode_s, committed, total_s)
        return Taught(committed.change.fact, committed, encode_s, total_s)

    async def encode(self, prompt: str, target: str) -> EncodedFact:
        """A fact's keys and value code. Raises EmptyText, PromptTooLong, TargetTooLong, QueueFull."""
        with tracing.span("encode"):
            return await self.worker.run_together(self.model.encode_facts, (prompt, target))

    async def revise(
        self,
        tenant: str,
        fact_id: str,
        *,
        target: str | None = None,
        metadata: Mapping[str, Scalar] | None = None,
        ttl_s: float | Kept | None = "as it is",
    ) -> Taught:
        """Put another target, metadata or time to live in a fact's place.

        Args:
            target, metadata: None leaves them.
            ttl_s: None takes a time to live off.

        Raises:
            FactNotFound and as `teach`.
        """
        started = time.perf_counter()
        known = (await self.tenants.fresh(tenant)).get(fact_id)
        encoded = None if target is None else await self.encode(known.prompt, target)
        encode_s = time.perf_counter() - started
        until = time.time() + ttl_s if isinstance(ttl_s, (int, float)) else None

        def revised(fact: Fact) -> Fact:
            return replace(
                fact,
                target=fact.target if target is None else target,
                code=fact.code if encoded is None else encoded.code,
                statement=fact.statement if encoded is None else encoded.statement,
                metadata=fact.metadata if metadata is None else dict(metadata),
                expires_at=fact.expires_at if ttl_s == "as it is" else until,
            )

        committed = await self.tenants.update(tenant, fact_id, revised)
        assert committed.change.fact is not None
        total_s = time.perf_counter() - started
        self._observe("write", encode_s, committed, total_s)
        return Taught(committed.change.fact, committed, encode_s, total_s)

    async def encode_many(self, texts: Sequence[tuple[str, str]]) -> list[EncodedFact | Exception]:
        """Keys and value code of each (prompt, target) with few forward passes, or why it has none. Raises QueueFull, NotReady."""
        with tracing.span("encode", facts=len(texts)):
            return await self._encoded(partial(each, self.model.encode_facts), texts)

    async def prepare(self, facts: Sequence[NewFact]) -> Encoded:
        """Facts with their keys and codes, to be written by `write_many`. Raises QueueFull."""
        started = time.perf_counter()
        encoded: Sequence[EncodedFact | Exception]
        try:
            encoded = await self.encode_many([(fact.prompt, fact.target) for fact in facts])
        except NotReady as error:
            encoded = [error] * len(facts)
        now = time.time()
        rows: list[tuple[OnConflict, Fact | Exception]] = []
        for f, outcome in zip(facts, encoded, strict=True):
            if isinstance(outcome, Exception):
                rows.append((f.on_conflict, outcome))
                continue
            expires_at = None if f.ttl_s is None else now + f.ttl_s
            rows.append((f.on_conflict, fact_of(outcome, f.id or str(ULID()), f.prompt, f.target, now, f.metadata, expires_at)))
        return Encoded(rows, time.perf_counter() - started)

    async def write_many(self, tenant: str, encoded: Encoded) -> list[Taught | Exception]:
        """Write facts in as few commits as their bytes allow; for each, in order, what became of it."""
        started = time.perf_counter()
        good = [(on_conflict, fact) for on_conflict, fact in encoded.rows if isinstance(fact, Fact)]
        written: list[Committed | Exception] = []
        for on_conflict, run in groupby(good, lambda row: row[0]):
            written += await self.tenants.write_many(tenant, [fact for _, fact in run], on_conflict=on_conflict)
        results, outcomes = iter(written), list[Taught | Exception]()
        for _, row in encoded.rows:
            committed = next(results) if isinstance(row, Fact) else row
            if isinstance(committed, Exception):
                outcomes.append(committed)
                continue
            total_s = encoded.seconds + time.perf_counter() - started
            assert committed.change.fact is not None
            self._observe("write", encoded.seconds, committed, total_s)
            outcomes.append(Taught(committed.change.fact, committed, encoded.seconds, total_s))
        return outcomes

    async def forget(self, tenant: str, fact_id: str, version: int | None = None) -> Forgotten:
        """Forget one fact for good, as `Tenants.forget`. Raises FactNotFound, StoreUnavailable, VersionConflict, QueueFull."""
        (forgotten,) = await self.forget_many(tenant, [(fact_id, version)])
        if isinstance(forgotten, Exception):
            raise forgotten
        return forgotten

    async def forget_many(self, tenant: str, facts: Sequence[tuple[str, int | None]]) -> list[Forgotten | Exception]:
        """Forget facts for good in one commit, as `Tenants.forget_many`. Raises StoreUnavailable, VersionConflict, QueueFull."""
        started = time.perf_counter()
        outcomes = await self.tenants.forget_many(tenant, facts)
        total_s, now = time.perf_counter() - started, time.time()
        for outcome in outcomes:
            if isinstance(outcome, Committed):
                self._observe("forget", 0.0, outcome, total_s)
        return [Forgotten(outcome, now, total_s) if isinstance(outcome, Committed) else outcome for outcome in outcomes]

    async def read(self, tenant: str, asked: Request) -> Read:
        """Understand a prompt and read the memory with it.

        Raises:
            EmptyText, PromptTooLong, FactNotFound (an excluded or included id), QueueFull
        """
        started = time.perf_counter()
        asks = [await asyncio.to_thread(asked_by, text) for text in asked.asks or [asked.prompt]] if asked.use != "off" else []
        sentences = tuple(dict.fromkeys(text for texts in asks for text in texts))
        prompt = Prompt(asked.prompt, 1 if asked.fit else asked.sampling.max_new_tokens, sentences, asked.before)
        with tracing.span("encode"):
            understood = await self.worker.run_together(self.model.encode_prompts, prompt)
        self.metrics.encode.observe(time.perf_counter() - started)
        memory = await self.tenants.fresh(tenant)
        reading, version, similarities = None, memory.version, {}
        maybe = 1.0 if self.model.scope is None else self.model.scope.calibration.maybe
        encoded = {query.text: query for query in understood.queries}
        keys = {text: query.key for text, query in encoded.items()}
        if asked.use != "off":
            for texts in asks:
                queries = [Query(text, keys[text], part, encoded[text].statement, asked.before) for text, part in texts.items()]
                reading, version = await self._reading(tenant, asked, queries, keys)
                if reading.in_scope:
                    break
            assert reading is not None
            self.metrics.scope.labels(kind_of(reading.score, reading.threshold, maybe)).inc()
            similarities = self._similarities(memory, reading, keys)
        used = reading is not None and reading.code is not None and (reading.in_scope or asked.use == "on")
        if reading is not None and used:
            note("read", reading.spoke)
        seconds = time.perf_counter() - started
        self.metrics.read.observe(seconds)
        read_by = self.model.read_by(asked.prompt if reading is None else reading.query)
        return Read(understood.tokens, reading, used, version, similarities, seconds, read_by, self._considered(memory, reading), maybe)

    async def _reading(
        self, tenant: str, asked: Request, queries: Sequence[Query], keys: dict[str, Tensor]
    ) -> tuple[Reading, int]:
        """Reads with the queries, and with their bridges where two hops are asked for, whose keys are added to `keys`."""
        selection = Selection(asked.as_of, asked.include_only, asked.exclude)
        read = partial(self.tenants.read, tenant, selection=selection, choice=asked.scope)
        reading, version = await read(queries)
        if asked.hops > 1 and (texts := await self.tenants.bridges(tenant, queries, selection)):
            encoded = await self._encoded(self.model.encode_texts, texts)
            keys |= {query.text: query.key for query in encoded}
            further = list[Reading]()
            for part in _parts([Query(query.text, query.key, None, query.statement) for query in encoded], READ_TOGETHER):
                found, seen = await read(part)
                further.append(found)
                version = min(version, seen)
            reading = best(reading, max(further, key=lambda found: (found.score, found.similarity)))
        return reading, version

    async def _encoded(self, encode: Callable[[Sequence[T]], Iterable[U]], texts: Sequence[T]) -> list[U]:
        """What `encode` makes of each, in as many jobs as it takes."""
        return [made for part in _parts(texts, TOGETHER) for made in await self.worker.run(encode, part)]

    @staticmethod
    def _similarities(memory: EpisodicMemory, reading: Reading, keys: Mapping[str, Tensor]) -> dict[str, float]:
        query = keys[reading.query].numpy()
        with suppress(FactNotFound):  # one of them was forgotten meanwhile
            return {fact_id: float(memory.get(fact_id).key.numpy() @ query) for fact_id, _ in reading.facts}
        return {}

    @staticmethod
    def _considered(memory: EpisodicMemory, reading: Reading | None) -> list[tuple[Fact, Considered]]:
        found = []
        for considered in reading.considered if reading else ():
            with suppress(FactNotFound):  # it was forgotten meanwhile
                found.append((memory.get(considered.fact), considered))
        return found

    async def readout(self, read: Read) -> str | None:
        """What the memory says, as text, in scope or not."""
        if read.reading is None or read.reading.code is None:
            return None
        if not read.used:
            note("read", read.reading.spoke)
        return await self.worker.run(self.model.read_code, read.reading.code)

    def speak(self, read: Read, sampling: Sampling, *, each_token: bool = False) -> AsyncGenerator[Chunk]:
        """Generate after a prompt that was read, as far as the context goes. Raises QueueFull at once."""
        sampling = replace(sampling, max_new_tokens=min(sampling.max_new_tokens, self.model.room(read.tokens)))
        readouts = (read.reading.readouts or read.reading.code) if read.reading and read.used else None
        return self._measured(self.worker.speak(lambda: self.model.sequence(read.tokens, readouts, sampling), each_token=each_token))

    async def _measured(self, spoken: AsyncGenerator[Chunk]) -> AsyncGenerator[Chunk]:
        began_at = time.time()
        async with aclosing(spoken) as steps:
            async for step in steps:
                if (made := step.generation) is not None:
                    tracing.record("decode", began_at, time.time() - began_at, tokens=made.completion_tokens)
                    self.metrics.generate.observe(made.total_s)
                    self.metrics.first_token.observe(made.first_token_s)
                    self.metrics.tokens.inc(made.completion_tokens)
                    self.metrics.prompt_tokens.inc(made.prompt_tokens)
                    spend(made.completion_tokens)
                yield step

    async def generate(self, tenant: str, asked: Request) -> Answered:
        """Generate, with what the memory says where it is in scope; out of scope the plain model answers.

        Raises:
            EmptyText, PromptTooLong, FactNotFound (an excluded or included id), QueueFull
        """
        started = time.perf_counter()
        read = await self.read(tenant, asked)
        async with aclosing(self.speak(read, asked.sampling)) as steps:
            async for step in steps:
                if step.generation is not None:
                    return Answered(step.generation, read, time.perf_counter() - started)
        raise AssertionError("a text ends with its generation")

    def _observe(self, operation: str, encode_s: float, committed: Committed, total_s: float) -> None:
        phases = {"encode": encode_s, "solve": committed.solve_s, "commit": committed.commit_s, "total": total_s}
        for phase, seconds in phases.items():
            if phase != "encode" or operation == "write":
                self.metrics.update.labels(operation, phase).observe(seconds)
        tracing.record("commit", committed.commit_at, committed.commit_s)
        tracing.record("solve", committed.solve_at, committed.solve_s)
        self.metrics.residual(committed.residual)
        if operation == "forget":
            self.metrics.changes.labels("forgotten").inc()
            note("forgot", committed.change.replaced)
        else:
            self.metrics.encode.observe(encode_s)
            self.metrics.changes.labels("written").inc()
            self.metrics.changes.labels("superseded").inc(len(committed.change.replaced))
            note("wrote", [committed.change.fact.id] if committed.change.fact else ())
            note("superseded", committed.change.replaced)


def _parts(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Each a job of its own, so that other tenants' jobs come between."""
    return (items[at : at + size] for at in range(0, len(items), size))
