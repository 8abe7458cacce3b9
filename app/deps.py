"""What routes depend on."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Awaitable
from typing import Annotated, TypeVar

from fastapi import Depends, Request
from fastapi.exceptions import RequestValidationError

from app.errors import ClientGone, NotReady, TimedOut, Unauthorized
from app.service import Service
from app.settings import Settings
from app.turns import TENANT

T = TypeVar("T")
VERSION = "Larimar-Version"  # header: of a response what was read or written, of a request what must be seen at least


async def settings_of(request: Request) -> Settings:
    settings: Settings = request.app.state.settings
    return settings


async def service_of(request: Request) -> Service:
    service: Service | None = request.app.state.service
    if service is None:
        raise NotReady
    return service


async def tenant_of(request: Request) -> str:
    """The tenant of the request's API key; `default` when no keys are configured. Every key is compared, in constant time."""
    keys = (await settings_of(request)).tenants_by_key
    if not keys:
        return _remember(request, "default")
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    offered = (token if scheme.lower() == "bearer" else request.headers.get("x-api-key", "")).strip().encode()
    found = [tenant for key, tenant in keys.items() if hmac.compare_digest(key.encode(), offered)]
    if not found:
        raise Unauthorized
    return _remember(request, found[0])


async def tenant_at(request: Request, tenant: Annotated[str, Depends(tenant_of)]) -> str:
    """The tenant, with its memory at the version that the request's Larimar-Version header has seen, or later.

    Raises VersionNotReached.
    """
    if (seen := request.headers.get(VERSION)) is not None:
        if not seen.isascii() or not seen.isdigit() or len(seen) > 15:
            error = {"type": "int_parsing", "loc": ("header", VERSION), "msg": f"got {seen[:40]!r}, wanted a version's number"}
            raise RequestValidationError([error])
        await (await service_of(request)).tenants.reach(tenant, int(seen))
    return tenant


def _remember(request: Request, tenant: str) -> str:
    request.scope["tenant"] = tenant
    TENANT.set(tenant)  # the request's jobs wait in this tenant's line
    return tenant


async def within(settings: Settings, work: Awaitable[T], timeout_s: float | None = None) -> T:
    """Await under the server's deadline, or the request's own if that is shorter. Raises TimedOut."""
    limit_s = min(settings.request_timeout_s, timeout_s or settings.request_timeout_s)
    try:
        async with asyncio.timeout(limit_s):
            return await work
    except TimeoutError:
        raise TimedOut(f"the request took longer than {limit_s:g} s") from None


async def attended(request: Request, work: Awaitable[T]) -> T:
    """Await while the client is there; when it goes away the work is cancelled. Raises ClientGone."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGone
        return working.result()
    finally:
        for task in (working, leaving):
            task.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


Configured = Annotated[Settings, Depends(settings_of)]
Serving = Annotated[Service, Depends(service_of)]
TenantName = Annotated[str, Depends(tenant_at)]
