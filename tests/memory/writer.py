"""Run as a program: starts an embedded server on a folder and writes until somebody kills it.

    python -m tests.memory.writer FOLDER

Prints `server PID` when ready and `ack VERSION` for each acknowledged change. Its little memory is a function
of the version alone, so whoever recovers the folder knows what must be in it.
"""

from __future__ import annotations

import asyncio
import sys
from dataclasses import replace
from pathlib import Path

from memory.change import Change
from memory.store.connection import connect
from memory.store.embedded.valkey import EmbeddedValkey
from memory.store.redis_store import Recovered, RedisStore
from memory.store.vault import Vault
from tests.memory.changes import MODEL, fact, forget, write

TENANT = "default"
FORGET_EVERY, SNAPSHOT_EVERY, PAGE = 5, 7, 20


def change_at(version: int) -> Change:
    """Each fifth change forgets the fact that was written two changes before it."""
    if version % FORGET_EVERY:
        return replace(write(version), page=version // PAGE)
    return replace(forget(version, version - 2), page=(version - 2) // PAGE)


def state_at(version: int) -> set[int]:
    """The versions whose facts there are at a version."""
    written = {v for v in range(1, version + 1) if v % FORGET_EVERY}
    return written - {v - 2 for v in range(FORGET_EVERY, version + 1, FORGET_EVERY)}


def opened(folder: Path, valkey: EmbeddedValkey) -> RedisStore:
    return RedisStore(connect(valkey.url), vault=Vault(folder / "keys"))


def replayed(recovered: Recovered) -> set[int]:
    """The facts that snapshot and log make together."""
    facts = {fact.version for page in recovered.pages.values() for fact in page.facts}
    for change in recovered.changes:
        facts -= set(change.forgets)
        facts |= {change.version} if change.fact else set()
    return facts


async def work(store: RedisStore) -> None:
    await store.ping()
    recovered = await store.load(TENANT, MODEL)
    version, dirty = recovered.version, {change.page for change in recovered.changes}
    while True:
        version += 1
        change = change_at(version)
        await store.commit(TENANT, change, fingerprint=MODEL)
        print("ack", version, flush=True)
        dirty.add(change.page)
        if version % SNAPSHOT_EVERY == 0:
            alive = state_at(version)
            pages = {page: [fact(v) for v in range(page * PAGE, (page + 1) * PAGE) if v in alive] for page in dirty}
            if await store.snapshot(TENANT, pages, version, MODEL):
                dirty = set()


def main(folder: Path) -> None:
    with EmbeddedValkey(folder) as valkey:
        print("server", valkey.pid, flush=True)
        asyncio.run(work(opened(folder, valkey)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
