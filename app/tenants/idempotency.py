"""The same request twice is one fact: what was answered under an Idempotency-Key is kept, sealed with the fact."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass

from app.http.schemas import FactIn, FactWritten, UpdateTimings
from app.tenants.errors import KeyReused
from memory.change import Change
from memory.store.idempotency_keys import KEPT_S
from memory.store.redis_store import RedisStore

__all__ = ["KEPT_S", "Idempotency", "written_as"]


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
    def of(cls, tenant: str, key: str, body: FactIn) -> Idempotency:
        return cls(_digest(f"{tenant}\n{key}"), _digest(json.dumps(body.model_dump(mode="json"), sort_keys=True)))

    def answer(self, change: Change) -> tuple[str, bytes]:
        """Name and content of what is kept for the planned change."""
        assert change.fact is not None
        written = written_as(change, UpdateTimings(solve_ms=0, commit_ms=0, total_ms=0))
        kept = {"at": time.time(), "body": self.body, "answer": written.model_dump(mode="json")}
        return self.name, json.dumps(kept).encode()

    async def recall(self, store: RedisStore, tenant: str) -> FactWritten | None:
        """The answer that was given, None if there is none of the last 24 hours. Its timings are zero.

        Raises:
            KeyReused: it was given for another body.
            AnswerSpent: its fact is replaced or forgotten since.
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
        return FactWritten(**kept["answer"])


def written_as(change: Change, timings: UpdateTimings) -> FactWritten:
    """The answer to a request that made this change."""
    assert change.fact is not None
    return FactWritten(
        id=change.fact.id,
        version=change.version,
        page=change.page,
        supersedes=list(change.replaced),
        created_at=change.fact.created_at,
        expires_at=change.fact.expires_at,
        timings=timings,
    )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
