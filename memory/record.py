"""A fact as bytes, and those bytes sealed with the fact's own data key.

AES-256-GCM (NIST SP 800-38D) with a random 96-bit nonce; tenant and version are authenticated with the bytes, so a
record is readable only where it belongs. Whoever destroys the data key has erased every copy of the record at once: in
the log, in snapshots, in the server's files and in their backups.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from memory.errors import CorruptRecord
from memory.fact import Fact

_HEAD = struct.Struct("<BII")  # format, bytes of the description, bytes of the key
_FORMAT = 1
_ID, _KEY, _NONCE = 8, 32, 12


@dataclass(frozen=True)
class DataKey:
    """32 random bytes that seal one fact. The id, 8 random bytes, tells it from another key of the same version: an
    attempt to commit may have been given up and still come through."""

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
        """id, nonce, ciphertext and tag."""
        nonce = os.urandom(_NONCE)
        return self.id + nonce + AESGCM(self.key).encrypt(nonce, payload, _context(tenant, version))

    def open(self, tenant: str, version: int, sealed: bytes) -> bytes:
        """The payload.

        Raises:
            CorruptRecord: altered, torn, of another fact, tenant or key.
        """
        if key_id(sealed) != self.id:
            raise CorruptRecord(f"the record of version {version} was sealed with another data key")
        try:
            return AESGCM(self.key).decrypt(sealed[_ID : _ID + _NONCE], sealed[_ID + _NONCE :], _context(tenant, version))
        except (InvalidTag, ValueError) as error:
            raise CorruptRecord(f"the record of version {version} is damaged") from error


def key_id(sealed: bytes) -> bytes:
    """Which data key a record was sealed with."""
    return sealed[:_ID]


def _context(tenant: str, version: int) -> bytes:
    return f"larimar/1\n{tenant}\n{version}".encode()


def pack(fact: Fact) -> bytes:
    """Description as JSON, key and code as little-endian float32."""
    head = json.dumps(describe(fact), ensure_ascii=False, separators=(",", ":")).encode()
    key, code = (tensor.numpy().astype("<f4").tobytes() for tensor in (fact.key, fact.code))
    return b"".join((_HEAD.pack(_FORMAT, len(head), len(key)), head, key, code))


def unpack(raw: bytes) -> Fact:
    """The fact that was packed.

    Raises:
        CorruptRecord: another format.
    """
    try:
        form, text, key = _HEAD.unpack_from(raw)
        if form != _FORMAT:
            raise CorruptRecord(f"a record has format {form}, wanted {_FORMAT}")
        described = json.loads(raw[_HEAD.size : _HEAD.size + text])
        floats = raw[_HEAD.size + text :]
        return recall(described, tensor(floats[:key]), tensor(floats[key:]))
    except (struct.error, ValueError, TypeError) as error:
        raise CorruptRecord(f"a record cannot be read: {error!r}") from error


def describe(fact: Fact) -> dict[str, object]:
    """Everything of a fact but its tensors, for JSON."""
    described: dict[str, object] = {
        "id": fact.id,
        "prompt": fact.prompt,
        "target": fact.target,
        "created_at": fact.created_at,
        "metadata": dict(fact.metadata),
        "version": fact.version,
    }
    rest = {"expires_at": fact.expires_at, "until": fact.until, "answer": fact.answer}
    return described | {name: value for name, value in rest.items() if value}


def recall(described: Mapping[str, object], key: torch.Tensor, code: torch.Tensor) -> Fact:
    """The fact that `describe` described. Raises TypeError for another shape."""
    return Fact(key=key, code=code, **described)  # type: ignore[arg-type]


def size_bytes(fact: Fact) -> int:
    """About how many bytes the fact has in a log entry, never fewer. Raises what `pack` would."""
    text = json.dumps(describe(fact), ensure_ascii=False).encode()
    return len(text) + 4 * (len(fact.key) + len(fact.code)) + 512


def tensor(raw: bytes) -> torch.Tensor:
    return torch.from_numpy(np.frombuffer(raw, "<f4").astype(np.float32))
