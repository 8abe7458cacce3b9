"""The vault: data keys of the embedded store, in one file per tenant beside the server's files.

A server's append-only file keeps every value until the file is rewritten: 175 to 350 ms for 10,000 facts on two cores, 60 to
130 ms for their keys alone. Here a record of 64 bytes is overwritten in place and synced in 0.1 to 4 ms, independent of their
number. Without its data key, the rest of a forgotten fact in the server's files is noise. (A copy-on-write file system, or a
disk that remaps blocks, keeps the old block until it is reused.)
"""

from __future__ import annotations

import hashlib
import math
import os
import struct
import threading
import time
import zlib
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from weakref import WeakValueDictionary

from memory.errors import StoreUnavailable
from memory.store.commit import HINDSIGHT_S
from memory.store.sealed_record import DataKey

_MAGIC = b"LARIMAR-KEYS\x01".ljust(64, b"\0")
_BODY = struct.Struct("<Q40s")  # version and data key; a CRC-32 follows
_SIZE = 64  # of a record, padded: none crosses a sector
_EMPTY = bytes(_SIZE)
INDEX_BYTES = 64 << 20  # of all indexes: half a million facts. An evicted index is read again, in 2 ms for 1,000 facts
_TENANT_BYTES, _ENTRY_BYTES = 512, 128  # of an index, and of each record in it


@dataclass
class _File:
    """The index of a tenant's file: records of each version, free records, and the end."""

    places: dict[int, list[int]] = field(default_factory=dict)
    free: list[int] = field(default_factory=list)
    end: int = 1
    counted: int = 0  # bytes that the vault has counted for it

    @property
    def size_bytes(self) -> int:
        return _TENANT_BYTES + _ENTRY_BYTES * self.end

    def take(self) -> int:
        if self.free:
            return self.free.pop()
        self.end += 1
        return self.end - 1


