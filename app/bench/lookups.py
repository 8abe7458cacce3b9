"""What one tenant's look-ups through all its facts cost another tenant's tokens."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import httpx
import torch

from app.bench.server import processor_s, serving
from app.bench.statistic import summary
from app.server.settings import Settings

TALKS, LOOKS = "bench-key-talks", "bench-key-looks"
TOGETHER = 500  # facts of one import
GOAL_MS = 50.0  # that no token may wait for another tenant's look-up
NAMED = 256  # facts that a request may name
KINDS = 6  # of look-ups
CLOCKS = ("clock", "processor")
Gap = tuple[float, float]  # seconds by each of them


async def lookups(settings: Settings, *, facts: int, tokens: int, rounds: int, tick: Callable[[], None] = lambda: None) -> dict[str, Any]:
    """One tenant's texts are streamed while another one, with `facts` facts, looks through them without a pause.

    Args:
        tokens: of each text. rounds: texts beside each kind of look-up, each after one beside none.

    Returns:
        For each kind, in milliseconds: the look-ups' own times; the gaps between two tokens beside none and beside it, by the clock and
        by the server's own processor time, which other work on the machine does not lengthen; and by both what the longest gap has
        more than the median beside none. By processor time that is the most that a token can have waited for look-ups: all
        that they took on other cores is in it, too.
    """
    environment = {
        "LARIMAR_API_KEYS": f"{TALKS}:talks,{LOOKS}:looks",
        "LARIMAR_MAX_BODY_BYTES": str(1 << 26),
        "LARIMAR_DURABILITY": "memory",
        "LARIMAR_MAX_NEW_TOKENS": str(max(tokens, 512)),
    }
    async with serving(settings, **environment) as (url, pid):
        talks, looks = (httpx.AsyncClient(base_url=url, trust_env=False, headers={"X-API-Key": key}, timeout=120) for key in (TALKS, LOOKS))
        async with talks, looks:
            version = await _filled(looks, facts)
            await _gaps(talks, tokens, pid)  # warms up
            found = {}
            for kind, look in _kinds(looks, facts, version).items():
                alone, beside, took = list[Gap](), list[Gap](), list[float]()
                await look()
                for _ in range(rounds):
                    alone += await _gaps(talks, tokens, pid)
                    looking = asyncio.create_task(_without_pause(look, took))
                    beside += await _gaps(talks, tokens, pid)
                    looking.cancel()
                    with suppress(asyncio.CancelledError):
                        await looking
                    tick()
                found[kind] = {"look_up": summary(took)} | {
                    name: _compared([gap[row] for gap in alone], [gap[row] for gap in beside]) for row, name in enumerate(CLOCKS)
                }
    longest = {f"longest_wait_{name}_ms": max(kind[name]["longest_wait_ms"] for kind in found.values()) for name in CLOCKS}
    return {"facts": facts, "tokens": tokens, "rounds": rounds} | found | longest | {"goal_ms": GOAL_MS}


def _compared(alone: list[float], beside: list[float]) -> dict[str, Any]:
    """Gaps in seconds."""
    quiet = summary(alone)
    return {
        "token_alone": quiet | {"max_ms": 1e3 * max(alone)},
        "token_beside": summary(beside) | {"max_ms": 1e3 * max(beside)},
        "longest_wait_ms": 1e3 * max(beside) - quiet["p50_ms"],
    }


async def _filled(client: httpx.AsyncClient, facts: int) -> int:
    """Write facts with random keys and codes of the model's sizes; returns the version after them."""
    first = {"prompt": "The colour of ship 0 is", "target": "white", "id": "fact-0000000"}
    (await client.post("/facts", json=first)).raise_for_status()
    head, line = map(json.loads, (await client.get("/tenants/looks/export", params={"codes": True})).text.splitlines())
    dim, width = (len(base64.b64decode(line[name])) // 4 for name in ("key", "code"))
    generator = torch.Generator().manual_seed(0)
    version = int(head["version"])
    for at in range(1, facts, TOGETHER):
        numbers = range(at, min(facts, at + TOGETHER))
        keys = torch.nn.functional.normalize(torch.randn(len(numbers), dim, generator=generator))
        codes = torch.randn(len(numbers), width, generator=generator)
        lines = [
            {"id": f"fact-{number:07}", "prompt": f"The colour of ship {number} is", "target": f"colour {number}"}
            | {name: base64.b64encode(row.numpy().astype("<f4").tobytes()).decode() for name, row in (("key", key), ("code", code))}
            for number, key, code in zip(numbers, keys, codes, strict=True)
        ]
        answer = await client.post("/tenants/looks/import", json={"fingerprint": head["fingerprint"], "facts": lines})
        answer.raise_for_status()
        assert answer.json()["imported"] == len(lines)
        version = int(answer.headers["Larimar-Version"])
    return version


def _kinds(client: httpx.AsyncClient, facts: int, version: int) -> dict[str, Callable[[], Awaitable[None]]]:
    numbers = itertools.count()

    async def get(path: str) -> None:
        async with client.stream("GET", path) as answer:
            answer.raise_for_status()
            async for _ in answer.aiter_raw():
                pass

    async def query(**selected: Any) -> None:
        body = {"prompt": f"What is the colour of ship {next(numbers) % facts}?"} | selected
        (await client.post("/query", json=body)).raise_for_status()

    named = [f"fact-{number:07}" for number in range(0, facts, max(1, facts // NAMED))][:NAMED]
    return {
        "list by metadata": lambda: get("/facts?metadata=colour=none"),
        "list as of": lambda: get(f"/facts?metadata=colour=none&as_of={version // 2}"),
        "query as of": lambda: query(as_of=version // 2),
        "query as of, two hops": lambda: query(as_of=version // 2, hops=2),
        "query of named facts": lambda: query(include_only=named),
        "export": lambda: get("/tenants/looks/export"),
    }


async def _without_pause(look: Callable[[], Awaitable[None]], took: list[float]) -> None:
    while True:
        began = time.perf_counter()
        await look()
        took.append(time.perf_counter() - began)


async def _gaps(client: httpx.AsyncClient, tokens: int, pid: int) -> list[Gap]:
    """Between two tokens of a text that asks no memory."""
    prompt = "Once upon a time, in a small village by the sea, there lived"
    body = {"prompt": prompt, "max_new_tokens": tokens, "memory": "off", "stream": True}
    at: list[Gap] = []
    async with client.stream("POST", "/generate", json=body) as answer:
        answer.raise_for_status()
        async for line in answer.aiter_lines():
            if line.startswith("data:"):
                at.append((time.perf_counter(), processor_s(pid)))
    return [(b[0] - a[0], b[1] - a[1]) for a, b in itertools.pairwise(at[1:-1])]  # the first and the last event have no token
