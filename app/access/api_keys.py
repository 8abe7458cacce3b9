"""API keys: each grants scopes on one tenant's memory.

A key is 256 random bits, shown once. The store keeps its SHA-256 (the key has too much entropy to be guessed from it) and its
grants. Every request looks its key up in the store, so every replica refuses a revoked key at once.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from redis.exceptions import RedisError, WatchError

from memory.errors import StoreUnavailable
from memory.store.cluster import Client, near
from memory.store.key_names import Keys
from memory.store.link import reaching

Scope = Literal["read", "write", "admin"]
SCOPES: tuple[Scope, ...] = ("read", "write", "admin")
MARK = "lk_"  # so that scanners for leaked secrets can know one
TABLE = "larimar:keys"  # hash: SHA-256 of the key -> record
REMEMBERED_S = 60.0  # how long a known key is accepted while the store does not answer
OPEN_S = 1.0  # how long the finding "there is no key" is reused


class KeyNotFound(Exception):
    """There is no key with this id."""


@dataclass(frozen=True)
class ApiKey:
    """A key's grants. `requests`, `tokens` and `facts` are limits such as 600/minute; empty: the server's default."""

    id: str
    tenant: str
    scopes: tuple[Scope, ...]
    name: str = ""
    created_at: float = 0.0
    expires_at: float | None = None
    revoked_at: float | None = None
    requests: str = ""
    tokens: str = ""
    facts: str = ""

    def usable(self, now: float) -> bool:
        """Whether the key is neither revoked nor expired."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: bytes | str) -> ApiKey:
        record: dict[str, Any] = json.loads(text)
        return cls(**record | {"scopes": tuple(record["scopes"])})


ANYONE = ApiKey("", "default", ("read", "write"))  # while there is no key; the first one is made by `larimar keys create`, beside the store


def digest(key: str) -> str:
    """SHA-256 of a key, hexadecimal; its first characters are the key's id."""
    return hashlib.sha256(key.encode()).hexdigest()


