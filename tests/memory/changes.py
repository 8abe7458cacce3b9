"""Small changes for tests of the store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from memory.change import Change
from memory.fact import Fact
from memory.packed_fact import describe, pack
from memory.store.redis_store import RedisStore

MODEL = "f" * 64


def fact(version: int, text: str = "the rocket is red") -> Fact:
    generator = torch.Generator().manual_seed(version)
    key, code = torch.randn(896, generator=generator), torch.randn(1024, generator=generator)
    return Fact(f"fact-{version}", f"{text} {version}", "yes", key / key.norm(), code, 1.5, {"source": "test"}, version)


def write(version: int, text: str = "the rocket is red", forgets: Sequence[int] = ()) -> Change:
    return Change(version, "write", 0, fact(version, text), tuple(forgets))


def forget(version: int, *versions: int) -> Change:
    return Change(version, "forget", 0, forgets=versions)


async def fill(store: RedisStore, tenant: str, last: int, text: str = "the rocket is red") -> list[Change]:
    changes = [write(version, text) for version in range(1, last + 1)]
    for change in changes:
        await store.commit(tenant, change, fingerprint=MODEL)
    return changes


def plain(changes: Sequence[Change]) -> list[Any]:
    """Changes in a form that can be compared."""
    return [(change.head(), pack(change.fact) if change.fact else None) for change in changes]


def texts(facts: Sequence[Fact]) -> list[str]:
    return [str(describe(fact)["prompt"]) for fact in facts]
