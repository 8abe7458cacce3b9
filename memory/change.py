"""A change: one committed step of a tenant's memory, one entry of its log."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from memory.errors import CorruptChange
from memory.fact import Fact


@dataclass(frozen=True)
class Change:
    """A write (which may supersede an older fact) or a forget.

    Attributes:
        version: log position, one above the last.
        page: the page written to, which is also that of the superseded fact; or the forgotten fact's page.
        forgets: ids that this change removes.
        block: version of the last change of its block; 0 for one that was committed alone. A page that takes many
            facts of a block is solved once for all of them, so a replay must know what belonged together.
    """

    version: int
    kind: Literal["write", "forget"]
    page: int
    fact: Fact | None = None
    forgets: tuple[str, ...] = ()
    block: int = 0

    def to_fields(self) -> dict[bytes, bytes]:
        """Fields of a log entry; key and code as little-endian float32, a CRC-32 over everything."""
        head: dict[str, object] = {"version": self.version, "kind": self.kind, "page": self.page, "forgets": self.forgets}
        if self.block:
            head["block"] = self.block
        fields: dict[bytes, bytes] = {}
        if self.fact is not None:
            head["fact"] = describe(self.fact)
            fields[b"key"] = self.fact.key.numpy().astype("<f4").tobytes()
            fields[b"code"] = self.fact.code.numpy().astype("<f4").tobytes()
        fields[b"change"] = json.dumps(head, ensure_ascii=False, separators=(",", ":")).encode()
        return fields | {b"crc": str(_crc(fields)).encode()}

    @classmethod
    def from_fields(cls, fields: Mapping[bytes, bytes]) -> Change:
        """The change of a log entry.

        Raises:
            CorruptChange: a field is missing, or the CRC differs.
        """
        try:
            body = {k: fields[k] for k in (b"key", b"code", b"change") if k in fields}
            if int(fields[b"crc"]) != _crc(body):
                raise CorruptChange("a log entry's checksum differs")
            head = json.loads(body[b"change"])
            fact = None
            if "fact" in head:
                fact = recall(head["fact"], floats(body[b"key"]), floats(body[b"code"]))
            return cls(head["version"], head["kind"], head["page"], fact, tuple(head["forgets"]), head.get("block", 0))
        except (KeyError, ValueError, TypeError) as error:
            raise CorruptChange(f"a log entry cannot be read: {error!r}") from error


def _crc(fields: Mapping[bytes, bytes]) -> int:
    crc = 0
    for name in sorted(fields):
        crc = zlib.crc32(fields[name], zlib.crc32(name, crc))
    return crc


def describe(fact: Fact) -> dict[str, object]:
    """Everything of a fact but its tensors, for JSON."""
    return {
        "id": fact.id,
        "prompt": fact.prompt,
        "target": fact.target,
        "created_at": fact.created_at,
        "metadata": dict(fact.metadata),
        "version": fact.version,
    }


def recall(described: Mapping[str, object], key: torch.Tensor, code: torch.Tensor) -> Fact:
    """The fact that `describe` described."""
    return Fact(key=key, code=code, **described)  # type: ignore[arg-type]


def size_bytes(fact: Fact) -> int:
    """About how many bytes the fact has in a log entry, never fewer."""
    text = json.dumps(describe(fact), ensure_ascii=False).encode()
    return len(text) + 4 * (len(fact.key) + len(fact.code)) + 512


def floats(raw: bytes) -> torch.Tensor:
    return torch.from_numpy(np.frombuffer(raw, "<f4").astype(np.float32))
