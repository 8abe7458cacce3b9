"""A server that says when it stops taking requests, and when it has ended."""

from __future__ import annotations

import socket

import structlog
import uvicorn

log = structlog.get_logger()


class DrainingServer(uvicorn.Server):
    """uvicorn's, with a line before what is in flight is finished, and one after the app is closed."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        log.info("draining", in_flight=len(self.server_state.tasks))
        await super().shutdown(sockets)
        log.info("stopped")
