"""A typed client of the server, blocking or asynchronous.

    with Client("http://127.0.0.1:8080") as larimar:
        fact = larimar.teach("The CEO of Acme Rockets is", "Wile E. Coyote")
        print(larimar.generate("Who runs Acme Rockets?").text)
        larimar.forget(fact.id)

A request that the server was too busy for, or that found no connection, is made again, as often as `retries` says. One that may
have been done (its connection was lost; 502, 504 or `commit_unknown`) is only where it reads, or teaches a fact, which carries an
idempotency key: doing it again does it once.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import random
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Generic, Self, TypeVar

import httpx
from pydantic import TypeAdapter

from app.http.schemas import (
    BulkLine,
    FactIn,
    FactList,
    FactOut,
    FactWritten,
    GenerateOut,
    QueryOut,
    Receipt,
    Receipts,
    Scalar,
    TextIn,
    named,
    text_of,
)

T = TypeVar("T")
READS = frozenset({"/query", "/generate", "/v1/completions", "/v1/chat/completions"})  # by POST
UNKNOWN = "commit_unknown"  # the code of a write that may have been made
Event = tuple[str, dict[str, Any]]


class LarimarError(Exception):
    """The server refused: its status, the problem's code, and what it said."""

    def __init__(self, status: int, code: str, detail: str, request_id: str = "", retry_after_s: float = 0.0) -> None:
        super().__init__(f"{code}: {detail}")
        self.status, self.code, self.detail = status, code, detail
        self.request_id, self.retry_after_s = request_id, retry_after_s


class Unfinished(LarimarError):
    """Forgetting many facts stopped midway, by what is its `__cause__`: `receipts` are of those that are forgotten, the others stay.

    Where an answer was lost its facts may be forgotten all the same; asking again forgets the rest.
    """

    def __init__(self, receipts: list[Receipt], cause: LarimarError | httpx.TransportError) -> None:
        found = cause if isinstance(cause, LarimarError) else LarimarError(0, "connection_lost", str(cause))
        super().__init__(found.status, found.code, f"{len(receipts)} facts are forgotten, then: {found.detail}", found.request_id)
        self.retry_after_s, self.receipts = found.retry_after_s, receipts


@dataclass(frozen=True)
class Call(Generic[T]):
    """A request, and the type of its answer."""

    method: str
    path: str
    answer: type[T] | Any
    body: Any = None
    query: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)

    def request(self, client: httpx.Client | httpx.AsyncClient) -> httpx.Request:
        return client.build_request(self.method, self.path, json=self.body, params=self.query or None, headers=dict(self.headers))

    def read(self, response: httpx.Response) -> T:
        out: T = TypeAdapter(self.answer).validate_json(checked(response).content)
        return out


def checked(response: httpx.Response) -> httpx.Response:
    """The response, if it is an answer. Raises LarimarError."""
    if response.is_success:
        return response
    told: dict[str, Any] = {}
    with suppress(ValueError):
        found = response.json()
        inner = found.get("error") if isinstance(found, dict) else None
        told = next((one for one in (inner, found) if isinstance(one, dict)), {})  # OpenAI's routes put it inside
    code, detail = told.get("code", "http_error"), told.get("detail", told.get("message", response.reason_phrase))
    wait = response.headers.get("retry-after", "")
    raise LarimarError(response.status_code, code, detail, told.get("request_id", ""), float(wait) if wait.isdigit() else 0.0)


def teach(prompt: str, target: str, **more: Any) -> Call[FactWritten]:
    """`more`: the other fields of app.http.schemas.FactIn."""
    body = FactIn(prompt=prompt, target=target, **more).model_dump(exclude_unset=True)
    return Call("POST", "/facts", FactWritten, body, headers={"Idempotency-Key": _key()})


def teach_text(text: str, **more: Any) -> Call[list[BulkLine]]:
    """`more`: the other fields of app.http.schemas.TextIn."""
    return Call("POST", "/facts", list[BulkLine], TextIn(text=text, **more).model_dump(exclude_unset=True))


def fact(fact_id: str) -> Call[FactOut]:
    return Call("GET", f"/facts/{fact_id}", FactOut)


def facts(cursor: str = "", limit: int = 100) -> Call[FactList]:
    return Call("GET", "/facts", FactList, query={"cursor": cursor, "limit": limit})


