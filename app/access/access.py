"""Access control: API keys, limits and the audit log, opened together."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass

from app.access.api_keys import KeyRing
from app.access.audit_log import AuditLog
from app.access.limits import Limits
from app.access.request_context import RequestContext
from app.server import background
from app.server.measured_store import MeasuredStore
from app.server.metrics import Metrics
from app.server.settings import Settings, is_loopback


@dataclass(frozen=True)
class Access:
    """Keys, limits and audit log, which every request passes through."""

    keys: KeyRing
    limits: Limits
    audit: AuditLog

    async def finish(self, exchange: RequestContext) -> None:
        """Record a request's actions and count its tokens and facts."""
        await self.audit.record(exchange)
        if exchange.key is not None:
            await self.limits.spend(exchange.key, tokens=exchange.tokens, facts=exchange.wrote)


def needs_key(settings: Settings) -> bool:
    """Whether a server with these settings refuses to start without a key: it can be reached from outside."""
    private = is_loopback(settings.host) and (settings.admin_port is None or is_loopback(settings.admin_host))
    return not private and not settings.insecure


async def open_access(settings: Settings, store: MeasuredStore, metrics: Metrics, stack: AsyncExitStack) -> Access:
    """Keys, limits and audit log in the store.

    Raises:
        ValueError: the server can be reached from outside and has no key.
    """
    closed = needs_key(settings)
    keys = KeyRing(store.client, settings.tenants_by_key, open_without_keys=not closed)
    if closed and not await keys.any():
        raise ValueError(
            f"LARIMAR_HOST={settings.host} is reachable from outside and there is no API key: make one with "
            "`larimar keys create`, or set LARIMAR_API_KEYS (key:tenant,…), or bind to 127.0.0.1, or set LARIMAR_INSECURE=1"
        )
    shared = store.client if settings.store_url else None  # an embedded store has one server, which counts in memory
    limits = Limits(shared, requests=settings.limit_requests, tokens=settings.limit_tokens, facts=settings.limit_facts)
    audit = AuditLog(store.client, metrics, keep=settings.audit_entries)
    running = asyncio.create_task(audit.run())

    async def stop() -> None:
        await background.end([running])
        await audit.close()

    stack.push_async_callback(stop)
    return Access(keys, limits, audit)
