"""Pure ASGI middleware: request ids, limits on bodies, metrics and the access log."""

from __future__ import annotations

import re
import time

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from ulid import ULID

from app.errors import TABLE, BodyTooLarge, UnsupportedMediaType, document
from app.metrics import Metrics

log = structlog.get_logger()
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

        async def respond(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-ID"] = scope["request_id"]
            await send(message)

        try:
            await self.app(scope, receive, respond)
        finally:
            route = getattr(scope.get("route"), "path", "unmatched")
            self.metrics.requests.labels(scope["method"] if route != "unmatched" else "any", route, status).inc()
            log.info(
                "request",
                request_id=scope["request_id"],
                method=scope["method"],
                route=route,
                status=status,
                ms=round(1e3 * (time.perf_counter() - started), 2),
                code=scope.get("error_code"),
            )


class BodyLimits:
    """Refuses bodies that are too large or not declared as JSON, before they are parsed."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app, self.max_bytes = app, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] not in ("POST", "PUT", "PATCH"):
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        content_type = headers.get("content-type", "").partition(";")[0].strip().lower()
        if content_type != "application/json":
            detail = f"got content type {content_type or 'none'!r}, send 'Content-Type: application/json'"
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
        await document(TABLE[kind], detail, scope["request_id"])(scope, receive, send)
