"""An independent account of what was asked and acknowledged, to hold a server's facts against."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass
class Violations:
    """What must never be."""

    lost: list[str] = field(default_factory=list)  # acknowledged and gone
    returned: list[str] = field(default_factory=list)  # forgotten and there
    half: list[str] = field(default_factory=list)  # there with other words than were written
    unasked: list[str] = field(default_factory=list)  # there and never written

    @property
    def count(self) -> int:
        return len(self.lost) + len(self.returned) + len(self.half) + len(self.unasked)


class Ledger:
    """Facts by id: what was written, and how far each write and forget got. A request without an answer may have come
    through or not; any later look settles it. Safe for threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._words: dict[str, tuple[str, str]] = {}
        self._there: set[str] = set()
        self._gone: set[str] = set()
        self._doubtful: set[str] = set()  # a write or a forget of it was asked and not answered
        self.writes = self.forgets = 0

    def write_asked(self, fact_id: str, prompt: str, target: str) -> None:
        with self._lock:
            self._words[fact_id] = (prompt, target)
            self._doubtful.add(fact_id)

    def write_acknowledged(self, fact_id: str) -> None:
        with self._lock:
            self._doubtful.discard(fact_id)
            self._there.add(fact_id)
            self.writes += 1

    def forget_asked(self, fact_id: str) -> None:
        with self._lock:
            self._there.discard(fact_id)
            self._doubtful.add(fact_id)

    def forget_acknowledged(self, fact_id: str) -> None:
        with self._lock:
            self._doubtful.discard(fact_id)
            self._gone.add(fact_id)
            self.forgets += 1

    def refused(self, fact_id: str, *, there: bool) -> None:
        """A definite refusal: nothing was changed."""
        with self._lock:
            self._doubtful.discard(fact_id)
            (self._there if there else self._gone).add(fact_id)

    def some_fact(self, number: int) -> str | None:
        """One of those that must be there."""
        with self._lock:
            known = sorted(self._there)
            return known[number % len(known)] if known else None

    def forgotten(self) -> list[tuple[str, str]]:
        """Words of the facts that must be gone."""
        with self._lock:
            return [self._words[fact_id] for fact_id in sorted(self._gone)]

    def check(self, facts: Mapping[str, tuple[str, str]]) -> Violations:
        """Hold what a server lists against the account; doubtful facts are settled by it."""
        with self._lock:
            found = Violations()
            found.lost = sorted(self._there - facts.keys())
            found.returned = sorted(self._gone & facts.keys())
            found.half = sorted(i for i in facts if i in self._words and facts[i] != self._words[i])
            found.unasked = sorted(facts.keys() - self._words.keys())
            self._there |= self._doubtful & facts.keys()
            self._gone |= self._doubtful - facts.keys()
            self._doubtful.clear()
            return found
