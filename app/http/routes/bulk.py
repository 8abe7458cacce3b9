"""Many facts at once: a list, or a stream of lines both ways. What is wrong with one leaves the others."""

from __future__ import annotations

import asyncio
import zlib
from codecs import BOM_UTF8
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, suppress
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse
from pydantic import TypeAdapter, ValidationError
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from app.http.dependencies import Configured, Guarding, Serving, Writer
from app.http.fact_schemas import ExportHead, FactLine
from app.http.middleware import GZIP, LARGE
from app.http.ndjson import line_of
from app.http.problems import BodyTooLarge, MalformedBody, explained, invalid
from app.http.schemas import BulkLine, FactIn, LineError
from app.inference.errors import QueueFull
from app.inference.worker import TOGETHER
from app.service import Encoded, NewFact, Service

router = APIRouter(tags=["facts"])
PATH = "/facts:bulk"
PAUSE_S = 0.05  # before a busy server is asked again
PIECE = 65_536  # bytes that are unpacked at once
_GZIP_BITS = 16 + zlib.MAX_WBITS  # with gzip's head and sums
_JSON, _ARRAY = TypeAdapter[Any](Any), TypeAdapter(list[Any])
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

    A JSON array, an export and a body with Content-Encoding: gzip are taken too.

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
    """Facts of the body, as many together as have arrived and are written together: of lines or, where it begins as one, of an array."""
    number, left, skipping, begun, lines = 0, b"", False, False, list[Read]()
    chunks = _unmarked(_plain(request, limit))
    try:
        async for chunk in chunks:
            left += chunk
            if not begun and (begun := bool(start := left.lstrip())) and start.startswith(b"["):
                async for group in _of_array(left, chunks, limit):
                    yield group
                return
            *whole, left = left.split(b"\n")
            for line in whole:
                number += 1
                if skipping:
                    skipping = False
                elif line.strip() and (fact := _parse(line, limit)) is not None:
                    lines.append((number, fact))
                if len(lines) == TOGETHER:
                    yield lines
                    lines = []
            if len(left) > limit:
                if not skipping and (fact := _parse(left, limit)) is not None:
                    lines.append((number + 1, fact))
                left, skipping = b"", True
            if lines:
                yield lines
                lines = []
        if left.strip() and not skipping and (fact := _parse(left, limit)) is not None:
            yield [(number + 1, fact)]
    except (MalformedBody, BodyTooLarge) as error:  # of the body as a whole
        yield [*lines, (number + 1, error)]


async def _of_array(begun: bytes, chunks: AsyncIterator[bytes], limit: int) -> AsyncIterator[list[Read]]:
    """Facts of a JSON array, which is read whole: facts count as lines."""
    body, size = bytearray(begun), len(begun)
    async for chunk in chunks:
        size += len(chunk)
        if size <= limit:
            body += chunk
    if size > limit:
        yield [(1, BodyTooLarge(f"the array has {size} bytes, the limit is {limit}: send a fact a line, for which it holds alone"))]
        return
    try:
        found = _ARRAY.validate_json(body)
    except ValidationError as error:
        yield [(1, error)]
        return
    facts = [(number, fact) for number, one in enumerate(found, 1) if (fact := _fact(one)) is not None]
    for at in range(0, len(facts), TOGETHER):
        yield facts[at : at + TOGETHER]


async def _unmarked(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The chunks, without the mark of order that some editors begin a file with."""
    begun, start = False, b""
    async for chunk in chunks:
        if begun:
            yield chunk
            continue
        start += chunk
        if begun := len(start) >= len(BOM_UTF8):
            yield start.removeprefix(BOM_UTF8)
    if not begun:
        yield start


async def _plain(request: Request, limit: int) -> AsyncIterator[bytes]:
    """The body as it comes, or unpacked. Raises MalformedBody, and BodyTooLarge for what was packed so well that it is no file."""
    if request.headers.get("content-encoding", "").strip().lower() not in GZIP:
        async for chunk in request.stream():
            yield chunk
        return
    unpack, most, size, begun = zlib.decompressobj(_GZIP_BITS), LARGE * limit, 0, False
    async for chunk in request.stream():
        while chunk:
            begun = True
            piece = _unpacked(unpack, chunk)
            chunk = unpack.unconsumed_tail
            while piece:
                size += len(piece)
                if size > most:
                    raise BodyTooLarge(f"the body has over {most} bytes when it is unpacked, the limit: send it in parts, or unpacked")
                yield piece
                await asyncio.sleep(0)  # a small body may be a large text: others have their turn between
                piece = b"" if chunk or unpack.eof or len(piece) < PIECE else _unpacked(unpack, b"")
            if unpack.eof:  # another member may follow, or padding
                chunk = unpack.unused_data.lstrip(b"\0")
                unpack, begun = zlib.decompressobj(_GZIP_BITS), False
    if begun:
        raise MalformedBody("the body is not gzip: it ends too early")


def _unpacked(unpack: zlib._Decompress, chunk: bytes) -> bytes:
    try:
        return unpack.decompress(chunk, PIECE)
    except zlib.error as error:
        raise MalformedBody(f"the body is not gzip: {error}") from None


def _parse(line: bytes, limit: int) -> FactIn | Exception | None:
    if len(line) > limit:
        return BodyTooLarge(f"the line has over {limit} bytes, the limit")
    try:
        return _fact(_JSON.validate_json(line))
    except ValidationError as error:
        return error


def _fact(record: Any) -> FactIn | Exception | None:
    """The fact of a line, or why it is none; None for the head of an export."""
    try:
        return FactLine.model_validate(record).fact()
    except ValidationError as error:
        with suppress(ValidationError):
            ExportHead.model_validate(record)
            return None
        return error
