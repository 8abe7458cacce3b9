"""A tenant as a whole: what it holds, moving it, erasing it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Response
from fastapi.responses import StreamingResponse

from app.access.request_context import ALL, note
from app.http.dependencies import VERSION, Configured, Eraser, Reader, Serving, Writer, within
from app.http.fact_schemas import ImportIn, ImportOut, TenantErased, TenantStats
from app.http.routes.facts import REFUSED
from app.http.schemas import Problem
from app.http.transfer import exported, imported
from app.inference.errors import QueueFull
from app.tenants.errors import TenantNotFound
from memory.errors import StoreUnavailable

router = APIRouter(tags=["tenants"])
IMPORT = "/import"  # the end of its path


def _own(tenant_id: str, tenant: str) -> str:
    if tenant_id != tenant:
        raise TenantNotFound(tenant_id)
    return tenant


async def _own_to_read(tenant_id: str, tenant: Reader) -> str:
    return _own(tenant_id, tenant)


async def _own_to_write(tenant_id: str, tenant: Writer) -> str:
    return _own(tenant_id, tenant)


async def _own_to_erase(tenant_id: str, tenant: Eraser) -> str:
    return _own(tenant_id, tenant)


# The path's tenant, which must be the caller's: another's is as one that is not there.
OwnReader = Annotated[str, Depends(_own_to_read)]
OwnWriter = Annotated[str, Depends(_own_to_write)]
OwnEraser = Annotated[str, Depends(_own_to_erase)]
NOT_FOUND: dict[int | str, dict[str, object]] = {404: {"model": Problem}}


@router.get("/tenants/{tenant_id}/stats", responses=REFUSED | NOT_FOUND)
async def stats(tenant: OwnReader, response: Response, service: Serving, settings: Configured) -> TenantStats:
    """Counts and bytes."""
    memory = await within(settings, service.tenants.fresh(tenant))
    try:
        store_bytes: int | None = await service.tenants.store.size_bytes(tenant)
    except StoreUnavailable:
        store_bytes = None
    holding, view = service.tenants.holding, memory.view
    response.headers[VERSION] = str(view.version)
    return TenantStats(
        tenant=tenant,
        version=view.version,
        facts=view.current,
        history=view.history,
        pages=memory.pages,
        memory_bytes=memory.size_bytes,
        store_bytes=store_bytes,
        next_expiry=await service.tenants.lookups.run(lambda: view.next_expiry),
        max_facts=holding.max_facts or None,
        max_bytes=holding.max_bytes or None,
    )


@router.delete("/tenants/{tenant_id}", responses=REFUSED | NOT_FOUND)
async def erase(tenant: OwnEraser, response: Response, service: Serving, settings: Configured) -> TenantErased:
    """Erase everything of a tenant, its data keys and its history included. It is not read for this: it may be damaged."""
    dropped = await within(settings, service.tenants.drop(tenant))
    note("erased", [ALL])
    response.headers[VERSION] = str(dropped.version)
    return TenantErased(tenant=tenant, version=dropped.version, facts=dropped.facts, erased_at=time.time())


@router.get("/tenants/{tenant_id}/export", responses=REFUSED | NOT_FOUND)
async def export(
    tenant: OwnReader,
    service: Serving,
    codes: Annotated[bool, Query(description="with keys and codes, which another server of the same model takes over")] = False,
) -> StreamingResponse:
    """All facts as JSON lines, after a line that says what they are. It is the memory at one version."""
    view = (await service.tenants.fresh(tenant)).view
    note("exported", [ALL])
    parts = exported(view, tenant, service.model.fingerprint, codes=codes)

    async def stream() -> AsyncIterator[str]:
        while True:
            try:
                part = await service.tenants.lookups.run(next, parts, None)
            except QueueFull:  # the answer has begun: it waits for its turn
                await asyncio.sleep(0.01)
                continue
            if part is None:
                return
            yield part

    headers = {VERSION: str(view.version)}
    return StreamingResponse(stream(), media_type="application/x-ndjson", headers=headers)


@router.post("/tenants/{tenant_id}" + IMPORT, responses=REFUSED | NOT_FOUND)
async def take_over(tenant: OwnWriter, body: ImportIn, response: Response, service: Serving, settings: Configured) -> ImportOut:
    """Write facts of an export. An id that is taken is refused, and the others are written."""
    outcomes = await within(settings, imported(service, tenant, body))
    versions = [outcome.version for outcome in outcomes if outcome.version is not None]
    response.headers[VERSION] = str(max(versions, default=0))
    return ImportOut(imported=len(versions), outcomes=outcomes)
