"""An excerpt: some facts of a memory, of an earlier version or named by a request, read as if there were no others.

It is taken from a view, so any thread may read one while the memory changes. Only the pages that are read get built.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from memory.episodic import EpisodicMemory
from memory.errors import FactNotFound
from memory.fact import Fact, was_there
from memory.page import Page
from memory.readable import PageRows, Readable, nearest_spelt
from memory.spelling import seen
from memory.view import SPAN, rested


@dataclass(frozen=True)
class Selection:
    """Which facts of a memory are read.

    Attributes:
        as_of: facts of this version that are still kept; a fact forgotten since is not read. None, or a later version than the
            newest: the newest.
        only: ids to read; None for all.
        exclude: ids to leave out.
    """

    as_of: int | None = None
    only: Collection[str] | None = None
    exclude: Collection[str] = ()

    @property
    def is_excerpt(self) -> bool:
        """Whether many facts may be left out, so that the rest is read as a memory of its own."""
        return self.as_of is not None or self.only is not None


EVERYTHING = Selection()


class Excerpt(Readable):
    """
    Args:
        memory: its source; only the view and the settings are used.

    Raises:
        FactNotFound: the selection names an unknown fact.
    """

    def __init__(self, memory: EpisodicMemory, selection: Selection) -> None:
        view, as_of, only, exclude = memory.view, selection.as_of, selection.only, selection.exclude
        self.scope, self.version = memory.scope, view.version if as_of is None else min(as_of, view.version)
        self._settings, self._dim, self._device = memory.settings, memory.dim, memory.device
        self._facts: list[Fact] = []  # in the order of their ids
        self._pages: list[int] = []
        named = {fact_id: view.find(fact_id) for fact_id in sorted({*exclude, *(only or ())})}
        if as_of is not None and (unborn := [fact_id for fact_id, (fact, _) in named.items() if not was_there(fact, self.version)]):
            raise FactNotFound(unborn[0])
        if only is None:
            for span in rested(view.spans):
                facts, pages = span.at(self.version)
                self._facts += facts
                self._pages += pages
        else:
            chosen = [named[fact_id] for fact_id in sorted(set(only)) if was_there(named[fact_id][0], self.version)]
            self._facts, self._pages = [fact for fact, _ in chosen], [page for _, page in chosen]
        for fact_id in set(exclude):
            with suppress(FactNotFound):  # it is history
                row = self._row(fact_id)
                del self._facts[row], self._pages[row]

    def __len__(self) -> int:
        return len(self._facts)

    def _row(self, fact_id: str) -> int:
        row = bisect_left(self._facts, fact_id, key=lambda fact: fact.id)
        if row == len(self._facts) or self._facts[row].id != fact_id:
            raise FactNotFound(fact_id)
        return row

    def get(self, fact_id: str) -> Fact:
        """The fact as it was at this version. Raises FactNotFound."""
        return replace(self._facts[self._row(fact_id)], until=0)

    def nearest(self, keys: Tensor, count: int) -> list[list[tuple[str, float]]]:
        """As of a memory."""
        return _nearest([(fact.id, fact.key) for fact in self._facts], keys, count)

    def nearest_statements(self, keys: Tensor, count: int) -> list[list[tuple[str, float]]]:
        """As of a memory."""
        return _nearest([(fact.id, fact.statement) for fact in self._facts if fact.statement is not None], keys, count)

    def _told_apart(self, query: str, found: Sequence[tuple[str, float]], exclude: Collection[str]) -> list[tuple[Fact, float]]:
        twins: dict[str, list[tuple[Fact, float]]] = defaultdict(list)
        for fact_id, similarity in found:
            if fact_id not in exclude:
                fact = self.get(fact_id)
                twins[seen(self._identity(fact))].append((fact, similarity))
        return [(nearest_spelt(query, [fact for fact, _ in same], self.scope.clean), same[0][1]) for same in twins.values()]

    def _sheet(self, fact_id: str) -> PageRows:
        own = self._pages[self._row(fact_id)]
        rows = sorted((fact for fact, page in zip(self._facts, self._pages, strict=True) if page == own), key=lambda fact: fact.version)
        page = Page.of(self._settings, self._dim, [self._address(f) for f in rows], [f.code for f in rows], self._device)
        return PageRows(page, tuple(fact.id for fact in rows))


def _nearest(facts: Sequence[tuple[str, Tensor]], keys: Tensor, count: int) -> list[list[tuple[str, float]]]:
    """For each key (B, D) the `count` nearest of the facts (id, key). Keys are stacked a span at a time: a matrix of all would be a
    second index."""
    if not facts:
        return [[] for _ in keys]
    best = []
    for first in range(0, len(facts), SPAN):
        some = torch.stack([key for _, key in facts[first : first + SPAN]]) @ keys.T  # (SPAN, B)
        top = some.topk(min(count, len(some)), dim=0)
        best.append((top.values, top.indices + first))
    values, rows = (torch.cat(of_spans) for of_spans in zip(*best, strict=True))  # (n, B)
    order = values.topk(min(count, len(values)), dim=0).indices
    return [
        [(facts[row][0], similarity) for row, similarity in zip(rows[at, b].tolist(), values[at, b].tolist(), strict=True)]
        for b, at in enumerate(order.T)
    ]
