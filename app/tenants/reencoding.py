"""A tenant's memory anew for the model at hand: its facts' texts are encoded again, and put in place in one step.

Until that step servers of the model before read and write the memory as ever; after it they answer
`memory_of_another_model`, and servers of the new model answer.
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
    """Returns how many facts were encoded, those of history included; None if the memory is of this model already.

    Args:
        report: told how many facts are encoded, and of how many.

    Raises:
        Unencodable, StoreCorrupt; StoreUnavailable also where others keep changing the memory.
    """
    try:
        await store.load(tenant, model.fingerprint)
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