def forget(fact_id: str) -> Call[Receipt]:
    return Call("DELETE", f"/facts/{fact_id}", Receipt)


def forget_all(metadata: Mapping[str, Scalar]) -> Call[Receipts]:
    """Raises ValueError for a name that holds '=', and would be read as another one."""
    wanted = [f"{name}={text_of(value)}" for name, value in named(metadata).items()]
    return Call("DELETE", "/facts", Receipts, query={"metadata": wanted})


def query(prompt: str, **more: Any) -> Call[QueryOut]:
    """`more`: the other fields of app.http.schemas.QueryIn."""
    return Call("POST", "/query", QueryOut, {"prompt": prompt} | more)


def generate(prompt: str, **more: Any) -> Call[GenerateOut]:
    """`more`: the other fields of app.http.schemas.GenerateIn."""
    return Call("POST", "/generate", GenerateOut, {"prompt": prompt} | more)


def _key() -> str:
    return f"{random.getrandbits(128):032x}"


def _pause(attempt: int, error: Exception) -> float:
    """Seconds to wait: what the server asks for, or twice as long each time; a little at random."""
    asked = error.retry_after_s if isinstance(error, LarimarError) else 0.0
    return float((asked or 0.1 * 2**attempt) * random.uniform(0.8, 1.2))


def _again(call: Call[Any], error: Exception) -> bool:
    """Whether a request may be made again: never one that the server may have done and cannot recognise."""
    status, code = (error.status, error.code) if isinstance(error, LarimarError) else (0, "")
    if isinstance(error, httpx.ConnectError) or (status in (429, 503) and code != UNKNOWN):
        return True  # nothing was done
    if status not in (0, 502, 503, 504) or (status == 504 and "timeout_s" in (call.body or {})):  # its own deadline
        return False
    return call.method == "GET" or call.path in READS or "Idempotency-Key" in call.headers


def _events(lines: Iterable[str]) -> Iterator[Event]:
    name = ""
    for line in lines:
        if line.startswith("event:"):
            name = line[6:].strip()
        elif line.startswith("data:"):
            yield name, _told(name, json.loads(line[5:]))


def _told(name: str, data: dict[str, Any]) -> dict[str, Any]:
    if name == "error":
        raise LarimarError(data["status"], data["code"], data["detail"])
    return data


