"""The index of a tenant's facts: by id, version, prompt and key, with the page of each."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import torch
from torch import Tensor

from memory.errors import FactNotFound
from memory.fact import Fact, held_bytes
from memory.key_index import KeyIndex
from memory.readable import nearest_spelt
from memory.spelling import normalise, seen
from memory.view import Spans, View


class FactIndex:
    """Facts by id, by the version that wrote them, by prompt and by key. History is kept by id and version only.

    Args:
        dim: D, width of the address keys.
        clean: returns the part of a prompt that the model reads.
    """

    def __init__(self, dim: int, clean: Callable[[str], str] = str) -> None:
        self._held = 0  # bytes of the facts
        self._clean = clean
        self._facts: dict[str, Fact] = {}
        self._page_of: dict[str, int] = {}
        self._by_version: dict[int, str] = {}
        self._twins: dict[str, tuple[str, ...]] = {}  # `seen` form of a prompt -> ids of the facts with that form
        self._history: dict[int, set[str]] = {}  # by page
        self._spans = Spans()
        self._key_index = KeyIndex(dim)
        self._statements = KeyIndex(0)  # statement keys; as wide as the first one

    def __len__(self) -> int:
        """How many facts there are, history not counted."""
        return len(self._key_index)

    @property
    def history(self) -> int:
        """How many facts newer ones have replaced."""
        return len(self._facts) - len(self)

    @property
    def size_bytes(self) -> int:
        """About how many bytes the facts, their entries and the spare rows of the key indexes take."""
        return self._held + self._key_index.spare_bytes + self._statements.spare_bytes

    @property
    def statement_dim(self) -> int | None:
        """S, width of the statement keys; None while no fact has one."""
        return self._statements.dim if len(self._statements) else None

    def __contains__(self, fact_id: str) -> bool:
        return fact_id in self._facts

    def get(self, fact_id: str) -> Fact:
        """Raises FactNotFound."""
        try:
            return self._facts[fact_id]
        except KeyError:
            raise FactNotFound(fact_id) from None

    def page_of(self, fact_id: str) -> int:
        return self._page_of[fact_id]

    def identity(self, prompt: str) -> str:
        """The form of a prompt that is equal for prompts of one fact."""
        return normalise(self._clean(prompt))

    def holder(self, prompt: str) -> str | None:
        """The id of the newest fact with this prompt."""
        return next(iter(self.holders(prompt)), None)

    def holders(self, prompt: str) -> list[str]:
        """The ids of the facts with this prompt on the newest one's page, newest first: one change can replace these. There are
        several only if an earlier version stored them as different facts."""
        identity = self.identity(prompt)
        same = [held for held in self._twins.get(seen(identity), ()) if self.identity(self._facts[held].prompt) == identity]
        found = sorted(same, key=lambda held: -self._facts[held].version)
        return [held for held in found if self._page_of[held] == self._page_of[found[0]]]

    def written_by(self, version: int) -> str | None:
        """The id of the fact that this version wrote."""
        return self._by_version.get(version)

    def history_of(self, page: int) -> list[Fact]:
        """The replaced facts of a page, in the order of their ids."""
        return [self._facts[fact_id] for fact_id in sorted(self._history.get(page, ()))]

    def view(self, version: int) -> View:
        """A view of the current facts and history, as of this version."""
        return View(version, self._spans.frozen(), len(self), self.history)

    def nearest(self, queries: Tensor, count: int) -> list[list[tuple[str, float]]]:
        """As KeyIndex.nearest."""
        return self._key_index.nearest(queries, count)

    def nearest_statements(self, queries: Tensor, count: int) -> list[list[tuple[str, float]]]:
        """As `nearest`, by statement keys (B, S)."""
        return self._statements.nearest(queries, count)

    def candidates(self, query: str, found: Sequence[tuple[str, float]], exclude: Collection[str]) -> list[tuple[Fact, float]]:
        """The facts found near a query, with their similarities. Of facts that an encoder cannot tell apart only the one is kept whose
        spelling is nearest to the query's, of equally near ones the newest."""
        chosen: dict[str, float] = {}
        for fact_id, similarity in found:
            if fact_id not in exclude:
                twins = self._twins[seen(self.identity(self._facts[fact_id].prompt))]
                chosen.setdefault(self._nearest_spelt(query, [held for held in twins if held not in exclude]), similarity)
        return [(self._facts[fact_id], similarity) for fact_id, similarity in chosen.items()]

    def _nearest_spelt(self, query: str, twins: Sequence[str]) -> str:
        return twins[0] if len(twins) == 1 else nearest_spelt(query, [self._facts[held] for held in twins], self._clean).id

    def add(self, fact: Fact, page: int) -> None:
        self.add_all([fact], page)

    def add_all(self, facts: Sequence[Fact], page: int) -> None:
        """Add facts of one page at once, much faster than one by one."""
        for fact in facts:
            self._facts[fact.id], self._page_of[fact.id], self._by_version[fact.version] = fact, page, fact.id
            self._held += held_bytes(fact)
            if fact.until:
                self._history.setdefault(page, set()).add(fact.id)
            else:
                sight = seen(self.identity(fact.prompt))
                self._twins[sight] = (*self._twins.get(sight, ()), fact.id)
        self._spans.add(facts, page)
        if current := [fact for fact in facts if not fact.until]:
            self._key_index.add([fact.id for fact in current], torch.stack([fact.key for fact in current]))
        if stated := [(fact.id, fact.statement) for fact in current if fact.statement is not None]:
            if not len(self._statements):
                self._statements = KeyIndex(len(stated[0][1]))
            self._statements.add([fact_id for fact_id, _ in stated], torch.stack([key for _, key in stated]))

    def remove(self, fact_id: str) -> Fact:
        fact, page = self._facts.pop(fact_id), self._page_of.pop(fact_id)
        del self._by_version[fact.version]
        self._spans.remove(fact_id)
        self._held -= held_bytes(fact)
        if fact.until:
            self._history[page].remove(fact_id)
            if not self._history[page]:
                del self._history[page]
            return fact
        self._key_index.remove(fact_id)
        if fact.statement is not None:
            self._statements.remove(fact_id)
        sight = seen(self.identity(fact.prompt))
        if left := tuple(held for held in self._twins[sight] if held != fact_id):
            self._twins[sight] = left
        else:
            del self._twins[sight]
        return fact
