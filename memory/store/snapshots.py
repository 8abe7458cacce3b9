"""Takes a tenant's snapshot: written in parts beside the current one, verified, by one server at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from memory.errors import CorruptPage, StoreCorrupt
from memory.fact import Fact
from memory.packed_fact import pack
from memory.store import lua, snapshot_format
from memory.store.key_names import FLOOR, Keys
from memory.store.link import Link
from memory.store.sealed_record import DataKey
from memory.store.snapshot_format import Manifest

LEASE_MS = 10_000  # each part that is written renews it


@dataclass(frozen=True, eq=False)
class Pages:
    """Pages to store.

    Attributes:
        facts: of each page, in row order.
        fingerprint: of the model that made their keys and codes.
        data_keys: of each version that wrote one of them.
    """

    facts: Mapping[int, Sequence[Fact]]
    fingerprint: str
    data_keys: Mapping[int, Mapping[bytes, DataKey]]


class Snapshots:
    """Writes snapshots under a lease, so that two servers do not do the same work. The lease's token fences: the store refuses writes
    under an expired lease, so a server that was stopped for a while cannot put old pages over new ones."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def take(self, keys: Keys, pages: Pages, version: int) -> bool:
        """As RedisStore.snapshot."""
        if await self._floor(keys) >= version:
            return True  # another server's snapshot covers this version
        token = await self._acquire(keys)
        if token is None:
            return False
        manifests = await self._laid_beside(keys, token, pages, version)
        return manifests is not None and await self._put_in_place(keys, token, version, manifests)

    async def replace(self, keys: Keys, pages: Pages, version: int) -> bool:
        """As RedisStore.replace."""
        token = await self._acquire(keys)
        if token is None:
            return False
        manifests = await self._laid_beside(keys, token, pages, version + 1)
        if manifests is None:
            return False
        scripted, args = [keys.log, keys.pages, keys.lease, keys.parts], [token, version, len(manifests), *manifests]
        reply = await self._link.call(lambda: self._link.run(lua.REPLACE, scripted, args), tenant=keys.tenant)
        return bool(reply[0] == lua.COMMITTED)

    async def _laid_beside(self, keys: Keys, token: int, pages: Pages, covered: int) -> list[str | bytes] | None:
        """Write the pages' parts beside the current ones, and read them back; returns page numbers and manifests in turn, or None if
        the lease ran out."""
        manifests: list[str | bytes] = []
        for page, facts in pages.facts.items():
            raw = await asyncio.to_thread(_sealed, keys.tenant, facts, pages.data_keys)
            manifest = Manifest.of(keys.tenant, page, raw, covered=covered, fingerprint=pages.fingerprint, facts=len(facts), token=token)
            for field, part in zip(manifest.fields, snapshot_format.cut(raw), strict=True):
                if not await self._write(keys, token, field, part):
                    return None
            if not await self._is_stored(keys, manifest):
                return None
            manifests += [str(page), manifest.to_bytes()]
        return manifests

    async def _floor(self, keys: Keys) -> int:
        async def get() -> bytes | None:
            return cast("bytes | None", await self._link.near(keys.pages).hget(keys.pages, FLOOR))

        return int(await self._link.call(get, tenant=keys.tenant) or 0)

    async def _acquire(self, keys: Keys) -> int | None:
        async def acquire() -> list[int]:
            return await self._link.run(lua.LEASE, [keys.log, keys.pages, keys.lease, keys.fence], [LEASE_MS])

        reply = await self._link.call(acquire, tenant=keys.tenant)
        return None if reply[0] == lua.FENCED else int(reply[1])

    async def _write(self, keys: Keys, token: int, field: bytes, part: bytes) -> bool:
        async def write() -> list[int]:
            scripted = [keys.log, keys.pages, keys.lease, keys.parts]
            return await self._link.run(lua.PART, scripted, [token, LEASE_MS, field, part])

        return (await self._link.call(write, tenant=keys.tenant))[0] == lua.COMMITTED

    async def _is_stored(self, keys: Keys, manifest: Manifest) -> bool:
        """Whether the parts read back whole; False if the lease ran out: others may have deleted them. Raises StoreCorrupt."""

        async def get() -> list[bytes | None]:
            client = self._link.near(keys.parts)
            parts = cast("list[bytes | None]", await client.hmget(keys.parts, manifest.fields))
            return [*parts, cast("bytes | None", await client.get(keys.lease))]

        *parts, lease = await self._link.call(get, tenant=keys.tenant)
        if lease != b"%d" % manifest.token:
            return False
        try:
            await asyncio.to_thread(manifest.check, keys.tenant, b"".join(part or b"" for part in parts))
            return True
        except CorruptPage as error:
            raise StoreCorrupt(keys.tenant, f"a page reads back as other bytes than written ({error}); the log is kept") from error

    async def _put_in_place(self, keys: Keys, token: int, version: int, manifests: Sequence[Any]) -> bool:
        async def switch() -> list[int]:
            scripted = [keys.log, keys.pages, keys.lease, keys.parts]
            return await self._link.run(lua.SWITCH, scripted, [token, version, len(manifests), *manifests])

        reply = await self._link.call(switch, tenant=keys.tenant)
        if reply[0] == lua.CONFLICT:
            floor, last = reply[1:]
            if last < version:
                raise StoreCorrupt(keys.tenant, f"the store is at version {last}, the memory at {version}: the store lost data")
            assert floor > version
        return reply[0] == lua.COMMITTED


def _sealed(tenant: str, facts: Sequence[Fact], data_keys: Mapping[int, Mapping[bytes, DataKey]]) -> bytes:
    """The page's bytes, without facts whose data key is gone: another server has forgotten them since."""
    records = []
    for fact in facts:
        for data_key in list(data_keys.get(fact.version, {}).values())[:1]:
            records.append((fact.version, data_key.seal(tenant, fact.version, pack(fact))))
    return snapshot_format.join(records)
