"""A fact as bytes: its description as JSON, its key and its code."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping

import numpy as np
import torch

from memory.errors import CorruptRecord
from memory.fact import Fact

_HEAD = struct.Struct("<BII")  # format, bytes of the description, bytes of the key
_FORMAT = 1


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
