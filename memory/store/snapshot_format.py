"""The format of a page's snapshot: the sealed records of its facts as one run of bytes, and a manifest that verifies them.

    record    version u64, length u32 (little-endian), sealed bytes (sealed_record.py)
    manifest  JSON: format, version covered, model fingerprint, number of facts, token of the writer, parts, SHA-256

A page is stored as its rows: keys and codes, in order. Its inverse and matrix are solved from them again. So a snapshot holds
of a forgotten fact only a record that nobody can open.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass

from memory.errors import CorruptPage

FORMAT = "larimar-snapshot/3"
PART_BYTES = 512 * 1024
_RECORD = struct.Struct("<QI")


@dataclass(frozen=True)
class Manifest:
    """The parts of a page's snapshot, and the digest that verifies them."""

    page: int
    covered: int
    fingerprint: str
    facts: int
    token: int
    parts: int
    sha256: str
    format: str = FORMAT

    @classmethod
    def of(cls, tenant: str, page: int, raw: bytes, *, covered: int, fingerprint: str, facts: int, token: int) -> Manifest:
        parts = max(1, -(-len(raw) // PART_BYTES))
        return cls(page, covered, fingerprint, facts, token, parts, _digest(tenant, page, covered, raw))

    def to_bytes(self) -> bytes:
        return json.dumps(asdict(self), separators=(",", ":")).encode()

    @classmethod
    def from_bytes(cls, raw: bytes) -> Manifest:
        """Raises CorruptPage."""
        try:
            manifest = cls(**json.loads(raw))
        except (ValueError, TypeError) as error:
            raise CorruptPage(f"a page's manifest cannot be read: {error!r}") from error
        if manifest.format != FORMAT:
            raise CorruptPage(f"a page has format {manifest.format!r}, wanted {FORMAT!r}")
        return manifest

    @property
    def fields(self) -> list[bytes]:
        """The field names of its parts, in order."""
        return [b"%d:%d:%d" % (self.page, self.token, part) for part in range(self.parts)]

    def check(self, tenant: str, raw: bytes) -> None:
        """Verify the page's bytes. Raises CorruptPage."""
        got = _digest(tenant, self.page, self.covered, raw)
        if got != self.sha256:
            wanted = self.sha256[:16]
            raise CorruptPage(f"page {self.page} ({len(raw)} bytes) has SHA-256 {got[:16]}…, wanted {wanted}…")


def join(records: Iterable[tuple[int, bytes]]) -> bytes:
    """Records (version, sealed) as one run of bytes."""
    return b"".join(part for version, sealed in records for part in (_RECORD.pack(version, len(sealed)), sealed))


def split(raw: bytes) -> Iterator[tuple[int, bytes]]:
    """The inverse of `join`; ends at the first truncated record."""
    at = 0
    while at + _RECORD.size <= len(raw):
        version, length = _RECORD.unpack_from(raw, at)
        at += _RECORD.size
        if at + length > len(raw):
            return
        yield version, raw[at : at + length]
        at += length


def cut(raw: bytes) -> Sequence[bytes]:
    """A page's bytes in parts of PART_BYTES."""
    return [raw[at : at + PART_BYTES] for at in range(0, max(1, len(raw)), PART_BYTES)]


def _digest(tenant: str, page: int, covered: int, raw: bytes) -> str:
    digest = hashlib.sha256(f"{tenant}\n{page}\n{covered}\n".encode())
    digest.update(raw)
    return digest.hexdigest()
