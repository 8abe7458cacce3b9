"""Pure ASGI middleware: request ids, limits on bodies, metrics and the access log."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Collection, Sequence
from typing import Final

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.routing import BaseRoute, Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from ulid import ULID

from app.access.access import Access
from app.access.request_context import RequestContext
from app.http.problems import MALFORMED, BodyTooLarge, BodyTooSlow, Problem, UnsupportedMediaType, describe, document, unexpected
from app.server import tracing
from app.server.metrics import Metrics
from app.server.settings import PATH

log = structlog.get_logger()
LINES = tuple(f"application/{name}" for name in ("x-ndjson", "ndjson", "jsonl", "x-jsonlines", "json-lines", "json"))
GZIP = ("gzip", "x-gzip")
# A whole file, unpacked or of an import, may have so many times the bytes of another body: 1,000 facts with keys and codes have 28 MB.
LARGE = 128
UNMATCHED = "unmatched"
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})  # others are a client's invention: no label for each
_REQUEST_ID = re.compile(r"^[A-Za-z0-9_.-]{1,64}$")


class RequestLog:
    """Gives each request an id, counts it and logs it, and answers the one that meets a defect. Never logs a text or a key.

    Args:
        routes: those of the app, for what is answered without one of them being asked.
    """

    def __init__(
        self, app: ASGIApp, metrics: Metrics, access: Callable[[], Access | None] = lambda: None, routes: Sequence[BaseRoute] = ()
    ) -> None:
        self.app, self.metrics, self.access, self.routes = app, metrics, access, routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        with tracing.request(headers.get("traceparent", ""), headers.get("tracestate", "")) as trace:
            await self._respond(scope, receive, send, headers.get("x-request-id", ""), trace)

    async def _respond(self, scope: Scope, receive: Receive, send: Send, offered: str, trace: tracing.Trace | None) -> None:
        scope["request_id"] = offered if _REQUEST_ID.match(offered) else str(ULID())
        exchange = scope["exchange"] = RequestContext(scope["request_id"])
        exchange.enter()
        status, begun, started = 500, False, time.perf_counter()
        about = {"request_id": scope["request_id"]} | ({"trace_id": trace.trace_id} if trace else {})
        exchange.headers |= {"X-Request-ID": scope["request_id"]} | ({tracing.RESPONSE: trace.response} if trace else {})
        structlog.contextvars.bind_contextvars(**about)

        async def respond(message: Message) -> None:
            nonlocal status, begun
            if message["type"] == "http.response.start":
                status, begun = message["status"], True
                MutableHeaders(scope=message).update(exchange.headers)
                if access := self.access():
                    await access.audit.record(exchange)
            await send(message)

        try:
            await self.app(scope, receive, respond)
        except Exception as error:
            answer = unexpected(scope, error)
            if not begun:  # else it stays unfinished, and the server closes the connection
                await answer(scope, receive, respond)
        finally:
            self._finish(scope, exchange, status, time.perf_counter() - started, trace)
            if access := self.access():
                await access.finish(exchange)
            structlog.contextvars.unbind_contextvars(*about)

    def _finish(self, scope: Scope, exchange: RequestContext, status: int, seconds: float, trace: tracing.Trace | None) -> None:
        route = self._route(scope)
        method = scope["method"] if route != UNMATCHED and scope["method"] in METHODS else "any"
        self.metrics.requests.labels(method, route, status).inc()
        self.metrics.request_time.labels(route).observe(seconds)
        if code := scope.get("error_code"):
            self.metrics.errors.labels(code).inc()
        if exchange.key is not None:
            self.metrics.tenant(exchange.key.tenant)
        if trace:
            request_id = scope["request_id"]
            trace.end(f"{method} {route}", status, http_request_method=scope["method"], http_route=route, larimar_request_id=request_id)
        log.info("request", method=scope["method"], route=route, status=status, ms=round(1e3 * seconds, 2), code=code)

    def _route(self, scope: Scope) -> str:
        """The path of the route that took the request or, if it was refused before, would have."""
        matching = (route for route in self.routes if isinstance(route, Route) and route.matches(scope)[0] is not Match.NONE)
        return getattr(scope.get("route") or next(matching, None), "path", UNMATCHED)


class RootPath:
    """Serves below a path, whether the proxy before it takes that path away or not, and lets the pages link to where they are.

    Args:
        prefix: such as `/larimar`; empty: none. The X-Forwarded-Prefix of a request is what its proxy took away: it stands in the place
            of the prefix in links, and nothing is taken away for it, or a client could reach what the proxy hides.
    """

    def __init__(self, app: ASGIApp, prefix: str) -> None:
        self.app, self.prefix = app, prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path = scope["path"]
            if self.prefix and path.startswith(f"{self.prefix}/"):
                path = path[len(self.prefix) :]
            forwarded = Headers(scope=scope).get("x-forwarded-prefix", "").partition(",")[0].strip().removesuffix("/")
            prefix = forwarded if len(forwarded) <= 200 and PATH.fullmatch(forwarded) else self.prefix
            # Where the rest begins so too, starlette would take it away a second time; no page's does.
            scope = {**scope, "path": path, "root_path": "" if path.startswith(prefix) else prefix}
        await self.app(scope, receive, send)


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
    """Refuses bodies that are too large, too slow or not declared as JSON, before they are parsed.

    Args:
        streamed: paths that take JSON lines without end, gzipped or not, and see to their limits themselves.
        large: ends of paths whose bodies may be `LARGE` times as large.
    """

    def __init__(
        self, app: ASGIApp, max_bytes: int, timeout_s: float, streamed: Collection[str] = (), large: tuple[str, ...] = ()
    ) -> None:
        self.app, self.max_bytes, self.timeout_s, self.streamed, self.large = app, max_bytes, timeout_s, streamed, large

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if "transfer-encoding" in headers and "content-length" in headers:  # a proxy may have believed the other one
            answer = document(MALFORMED, "both Content-Length and Transfer-Encoding say where the body ends", scope)
            answer.headers["Connection"] = "close"
            await answer(scope, receive, send)
            return
        if scope["method"] not in ("POST", "PUT", "PATCH"):
            await self.app(scope, receive, send)
            return
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        coding = headers.get("content-encoding", "").strip().lower()
        is_streamed = scope["path"] in self.streamed
        if is_streamed and kind in LINES and coding in ("", "identity", *GZIP):
            await self.app(scope, receive, send)
            return
        max_bytes = self.max_bytes * (LARGE if scope["path"].endswith(self.large) else 1)
        try:
            if coding not in ("", "identity"):
                takes = "gzip is read there" if is_streamed else "send the body without one; /facts:bulk reads gzip"
                raise UnsupportedMediaType(f"got content encoding {coding[:80]!r}, {takes}")
            body = await self._read(headers, kind, LINES[0] if is_streamed else "application/json", receive, max_bytes)
        except (UnsupportedMediaType, BodyTooLarge, BodyTooSlow) as error:
            problem = describe(error)
            scope["error_code"] = problem.code
            answer = document(problem, str(error), scope)
            if isinstance(error, BodyTooSlow):
                answer.headers["Connection"] = "close"
            await answer(scope, receive, send)
            return
        given = body is None

        async def again() -> Message:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self.app(scope, again, send)

    async def _read(self, headers: Headers, kind: str, wanted: str, receive: Receive, max_bytes: int) -> bytes | None:
        """The whole body; None when the client went away."""
        declared = headers.get("content-length", "")
        has_body = declared not in ("", "0") or "transfer-encoding" in headers
        if has_body and kind != wanted:
            raise UnsupportedMediaType(f"got content type {kind[:80] or 'none'!r}, send 'Content-Type: {wanted}'")
        if declared.isdigit() and int(declared) > max_bytes:
            raise BodyTooLarge(f"the body has {declared} bytes, the limit is {max_bytes}")
        body, more = bytearray(), True
        try:
            async with asyncio.timeout(self.timeout_s):
                while more:
                    message = await receive()
                    if message["type"] != "http.request":
                        return None
                    body += message.get("body", b"")
                    more = message.get("more_body", False)
                    if len(body) > max_bytes:
                        raise BodyTooLarge(f"the body has over {max_bytes} bytes, which is the limit")
        except TimeoutError:
            raise BodyTooSlow(f"the body did not come within {self.timeout_s:g} s") from None
        return bytes(body)


class SecurityHeaders:
    """Headers that keep browsers from guessing, framing, caching or running what is answered."""

    ALWAYS: Final = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-store"}
    NOTHING: Final = "default-src 'none'; frame-ancestors 'none'"
    PAGES: Final = (  # the interactive documentation loads its script and style from a public CDN
        "default-src 'none'; script-src 'unsafe-inline' https://cdn.jsdelivr.net; style-src 'unsafe-inline' https://cdn.jsdelivr.net; "
        "img-src data: https://fastapi.tiangolo.com; connect-src 'self'; frame-ancestors 'none'"
    )

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def respond(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(self.ALWAYS)
                is_page = headers.get("content-type", "").startswith("text/html")
                headers["Content-Security-Policy"] = self.PAGES if is_page else self.NOTHING
            await send(message)

        await self.app(scope, receive, respond)
