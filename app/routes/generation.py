"""Ask: read the memory, and generate with it."""

from __future__ import annotations

from fastapi import APIRouter, Response
from fastapi.exceptions import RequestValidationError

from app.deps import Configured, Serving, TenantName, within
from app.routes.facts import REFUSED, VERSION
from app.schemas import GenerateIn, GenerateOut, GenerateTimings, MemoryUse, Problem, QueryIn, QueryOut, Scope, Usage, Weight
from memory.query import Reading
from models.decoder import Sampling

router = APIRouter(tags=["generation"])


def _scope(reading: Reading) -> Scope:
    return Scope(
        in_scope=reading.in_scope,
        score=reading.score,
        threshold=reading.threshold,
        similarity=reading.similarity,
        variance=reading.variance,
    )


def _weights(reading: Reading) -> list[Weight]:
    return [Weight(id=fact_id, weight=weight) for fact_id, weight in reading.facts]


@router.post("/query", responses=REFUSED | {404: {"model": Problem}})
async def query(
    body: QueryIn, response: Response, service: Serving, settings: Configured, tenant: TenantName
) -> QueryOut:
    """Read the memory without generating: is the prompt in scope, which facts speak, what does the readout say?"""
    reading, text, version = await within(settings, service.query(tenant, body.prompt, body.exclude))
    response.headers[VERSION] = str(version)
    return QueryOut(
        scope=_scope(reading), facts=_weights(reading), readout=text, query=reading.query, version=version
    )


@router.post("/generate", responses=REFUSED | {404: {"model": Problem}})
async def generate(
    body: GenerateIn, response: Response, service: Serving, settings: Configured, tenant: TenantName
) -> GenerateOut:
    """Generate. Where the prompt asks for a fact, the memory conditions the decoder; elsewhere the plain model answers."""
    if body.max_new_tokens > settings.max_new_tokens:
        message = f"got {body.max_new_tokens}, the limit is {settings.max_new_tokens}"
        raise RequestValidationError([{"type": "too_many_tokens", "loc": ("body", "max_new_tokens"), "msg": message}])
    sampling = Sampling(body.max_new_tokens, body.temperature, body.top_p, body.seed, tuple(body.stop))
    answered = await within(
        settings, service.generate(tenant, body.prompt, sampling, use=body.memory, exclude=body.exclude)
    )
    response.headers[VERSION] = str(answered.version)
    made, reading = answered.generation, answered.reading
    return GenerateOut(
        text=made.text,
        memory=MemoryUse(
            used=answered.used,
            scope=_scope(reading) if reading else None,
            facts=_weights(reading) if reading and answered.used else [],
        ),
        finish_reason=made.finish_reason,
        usage=Usage(
            prompt_tokens=made.prompt_tokens,
            completion_tokens=made.completion_tokens,
            total_tokens=made.prompt_tokens + made.completion_tokens,
        ),
        timings=GenerateTimings(
            read_ms=1e3 * answered.read_s,
            first_token_ms=1e3 * made.first_token_s,
            generate_ms=1e3 * made.total_s,
            total_ms=1e3 * answered.total_s,
        ),
    )
