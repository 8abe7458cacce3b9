"""What surrounds a page's bytes in the store: they are whole, of this tenant, and of this page."""

from __future__ import annotations

import hashlib

from memory.errors import StoreCorrupt

_MAGIC = b"LARIMAR\x01"  # the last byte is the format's version
_HEAD = len(_MAGIC) + hashlib.sha256().digest_size


def seal(tenant: str, page: int, payload: bytes) -> bytes:
    """magic, SHA-256 of (tenant, page, payload), payload."""
    return b"".join((_MAGIC, _digest(tenant, page, payload), payload))


def unseal(tenant: str, page: int, sealed: bytes) -> bytes:
    """The payload.

    Raises:
        StoreCorrupt: the bytes are torn, of another format, or belong to another tenant or page.
    """
    if sealed[: len(_MAGIC)] != _MAGIC:
        raise StoreCorrupt(tenant, f"page {page} starts with {sealed[: len(_MAGIC)]!r}, wanted {_MAGIC!r}")
    payload = sealed[_HEAD:]
    got, wanted = _digest(tenant, page, payload), sealed[len(_MAGIC) : _HEAD]
    if got != wanted:
        raise StoreCorrupt(
            tenant,
            f"page {page} ({len(payload)} bytes) has SHA-256 {got.hex()[:16]}…, wanted {wanted.hex()[:16]}…",
        )
    return payload


def _digest(tenant: str, page: int, payload: bytes) -> bytes:
    digest = hashlib.sha256(f"{tenant}\n{page}\n".encode())
    digest.update(payload)
    return digest.digest()
