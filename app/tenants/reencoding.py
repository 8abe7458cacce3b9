"""Re-encodes a tenant's memory for the model at hand: the facts' texts are encoded again and replace the old pages in one step. So a
memory also gets the statement keys that versions before the reader did not make.

Until that step servers of the old model read and write the memory; after it they return `memory_of_another_model`, and servers
of the new model answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace

from memory.episodic import EpisodicMemory
from memory.errors import FingerprintMismatch, MemoryError_, StoreUnavailable
from memory.fact import Fact
from memory.page import PageSettings
from memory.scope.rules import Scope
from memory.store.recovery import Recovered
from memory.store.redis_store import RedisStore
from models.errors import ModelError
from models.model import EncodedFact, Model

BATCH = 64
ATTEMPTS, PAUSE_S = 30, 0.5  # another server may write meanwhile or hold the snapshot lease; the next attempt encodes only new facts


class Unencodable(MemoryError_):
    """A fact cannot be encoded by this model; nothing was changed."""


def _silent(_done: int, _of: int) -> None:
    """Report no progress."""


async def reencode(
    store: RedisStore, tenant: str, model: Model, settings: PageSettings, report: Callable[[int, int], None] = _silent
) -> int | None:
    """Re-encode all facts, history included; returns how many, or None if the memory belongs to this model already, with a statement
    key of each fact where the model makes one.

    Args:
        report: called with the number of facts encoded so far and the number of all.

    Raises:
        Unencodable, StoreCorrupt
        StoreUnavailable: also if other servers changed the memory during every attempt.
    """
    try:
        found = await store.load(tenant, model.fingerprint)
        if model.scope is None or _all_stated(found):
            return None
    except FingerprintMismatch:
        pass
    encoded: dict[int, EncodedFact] = {}  # by version
    for _ in range(ATTEMPTS):
        found = await store.load(tenant, None)
        pages = await asyncio.to_thread(_laid, found, settings)
        facts = [fact for page in pages.values() for fact in page]
        missing = [fact for fact in facts if fact.version not in encoded]
        for at in range(0, len(missing), BATCH):
            batch = missing[at : at + BATCH]
            encoded |= await asyncio.to_thread(_encoded, model, batch)
            report(len(facts) - len(missing) + at + len(batch), len(facts))
        new = {index: [_with(fact, encoded[fact.version]) for fact in page] for index, page in pages.items()}
        if await store.replace(tenant, new, found.version, model.fingerprint):
            return len(facts)
        await asyncio.sleep(PAUSE_S)
    raise StoreUnavailable(f"others changed tenant {tenant} during each of {ATTEMPTS} attempts to encode it")


def _all_stated(found: Recovered) -> bool:
    """Whether every fact there is has a statement key; versions before the reader made none."""
    facts = [fact for page in found.pages.values() for fact in page.facts] + [c.fact for c in found.changes if c.fact is not None]
    alive = found.alive()
    return all(fact.statement is not None for fact in facts if fact.version in alive)


def _laid(found: Recovered, settings: PageSettings) -> dict[int, list[Fact]]:
    """The facts of each page after the last change."""
    facts = [fact for page in found.pages.values() for fact in page.facts] + [c.fact for c in found.changes if c.fact is not None]
    dim = len(facts[0].key) if facts else 1
    memory = EpisodicMemory.restore(dim, settings, Scope(), pages=found.pages, changes=found.changes, version=found.version)
    return memory.laid()


def _encoded(model: Model, facts: Sequence[Fact]) -> dict[int, EncodedFact]:
    """Keys and code of each fact, by its version."""
    new = {}
    for fact, outcome in zip(facts, model.encode_facts([(fact.prompt, fact.target) for fact in facts]), strict=True):
        if isinstance(outcome, ModelError):
            raise Unencodable(f"the fact {fact.id} cannot be encoded by this model: {outcome}; nothing was changed")
        new[fact.version] = outcome
    return new


def _with(fact: Fact, encoded: EncodedFact) -> Fact:
    return replace(fact, key=encoded.key, code=encoded.code, statement=encoded.statement)
