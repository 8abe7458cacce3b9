"""Many facts at once: a list, or a stream of lines both ways. What is wrong with one leaves the others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, suppress

from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse
from pydantic import ValidationError
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from app.http.dependencies import Configured, Guarding, Serving, Writer
from app.http.ndjson import line_of
from app.http.problems import BodyTooLarge, explained, invalid
from app.http.schemas import BulkLine, FactIn, LineError
from app.inference.errors import QueueFull
from app.inference.worker import TOGETHER
from app.service import Encoded, NewFact, Service

router = APIRouter(tags=["facts"])
PATH = "/facts:bulk"
PAUSE_S = 0.05  # before a busy server is asked again
Read = tuple[int, FactIn | Exception]
Tell = Callable[[Sequence[BulkLine]], Awaitable[None]]


def refused(number: int, error: Exception) -> BulkLine:
    if isinstance(error, ValidationError):
        problem, detail = invalid(error.errors())
    else:
        problem, detail = explained(error)
    return BulkLine(line=number, error=LineError(status=problem.status, code=problem.code, title=problem.title, detail=detail))


async def teach_lines(service: Service, tenant: str, lines: Sequence[Read]) -> list[BulkLine]:
    """Write what could be read of some lines, in their order; one result for each."""
    return await _write(service, tenant, lines, await _prepare(service, lines))


async def _prepare(service: Service, lines: Sequence[Read]) -> Encoded:
    facts = [NewFact(**dict(fact)) for _, fact in lines if isinstance(fact, FactIn)]
    while True:
        try:
            return await service.prepare(facts)
        except QueueFull:
            await asyncio.sleep(PAUSE_S)  # a stream waits: its sender is held back by its own connection


async def _write(service: Service, tenant: str, lines: Sequence[Read], encoded: Encoded) -> list[BulkLine]:
    while True:
        outcomes = await service.write_many(tenant, encoded)
        if not outcomes or not all(isinstance(outcome, QueueFull) for outcome in outcomes):
            break
        await asyncio.sleep(PAUSE_S)
    results = iter(outcomes)
    told = []
    for number, fact in lines:
        outcome = fact if isinstance(fact, Exception) else next(results)
        if isinstance(outcome, Exception):
            told.append(refused(number, outcome))
            continue
        change, read_by = outcome.committed.change, service.model.read_by(outcome.fact.prompt)
        told.append(
            BulkLine(line=number, id=outcome.fact.id, version=change.version, supersedes=list(change.replaced), read_by=read_by)
        )
    return told


class Results(StreamingResponse):
    """Goes on while the request is being read; starlette's own would read the request's lines to see whether the client is there.

    Args:
        write: writes the facts, and hands over the results of each group to be told. Nothing of it goes on after the answer.
    """

    media_type = "application/x-ndjson"

    def __init__(self, write: Callable[[Tell], Awaitable[None]]) -> None:
        super().__init__(iter(()))
        self._write = write

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002  (the lines are received elsewhere)
        async def tell(results: Sequence[BulkLine]) -> None:
            lines = "".join(line_of(result) + "\n" for result in results)
            await send({"type": "http.response.body", "body": lines.encode(), "more_body": True})

        with suppress(ClientDisconnect):
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await self._write(tell)
            await send({"type": "http.response.body", "body": b"", "more_body": False})


@router.post(PATH, openapi_extra={"requestBody": {"content": {"application/x-ndjson": {"schema": {"type": "string"}}}}})
async def bulk(request: Request, service: Serving, settings: Configured, tenant: Writer, access: Guarding) -> Results:
    """Write facts as they come, one JSON object a line; one result a line comes back, in order, each durable when it comes.

    Read the results while you send: a client that does not is held back once the connection's buffers are full.
    """

    async def groups() -> AsyncGenerator[tuple[Sequence[Read], Encoded]]:
        async for lines in _groups(request, settings.max_body_bytes):
            yield lines, await _prepare(service, lines)

    async def write(tell: Tell) -> None:
        """While one group is written the next is read and encoded, and no more: what is begun is told before another fails."""
        async with aclosing(groups()) as prepared:
            coming = asyncio.ensure_future(anext(prepared, None))
            try:
                while (group := await coming) is not None:
                    coming = asyncio.ensure_future(anext(prepared, None))
                    results = await _write(service, tenant, *group)
                    await access.audit.record(request.scope["exchange"])
                    await tell(results)
            finally:
                coming.cancel()
                await asyncio.gather(coming, return_exceptions=True)

    return Results(write)


async def _groups(request: Request, limit: int) -> AsyncIterator[list[Read]]:
    """Lines of the body, as many together as have arrived and are written together."""
    number, left, skipping, lines = 0, b"", False, list[Read]()
    async for chunk in request.stream():
        *whole, left = (left + chunk).split(b"\n")
        for line in whole:
            number += 1
            if skipping:
                skipping = False
            elif line.strip():
                lines.append((number, _parse(line, limit)))
            if len(lines) == TOGETHER:
                yield lines
                lines = []
        if len(left) > limit:
            if not skipping:
                lines.append((number + 1, _parse(left, limit)))
            left, skipping = b"", True
        if lines:
            yield lines
            lines = []
    if left.strip() and not skipping:
        yield [(number + 1, _parse(left, limit))]


def _parse(line: bytes, limit: int) -> FactIn | Exception:
    if len(line) > limit:
        return BodyTooLarge(f"the line has over {limit} bytes, the limit")
    try:
        return FactIn.model_validate_json(line)
    except ValidationError as error:
        return error

