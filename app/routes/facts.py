"""Teach, list, look up and forget facts."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from pydantic import Field

from app.deps import Configured, Serving, TenantName, within
from app.routes.bulk import BulkLine, teach_lines
from app.schemas import Erased, FactIn, FactList, FactOut, FactWritten, Problem, Receipt, UpdateTimings
from app.tenant import Committed
from memory.fact import Fact

router = APIRouter(tags=["facts"])
VERSION = "Larimar-Version"
REFUSED: dict[int | str, dict[str, Any]] = {code: {"model": Problem} for code in (400, 401, 413, 415, 422, 429, 503, 504)}


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
    )


@router.post("/facts", status_code=201, responses=REFUSED | {409: {"model": Problem}})
async def teach(
    body: FactIn | Annotated[list[FactIn], Field(min_length=1, max_length=1000)],
    response: Response,
    service: Serving,
    settings: Configured,
    tenant: TenantName,
) -> FactWritten | list[BulkLine]:
    """Write one fact in one shot. It is durable when this answers; the same prompt again supersedes the old fact.

    Of a list, what can be written is; the status is then 201, or 207 where some were refused, each by its number.
    """
    if isinstance(body, list):
        results = await within(settings, teach_lines(service, tenant, list(enumerate(body, 1))))
        response.status_code = 207 if any(result.error for result in results) else 201
        return results
    taught = await within(
        settings, service.teach(tenant, body.prompt, body.target, fact_id=body.id, metadata=body.metadata)
    )
    change = taught.committed.change
    response.headers[VERSION] = str(change.version)
    return FactWritten(
        id=taught.fact.id,
        version=change.version,
        page=change.page,
        supersedes=list(change.replaced),
        created_at=taught.fact.created_at,
        timings=_timings(taught.committed, taught.encode_s, taught.total_s),
    )


@router.get("/facts", responses=REFUSED)
async def list_facts(
    response: Response,
    service: Serving,
    tenant: TenantName,
    limit: int = Query(100, ge=1, le=1000),
    cursor: str = Query("", max_length=64),
) -> FactList:
    """Facts in the order of their ids, page by page."""
    memory = (await service.tenants.get(tenant)).memory
    facts = memory.facts(cursor, limit + 1)
    response.headers[VERSION] = str(memory.version)
    more = len(facts) > limit
    return FactList(facts=[_out(f) for f in facts[:limit]], next_cursor=facts[limit - 1].id if more else None)


@router.get("/facts/{fact_id}", responses=REFUSED | {404: {"model": Problem}})
async def get_fact(fact_id: str, response: Response, service: Serving, tenant: TenantName) -> FactOut:
    """One fact."""
    memory = (await service.tenants.get(tenant)).memory
    response.headers[VERSION] = str(memory.version)
    return _out(memory.get(fact_id))


@router.delete("/facts/{fact_id}", responses=REFUSED | {404: {"model": Problem}})
async def forget(
    fact_id: str, response: Response, service: Serving, settings: Configured, tenant: TenantName
) -> Receipt:
    """Forget one fact for good; the receipt says what was erased."""
    forgotten = await within(settings, service.forget(tenant, fact_id))
    committed = forgotten.committed
    response.headers[VERSION] = str(committed.change.version)
    return Receipt(
        id=fact_id,
        version=committed.change.version,
        residual=committed.residual,
        forgotten_at=forgotten.forgotten_at,
        erased=Erased(data_key="deleted in the store" if service.tenants.store.shared else "overwritten on disk"),
        timings=_timings(committed, 0.0, forgotten.total_s),
    )