class Vault:
    """Data keys by version. Methods block; their writes are on disk when they return.

    Args:
        folder: made if missing, with mode 0700.
        index_bytes: the most of all held indexes; the last used one is held at any size.

    Every method raises StoreUnavailable if a file cannot be read or written.
    """

    def __init__(self, folder: Path, *, index_bytes: int = INDEX_BYTES) -> None:
        self.folder, self._index_bytes = folder, index_bytes
        self.size_bytes = 0  # of the held indexes, about
        self._files: OrderedDict[str, _File] = OrderedDict()  # least recently used first
        self._turns: WeakValueDictionary[str, threading.Lock] = WeakValueDictionary()  # one thread at a time works on a tenant's file
        self._put_at: dict[str, float] = {}  # tenants with a `put` in the last HINDSIGHT_S -> its time, the oldest first
        self._guard = threading.Lock()  # of the attributes above

    def get(self, tenant: str, versions: Collection[int]) -> dict[int, dict[bytes, DataKey]]:
        """The data keys of these versions: version -> key id -> data key. A version has several only if a commit was given up and
        repeated. A concurrent `put` waits while the file is read, not while it is parsed."""
        with self._turn(tenant):
            known = self._known(tenant).places
            places = [(version, place) for version in versions for place in known.get(version, ())]
            raw = self._raw(tenant)
        found: dict[int, dict[bytes, DataKey]] = {}
        for version, place in places:
            if (stored := _record_at(raw, place)) is not None and stored[0] == version:
                data_key = DataKey.of(stored[1])
                found.setdefault(version, {})[data_key.id] = data_key
        return found

    def put(self, tenant: str, keys: Mapping[int, DataKey]) -> None:
        """Add data keys, before the commit is sent."""
        with self._turn(tenant):
            self._note_put(tenant)
            file = self._known(tenant)
            writes = {}
            for version, key in keys.items():
                place = file.take()
                writes[place] = _record(version, key)
                file.places.setdefault(version, []).append(place)
            self._write(tenant, writes)

    def erase(self, tenant: str, versions: Collection[int]) -> None:
        """Overwrite the data keys of these versions."""
        with self._turn(tenant):
            self._erase(tenant, versions)

    def sweep(self, tenant: str, alive: Callable[[], Collection[int]], forgotten: Collection[int]) -> None:
        """Overwrite the data keys of facts whose forgetting was interrupted, and of commits that never succeeded.

        Args:
            alive: returns the versions of existing facts. Other keys stay while a commit may still succeed (HINDSIGHT_S).
        """
        with self._turn(tenant):
            gone = set(forgotten)
            with self._guard:
                settled = time.monotonic() - self._put_at.get(tenant, -math.inf) > HINDSIGHT_S
            if settled:
                gone |= self._known(tenant).places.keys() - alive()
            self._erase(tenant, gone)

    def _erase(self, tenant: str, versions: Collection[int]) -> None:
        file = self._known(tenant)
        gone = [place for version in versions for place in file.places.pop(version, ())]
        self._write(tenant, dict.fromkeys(gone, _EMPTY))
        file.free += gone

    def _note_put(self, tenant: str) -> None:
        now = time.monotonic()
        with self._guard:
            self._put_at.pop(tenant, None)
            self._put_at[tenant] = now
            while now - self._put_at[oldest := next(iter(self._put_at))] > HINDSIGHT_S:
                del self._put_at[oldest]

    def drop(self, tenant: str) -> int:
        """Overwrite all data keys of a tenant and remove its file, even a damaged one; returns their number."""
        with self._turn(tenant):
            self._release(tenant)
            with self._guard:
                self._put_at.pop(tenant, None)
            path = self._path(tenant)
            try:
                if not path.exists():
                    return 0
                with path.open("r+b", buffering=0) as file:
                    raw = file.readall()
                    file.seek(0)
                    file.write(bytes(len(raw)))
                    os.fdatasync(file.fileno())
                path.unlink()
                _sync_folder(self.folder)
            except OSError as error:
                raise _unavailable(path, error) from error
            return sum(_record_at(raw, place) is not None for place in range(1, len(raw) // _SIZE))

    @contextmanager
    def _turn(self, tenant: str) -> Iterator[None]:
        with self._guard:
            turn = self._turns.setdefault(tenant, threading.Lock())  # exists while a thread has it or waits for it
        with turn:
            yield
            self._weigh(tenant)

    def _weigh(self, tenant: str) -> None:
        """Count the tenant's index, and evict the least recently used ones above the bound."""
        with self._guard:
            if (file := self._files.get(tenant)) is None:
                return
            self._files.move_to_end(tenant)
            self.size_bytes += file.size_bytes - file.counted
            file.counted = file.size_bytes
            while self.size_bytes > self._index_bytes and len(self._files) > 1:
                _, oldest = self._files.popitem(last=False)
                self.size_bytes -= oldest.counted

    def _release(self, tenant: str) -> None:
        """Evict the tenant's index."""
        with self._guard:
            if (file := self._files.pop(tenant, None)) is not None:
                self.size_bytes -= file.counted

    def _path(self, tenant: str) -> Path:
        # Not the name itself: file systems may treat different names as equal.
        return self.folder / f"{hashlib.sha256(tenant.encode()).hexdigest()[:40]}.keys"

    def _known(self, tenant: str) -> _File:
        with self._guard:
            file = self._files.get(tenant)
        if file is None:
            raw = self._raw(tenant)
            file = _File(end=max(1, -(-len(raw) // _SIZE)))
            for place in range(1, len(raw) // _SIZE):
                if (stored := _record_at(raw, place)) is None:
                    file.free.append(place)
                else:
                    file.places.setdefault(stored[0], []).append(place)
            with self._guard:
                self._files[tenant] = file
        return file

    def _raw(self, tenant: str) -> bytes:
        path = self._path(tenant)
        try:
            raw = path.read_bytes()
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise _unavailable(path, error) from error
        if raw[:_SIZE] not in (_MAGIC, raw[:0], _EMPTY):  # empty: the process was killed before the first key was acknowledged
            raise StoreUnavailable(f"{path} is not a file of data keys of this version")
        return raw

    def _write(self, tenant: str, records: Mapping[int, bytes]) -> None:
        if not records:
            return
        path = self._path(tenant)
        try:
            new = not path.exists() or not path.stat().st_size
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                if new:
                    os.pwrite(file, _MAGIC, 0)
                for place, record in records.items():
                    os.pwrite(file, record, place * _SIZE)
                os.fdatasync(file)
            finally:
                os.close(file)
            if new:
                _sync_folder(self.folder)
        except OSError as error:
            self._release(tenant)  # the file is read again
            raise _unavailable(path, error) from error


def _record(version: int, key: DataKey) -> bytes:
    body = _BODY.pack(version, key.raw)
    return (body + struct.pack("<I", zlib.crc32(body))).ljust(_SIZE, b"\0")


def _record_at(raw: bytes, place: int) -> tuple[int, bytes] | None:
    """A record's version and data key; None if it is empty, or torn before it was acknowledged."""
    record = raw[place * _SIZE : (place + 1) * _SIZE]
    if len(record) < _SIZE:
        return None
    body, (crc,) = record[: _BODY.size], struct.unpack_from("<I", record, _BODY.size)
    version, key = _BODY.unpack(body)
    return (version, key) if version and crc == zlib.crc32(body) else None


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unavailable(path: Path, error: OSError) -> StoreUnavailable:
    return StoreUnavailable(f"the data keys in {path} cannot be read or written: {error.strerror}")
