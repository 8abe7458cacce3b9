"""A change: one committed step of a tenant's memory, one entry of its log."""

from __future__ import annotations

import json
import zlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from memory.errors import CorruptChange
from memory.fact import Fact

CHANGE, FACT, FINGERPRINT, NONCE, CRC = b"change", b"fact", b"fingerprint", b"nonce", b"crc"  # fields of an entry


@dataclass(frozen=True)
class Change:
    """A write, which may replace an older fact, or a forget.

    Attributes:
        version: log position, one above the last.
        page: the page written to, on which a replaced fact lies too; or the forgotten fact's page.
        fact: the written fact; None for a forget, and for a write whose fact was forgotten since.
        forgets: versions that wrote the removed facts. (Their ids may be words of a user.)
        retires: versions that wrote the facts that become history.
        block: version of the last change of its block; 0 for a change that was committed alone. A page that takes many
            facts of a block is solved once for all of them, so a replay needs the same blocks.
        replaced: the ids of the facts that `forgets` and `retires` name; known to the planner alone, not stored.
        answers: digest and time (Unix, seconds) of the idempotency keys that those facts were taught with; as `replaced`.
    """

    version: int
    kind: Literal["write", "forget"]
    page: int
    fact: Fact | None = None
    forgets: tuple[int, ...] = ()
    retires: tuple[int, ...] = ()
    block: int = 0
    replaced: tuple[str, ...] = ()
    answers: tuple[tuple[str, float], ...] = ()

    def head(self) -> bytes:
        """The change without its secrets (fact, ids, idempotency keys), as JSON."""
        lists = {"forgets": self.forgets, "retires": self.retires}
        head: dict[str, object] = {"version": self.version, "kind": self.kind, "page": self.page}
        head |= {name: list(value) for name, value in lists.items() if value}
        if self.block:
            head["block"] = self.block
        return json.dumps(head, separators=(",", ":")).encode()

    def to_fields(self, sealed: bytes | None, fingerprint: str) -> dict[bytes, bytes]:
        """Fields of a log entry: head, sealed fact, the model's fingerprint, and a CRC-32 over them."""
        fields = {CHANGE: self.head(), FINGERPRINT: fingerprint.encode()} | ({FACT: sealed} if sealed is not None else {})
        return fields | {CRC: b"%d" % _crc(fields)}

    @classmethod
    def from_fields(cls, fields: Mapping[bytes, bytes]) -> Change:
        """The change of a log entry, still without its fact.

        Raises:
            CorruptChange: a field is missing, or the CRC differs.
        """
        try:
            body = {name: fields[name] for name in (CHANGE, FACT, FINGERPRINT) if name in fields}
            if int(fields[CRC]) != _crc(body):
                raise CorruptChange("a log entry's checksum differs")
            head = json.loads(fields[CHANGE])
            forgets, retires = (tuple(head.get(name, ())) for name in ("forgets", "retires"))
            return cls(head["version"], head["kind"], head["page"], None, forgets, retires, head.get("block", 0))
        except (KeyError, ValueError, TypeError) as error:
            raise CorruptChange(f"a log entry cannot be read: {error!r}") from error


def answers_of(*facts: Fact) -> tuple[tuple[str, float], ...]:
    """`Change.answers` for facts that are replaced or forgotten."""
    return tuple((fact.answer, fact.created_at) for fact in facts if fact.answer)


def by_page(changes: Sequence[Change]) -> dict[int, list[Change]]:
    """The changes of each page, in their order."""
    found: dict[int, list[Change]] = defaultdict(list)
    for change in changes:
        found[change.page].append(change)
    return found


def _crc(fields: Mapping[bytes, bytes]) -> int:
    crc = 0
    for name in sorted(fields):
        crc = zlib.crc32(fields[name], zlib.crc32(name, crc))
    return crc
