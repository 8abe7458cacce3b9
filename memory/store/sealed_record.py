"""Seals the bytes of a fact with the fact's own data key.

AES-256-GCM (NIST SP 800-38D) with a random 96-bit nonce; tenant and version are authenticated with the bytes, so a
record opens only at its own tenant and version. Destroying the data key erases every copy of the record at once: in the log, in
snapshots, in the server's files and in their backups.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from memory.errors import CorruptRecord

_ID, _KEY, _NONCE = 8, 32, 12


@dataclass(frozen=True)
class DataKey:
    """32 random bytes that seal one fact. The id, 8 random bytes, distinguishes keys of the same version: a commit that was given up
    may still succeed."""

    id: bytes
    key: bytes

    @classmethod
    def new(cls) -> DataKey:
        return cls(os.urandom(_ID), os.urandom(_KEY))

    @property
    def raw(self) -> bytes:
        return self.id + self.key

    @classmethod
    def of(cls, raw: bytes) -> DataKey:
        """Raises CorruptRecord."""
        if len(raw) != _ID + _KEY:
            raise CorruptRecord(f"a data key has {len(raw)} bytes, wanted {_ID + _KEY}")
        return cls(raw[:_ID], raw[_ID:])

    def seal(self, tenant: str, version: int, payload: bytes) -> bytes:
        """The sealed payload: id, nonce, ciphertext and tag."""
        nonce = os.urandom(_NONCE)
        return self.id + nonce + AESGCM(self.key).encrypt(nonce, payload, _context(tenant, version))

    def open(self, tenant: str, version: int, sealed: bytes) -> bytes:
        """The payload.

        Raises:
            CorruptRecord: the record is altered, torn, or of another fact, tenant or key.
        """
        if key_id(sealed) != self.id:
            raise CorruptRecord(f"the record of version {version} was sealed with another data key")
        try:
            return AESGCM(self.key).decrypt(sealed[_ID : _ID + _NONCE], sealed[_ID + _NONCE :], _context(tenant, version))
        except (InvalidTag, ValueError) as error:
            raise CorruptRecord(f"the record of version {version} is damaged") from error


def key_id(sealed: bytes) -> bytes:
    """The id of the data key that sealed a record."""
    return sealed[:_ID]


def _context(tenant: str, version: int) -> bytes:
    return f"larimar/1\n{tenant}\n{version}".encode()


