"""Recovery: reads all of a tenant as of one version, while other servers may write."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, cast

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from memory import packed_fact
from memory.change import FACT, FINGERPRINT, Change
from memory.errors import CorruptChange, CorruptPage, CorruptRecord, FingerprintMismatch, MemoryError_, StoreCorrupt, StoreUnavailable
from memory.fact import Fact
from memory.page import StoredPage
from memory.store import sealed_record, snapshot_format
from memory.store.key_names import FLOOR, REACH, Keys, entry_id, page_of
from memory.store.link import Link
from memory.store.sealed_record import DataKey
from memory.store.snapshot_format import Manifest
from memory.store.vault import Vault

_ENTRIES = 256  # read at a time: about 2 MB
_KEYS = 4096  # read at a time
_ATTEMPTS = 5
DataKeys = Mapping[int, Mapping[bytes, DataKey]]  # version -> key id -> data key
SealedPages = Mapping[int, tuple[Manifest, Sequence[tuple[int, bytes]]]]  # index -> manifest, and its facts' versions and records
Entries = Sequence[tuple[Change, bytes | None]]  # changes and their sealed facts


@dataclass(frozen=True)
class Recovered:
    """A tenant as the store has it.

    pages: index -> verified page of the snapshot, without facts forgotten since.
    changes: of the log, oldest first; pages may cover some of them already. A write whose fact was forgotten since has
        no fact.
    version: the last committed one, 0 for a new tenant; greater than the last change's if a snapshot covers more.
    repaired: pages that were rebuilt from an older snapshot and the log, and the reason of each.
    """

    pages: dict[int, StoredPage] = field(default_factory=dict)
    changes: list[Change] = field(default_factory=list)
    version: int = 0
    repaired: dict[int, str] = field(default_factory=dict)

    def alive(self) -> set[int]:
        """The versions that wrote the facts that still exist."""
        found = {fact.version for page in self.pages.values() for fact in page.facts}
        found |= {change.version for change in self.changes if change.fact is not None}
        return found - {version for change in self.changes for version in change.forgets}


@dataclass(frozen=True)
class Salvaged:
    """The readable facts of a tenant, the number of unreadable records, and the fingerprint of its model (empty: unknown)."""

    facts: list[Fact]
    unreadable: int
    fingerprint: str


@dataclass(frozen=True)
class _Survey:
    """A tenant's pages and the extent of its log, at one moment."""

    floor: int
    reach: int
    version: int
    manifests: dict[tuple[str, int], bytes]


