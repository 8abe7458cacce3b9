"""Reading facts: candidates of a prompt, the scope decision, readouts. Shared by the memory and its excerpts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from memory.fact import Fact, is_current
from memory.page import Page
from memory.query import AS_IT_IS, Candidate, Detector, Query, Reading, ScopeChoice, ScopeDecision, parts
from memory.readout import Readout
from memory.spelling import address, closeness, normalise

SPOKE = 8  # facts that a reading names at most
LEAST_WEIGHT = 1e-6  # a reading names no fact of less weight


def nearest_spelt(query: str, twins: Sequence[Fact], clean: Callable[[str], str]) -> Fact:
    """Of facts that an encoder cannot tell apart, the one with the spelling nearest to the query's; of equally near ones the newest."""
    return max(twins, key=lambda fact: (closeness(query, clean(fact.prompt)), fact.version))


@dataclass(frozen=True, eq=False)
class PageRows:
    """A page and the ids of its rows."""

    page: Page
    ids: tuple[str, ...] = ()


class Readable(ABC):
    """Facts of a tenant that can be read: all of them, or an excerpt.

    Attributes:
        scope: the detector.
        version: the version of the memory that is read.
    """

    scope: Detector
    version: int

    @abstractmethod
    def __len__(self) -> int:
        """How many facts there are, history not counted."""

    @abstractmethod
    def get(self, fact_id: str) -> Fact:
        """Raises FactNotFound."""

    @abstractmethod
    def nearest(self, keys: Tensor, count: int) -> list[list[tuple[str, float]]]:
        """For each key (B, D) the `count` nearest facts' (id, cosine), nearest first."""

    @abstractmethod
    def nearest_statements(self, keys: Tensor, count: int) -> list[list[tuple[str, float]]]:
        """As `nearest`, for statement keys (B, S), of the facts that have one."""

    @abstractmethod
    def _told_apart(self, query: str, found: Sequence[tuple[str, float]], exclude: Collection[str]) -> list[tuple[Fact, float]]:
        """As FactIndex.candidates."""

    @abstractmethod
    def _sheet(self, fact_id: str) -> PageRows:
        """The page of a fact, with the ids of its rows."""

    def read(self, queries: Sequence[Query], exclude: Collection[str] = (), choice: ScopeChoice = AS_IT_IS) -> Reading:
        """Read with the best query, as if the facts in `exclude` were forgotten.

        Each sentence of a prompt is a query, and the one with the highest score decides. If the prompt asks several questions, each
        one in scope adds its fact.

        Args:
            choice: a threshold in place of the detector's own.

        Raises:
            FactNotFound: an excluded id is unknown.
        """
        for fact_id in exclude:
            self.get(fact_id)
        return self.reading(queries, self.decide(queries, self.candidates(queries, exclude), exclude, choice), exclude)

    def candidates(self, queries: Sequence[Query], exclude: Collection[str] = ()) -> list[list[Candidate]]:
        """For each query its candidates, nearest first: `by_prompt` and `by_statement` nearest facts by either key."""
        by_prompt, by_statement = self.scope.by_prompt, self.scope.by_statement
        nearest = self.nearest(torch.stack([query.key for query in queries]), by_prompt + len(set(exclude)))
        found = [self._told_apart(query.text, near, exclude)[:by_prompt] for query, near in zip(queries, nearest, strict=True)]
        stated = [query.statement for query in queries if query.statement is not None]
        if by_statement and len(stated) == len(queries):
            nearest = self.nearest_statements(torch.stack(stated), by_statement + len(set(exclude)))
            further = [self._told_apart(query.text, near, exclude)[:by_statement] for query, near in zip(queries, nearest, strict=True)]
            found = [one + other for one, other in zip(found, further, strict=True)]
        return [self._candidates(query, {fact.id: fact for fact, _ in near}.values()) for query, near in zip(queries, found, strict=True)]

    @staticmethod
    def _candidates(query: Query, facts: Iterable[Fact]) -> list[Candidate]:
        candidates = []
        for fact in facts:
            similarity = float(fact.key @ query.key)
            stated = None if fact.statement is None or query.statement is None else float(fact.statement @ query.statement)
            candidates.append(Candidate(fact, similarity, similarity if stated is None else stated))
        return sorted(candidates, key=lambda one: -max(one.similarity, one.statement))

    def decide(
        self,
        queries: Sequence[Query],
        candidates: Sequence[Sequence[Candidate]],
        exclude: Collection[str] = (),
        choice: ScopeChoice = AS_IT_IS,
    ) -> list[ScopeDecision]:
        """The scope decision of each query among its candidates. It may run a reader, so it belongs on the inference thread."""
        left = len(self) - sum(is_current(self.get(fact_id)) for fact_id in set(exclude))
        return self.scope.chosen(choice).decide_all(queries, candidates, left)

    def reading(self, queries: Sequence[Query], decisions: Sequence[ScopeDecision], exclude: Collection[str] = ()) -> Reading:
        """The reading of decided queries: the best one's readout, and those of the prompt's questions in scope."""
        query, decision = max(zip(queries, decisions, strict=True), key=lambda found: (found[1].score, found[1].similarity))
        if decision.fact is None:
            return Reading(False, decision.score, decision.threshold, 0.0, 1.0, None, (), query.text, considered=decision.considered)
        own = decision.fact.id
        page, ids = self._page_without(own, exclude)
        readout = page.read(self._address(decision.fact))
        order = readout.weights.abs().argsort(descending=True)[:SPOKE].tolist()
        weights = [(ids[row], float(readout.weights[row])) for row in order]
        asked = parts((query, decision), list(zip(queries, decisions, strict=True))) if decision.in_scope else ()
        recalled = {part.fact: readout if part.fact == own else self._recall(self.get(part.fact), exclude) for part in asked}
        return Reading(
            decision.in_scope,
            decision.score,
            decision.threshold,
            decision.similarity,
            page.read(address(query.key, self._identity(decision.fact))).variance,
            readout.code,
            tuple((fact_id, weight) for fact_id, weight in weights if abs(weight) >= LEAST_WEIGHT),
            query.text,
            own,
            tuple((fact_id, found.code) for fact_id, found in recalled.items()),
            asked,
            decision.considered,
        )

    def _recall(self, fact: Fact, exclude: Collection[str]) -> Readout:
        """The readout at a fact's own key, where it is least noisy; scope has chosen the fact."""
        return self._page_without(fact.id, exclude)[0].read(self._address(fact))

    def _identity(self, fact: Fact) -> str:
        return normalise(self.scope.clean(fact.prompt))

    def _address(self, fact: Fact) -> Tensor:
        """The address of a fact on its page."""
        return address(fact.key, self._identity(fact))

    def _page_without(self, fact_id: str, exclude: Collection[str]) -> tuple[Page, list[str]]:
        """A fact's page and the ids of its rows, solved without the excluded facts."""
        sheet = self._sheet(fact_id)
        rows = [row for row, found in enumerate(sheet.ids) if found in exclude]
        page = sheet.page.without(rows) if rows else sheet.page
        return page, [found for found in sheet.ids if found not in exclude]

    def recall(self, fact_id: str) -> torch.Tensor:
        """The readout (W,) float64 at a fact's own key. Raises FactNotFound."""
        return self._recall(self.get(fact_id), ()).code
