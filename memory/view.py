"""A view: the facts of a memory at one version. Any thread may look through it while the memory changes.

A view is a list of spans, each a run of facts in the order of their ids. Neither is ever changed: a change of the memory copies one
span and the list, and makes a new view. Each span knows the versions and the first expiry of its facts, so most spans are taken or
skipped whole.
"""

from __future__ import annotations

import math
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

from memory.errors import FactNotFound
from memory.fact import Fact, is_current, was_there

SPAN = 512  # facts; a change copies one span and the list of them: for a quarter of a million facts the two are equally long


def _id(fact: Fact) -> str:
    return fact.id


@dataclass(frozen=True, eq=False)
class Span:
    """Facts in the order of their ids, at least one, and the page of each."""

    facts: tuple[Fact, ...]
    pages: tuple[int, ...]

    @cached_property
    def _began(self) -> tuple[int, int]:
        """The first and the last version that wrote one of the facts."""
        versions = [fact.version for fact in self.facts]
        return min(versions), max(versions)

    @cached_property
    def _ended(self) -> tuple[float, float]:
        """The first and the last version at which one of the facts was replaced; infinite for current facts."""
        ends = [fact.until or math.inf for fact in self.facts]
        return min(ends), max(ends)

    @cached_property
    def expires_at(self) -> float:
        """Unix time at which the first of the facts expires; infinite if none does."""
        return min((fact.expires_at for fact in self.facts if fact.expires_at is not None), default=math.inf)

    def at(self, version: int) -> tuple[Sequence[Fact], Sequence[int]]:
        """The facts that were current at a version, and the page of each."""
        if version < self._began[0] or version >= self._ended[1]:
            return (), ()
        if self._began[1] <= version < self._ended[0]:
            return self.facts, self.pages
        there = [(fact, page) for fact, page in zip(self.facts, self.pages, strict=True) if was_there(fact, version)]
        return [fact for fact, _ in there], [page for _, page in there]


class Spans:
    """The spans of the newest version; they change with the memory."""

    def __init__(self) -> None:
        self._spans: list[Span] = []

    def frozen(self) -> tuple[Span, ...]:
        return tuple(self._spans)

    def _place(self, fact_id: str) -> int:
        """The index of the span that holds the id, or would hold it."""
        return max(0, bisect_right(self._spans, fact_id, key=lambda span: span.facts[0].id) - 1)

    def add(self, facts: Iterable[Fact], page: int) -> None:
        """Add facts of one page."""
        placed = [(at, list(some)) for at, some in groupby(sorted(facts, key=_id), lambda fact: self._place(fact.id))]
        for at, some in reversed(placed):  # from behind, since a split moves later spans
            old = self._spans[at : at + 1]
            held, pages = ([*old[0].facts], [*old[0].pages]) if old else ([], [])
            for fact in some:
                row = bisect_left(held, fact.id, key=_id)
                held.insert(row, fact)
                pages.insert(row, page)
            size = SPAN if len(held) > 2 * SPAN else len(held)
            parts = range(0, len(held), size)
            self._spans[at : at + 1] = [Span(tuple(held[first : first + size]), tuple(pages[first : first + size])) for first in parts]

    def remove(self, fact_id: str) -> None:
        at = self._place(fact_id)
        span = self._spans[at]
        row = bisect_left(span.facts, fact_id, key=_id)
        rest = Span(span.facts[:row] + span.facts[row + 1 :], span.pages[:row] + span.pages[row + 1 :])
        self._spans[at : at + 1] = [rest] if rest.facts else []


@dataclass(frozen=True, eq=False)
class View:
    """The facts at one version.

    Attributes:
        current, history: how many current facts there are, and how many replaced ones.
    """

    version: int = 0
    spans: tuple[Span, ...] = ()
    current: int = 0
    history: int = 0

    def find(self, fact_id: str) -> tuple[Fact, int]:
        """A fact and its page. Raises FactNotFound."""
        at = bisect_right(self.spans, fact_id, key=lambda span: span.facts[0].id) - 1
        span = self.spans[at] if at >= 0 else Span((), ())
        row = bisect_left(span.facts, fact_id, key=_id)
        if row == len(span.facts) or span.facts[row].id != fact_id:
            raise FactNotFound(fact_id)
        return span.facts[row], span.pages[row]

    def facts(
        self, after: str = "", limit: int | None = None, where: Callable[[Fact], bool] = is_current, *, at: int | None = None
    ) -> list[Fact]:
        """Facts with an id after `after` for which `where` holds, in the order of their ids.

        Args:
            limit: how many at most; None for all.
            at: only facts that were current at this version.
        """
        found: list[Fact] = []
        first = max(0, bisect_right(self.spans, after, key=lambda span: span.facts[0].id) - 1)
        for span in rested(self.spans[first:]):
            facts = span.facts if at is None else span.at(at)[0]
            found += filter(where, facts if after < span.facts[0].id else facts[bisect_right(facts, after, key=_id) :])
            if limit is not None and len(found) >= limit:
                return found[:limit]
        return found

    def expired(self, now: float) -> list[Fact]:
        """The facts that expired by `now` (Unix time)."""
        over = [span for span in self.spans if span.expires_at <= now]
        return [fact for span in over for fact in span.facts if fact.expires_at is not None and fact.expires_at <= now]

    @property
    def next_expiry(self) -> float | None:
        """Unix time at which the next fact expires; None if none does."""
        first = min((span.expires_at for span in self.spans), default=math.inf)
        return None if math.isinf(first) else first


def rested(spans: Iterable[Span]) -> Iterator[Span]:
    """Yield the spans, and sleep between two of them as long as the caller worked on the last one."""
    began = None
    for span in spans:
        if began is not None:
            rest(began)
        began = time.thread_time()
        yield span


def rest(began: float) -> None:
    """Sleep as long as this thread has worked since `time.thread_time()` was `began`.

    Python runs one thread at a time, and a computing thread gives way only every 5 ms. A token that is decoded meanwhile would wait
    that long after each of its hundreds of operations.
    """
    time.sleep(time.thread_time() - began)
