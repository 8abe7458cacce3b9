"""What routes depend on."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Awaitable
from typing import Annotated, TypeVar

from fastapi import Depends, Request

from app.errors import NotReady, TimedOut, Unauthorized
from app.service import Service
from app.settings import Settings

T = TypeVar("T")


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
        request.scope["tenant"] = "default"
        return "default"
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    offered = (token if scheme.lower() == "bearer" else request.headers.get("x-api-key", "")).strip().encode()
    found = [tenant for key, tenant in keys.items() if hmac.compare_digest(key.encode(), offered)]
    if not found:
        raise Unauthorized
    request.scope["tenant"] = found[0]
    return found[0]


async def within(settings: Settings, work: Awaitable[T]) -> T:
    """Await under the request's deadline. Raises TimedOut."""
    try:
        async with asyncio.timeout(settings.request_timeout_s):
            return await work
    except TimeoutError:
        raise TimedOut(f"the request took longer than {settings.request_timeout_s:g} s") from None


Configured = Annotated[Settings, Depends(settings_of)]
Serving = Annotated[Service, Depends(service_of)]
TenantName = Annotated[str, Depends(tenant_of)]
