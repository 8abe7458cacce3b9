"""Ask: read the memory, and generate with it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.exceptions import RequestValidationError
from sse_starlette import EventSourceResponse, ServerSentEvent

from app.http import schemas
from app.http.dependencies import VERSION, Configured, Reader, Serving, attended, timely, within
from app.http.ndjson import line_of
from app.http.openai_schemas import CompletionBase
from app.http.problems import explained
from app.http.routes.facts import REFUSED
from app.http.schemas import (
    GenerateIn,
    GenerateOut,
    GenerateTimings,
    MemoryUse,
    Problem,
    QueryIn,
    QueryOut,
    Question,
    ReadBy,
    ScopeCandidate,
    TokenLogProbs,
    Usage,
    Weight,
)
from app.server.settings import Settings
from app.service import Answered, Read, Service
from app.service import Request as Ask
from memory.query import Reading, ScopeChoice
from models.engine.sampling import Generation, Sampling, TokenLogProb
from models.scope.decision import kind_of
from models.scope.reader import statement

router = APIRouter(tags=["generation"])
EVENTS = {"text/event-stream": {"schema": {"type": "string", "description": "events: memory, token, done, error"}}}


def check_length(asked: int, settings: Settings, field: str) -> None:
    """Raises RequestValidationError with both numbers."""
    if asked > settings.max_new_tokens:
        message = f"got {asked}, the limit is {settings.max_new_tokens}"
        raise RequestValidationError([{"type": "too_many_tokens", "loc": ("body", field), "msg": message}])


def sampling_of(body: GenerateIn | CompletionBase, max_new_tokens: int, logprobs: int | None, *, answer_only: bool) -> Sampling:
    """How a request of either interface wants its tokens chosen."""
    return Sampling(
        max_new_tokens=max_new_tokens,
        temperature=body.temperature or 0.0,
        top_p=body.top_p or 1.0,
        seed=None if body.seed == -1 else body.seed,
        stop=(body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ()),
        top_k=max(body.top_k or 0, 0),
        logprobs=logprobs,
        answer_only=answer_only,
    )


def scope_of(reading: Reading, read_by: ReadBy, maybe: float) -> schemas.Scope:
    return schemas.Scope(
        in_scope=reading.in_scope,
        decision=kind_of(reading.score, reading.threshold, maybe),
        score=reading.score,
        threshold=reading.threshold,
        similarity=reading.similarity,
        variance=reading.variance,
        read_by=read_by,
    )


def weights_of(read: Read) -> list[Weight]:
    facts = read.reading.facts if read.reading else ()
    return [Weight(id=i, weight=weight, similarity=read.similarities.get(i)) for i, weight in facts]


def parts_of(read: Read) -> list[Question]:
    return [Question.model_validate(part, from_attributes=True) for part in (read.reading.parts if read.reading else ())]


def candidates_of(read: Read) -> list[ScopeCandidate]:
    """The facts that were read beside the best query."""
    found = []
    for fact, considered in read.considered:
        span = None if considered.span is None else statement(fact.prompt, fact.target)[slice(*considered.span)]
        candidate = ScopeCandidate(id=fact.id, prompt=fact.prompt, target=fact.target, probability=considered.probability, span=span)
        found.append(candidate)
    return found


def memory_of(read: Read) -> MemoryUse:
    """What an answer tells of the memory."""
    scope = scope_of(read.reading, read.read_by, read.maybe) if read.reading else None
    return MemoryUse(used=read.used, scope=scope, facts=weights_of(read) if read.used else [], parts=parts_of(read))


def usage_of(made: Generation) -> Usage:
    return Usage(
        prompt_tokens=made.prompt_tokens,
        completion_tokens=made.completion_tokens,
        total_tokens=made.prompt_tokens + made.completion_tokens,
    )


def log_probs_of(service: Service, found: tuple[TokenLogProb, ...]) -> list[TokenLogProbs]:
    text = service.model.decoder.text
    return [
        TokenLogProbs(token=text([p.token_id]), logprob=p.log_prob, top=[(text([i]), value) for i, value in p.top])
        for p in found
    ]


def _timings(answered: Answered) -> GenerateTimings:
    return GenerateTimings(
        read_ms=1e3 * answered.read.seconds,
        first_token_ms=1e3 * answered.generation.first_token_s,
        generate_ms=1e3 * answered.generation.total_s,
        total_ms=1e3 * answered.total_s,
    )


def _asked(body: QueryIn | GenerateIn, ask: Ask) -> Ask:
    """The request with what both routes take."""
    return replace(
        ask,
        exclude=body.exclude,
        include_only=body.include_only,
        as_of=body.as_of,
        scope=ScopeChoice(body.scope_probability),
        hops=body.hops,
    )


@router.post("/query", responses=REFUSED | {404: {"model": Problem}})
async def query(
    body: QueryIn, response: Response, service: Serving, settings: Configured, tenant: Reader
) -> QueryOut:
    """Read the memory without generating: is the prompt in scope, which facts speak, what does the readout say?"""
    asked = _asked(body, Ask(body.prompt))
    read = await within(settings, service.read(tenant, asked), body.timeout_s)
    assert read.reading is not None
    response.headers[VERSION] = str(read.version)
    return QueryOut(
        scope=scope_of(read.reading, read.read_by, read.maybe),
        facts=weights_of(read),
        parts=parts_of(read),
        candidates=candidates_of(read),
        readout=await within(settings, service.readout(read), body.timeout_s),
        query=read.reading.query,
        version=read.version,
    )


@router.post("/generate", responses=REFUSED | {200: {"content": EVENTS}, 404: {"model": Problem}}, response_model=GenerateOut)
async def generate(
    body: GenerateIn, request: Request, response: Response, service: Serving, settings: Configured, tenant: Reader
) -> GenerateOut | EventSourceResponse:
    """Generate. Where the prompt asks for a fact, the memory conditions the decoder; elsewhere the plain model answers."""
    check_length(body.max_new_tokens, settings, "max_new_tokens")
    sampling = sampling_of(body, body.max_new_tokens, body.logprobs, answer_only=body.answer_only)
    asked = _asked(body, Ask(body.prompt, sampling, body.memory))
    if body.stream:
        return await _stream(body, asked, service, settings, tenant)
    answered = await within(settings, attended(request, service.generate(tenant, asked)), body.timeout_s)
    response.headers[VERSION] = str(answered.read.version)
    made = answered.generation
    return GenerateOut(
        text=made.text,
        memory=memory_of(answered.read),
        finish_reason=made.finish_reason,
        usage=usage_of(made),
        timings=_timings(answered),
        logprobs=None if body.logprobs is None else log_probs_of(service, made.log_probs),
    )


async def _stream(body: GenerateIn, asked: Ask, service: Service, settings: Settings, tenant: str) -> EventSourceResponse:
    loop = asyncio.get_running_loop()
    started = loop.time()
    limit_s = min(settings.request_timeout_s, body.timeout_s or settings.request_timeout_s)
    read = await within(settings, service.read(tenant, asked), limit_s)
    steps = service.speak(read, asked.sampling, each_token=True)

    async def events() -> AsyncIterator[ServerSentEvent]:
        yield _event("memory", memory_of(read).model_dump())
        said, told = "", 0
        try:
            async with aclosing(timely(steps, limit_s, started)) as said_in_time:
                async for step in said_in_time:
                    fresh = step.log_probs[told:]
                    if step.text != said or fresh:
                        data: dict[str, Any] = {"text": step.text[len(said) :]}
                        if asked.sampling.logprobs is not None:
                            data["logprobs"] = [p.model_dump() for p in log_probs_of(service, fresh)]
                        said, told = step.text, len(step.log_probs)
                        yield _event("token", data)
                    if (made := step.generation) is not None:
                        timings = _timings(Answered(made, read, loop.time() - started))
                        done = {"finish_reason": made.finish_reason, "usage": usage_of(made), "timings": timings}
                        yield _event("done", {k: v if isinstance(v, str) else v.model_dump() for k, v in done.items()})
        except Exception as error:  # too late for a status
            problem, detail = explained(error)
            yield _event("error", {"status": problem.status, "code": problem.code, "title": problem.title, "detail": detail})

    return EventSourceResponse(events(), headers={VERSION: str(read.version)}, ping=15)


def _event(name: str, data: dict[str, Any]) -> ServerSentEvent:
    return ServerSentEvent(data=line_of(data), event=name)