class Recovery:
    """Reads one tenant.

    Args:
        vault: has the tenant's data keys; None if the store has them.
        fingerprint: of the model that must have written it; None for any.
    """

    def __init__(self, link: Link, keys: Keys, vault: Vault | None, fingerprint: str | None) -> None:
        self._link, self._keys, self._vault, self._fingerprint = link, keys, vault, fingerprint

    @property
    def _near(self) -> Redis:
        """The client of the server that holds the tenant."""
        return self._link.near(self._keys.log)

    async def recover(self) -> Recovered:
        """Read pages, then the log, then data keys; start again if a drop or two snapshots delete some of them meanwhile.

        Raises:
            StoreCorrupt, FingerprintMismatch, StoreUnavailable
        """
        for _ in range(_ATTEMPTS):
            survey = await self._survey()
            if survey is None:
                return Recovered()
            try:
                return await self._recovered(survey)
            except StoreCorrupt:
                after = await self._survey()
                if after is not None and after.floor == survey.floor:
                    raise
        raise StoreUnavailable(f"others changed tenant {self._keys.tenant} during each of {_ATTEMPTS} attempts to load it")

    async def _recovered(self, survey: _Survey) -> Recovered:
        """The tenant as of the survey. If data keys are missing, the log is read to its end: it must name their facts as forgotten
        since, or the tenant is damaged."""
        pages, repaired = await self._pages(survey)
        start = min([survey.floor, *(pages[page][0].covered if page in pages else 0 for page in repaired)])
        version, entries = survey.version, await self._entries(start, survey.version)
        self._check_gaps(start, version, entries)
        data_keys = dict(await self.data_keys([*_stored(pages), *_written(entries)]))
        while lost := await asyncio.to_thread(_lost, pages, entries, data_keys):
            more = await self._entries(version, None)
            self._check_gaps(version, version + len(more), more)
            if lost := lost - {gone for change, _ in more for gone in change.forgets}:
                reason = f"the data keys of {len(lost)} facts are missing, the first that of version {min(lost)}"
                raise StoreCorrupt(self._keys.tenant, reason)
            data_keys |= await self.data_keys(_written(more))
            version, entries = version + len(more), entries + more
        recovered = await asyncio.to_thread(self._open, pages, entries, data_keys, version)
        recovered.repaired.update(repaired)
        return recovered

    async def follow(self, version: int) -> list[Change] | None:
        """The changes after `version`; None if the log does not reach back so far.

        Raises:
            StoreCorrupt, FingerprintMismatch, StoreUnavailable
        """
        last = await self._last_version()
        if last < version:
            raise StoreCorrupt(self._keys.tenant, f"the store is at version {last}, the memory at {version}: the store lost data")
        if last == version:
            return []
        entries = await self._entries(version, last)
        if len(entries) != last - version or any(change.version != wanted for wanted, (change, _) in enumerate(entries, version + 1)):
            return None
        sealed = {change.version: raw for change, raw in entries if raw is not None}
        data_keys = await self.data_keys(list(sealed))
        return [self._opened(change, raw, data_keys) for change, raw in entries]

    async def salvage(self) -> Salvaged:
        """All facts that can be read from parts and log, complete or not: each record is authenticated by itself."""
        keys = self._keys

        async def parts() -> dict[bytes, bytes]:
            return cast("dict[bytes, bytes]", await self._near.hgetall(keys.parts))

        async def log() -> list[tuple[bytes, dict[bytes, bytes]]]:
            return cast("list[tuple[bytes, dict[bytes, bytes]]]", await self._near.xrange(keys.log))

        stored = await self._link.call(parts, tenant=keys.tenant)
        runs: dict[bytes, list[tuple[int, bytes]]] = {}
        for name, part in stored.items():
            page, _, number = name.rpartition(b":")
            runs.setdefault(page, []).append((int(number), part))
        records = [found for run in runs.values() for found in snapshot_format.split(b"".join(part for _, part in sorted(run)))]
        gone: set[int] = set()
        fingerprint = ""
        for entry, fields in await self._link.call(log, tenant=keys.tenant):
            version = int(entry.partition(b"-")[0])
            with suppress(CorruptChange):
                gone |= set(Change.from_fields(fields).forgets)
                fingerprint = fields[FINGERPRINT].decode()
            if FACT in fields:
                records.append((version, fields[FACT]))
        data_keys = await self.data_keys(sorted({version for version, _ in records}))
        facts: dict[int, Fact] = {}
        unreadable: set[int] = set()
        for version, sealed in records:
            try:
                if version not in gone and (fact := self._fact(version, sealed, data_keys)) is not None:
                    facts[version] = fact
            except StoreCorrupt:
                unreadable.add(version)
        return Salvaged(list(facts.values()), len(unreadable - facts.keys()), fingerprint)

    async def _last_version(self) -> int:
        async def ask() -> int:
            try:
                info = await self._near.xinfo_stream(self._keys.log)
            except ResponseError as error:
                if "no such key" in str(error):
                    return 0
                raise
            return _version_of(info)

        return await self._link.call(ask, tenant=self._keys.tenant)

    async def _survey(self) -> _Survey | None:
        """The tenant's survey; None if it was never written."""
        keys = self._keys

        async def ask() -> list[Any]:
            async with self._near.pipeline(transaction=True) as pipe:
                pipe.hgetall(keys.pages)
                pipe.exists(keys.log)
                pipe.xinfo_stream(keys.log)
                replies = await pipe.execute(raise_on_error=False)
            if not replies[1]:
                replies[2] = None
            for reply in replies:
                if isinstance(reply, Exception):
                    raise reply
            return replies

        fields, _, info = await self._link.call(ask, tenant=keys.tenant)
        if info is None:
            if fields:
                raise StoreCorrupt(keys.tenant, "there are pages but no log: changes are lost")
            return None
        floor, reach = (self._number(fields, name) for name in (FLOOR, REACH))
        version = _version_of(info)
        if floor > version:
            raise StoreCorrupt(keys.tenant, f"its pages are at version {floor}, its log at {version}: changes are lost")
        manifests: dict[tuple[str, int], bytes] = {}
        for name, raw in fields.items():
            if (page := page_of(name)) is None:
                raise StoreCorrupt(keys.tenant, f"unknown field {name[:40]!r} among the pages")
            manifests[page] = raw
        return _Survey(floor, reach, version, manifests)

    def _number(self, fields: dict[bytes, bytes], name: bytes) -> int:
        """Remove the field and return its number; 0 if it is missing."""
        raw = fields.pop(name, b"0")
        if not raw.isdigit():
            raise StoreCorrupt(self._keys.tenant, f"its {name.decode()} is {raw[:40]!r}, wanted a version")
        return int(raw)

    def _check_gaps(self, after: int, last: int, entries: Entries) -> None:
        found, wanted = {change.version for change, _ in entries}, range(after + 1, last + 1)  # a damaged number would make this range huge
        if missing := len(wanted) - sum(version in wanted for version in found):
            first = next(version for version in wanted if version not in found)
            raise StoreCorrupt(self._keys.tenant, f"{missing} changes are missing in its log, the first is version {first}")

    async def _pages(self, survey: _Survey) -> tuple[dict[int, tuple[Manifest, list[tuple[int, bytes]]]], dict[int, str]]:
        """Each page's manifest and records; and the reason for each page that an older snapshot replaces."""
        pages: dict[int, tuple[Manifest, list[tuple[int, bytes]]]] = {}
        older: dict[int, str] = {}
        for page in sorted({page for _, page in survey.manifests}):
            try:
                pages[page] = await self._page(survey.manifests.get(("page", page), b""), page)
            except CorruptPage as error:
                older[page] = str(error)
                try:
                    pages[page] = await self._page(survey.manifests.get(("old", page), b""), page)
                except CorruptPage:
                    if survey.reach:
                        raise StoreCorrupt(self._keys.tenant, f"{error}, and the log does not reach back so far") from error
        return pages, older

    async def _page(self, raw: bytes, page: int) -> tuple[Manifest, list[tuple[int, bytes]]]:
        manifest = Manifest.from_bytes(raw)
        if self._fingerprint not in (None, manifest.fingerprint):
            raise FingerprintMismatch(manifest.fingerprint, str(self._fingerprint))
        if manifest.page != page:
            raise CorruptPage(f"page {page} holds page {manifest.page}")

        async def get() -> list[bytes | None]:
            return cast("list[bytes | None]", await self._near.hmget(self._keys.parts, manifest.fields))

        parts = await self._link.call(get, tenant=self._keys.tenant)
        content = b"".join(part or b"" for part in parts)
        await asyncio.to_thread(manifest.check, self._keys.tenant, content)
        return manifest, list(snapshot_format.split(content))

    async def _entries(self, after: int, last: int | None) -> list[tuple[Change, bytes | None]]:
        """Changes and their sealed facts, after version `after` up to `last`."""
        entries: list[tuple[Change, bytes | None]] = []
        start, end = entry_id(after + 1), "+" if last is None else entry_id(last)
        while True:

            async def read(start: str = start) -> list[tuple[bytes, dict[bytes, bytes]]]:
                found = await self._near.xrange(self._keys.log, start, end, count=_ENTRIES)
                return cast("list[tuple[bytes, dict[bytes, bytes]]]", found)

            found = await self._link.call(read, tenant=self._keys.tenant)
            entries += [self._entry(entry, fields) for entry, fields in found]
            if len(found) < _ENTRIES:
                return entries
            start = f"({found[-1][0].decode()}"

    def _entry(self, entry: bytes, fields: Mapping[bytes, bytes]) -> tuple[Change, bytes | None]:
        tenant, wrote = self._keys.tenant, fields.get(FINGERPRINT, b"").decode(errors="replace")
        try:
            change = Change.from_fields(fields)
        except MemoryError_ as error:
            raise StoreCorrupt(tenant, f"log entry {entry.decode()} is damaged: {error}") from error
        if entry != b"%d-0" % change.version:
            raise StoreCorrupt(tenant, f"log entry {entry.decode()} holds version {change.version}")
        if self._fingerprint not in (None, wrote):
            raise FingerprintMismatch(wrote, str(self._fingerprint))
        return change, fields.get(FACT)

    async def data_keys(self, versions: Sequence[int]) -> DataKeys:
        if self._vault is not None:
            return await asyncio.to_thread(self._vault.get, self._keys.tenant, versions)
        found: dict[int, Mapping[bytes, DataKey]] = {}
        for at in range(0, len(versions), _KEYS):
            some = versions[at : at + _KEYS]

            async def get(some: Sequence[int] = some) -> list[bytes | None]:
                return cast("list[bytes | None]", await self._near.hmget(self._keys.data_keys, list(map(str, some))))

            for version, raw in zip(some, await self._link.call(get, tenant=self._keys.tenant), strict=True):
                if raw is not None:
                    data_key = self._data_key(raw)
                    found[version] = {data_key.id: data_key}
        return found

    def _data_key(self, raw: bytes) -> DataKey:
        try:
            return DataKey.of(raw)
        except CorruptRecord as error:
            raise StoreCorrupt(self._keys.tenant, str(error)) from error

    def _open(self, pages: SealedPages, entries: Entries, data_keys: DataKeys, version: int) -> Recovered:
        stored = {}
        for page, (manifest, records) in pages.items():
            facts = (self._fact(version, sealed, data_keys) for version, sealed in records)
            stored[page] = StoredPage(manifest.covered, tuple(fact for fact in facts if fact is not None))
        return Recovered(stored, [self._opened(change, sealed, data_keys) for change, sealed in entries], version)

    def _opened(self, change: Change, sealed: bytes | None, data_keys: DataKeys) -> Change:
        return change if sealed is None else replace(change, fact=self._fact(change.version, sealed, data_keys))

    def _fact(self, version: int, sealed: bytes, data_keys: DataKeys) -> Fact | None:
        """None if its data key is gone."""
        data_key = data_keys.get(version, {}).get(sealed_record.key_id(sealed))
        if data_key is None:
            return None
        try:
            fact = packed_fact.unpack(data_key.open(self._keys.tenant, version, sealed))
        except MemoryError_ as error:
            raise StoreCorrupt(self._keys.tenant, str(error)) from error
        return fact


def _version_of(info: Mapping[Any, Any]) -> int:
    return int(cast("bytes", info["last-generated-id"]).partition(b"-")[0])


def _stored(pages: SealedPages) -> list[int]:
    """The versions whose facts are in pages."""
    return [version for _, records in pages.values() for version, _ in records]


def _written(entries: Entries) -> list[int]:
    """The versions whose facts are in log entries."""
    return [change.version for change, sealed in entries if sealed is not None]


def _lost(pages: SealedPages, entries: Entries, data_keys: DataKeys) -> set[int]:
    """The versions of facts that no later change forgets and of which no record has its data key."""
    records = [found for _, page in pages.values() for found in page]
    records += [(change.version, sealed) for change, sealed in entries if sealed is not None]
    readable = {version for version, sealed in records if sealed_record.key_id(sealed) in data_keys.get(version, {})}
    return {version for version, _ in records} - readable - {gone for change, _ in entries for gone in change.forgets}
