"""A fact as bytes: its description as JSON, its keys and its code."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch

from memory.errors import CorruptRecord
from memory.fact import Fact

_HEAD = struct.Struct("<BII")  # format, bytes of the description, bytes of the key
_FORMAT = 1


def pack(fact: Fact) -> bytes:
    """Description as JSON; key, code and statement key as little-endian float32. `"stated"` in the description is the length of the
    statement key; a fact without one has the same bytes as in earlier versions."""
    stated = {} if fact.statement is None else {"stated": len(fact.statement)}
    head = json.dumps(describe(fact) | stated, ensure_ascii=False, separators=(",", ":")).encode()
    tensors = (fact.key, fact.code) if fact.statement is None else (fact.key, fact.code, fact.statement)
    key, *rest = (tensor.numpy().astype("<f4").tobytes() for tensor in tensors)
    return b"".join((_HEAD.pack(_FORMAT, len(head), len(key)), head, key, *rest))


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
        end = len(floats) - 4 * described.pop("stated", 0)
        fact = recall(described, tensor(floats[:key]), tensor(floats[key:end]))
        return fact if end == len(floats) else replace(fact, statement=tensor(floats[end:]))
    except (struct.error, ValueError, TypeError) as error:
        raise CorruptRecord(f"a record cannot be read: {error!r}") from error


def describe(fact: Fact) -> dict[str, object]:
    """A fact without its tensors, for JSON."""
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
    """The inverse of `describe`. Raises TypeError for an unknown or missing field."""
    return Fact(key=key, code=code, **described)  # type: ignore[arg-type]


def size_bytes(fact: Fact) -> int:
    """An upper bound of the fact's bytes in a log entry, and about their number. Raises as `pack`."""
    text = json.dumps(describe(fact), ensure_ascii=False).encode()
    floats = len(fact.key) + len(fact.code) + (0 if fact.statement is None else len(fact.statement))
    return len(text) + 4 * floats + 512


def tensor(raw: bytes) -> torch.Tensor:
    return torch.from_numpy(np.frombuffer(raw, "<f4").astype(np.float32))