class KeyRing:
    """All keys: keys in the store, and static keys of the settings.

    Args:
        client: of the store.
        static: key to tenant; static keys may read and write.
        open_without_keys: whether a server without any key serves everyone as tenant `default`.
    """

    def __init__(self, client: Client, static: Mapping[str, str] | None = None, *, open_without_keys: bool = False) -> None:
        self._client, self._open = client, open_without_keys and not static
        self._static = {
            digest(key): ApiKey(digest(key)[:12], tenant, ("read", "write"), "static") for key, tenant in (static or {}).items()
        }
        self._seen: dict[str, tuple[ApiKey, float]] = {}
        self._no_keys_at = float("-inf")

    async def find(self, offered: str) -> ApiKey | None:
        """The record of an offered key; None if it is unknown, revoked or expired.

        Raises:
            StoreUnavailable: the store does not answer, and the key was not used in the last REMEMBERED_S.
        """
        sought, now = digest(offered), time.time()
        found = [key for known, key in self._static.items() if hmac.compare_digest(known, sought)]
        if found:
            return found[0]
        try:
            record = await near(self._client, TABLE).hget(TABLE, sought)
        except (RedisError, OSError) as error:
            key, at = self._seen.get(sought, (None, 0.0))
            if key is None or now - at > REMEMBERED_S:
                raise StoreUnavailable("keys cannot be looked up") from error
            return key if key.usable(now) else None
        if record is None:
            self._seen.pop(sought, None)
            return None
        key = ApiKey.from_json(record)
        self._seen[sought] = key, now
        return key if key.usable(now) else None

    async def anyone(self) -> ApiKey | None:
        """The grants of a request without a usable key; None refuses it. Raises StoreUnavailable."""
        return ANYONE if await self.open() else None

    async def open(self) -> bool:
        """Whether requests without a key are served. The first key ends that for good, even once revoked. Raises StoreUnavailable."""
        if self._open and time.monotonic() - self._no_keys_at > OPEN_S:
            if await self.any():
                self._open = False
            self._no_keys_at = time.monotonic()
        return self._open

    async def any(self) -> bool:
        """Whether there is any key, usable or not. Raises StoreUnavailable."""
        with reaching("keys cannot be looked up"):
            return bool(self._static) or bool(await near(self._client, TABLE).hlen(TABLE))

    async def create(
        self,
        tenant: str,
        scopes: Collection[Scope],
        *,
        name: str = "",
        expires_at: float | None = None,
        requests: str = "",
        tokens: str = "",
        facts: str = "",
    ) -> tuple[str, ApiKey]:
        """A new key, in clear for the only time, and its record. Raises ValueError for a bad tenant or scope, StoreUnavailable."""
        Keys(tenant)  # refuses a name that no tenant can have
        if not scopes or set(scopes) - set(SCOPES):
            raise ValueError(f"scopes {sorted(scopes)}: wanted one or more of {', '.join(SCOPES)}")
        secret = MARK + secrets.token_urlsafe(32)
        ordered = tuple(scope for scope in SCOPES if scope in scopes)
        key = ApiKey(digest(secret)[:12], tenant, ordered, name, time.time(), expires_at, None, requests, tokens, facts)
        with reaching("the key may not have been made"):
            await near(self._client, TABLE).hset(TABLE, digest(secret), key.to_json())
        return secret, key

    async def list(self) -> list[ApiKey]:
        """All keys of the store, oldest first, revoked and expired ones too. Raises StoreUnavailable."""
        with reaching("keys cannot be looked up"):
            records = await near(self._client, TABLE).hgetall(TABLE)
        return sorted((ApiKey.from_json(record) for record in records.values()), key=lambda key: key.created_at)

    async def revoke(self, key_id: str) -> ApiKey:
        """Refuse a key from now on. Raises KeyNotFound, StoreUnavailable."""
        now = time.time()
        return await self._change(key_id, lambda key: key if key.revoked_at else replace(key, revoked_at=now))

    async def rotate(self, key_id: str, overlap_s: float) -> tuple[str, ApiKey]:
        """A new key with the grants of an old one, which ends after `overlap_s` seconds.

        Raises:
            KeyNotFound: also if it has ended.
            StoreUnavailable
        """
        now = time.time()
        ends = now + overlap_s

        def end(key: ApiKey) -> ApiKey:
            if not key.usable(now):
                raise KeyNotFound(f"the key {key_id!r} is revoked or expired")
            return replace(key, expires_at=min(ends, key.expires_at or ends))

        lifetimes = {key.id: key.expires_at for key in await self.list()}
        old = await self._change(key_id, end)
        grants = {"requests": old.requests, "tokens": old.tokens, "facts": old.facts}
        return await self.create(old.tenant, old.scopes, name=old.name, expires_at=lifetimes[old.id], **grants)

    async def _change(self, key_id: str, change: Callable[[ApiKey], ApiKey]) -> ApiKey:
        while True:
            with reaching("the key may not have been changed; do it again"):
                if (changed := await self._changed(key_id, change)) is not None:
                    return changed

    async def _changed(self, key_id: str, change: Callable[[ApiKey], ApiKey]) -> ApiKey | None:
        """The changed key; None if another change came between."""
        async with near(self._client, TABLE).pipeline(transaction=True) as pipe:
            await pipe.watch(TABLE)
            records: dict[bytes, bytes] = await pipe.hgetall(TABLE)  # type: ignore[assignment]  # as decode_responses is off
            found = [(sha, ApiKey.from_json(r)) for sha, r in records.items() if sha.startswith(key_id.encode())]
            if len(key_id) != 12 or not found:
                raise KeyNotFound(f"there is no key {key_id!r}")
            sha, key = found[0]
            changed = change(key)
            pipe.multi()  # type: ignore[no-untyped-call]  # redis-py's
            pipe.hset(TABLE, sha.decode(), changed.to_json())
            try:
                await pipe.execute()
            except WatchError:
                return None
            return changed
