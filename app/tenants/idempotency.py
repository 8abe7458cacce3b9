"""Idempotency-Key: the answer of a request is kept, sealed with its fact, and returned to a repetition."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app.tenants.errors import KeyReused
from memory.change import Change
from memory.store.idempotency_keys import KEPT_S
from memory.store.redis_store import RedisStore

__all__ = ["KEPT_S", "Idempotency", "answer_to"]
_NO_TIMINGS = {"encode_ms": 0.0, "solve_ms": 0.0, "commit_ms": 0.0, "total_ms": 0.0}


@dataclass(frozen=True)
class Idempotency:
    """One keyed request.

    Attributes:
        name: digest of tenant and key, under which the store keeps the answer.
        body: digest of the body.
    """

    name: str
    body: str

    @classmethod
    def of(cls, tenant: str, key: str, body: Mapping[str, object]) -> Idempotency:
        """From the fields of a request's body, as JSON values."""
        return cls(_digest(f"{tenant}\n{key}"), _digest(json.dumps(body, sort_keys=True)))

    def answer(self, change: Change) -> tuple[str, bytes]:
        """Name and content of the record that is kept with the planned change."""
        kept = {"at": time.time(), "body": self.body, "answer": answer_to(change) | {"timings": _NO_TIMINGS}}
        return self.name, json.dumps(kept).encode()

    async def recall(self, store: RedisStore, tenant: str) -> dict[str, Any] | None:
        """The fields of the kept answer, its timings zero; None if none is younger than 24 hours.

        Raises:
            KeyReused: the answer belongs to another body.
            AnswerSpent: the fact has been replaced or forgotten since.
        """
        content = await store.answer(tenant, self.name)
        if content is None:
            return None
        kept = json.loads(content)
        if time.time() - kept["at"] > KEPT_S:
            await store.discard_answers(tenant, [(self.name, kept["answer"]["version"])])
            return None
        if kept["body"] != self.body:
            raise KeyReused
        answer: dict[str, Any] = kept["answer"]
        return answer


def answer_to(change: Change) -> dict[str, Any]:
    """The fields of the answer to the request that made this change, without timings."""
    assert change.fact is not None
    return {
        "id": change.fact.id,
        "version": change.version,
        "page": change.page,
        "supersedes": list(change.replaced),
        "created_at": change.fact.created_at,
        "expires_at": change.fact.expires_at,
    }


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
