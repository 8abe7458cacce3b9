"""Reading all of a tenant, as of one version, while others may be writing."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from memory.change import Change
from memory.envelope import unseal
from memory.errors import FingerprintMismatch, MemoryError_, StoreCorrupt, StoreUnavailable
from memory.keys import FLOOR, Keys, page_of
from memory.link import Link

FINGERPRINT, NONCE = b"fingerprint", b"nonce"  # what an entry holds beside the change's own fields
_ENTRIES = 256  # read at a time: about 2 MB
_ATTEMPTS = 5


@dataclass(frozen=True)
class Recovered:
    """What the store has of one tenant.

    pages: index -> bytes as they were given to `commit` or `snapshot`, verified.
    changes: what is in the log, oldest first. Pages may cover some of them already; erased ones are missing.
    version: the last one committed, 0 for a new tenant; at least that of the last change.
    """

    pages: dict[int, bytes] = field(default_factory=dict)
    changes: list[Change] = field(default_factory=list)
    version: int = 0


async def recover(link: Link, keys: Keys, fingerprint: str) -> Recovered:
    """Pages first, then the log up to the version it had before; all over again when pages were written
    meanwhile, since the log may have been trimmed up to those.

    Raises:
        StoreCorrupt, FingerprintMismatch, StoreUnavailable
    """
    for _ in range(_ATTEMPTS):
        floor, version, fields = await _survey(link, keys)
        if version is None:
            if fields:
                raise StoreCorrupt(keys.tenant, "there are pages but no log: changes are lost")
            return Recovered()
        if floor > version:
            raise StoreCorrupt(
                keys.tenant, f"its pages are at version {floor}, its log at {version}: changes are lost"
            )
        pages = await _pages(link, keys, fields)
        changes = await _changes(link, keys, version, fingerprint)
        if (await _survey(link, keys))[0] == floor:
            return Recovered(pages, changes, version)
    raise StoreUnavailable(
        f"others changed tenant {keys.tenant} during each of {_ATTEMPTS} attempts to load it"
    )


async def _survey(link: Link, keys: Keys) -> tuple[int, int | None, list[bytes]]:
    """The floor, the last version (None without a log) and the fields of the pages' hash, at one moment."""

    async def ask() -> list[Any]:
        async with link.client.pipeline(transaction=True) as pipe:
            pipe.hget(keys.pages, FLOOR)
            pipe.hkeys(keys.pages)
            pipe.exists(keys.log)
            pipe.xinfo_stream(keys.log)
            replies = await pipe.execute(raise_on_error=False)
        if not replies[2]:
            replies[3] = None
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
        return replies

    floor, fields, _, info = await link.call(ask, tenant=keys.tenant)
    return int(floor or 0), None if info is None else _version(_last_id(info)), fields


def _last_id(info: Mapping[Any, Any]) -> bytes:
    return cast("bytes", info["last-generated-id"])


def _version(entry: bytes) -> int:
    return int(entry.partition(b"-")[0])


async def _pages(link: Link, keys: Keys, fields: list[bytes]) -> dict[int, bytes]:
    pages: dict[int, bytes] = {}
    for name in fields:
        if name == FLOOR:
            continue
        if (page := page_of(name)) is None:
            raise StoreCorrupt(keys.tenant, f"unknown field {name[:40]!r} among the pages")

        async def get(name: bytes = name) -> bytes | None:
            return cast("bytes | None", await link.client.hget(keys.pages, name))

        if (
            sealed := await link.call(get, tenant=keys.tenant)
        ) is not None:  # else deleted since: the floor tells
            pages[page] = await asyncio.to_thread(unseal, keys.tenant, page, sealed)
    return pages


async def _changes(link: Link, keys: Keys, version: int, fingerprint: str) -> list[Change]:
    changes: list[Change] = []
    start = "-"
    while True:

        async def read(start: str = start) -> list[tuple[bytes, dict[bytes, bytes]]]:
            entries = await link.client.xrange(keys.log, start, f"{version}-0", count=_ENTRIES)
            return cast("list[tuple[bytes, dict[bytes, bytes]]]", entries)

        entries = await link.call(read, tenant=keys.tenant)
        changes += [_change(keys.tenant, entry, fields, fingerprint) for entry, fields in entries]
        if len(entries) < _ENTRIES:
            return changes
        start = f"({entries[-1][0].decode()}"


def _change(tenant: str, entry: bytes, fields: Mapping[bytes, bytes], fingerprint: str) -> Change:
    wrote = fields.get(FINGERPRINT, b"").decode(errors="replace")
    if wrote != fingerprint:
        raise FingerprintMismatch(wrote, fingerprint)
    own = {name: value for name, value in fields.items() if name not in (FINGERPRINT, NONCE)}
    try:
        change = Change.from_fields(own)
    except (MemoryError_, ValueError, KeyError) as error:
        raise StoreCorrupt(tenant, f"log entry {entry.decode()} is damaged: {error}") from error
    if entry != b"%d-0" % change.version:
        raise StoreCorrupt(tenant, f"log entry {entry.decode()} holds version {change.version}")
    return change
