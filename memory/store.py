"""Where memories outlive the process: per tenant a log of changes and a snapshot of pages, in Redis."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Literal

from redis.asyncio import Redis
from redis.asyncio.retry import Retry

from memory import lua
from memory.change import Change
from memory.commit import Commit, CommitUnknown
from memory.durability import Durability
from memory.envelope import seal
from memory.errors import StoreCorrupt
from memory.keys import ERASURES, FLOOR, Keys, entry_id, page_field
from memory.link import Link, as_list
from memory.recovery import FINGERPRINT, Recovered, recover
from memory.scrub import Scrub

__all__ = ["CommitUnknown", "Recovered", "RedisStore"]


class RedisStore:
    """The one implementation of persistence. `keys.py` says what is stored under which name.

    Every method may raise StoreUnavailable (no answer, or a refusal: out of memory, read-only, loading);
    those that take a tenant ValueError (its name) and StoreCorrupt (a key of it is none of ours).

    Args:
        client: from `connection.connect`; `close` closes it.
        timeout_s: for a commit or a ping, retries included. What reads or writes whole tenants has the
            client's own time-out for each command.
        embedded: the server's files are ours: an erasure is followed by a rewrite of its append-only file.
        retry: between attempts that lost their connection.
    """

    def __init__(
        self, client: Redis, *, timeout_s: float = 5.0, embedded: bool = False, retry: Retry | None = None
    ) -> None:
        self._link = Link(client, timeout_s=timeout_s, retry=retry)
        self._commit = client.register_script(lua.COMMIT)
        self._snapshot = client.register_script(lua.SNAPSHOT)
        self.scrub = Scrub(client) if embedded else None

    @property
    def durability(self) -> Literal["disk", "memory", "unknown"]:
        """What an acknowledged commit survives; `unknown` until the server has answered (again)."""
        return self._link.durability.level if self._link.durability else "unknown"

    async def ping(self) -> Durability:
        """Asks the server whether it is there and what it promises, and has unfinished erasures finished."""

        async def ask() -> Durability:
            self._link.durability = None
            if self.scrub is not None:
                await self.scrub.resume()
            return await self._link.known_durability()

        return await self._link.call(ask, hurry=True)

    async def close(self) -> None:
        """May be called again."""
        if self.scrub is not None:
            await self.scrub.close()
        await self._link.client.aclose()
        await self._link.client.connection_pool.disconnect()

    async def load(self, tenant: str, fingerprint: str) -> Recovered:
        """Everything of a tenant, as of one version.

        Raises:
            StoreCorrupt: pages or entries are torn, foreign or missing.
            FingerprintMismatch: the log was written with another model.
        """
        return await recover(self._link, Keys(tenant), fingerprint)

    async def commit(
        self,
        tenant: str,
        *changes: Change,
        fingerprint: str,
        erase: Sequence[int] = (),
        pages: Mapping[int, bytes | None] | None = None,
    ) -> None:
        """Appends `changes`, erases log entries and replaces pages in one step, and waits until it is durable.

        Args:
            changes: the first one's version is the tenant's last one plus 1, and the others follow it.
            fingerprint: of the model that made their keys and codes.
            erase: versions whose entries hold facts that these changes forget.
            pages: those that held such facts: index -> new bytes, None to delete.

        Raises:
            VersionConflict: another writer took this version; nothing is written.
            StoreCorrupt: the store has less than the memory had: it lost data, or is an older copy.
            CommitUnknown: it may or may not be written, see there. (A cancelled commit is as unknown.)
            StoreUnavailable: otherwise, and then nothing is written.
        """
        keys = Keys(tenant)
        own = {FINGERPRINT: fingerprint.encode()}
        entries = [[part for item in (change.to_fields() | own).items() for part in item] for change in changes]
        erased = [entry_id(version) for version in erase]
        set_, delete = await _sealed(tenant, pages or {})
        names = [keys.log, keys.pages, *([ERASURES] if self.scrub is not None else [])]
        lists = (erased, set_, delete)
        try:
            await Commit(self._link, self._commit, names, changes[0].version, entries, lists).run(tenant)
        finally:
            if erase and self.scrub is not None:
                self.scrub.request()

    async def snapshot(self, tenant: str, pages: Mapping[int, bytes | None], version: int) -> bool:
        """Writes pages, reads them back, and only then trims the log up to `version`.

        Ended at any point it leaves what `load` can read: until the trim, pages and log overlap.

        Args:
            pages: all that changed since the last snapshot, by replay after a load too; None deletes.
            version: the last one they cover.

        Returns:
            Whether it was done. If others have erased or written since, it would bring back what is gone:
            nothing is trimmed then; catch up and take another.

        Raises:
            StoreCorrupt: other bytes were read back than written, or the store has less than the memory.
        """
        keys = Keys(tenant)
        set_, delete = await _sealed(tenant, pages)
        args: list[int | bytes] = [version, len(set_), *set_, len(delete), *delete]

        async def write() -> list[int]:
            return as_list(await self._snapshot(keys=[keys.log, keys.pages], args=args))

        reply = await self._link.call(write, tenant=tenant)
        if reply[0] == lua.CONFLICT:
            floor, last = reply[1:]
            if last < version:
                raise StoreCorrupt(
                    tenant, f"the store is at version {last}, the memory at {version}: the store lost data"
                )
            assert floor > version
            return False
        for field, sent in zip(set_[::2], set_[1::2], strict=True):
            if not await self._is_stored(keys, field, sent, version):
                return False

        async def trim() -> int:
            return int(
                await self._link.client.xtrim(keys.log, minid=entry_id(version + 1), approximate=False)
            )

        await self._link.call(trim, tenant=tenant)
        return True

    async def _is_stored(self, keys: Keys, field: bytes, sent: bytes, version: int) -> bool:
        """False if a newer version is. Raises StoreCorrupt if it is neither."""

        async def read() -> list[bytes | None]:
            return as_list(await self._link.client.hmget(keys.pages, [FLOOR, field]))

        floor, stored = await self._link.call(read, tenant=keys.tenant)
        if floor is not None and int(floor) > version:
            return False
        if stored != sent:
            raise StoreCorrupt(
                keys.tenant, f"{field.decode()} reads back as other bytes than written; the log is kept"
            )
        return True


async def _sealed(tenant: str, pages: Mapping[int, bytes | None]) -> tuple[list[bytes], list[bytes]]:
    """(field, bytes, field, bytes, ...) to set and fields to delete; hashed on a thread, as pages have
    megabytes."""

    def work() -> list[bytes]:
        return [
            part
            for page, payload in pages.items()
            if payload is not None
            for part in (page_field(page), seal(tenant, page, payload))
        ]

    delete = [page_field(page) for page, payload in pages.items() if payload is None]
    return (await asyncio.to_thread(work) if pages else []), delete
