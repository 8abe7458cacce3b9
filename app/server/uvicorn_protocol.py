"""A connection that does not wait for headers forever: uvicorn's HTTP/1.1 protocol with a time-out on them.

A client that opens connections and sends a header line now and then (a slow loris) would hold them all; uvicorn
limits only how long a connection may idle between requests, and how large the headers may grow.
"""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol


class HeaderTimeoutProtocol(H11Protocol):
    """Closes a connection whose request headers are not complete `headers_timeout_s` seconds after they were expected."""

    headers_timeout_s: ClassVar[float] = 10.0
    _awaiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        super().connection_made(transport)
        self._expect_headers()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._stop_waiting()
        elif self._awaiting is None:  # the first bytes of the next request on this connection
            self._expect_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def _expect_headers(self) -> None:
        self._awaiting = self.loop.call_later(self.headers_timeout_s, self._give_up)

    def _stop_waiting(self) -> None:
        if self._awaiting is not None:
            self._awaiting.cancel()
            self._awaiting = None

    def _give_up(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()


def patient(headers_timeout_s: float) -> type[asyncio.Protocol]:
    """The protocol with this time-out."""
    attributes: dict[str, Any] = {"headers_timeout_s": headers_timeout_s}
    return type("HeaderTimeoutProtocol", (HeaderTimeoutProtocol,), attributes)
