"""What a tenant must hold, kept as a dict by rules of its own: the server is held against it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any


@dataclass(frozen=True)
class Entry:
    """A fact as a client knows it; `form` is the prompt as the server compares it, `until` 0 while it is current."""

    id: str
    prompt: str
    form: str
    target: str
    metadata: Mapping[str, Any]
    version: int
    expires: bool = False
    until: int = 0
    key: str = ""  # the Idempotency-Key it was taught with


@dataclass(frozen=True)
class Refused:
    status: int
    code: str


@dataclass
class Account:
    """One tenant.

    Attributes:
        entries: by id, history included.
        answers: by Idempotency-Key, what was asked and the answer that was given.
        spent: the keys of which the fact is gone.
        max_facts: that there may be, history included.
    """

    max_facts: int
    version: int = 0
    entries: dict[str, Entry] = field(default_factory=dict)
    answers: dict[str, tuple[Any, dict[str, Any]]] = field(default_factory=dict)
    spent: set[str] = field(default_factory=set)

    def current(self) -> list[Entry]:
        return [entry for entry in self.entries.values() if not entry.until]

    def as_of(self, version: int) -> list[Entry]:
        return [e for e in self.entries.values() if e.version <= version and (not e.until or e.until > version)]

    def holder(self, form: str) -> Entry | None:
        return next((entry for entry in self.current() if entry.form == form), None)

    def refusal(self, fact_id: str | None, form: str, on_conflict: str) -> Refused | None:
        """Why a write must be refused; None if it must be done."""
        taken = self.holder(form)
        if taken is not None and on_conflict == "error":
            return Refused(409, "prompt_taken")
        if (taken is None or on_conflict == "version") and len(self.entries) >= self.max_facts:
            return Refused(507, "tenant_full")
        if fact_id in self.entries:
            return Refused(409, "duplicate_id")
        return None

    def write(self, entry: Entry, on_conflict: str) -> list[str]:
        """Takes the next version; returns the ids that are superseded."""
        self.version += 1
        taken = self.holder(entry.form)
        if taken is not None:
            if on_conflict == "version":
                self.entries[taken.id] = replace(taken, until=self.version)
            else:
                self._remove(taken.id)
        self.entries[entry.id] = replace(entry, version=self.version)
        return [] if taken is None else [taken.id]

    def revise(self, fact_id: str, **changed: Any) -> None:
        self.version += 1
        entry = self._remove(fact_id)
        self.entries[fact_id] = replace(entry, **changed, version=self.version, key="")

    def forget(self, fact_id: str) -> None:
        self.version += 1
        self._remove(fact_id)

    def erase(self) -> None:
        if self.version:
            self.version += 1
        self.entries.clear()
        self.answers.clear()
        self.spent.clear()

    def _remove(self, fact_id: str) -> Entry:
        entry = self.entries.pop(fact_id)
        if self.answers.pop(entry.key, None) is not None:
            self.spent.add(entry.key)
        return entry
