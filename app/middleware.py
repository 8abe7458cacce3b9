"""Pure ASGI middleware: request ids, limits on bodies, metrics and the access log."""

from __future__ import annotations

import re
import time
from collections.abc import Collection

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from ulid import ULID

from app.errors import TABLE, BodyTooLarge, Problem, UnsupportedMediaType, document
from app.metrics import Metrics

log = structlog.get_logger()
LINES = ("application/x-ndjson", "application/jsonl", "application/json-lines")
_REQUEST_ID = re.compile(r"^[A-Za-z0-9_.-]{1,64}$")


class RequestLog:
    """Gives each request an id, counts it and logs it. Never logs a text or a key."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        offered = Headers(scope=scope).get("x-request-id", "")
        scope["request_id"] = offered if _REQUEST_ID.match(offered) else str(ULID())
        status, started = 500, time.perf_counter()
        structlog.contextvars.bind_contextvars(request_id=scope["request_id"])

        async def respond(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-ID"] = scope["request_id"]
            await send(message)

        try:
            await self.app(scope, receive, respond)
        finally:
            self._finish(scope, status, time.perf_counter() - started)
            structlog.contextvars.unbind_contextvars("request_id")

    def _finish(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "unmatched")
        method = scope["method"] if route != "unmatched" else "any"
        self.metrics.requests.labels(method, route, status).inc()
        self.metrics.request_time.labels(route).observe(seconds)
        if code := scope.get("error_code"):
            self.metrics.errors.labels(code).inc()
        if tenant := scope.get("tenant"):
            self.metrics.tenant(tenant)
        log.info("request", method=scope["method"], route=route, status=status, ms=round(1e3 * seconds, 2), code=code)


class Ports:
    """With an admin port, metrics and administration answer there only, and everything else but health only elsewhere."""

    def __init__(self, app: ASGIApp, admin_port: int) -> None:
        self.app, self.admin_port = app, admin_port

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not scope["path"].startswith("/health/"):
            is_admin = scope["path"] == "/metrics" or f"{scope['path']}/".startswith("/admin/")
            if is_admin != (scope["server"][1] == self.admin_port):
                scope["error_code"] = "not_found"
                problem = Problem(404, "not_found", "Not Found")
                await document(problem, "this is not served on this port", scope)(scope, receive, send)
                return
        await self.app(scope, receive, send)


class BodyLimits:
    """Refuses bodies that are too large or not declared as JSON, before they are parsed.

    Args:
        streamed: paths that take JSON lines without end, and see to their limits themselves.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, streamed: Collection[str] = ()) -> None:
        self.app, self.max_bytes, self.streamed = app, max_bytes, streamed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] not in ("POST", "PUT", "PATCH"):
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        content_type = headers.get("content-type", "").partition(";")[0].strip().lower()
        if scope["path"] in self.streamed and content_type in LINES:
            await self.app(scope, receive, send)
            return
        if content_type != "application/json" or scope["path"] in self.streamed:
            wanted = LINES[0] if scope["path"] in self.streamed else "application/json"
            detail = f"got content type {content_type or 'none'!r}, send 'Content-Type: {wanted}'"
            await self._refuse(UnsupportedMediaType, detail, scope, receive, send)
            return
        body, more = b"", True
        declared = headers.get("content-length", "")
        too_large = declared.isdigit() and int(declared) > self.max_bytes
        while more and not too_large:
            message = await receive()
            if message["type"] != "http.request":
                return
            body += message.get("body", b"")
            more = message.get("more_body", False)
            too_large = len(body) > self.max_bytes
        if too_large:
            detail = f"the body has {declared or f'over {len(body)}'} bytes, the limit is {self.max_bytes}"
            await self._refuse(BodyTooLarge, detail, scope, receive, send)
            return
        given = False

        async def again() -> Message:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self.app(scope, again, send)

    async def _refuse(self, kind: type[Exception], detail: str, scope: Scope, receive: Receive, send: Send) -> None:
        scope["error_code"] = TABLE[kind].code
        await document(TABLE[kind], detail, scope)(scope, receive, send)
