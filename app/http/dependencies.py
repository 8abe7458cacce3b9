"""What routes depend on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Annotated, TypeVar

from fastapi import Depends, Request
from fastapi.exceptions import RequestValidationError

from app.access.access import Access
from app.access.api_keys import ANYONE, ApiKey, Scope
from app.access.request_context import RequestContext
from app.http.problems import ClientGone, Forbidden, TimedOut, Unauthorized
from app.inference.errors import NotReady
from app.inference.fair_queue import TENANT
from app.inference.worker import Chunk
from app.server.settings import Settings
from app.service import Service

T = TypeVar("T")
WRITES = frozenset({"/facts", "/facts:bulk", "/facts/{fact_id}", "/tenants/{tenant_id}/import"})  # routes, by POST and PATCH
VERSION = "Larimar-Version"  # header: of a response what was read or written, of a request what must be seen at least


async def settings_of(request: Request) -> Settings:
    settings: Settings = request.app.state.settings
    return settings


async def service_of(request: Request) -> Service:
    service: Service | None = request.app.state.service
    if service is None:
        raise NotReady
    return service


async def access_of(request: Request) -> Access:
    access: Access | None = request.app.state.access
    if access is None:
        raise NotReady
    return access


async def key_of(request: Request) -> ApiKey:
    """The key of the request, with its limits kept. Raises Unauthorized, RateLimited, StoreUnavailable."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    offered = (token if scheme.lower() == "bearer" else request.headers.get("x-api-key", "")).strip()
    access = await access_of(request)
    key = (await access.keys.find(offered) if offered else None) or await access.keys.anyone()
    if key is None:
        raise Unauthorized
    exchange: RequestContext = request.scope["exchange"]
    exchange.key = key
    TENANT.set(key.tenant)  # the request's jobs wait in this tenant's line
    writes = request.method in ("POST", "PATCH") and request.scope["route"].path in WRITES
    await access.limits.admit(key, exchange, writes=writes)
    return key


def _tenant_with(scope: Scope, *, reads: bool = True) -> Callable[[Request, ApiKey], Awaitable[str]]:
    async def tenant(request: Request, key: Annotated[ApiKey, Depends(key_of)]) -> str:
        """The tenant of a key that has the scope; where the route reads it, its memory at the version that the request has seen,
        or later."""
        if scope not in key.scopes:
            if key is ANYONE:
                made = "`larimar keys create --tenant NAME --scope admin`"
                raise Forbidden(f"without a key nobody administers: make one where the store is, with {made}")
            raise Forbidden(f"this needs the scope {scope!r}, the key has {', '.join(key.scopes)}")
        if reads and (seen := request.headers.get(VERSION)) is not None:
            if not seen.isascii() or not seen.isdigit() or len(seen) > 15:
                error = {"type": "int_parsing", "loc": ("header", VERSION), "msg": f"got {seen[:40]!r}, wanted a version's number"}
                raise RequestValidationError([error])
            await (await service_of(request)).tenants.reach(key.tenant, int(seen))
        return key.tenant

    return tenant


async def known_parameters(request: Request, _: Annotated[ApiKey, Depends(key_of)]) -> None:
    """Every query parameter is one that the route has itself. Raises RequestValidationError, which names those there are."""
    known = [field.alias for field in request.scope["route"].dependant.query_params]
    unknown = [name for name in request.query_params if name not in known]
    if unknown:
        message = f"there is no such parameter; this route takes {', '.join(known) or 'none'}"
        raise RequestValidationError([{"type": "unknown_parameter", "loc": ("query", name[:40]), "msg": message} for name in unknown[:8]])


async def within(settings: Settings, work: Awaitable[T], timeout_s: float | None = None) -> T:
    """Await under the server's deadline, or the request's own if that is shorter. Raises TimedOut."""
    limit_s = min(settings.request_timeout_s, timeout_s or settings.request_timeout_s)
    try:
        async with asyncio.timeout(limit_s):
            return await work
    except TimeoutError:
        raise TimedOut(f"the request took longer than {limit_s:g} s") from None


async def timely(steps: AsyncGenerator[Chunk], limit_s: float, began_at: float) -> AsyncGenerator[Chunk]:
    """A text's steps while its request has time, `limit_s` from `began_at` by the loop's clock. Raises TimedOut.

    The time-out is never around a yield: there it would cancel whoever is sending the step before.
    """
    loop, late = asyncio.get_running_loop(), TimedOut(f"the request took longer than {limit_s:g} s")
    async with aclosing(steps):
        while True:
            try:
                async with asyncio.timeout_at(began_at + limit_s):
                    step = await anext(steps)
            except TimeoutError:
                raise late from None
            yield step
            if step.generation is not None:
                return
            if loop.time() >= began_at + limit_s:  # the next step may be there already: no time-out would pass in waiting for it
                raise late


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
Guarding = Annotated[Access, Depends(access_of)]
Serving = Annotated[Service, Depends(service_of)]
Reader = Annotated[str, Depends(_tenant_with("read"))]  # the tenant of a key that may read
Writer = Annotated[str, Depends(_tenant_with("write"))]
Eraser = Annotated[str, Depends(_tenant_with("write", reads=False))]  # as Writer; what cannot be read can be erased
Admin = Annotated[str, Depends(_tenant_with("admin", reads=False))]
