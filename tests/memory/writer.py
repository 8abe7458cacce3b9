"""Run as a program: starts an embedded server on a folder and writes until somebody kills it.

    python -m tests.memory.writer FOLDER

Prints `server PID` when ready and `ack VERSION` for each acknowledged change. Its little memory is a function
of the version alone, so whoever recovers the folder knows what must be in it.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import torch

from memory.change import Change
from memory.connection import connect
from memory.embedded import EmbeddedValkey
from memory.fact import Fact
from memory.store import Recovered, RedisStore

TENANT, MODEL = "default", "model"
FORGET_EVERY, SNAPSHOT_EVERY = 5, 7


def change_at(version: int) -> Change:
    """Each fifth change forgets the fact that was written two changes before it."""
    if version % FORGET_EVERY == 0:
        return Change(version=version, kind="forget", fact=None, page=0, forgets=(f"fact-{version - 2}",))
    generator = torch.Generator().manual_seed(version)
    key, code = torch.randn(896, generator=generator), torch.randn(1024, generator=generator)
    fact = Fact(f"fact-{version}", f"prompt {version}", "target", key, code, 1.0, {}, version)
    return Change(version=version, kind="write", fact=fact, page=0, forgets=())


def state_at(version: int) -> set[str]:
    """The facts there are at a version."""
    written = {f"fact-{v}" for v in range(1, version + 1) if v % FORGET_EVERY}
    return written - {f"fact-{v - 2}" for v in range(FORGET_EVERY, version + 1, FORGET_EVERY)}


def page_at(version: int) -> bytes:
    return json.dumps({"version": version, "facts": sorted(state_at(version))}).encode()


def replayed(recovered: Recovered) -> set[str]:
    """The facts that snapshot and log make together."""
    page = json.loads(recovered.pages.get(0, b'{"version": 0, "facts": []}'))
    facts = set(page["facts"])
    for change in recovered.changes:
        if change.version > page["version"]:
            facts -= set(change.forgets)
            facts |= {change.fact.id} if change.fact else set()
    return facts


async def work(url: str) -> None:
    store = RedisStore(connect(url), embedded=True)
    await store.ping()
    version = (await store.load(TENANT, MODEL)).version
    while True:
        version += 1
        change = change_at(version)
        erase, pages = ([version - 2], {0: page_at(version)}) if change.kind == "forget" else ([], {})
        await store.commit(TENANT, change, fingerprint=MODEL, erase=erase, pages=dict(pages))
        print("ack", version, flush=True)
        if version % SNAPSHOT_EVERY == 0:
            await store.snapshot(TENANT, {0: page_at(version)}, version)


def main(folder: Path) -> None:
    with EmbeddedValkey(folder) as valkey:
        print("server", valkey.pid, flush=True)
        asyncio.run(work(valkey.url))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
