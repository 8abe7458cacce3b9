"""Latency of each kind of request, by the number of clients and of facts in the tenant."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import httpx

from app.bench.server import serving
from app.bench.statistic import summary
from app.client import AsyncClient
from app.server.settings import Settings

CHUNK = 2000  # facts in one bulk request


async def latency(
    settings: Settings,
    *,
    clients: Sequence[int],
    facts: Sequence[int],
    requests: int,
    durability: str = "memory",
    tick: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """POST /facts, DELETE /facts/{id}, /query and /generate (16 tokens) against a server of our own.

    Args:
        clients: how many ask at once, each waiting for its answer.
        facts: sizes that the tenant is filled to, ascending.
        requests: of each kind at each point, at least one a client.
    """
    figures: dict[str, Any] = {"durability": durability, "requests": requests}
    async with serving(settings, LARIMAR_DURABILITY=durability) as (url, _), AsyncClient(url, timeout_s=600) as larimar:
        held = 0
        for size in facts:
            started = time.perf_counter()
            written = await fill(larimar.http, held, size)
            if written:
                figures[f"bulk to {size} facts"] = {"facts": written, "per_second": written / (time.perf_counter() - started)}
            held = max(held, size)
            for count in clients:
                figures[f"{size} facts, {count} clients"] = await _point(url, count, size, requests)
                tick()
    return figures


async def fill(client: httpx.AsyncClient, held: int, size: int) -> int:
    """Write facts number `held` to `size` in bulk; how many."""
    for start in range(held, size, CHUNK):
        lines = [json.dumps(fact(number)) + "\n" for number in range(start, min(size, start + CHUNK))]

        async def body(lines: list[str] = lines) -> AsyncIterator[bytes]:
            yield "".join(lines).encode()

        answer = await client.post("/facts:bulk", content=body(), headers={"content-type": "application/x-ndjson"})
        refused = [line for line in answer.text.splitlines() if '"error"' in line]
        if answer.status_code != 200 or refused:
            raise RuntimeError(f"bulk write failed: {refused[:1] or answer.text[:200]}")
    return max(0, size - held)


def fact(number: int) -> dict[str, str]:
    """A fact that is like no other, and a little like many."""
    kinds = ("door code", "inventor", "mayor", "capital", "colour", "supplier", "birthday", "phone number")
    return {"prompt": f"The {kinds[number % 8]} of {name(number)} is", "target": f"{name(number * 7 + 3)} {number % 97}"}


def name(number: int) -> str:
    """A word for a number."""
    syllables = ("ba", "ke", "li", "mo", "nu", "ra", "se", "ti", "vo", "za")
    return "".join(syllables[int(digit)] for digit in f"{number % 10**7:04d}").capitalize()


async def _point(url: str, clients: int, size: int, requests: int) -> dict[str, Any]:
    ids: list[str] = []
    parts: dict[str, list[float]] = {}  # of a write, as the server tells them
    numbers = itertools.count(10**6 + size)
    limits = httpx.Limits(max_connections=clients)
    async with AsyncClient(url, timeout_s=600, limits=limits) as larimar:

        async def teach() -> None:
            written = await larimar.teach(**fact(next(numbers)))
            ids.append(written.id)
            for name, ms in written.timings.model_dump().items():
                parts.setdefault(name.removesuffix("_ms"), []).append(ms / 1e3)

        async def query() -> None:
            await larimar.query(f"What is the {fact(next(numbers) % max(1, size))['prompt'][4:-3]}?")

        async def generate() -> None:
            await larimar.generate(f"What is the {fact(next(numbers) % max(1, size))['prompt'][4:-3]}?", max_new_tokens=16)

        async def forget() -> None:
            await larimar.forget(ids.pop())

        kinds: dict[str, tuple[Callable[[], Awaitable[None]], int]] = {
            "POST /facts": (teach, requests),
            "POST /query": (query, requests),
            "POST /generate": (generate, max(clients, requests // 8)),
            "DELETE /facts": (forget, requests),
        }
        found: dict[str, Any] = {kind: summary(await _closed_loop(work, clients, count)) for kind, (work, count) in kinds.items()}
        return found | {f"POST /facts: {name}": summary(seconds) for name, seconds in parts.items()}


async def _closed_loop(work: Callable[[], Awaitable[None]], clients: int, requests: int) -> list[float]:
    """Seconds of each request, after one of each client that does not count."""
    seconds: list[float] = []
    left = itertools.count()

    async def client() -> None:
        while next(left) < requests:
            started = time.perf_counter()
            await work()
            seconds.append(time.perf_counter() - started)

    await asyncio.gather(*(client() for _ in range(clients)))
    return seconds