def _headers(api_key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {api_key}"} if api_key else {}


def _is_near(url: str) -> bool:
    """Whether a server is on this machine: no proxy of the environment (http_proxy, ALL_PROXY) reaches it there."""
    host = httpx.URL(url).host
    try:
        return host == "localhost" or host.endswith(".localhost") or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Client:
    """Blocking.

    Args:
        url: of the server.
        api_key: sent as a bearer token.
        timeout_s: of each attempt.
        retries: further attempts where a request may be made again.

    Every method raises LarimarError, or httpx.TransportError where there is no server.
    """

    def __init__(self, url: str = "http://127.0.0.1:8080", api_key: str = "", *, timeout_s: float = 120.0, retries: int = 3) -> None:
        transport = httpx.HTTPTransport() if _is_near(url) else None
        self.http = httpx.Client(base_url=url, headers=_headers(api_key), timeout=timeout_s, transport=transport)
        self.retries = retries

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.http.close()

    def send(self, call: Call[T]) -> T:
        """Make a call, again where it may be."""
        for attempt in range(self.retries + 1):
            try:
                return call.read(self.http.send(call.request(self.http)))
            except (LarimarError, httpx.TransportError) as error:
                if attempt == self.retries or not _again(call, error):
                    raise
                time.sleep(_pause(attempt, error))
        raise AssertionError("unreachable")

    def teach(self, prompt: str, target: str, **more: Any) -> FactWritten:
        return self.send(teach(prompt, target, **more))

    def teach_text(self, text: str, **more: Any) -> list[BulkLine]:
        """Teach each sentence of a text as a fact; what became of each, in order."""
        return self.send(teach_text(text, **more))

    def fact(self, fact_id: str) -> FactOut:
        return self.send(fact(fact_id))

    def facts(self) -> Iterator[FactOut]:
        """All facts, in the order of their ids."""
        cursor: str | None = ""
        while cursor is not None:
            page = self.send(facts(cursor))
            yield from page.facts
            cursor = page.next_cursor

    def forget(self, fact_id: str) -> Receipt:
        return self.send(forget(fact_id))

    def forget_all(self, metadata: Mapping[str, Scalar]) -> list[Receipt]:
        """Forget all facts that have this metadata, such as a text's: {"text": its id}. Raises Unfinished with the receipts there are,
        where some are forgotten and the rest is not."""
        receipts, left = list[Receipt](), 1
        while left:
            try:
                page = self.send(forget_all(metadata))
            except (LarimarError, httpx.TransportError) as error:
                if not receipts:
                    raise
                raise Unfinished(receipts, error) from error
            receipts, left = receipts + page.receipts, page.left
        return receipts

    def query(self, prompt: str, **more: Any) -> QueryOut:
        return self.send(query(prompt, **more))

    def generate(self, prompt: str, **more: Any) -> GenerateOut:
        return self.send(generate(prompt, **more))

    def stream(self, prompt: str, **more: Any) -> Iterator[Event]:
        """Events as they come: `memory`, then `token`s, then `done`."""
        with self.http.stream("POST", "/generate", json={"prompt": prompt, "stream": True} | more) as response:
            if not response.is_success:
                response.read()
            yield from _events(checked(response).iter_lines())


class AsyncClient:
    """As Client, for asyncio."""

    def __init__(
        self,
        url: str = "http://127.0.0.1:8080",
        api_key: str = "",
        *,
        timeout_s: float = 120.0,
        retries: int = 3,
        limits: httpx.Limits | None = None,
    ) -> None:
        limits = limits or httpx.Limits(max_connections=100)
        transport = httpx.AsyncHTTPTransport(limits=limits) if _is_near(url) else None
        self.http = httpx.AsyncClient(base_url=url, headers=_headers(api_key), timeout=timeout_s, limits=limits, transport=transport)
        self.retries = retries

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self.http.aclose()

    async def send(self, call: Call[T]) -> T:
        """Make a call, again where it may be."""
        for attempt in range(self.retries + 1):
            try:
                return call.read(await self.http.send(call.request(self.http)))
            except (LarimarError, httpx.TransportError) as error:
                if attempt == self.retries or not _again(call, error):
                    raise
                await asyncio.sleep(_pause(attempt, error))
        raise AssertionError("unreachable")

    async def teach(self, prompt: str, target: str, **more: Any) -> FactWritten:
        return await self.send(teach(prompt, target, **more))

    async def teach_text(self, text: str, **more: Any) -> list[BulkLine]:
        """Teach each sentence of a text as a fact; what became of each, in order."""
        return await self.send(teach_text(text, **more))

    async def fact(self, fact_id: str) -> FactOut:
        return await self.send(fact(fact_id))

    async def facts(self) -> AsyncIterator[FactOut]:
        """All facts, in the order of their ids."""
        cursor: str | None = ""
        while cursor is not None:
            page = await self.send(facts(cursor))
            for found in page.facts:
                yield found
            cursor = page.next_cursor

    async def forget(self, fact_id: str) -> Receipt:
        return await self.send(forget(fact_id))

    async def forget_all(self, metadata: Mapping[str, Scalar]) -> list[Receipt]:
        """Forget all facts that have this metadata, such as a text's: {"text": its id}. Raises Unfinished with the receipts there are,
        where some are forgotten and the rest is not."""
        receipts, left = list[Receipt](), 1
        while left:
            try:
                page = await self.send(forget_all(metadata))
            except (LarimarError, httpx.TransportError) as error:
                if not receipts:
                    raise
                raise Unfinished(receipts, error) from error
            receipts, left = receipts + page.receipts, page.left
        return receipts

    async def query(self, prompt: str, **more: Any) -> QueryOut:
        return await self.send(query(prompt, **more))

    async def generate(self, prompt: str, **more: Any) -> GenerateOut:
        return await self.send(generate(prompt, **more))

    async def stream(self, prompt: str, **more: Any) -> AsyncIterator[Event]:
        """Events as they come: `memory`, then `token`s, then `done`."""
        async with self.http.stream("POST", "/generate", json={"prompt": prompt, "stream": True} | more) as response:
            if not response.is_success:
                await response.aread()
            name = ""
            async for line in checked(response).aiter_lines():
                if line.startswith("event:"):
                    name = line[6:].strip()
                elif line.startswith("data:"):
                    yield name, _told(name, json.loads(line[5:]))
