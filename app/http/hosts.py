"""Under which names a server without keys answers: a web page can rebind its own name to the loopback, and would be of our origin."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Collection

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from app.access.access import Access
from app.http.problems import HostNotAllowed, describe, document
from app.inference.errors import NotReady
from memory.errors import StoreUnavailable

_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^\s:\[\]@/]+)(:[0-9]{1,5})?", re.IGNORECASE)


def name_of(host: str) -> str:
    """The name or address in a Host header, in lower case and without port and brackets; empty where it holds none."""
    found = _HOST.fullmatch(host)
    return found[1].strip("[]").lower() if found else ""


def is_unrebindable(host: str) -> bool:
    """Whether no name server decides where this Host leads: localhost and its subdomains (RFC 6761), and addresses."""
    name = name_of(host)
    try:
        return name == "localhost" or name.endswith(".localhost") or bool(ipaddress.ip_address(name))
    except ValueError:
        return False


class HostCheck:
    """Refuses requests under other names while anyone is served. (starlette's TrustedHostMiddleware has one list for good, knows
    no address but those on it, and answers plain text.)

    Probes of health are answered under every name: they tell nothing, and balancers ask by service names or without one.

    Args:
        access: whether a key closes the server; None before it is known.
        allowed: names that are answered to besides.
    """

    def __init__(self, app: ASGIApp, access: Callable[[], Access | None], allowed: Collection[str] = ()) -> None:
        self.app, self.access, self.allowed = app, access, allowed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = await self._refusal(scope) if scope["type"] in ("http", "websocket") else None
        if refusal is None:
            await self.app(scope, receive, send)
            return
        problem = describe(refusal)
        scope["error_code"] = problem.code
        answer = document(problem, problem.detail or str(refusal), scope)
        answer.headers["Connection"] = "close"  # the body is not read, and nobody has looked whether its end is told twice
        await answer(scope, receive, send)

    async def _refusal(self, scope: Scope) -> Exception | None:
        host = Headers(scope=scope).get("host", "")
        if scope["path"].startswith("/health/") or is_unrebindable(host) or name_of(host) in self.allowed:
            return None
        if (access := self.access()) is None:
            return NotReady()
        try:
            return HostNotAllowed(host, name_of(host)) if await access.keys.open() else None
        except StoreUnavailable as error:
            return error
