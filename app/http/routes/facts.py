"""Teach, list, look up and forget facts."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Annotated, Any

import structlog
from fastapi import APIRouter, Header, Query, Response
from fastapi.exceptions import RequestValidationError
from pydantic import Discriminator, Field, Tag, ValidationError

from app.access.request_context import note
from app.http.dependencies import VERSION, Configured, Reader, Serving, Writer, within
from app.http.fact_schemas import FactPatch
from app.http.problems import describe, failed
from app.http.routes.bulk import teach_lines
from app.http.schemas import (
    BulkLine,
    Erased,
    FactIn,
    FactList,
    FactOut,
    FactWritten,
    Problem,
    Receipt,
    Receipts,
    TextIn,
    UpdateTimings,
    text_of,
)
from app.http.text_to_facts import facts_of
from app.inference.worker import TOGETHER
from app.service import Forgotten, Kept, Service, Taught
from app.tenants.idempotency import Idempotency, answer_to
from app.tenants.tenant import Committed
from memory.errors import AnswerExists
from memory.fact import Fact
from models.errors import EmptyText

log = structlog.get_logger()
router = APIRouter(tags=["facts"])
AT_ONCE = 1000  # facts that one request forgets
FILTER = "name=value: only facts with this metadata; all must hold"
REFUSED: dict[int | str, dict[str, Any]] = {code: {"model": Problem} for code in (400, 401, 403, 408, 413, 415, 422, 429, 503, 504)}


def _form(body: Any) -> str:
    """What was sent: `fact`, `text` or `list`."""
    if isinstance(body, list):
        return "list"
    return "text" if isinstance(body, TextIn) or (isinstance(body, dict) and "text" in body) else "fact"


def _timings(committed: Committed, encode_s: float, total_s: float) -> UpdateTimings:
    return UpdateTimings(
        encode_ms=1e3 * encode_s,
        solve_ms=1e3 * committed.solve_s,
        commit_ms=1e3 * committed.commit_s,
        total_ms=1e3 * total_s,
    )


def _out(fact: Fact) -> FactOut:
    return FactOut(
        id=fact.id,
        prompt=fact.prompt,
        target=fact.target,
        metadata=dict(fact.metadata),
        created_at=fact.created_at,
        version=fact.version,
        expires_at=fact.expires_at,
        superseded_at=fact.until or None,
    )


@router.post(
    "/facts",
    status_code=201,
    responses=REFUSED | {207: {"model": list[BulkLine]}, 409: {"model": Problem}, 507: {"model": Problem}},
)
async def teach(
    body: Annotated[
        Annotated[FactIn, Tag("fact")]
        | Annotated[TextIn, Tag("text")]
        | Annotated[list[FactIn], Field(min_length=1, max_length=1000), Tag("list")],
        Discriminator(_form),
    ],
    response: Response,
    service: Serving,
    settings: Configured,
    tenant: Writer,
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=200)] = None,
) -> FactWritten | list[BulkLine]:
    """Write one fact in one shot. It is durable when this answers; the same prompt again supersedes the old fact.

    The same request with the same Idempotency-Key within 24 hours gives the same answer, not a second fact; once the fact is
    superseded, changed or forgotten it is refused with 409 `idempotency_key_spent`. Of a list, what can be written is; the
    status is then 201, or 207 where some were refused, each by its number. A text is a list of its sentences.
    """
    if not isinstance(body, FactIn):
        lines: Sequence[FactIn | ValidationError] = facts_of(body) if isinstance(body, TextIn) else body
        if not lines:
            raise EmptyText("text")
        if idempotency_key is not None:
            error = {"type": "not_allowed", "loc": ("header", "Idempotency-Key"), "msg": "lists and texts take none; give ids"}
            raise RequestValidationError([error])
        results = await within(settings, teach_lines(service, tenant, list(enumerate(lines, 1))))
        response.status_code = 207 if any(result.error for result in results) else 201
        return results
    once = Idempotency.of(tenant, idempotency_key, body.model_dump(mode="json")) if idempotency_key is not None else None
    store = service.tenants.store
    try:
        given = await once.recall(store, tenant) if once else None
        written = FactWritten(**given) if given else await within(settings, _teach(service, tenant, body, once))
    except AnswerExists:  # the same request came through meanwhile
        given = await once.recall(store, tenant) if once else None
        if given is None:
            raise
        written = FactWritten(**given)
    written.read_by = service.model.read_by(body.prompt)
    response.headers[VERSION] = str(written.version)
    return written


async def _teach(service: Service, tenant: str, body: FactIn, once: Idempotency | None) -> FactWritten:
    taught = await service.teach(
        tenant,
        body.prompt,
        body.target,
        fact_id=body.id,
        metadata=body.metadata,
        ttl_s=body.ttl_s,
        on_conflict=body.on_conflict,
        answer=once.answer if once else None,
    )
    return _written(taught)


def _written(taught: Taught) -> FactWritten:
    timings = _timings(taught.committed, taught.encode_s, taught.total_s)
    return FactWritten(**answer_to(taught.committed.change), timings=timings)


@router.get("/facts", responses=REFUSED)
async def list_facts(
    response: Response,
    service: Serving,
    tenant: Reader,
    limit: int = Query(100, ge=1, le=1000),
    cursor: str = Query("", max_length=64),
    metadata: Annotated[list[str], Query(max_length=8, description=FILTER)] = [],  # noqa: B006
    history: Annotated[bool, Query(description="also the facts that newer ones have superseded and that are kept")] = False,
    as_of: Annotated[int | None, Query(ge=0, description="the facts there were at this version, of what is kept")] = None,
) -> FactList:
    """Facts in the order of their ids, page by page."""
    memory = await service.tenants.fresh(tenant)
    wanted = [_pair(pair) for pair in metadata]

    view = memory.view
    at = as_of if as_of is not None else None if history else view.version
    facts = await service.tenants.lookups.run(view.facts, cursor, limit + 1, lambda fact: _has(fact, wanted), at=at)
    response.headers[VERSION] = str(view.version)
    more = len(facts) > limit
    note("read", [fact.id for fact in facts[:limit]])
    return FactList(facts=[_out(f) for f in facts[:limit]], next_cursor=facts[limit - 1].id if more else None)


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        message = f"got {text[:40]!r}, wanted name=value"
        raise RequestValidationError([{"type": "metadata", "loc": ("query", "metadata"), "msg": message}])
    return name, value


def _has(fact: Fact, wanted: Sequence[tuple[str, str]]) -> bool:
    return all(name in fact.metadata and text_of(fact.metadata[name]) == text for name, text in wanted)


@router.get("/facts/{fact_id}", responses=REFUSED | {404: {"model": Problem}})
async def get_fact(fact_id: str, response: Response, service: Serving, tenant: Reader) -> FactOut:
    """One fact."""
    memory = await service.tenants.fresh(tenant)
    response.headers[VERSION] = str(memory.version)
    fact = memory.get(fact_id)
    note("read", [fact.id])
    return _out(fact)


@router.patch("/facts/{fact_id}", responses=REFUSED | {404: {"model": Problem}, 507: {"model": Problem}})
async def revise(
    fact_id: str, body: FactPatch, response: Response, service: Serving, settings: Configured, tenant: Writer
) -> FactWritten:
    """Give a fact another target, other metadata or another time to live (null: none). What it was is forgotten for good."""
    ttl_s: float | Kept | None = body.ttl_s if "ttl_s" in body.model_fields_set else "as it is"
    taught = await within(settings, service.revise(tenant, fact_id, target=body.target, metadata=body.metadata, ttl_s=ttl_s))
    response.headers[VERSION] = str(taught.committed.change.version)
    written = _written(taught)
    written.read_by = service.model.read_by(taught.fact.prompt)
    return written


@router.delete("/facts/{fact_id}", responses=REFUSED | {404: {"model": Problem}})
async def forget(
    fact_id: str, response: Response, service: Serving, settings: Configured, tenant: Writer
) -> Receipt:
    """Forget one fact for good; the receipt says what was erased."""
    receipt = _receipt(service, fact_id, await within(settings, service.forget(tenant, fact_id)))
    response.headers[VERSION] = str(receipt.version)
    return receipt


@router.delete("/facts", responses=REFUSED)
async def forget_all(
    response: Response,
    service: Serving,
    settings: Configured,
    tenant: Writer,
    metadata: Annotated[list[str], Query(min_length=1, max_length=8, description=FILTER)],
) -> Receipts:
    """Forget for good all facts with this metadata, kept history too, at most 1,000 at once; a receipt for each.

    What stops it midway, or half the time that a request may take, leaves the rest to the next request: `left` tells how many.
    """
    told, version, wanted = Receipts(receipts=[], left=0), 0, [_pair(pair) for pair in metadata]
    try:
        version = await within(settings, _forget_all(service, tenant, wanted, told, settings.request_timeout_s / 2))
    except Exception as error:
        if not told.receipts:
            raise
        log.warning("forgetting_stopped", code=describe(error).code, left=told.left)
        failed(error)
    response.headers[VERSION] = str(told.receipts[-1].version if told.receipts else version)
    return told


async def _forget_all(service: Service, tenant: str, wanted: Sequence[tuple[str, str]], told: Receipts, limit_s: float) -> int:
    """Tells each receipt as it is there, whatever comes then; returns the version in which the facts were found."""
    until = time.monotonic() + limit_s
    memory = await service.tenants.newest(tenant)
    whole, version = len(memory) + memory.history, memory.version
    found = await service.tenants.lookups.run(lambda: memory.facts(limit=whole, where=lambda fact: _has(fact, wanted)))
    told.left = len(found)
    for start in range(0, min(len(found), AT_ONCE), TOGETHER):
        facts = found[start : min(start + TOGETHER, AT_ONCE)]
        outcomes = await service.forget_many(tenant, [(fact.id, fact.version) for fact in facts])
        # Where one is not found somebody else was first, or it was changed: the next request sees whether it is still meant.
        forgotten = {fact.id: outcome for fact, outcome in zip(facts, outcomes, strict=True) if isinstance(outcome, Forgotten)}
        told.receipts += [_receipt(service, fact_id, outcome) for fact_id, outcome in forgotten.items()]
        told.left -= len(forgotten)
        if time.monotonic() > until:
            break
    return version


def _receipt(service: Service, fact_id: str, forgotten: Forgotten) -> Receipt:
    committed = forgotten.committed
    return Receipt(
        id=fact_id,
        version=committed.change.version,
        residual=committed.residual,
        forgotten_at=forgotten.forgotten_at,
        erased=Erased(data_key="deleted in the store" if service.tenants.store.shared else "overwritten on disk"),
        timings=_timings(committed, 0.0, forgotten.total_s),
    )
