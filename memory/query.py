"""Queries, the scope detector's interface, and the result of reading a memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from torch import Tensor

from memory.fact import Fact

ASKED = 3  # facts that one prompt may ask for; the model reserves tokens for as many answers


@dataclass(frozen=True, eq=False)
class Query:
    """One sentence of a prompt and its address key (D,) float32.

    Attributes:
        part: number of the question, if the prompt asks several; None for other sentences.
        statement: (S,) float32, compared with the statement keys of facts; None if the model makes none.
        before: the turns of the conversation before it.
    """

    text: str
    key: Tensor
    part: int | None = None
    statement: Tensor | None = None
    before: str = ""


class Candidate(NamedTuple):
    """A fact near a query.

    Attributes:
        similarity: cosine of the query with the fact's prompt.
        statement: cosine of the query with the whole fact; equal to `similarity` if the fact has no statement key.
    """

    fact: Fact
    similarity: float
    statement: float


class Considered(NamedTuple):
    """A weighed candidate: the probability that it answers, and the characters of its prompt and target that do, if they are known."""

    fact: str
    probability: float
    span: tuple[int, int] | None = None


@dataclass(frozen=True)
class ScopeDecision:
    """The decision of the best candidate; `fact` is None only if there is no candidate.

    Attributes:
        considered: the weighed candidates, the likeliest first.
    """

    in_scope: bool
    score: float
    threshold: float
    similarity: float
    fact: Fact | None
    considered: tuple[Considered, ...] = ()


@dataclass(frozen=True)
class ScopeChoice:
    """A server's or a request's choice in place of the detector's; None keeps the detector's.

    Attributes:
        threshold: the score from which a fact is in scope.
    """

    threshold: float | None = None


AS_IT_IS = ScopeChoice()


class Detector(Protocol):
    """Decides whether queries ask for facts.

    Attributes:
        clean: returns the part of a prompt that the model reads; prompts with equal results are one fact's.
        by_prompt, by_statement: how many nearest facts by either key are candidates.
    """

    @property
    def clean(self) -> Callable[[str], str]: ...
    @property
    def by_prompt(self) -> int: ...
    @property
    def by_statement(self) -> int: ...

    def chosen(self, choice: ScopeChoice) -> Detector:
        """The detector with a choice applied."""
        ...

    def decide_all(
        self, queries: Sequence[Query], candidates: Sequence[Sequence[Candidate]], facts: int
    ) -> list[ScopeDecision]:
        """The decision of each query among its candidates; `facts` is the number of facts of the memory."""
        ...


@dataclass(frozen=True)
class Part:
    """A question of a prompt, and the fact that answers it.

    Attributes:
        query: the question's text; fact: the fact's id; score, similarity: as in Reading.
    """

    query: str
    fact: str
    score: float
    similarity: float


@dataclass(frozen=True, eq=False)
class Reading:
    """The best query's decision and, in scope, its readout.

    Attributes:
        score, threshold: of the scope decision; in scope iff score ≥ threshold.
        similarity: cosine of the query with the nearest fact's key; 0 for an empty memory.
        variance: posterior variance at the query; 1 for an empty memory.
        code: (W,) float64 readout of the best query, at its fact's own key; None for an empty memory.
        fact: id of the best query's candidate; None for an empty memory.
        facts: (id, weight) of up to eight facts in that readout, the greatest weight first.
        query: text of the best query.
        recalled: (fact id, readout) of each question in scope, in prompt order; empty out of scope.
        parts: those questions, in the same order.
        considered: that of the best query's decision.
    """

    in_scope: bool
    score: float
    threshold: float
    similarity: float
    variance: float
    code: Tensor | None
    facts: tuple[tuple[str, float], ...]
    query: str
    fact: str | None = None
    recalled: tuple[tuple[str, Tensor], ...] = ()
    parts: tuple[Part, ...] = ()
    considered: tuple[Considered, ...] = ()

    @property
    def spoke(self) -> list[str]:
        """Ids of the facts in the readouts."""
        return list(dict.fromkeys([part.fact for part in self.parts] + [fact for fact, _ in self.facts]))

    @property
    def readouts(self) -> tuple[Tensor, ...]:
        """The readouts that condition the decoder; none out of scope."""
        return tuple(code for _, code in self.recalled)


def parts(best: tuple[Query, ScopeDecision], found: Sequence[tuple[Query, ScopeDecision]]) -> tuple[Part, ...]:
    """In-scope questions in prompt order, one per fact. If the best query's fact is not among them, only the best query.

    Args:
        best: the query that fits best, in scope.
        found: all queries.
    """
    of_part: dict[int, tuple[Query, ScopeDecision]] = {}
    for query, decision in found:
        if query.part is not None and decision.in_scope:
            known = of_part.get(query.part)
            of_part[query.part] = (query, decision) if known is None or decision.score > known[1].score else known
    of_fact: dict[str, Part] = {}
    for query, decision in (of_part[number] for number in sorted(of_part)):
        part = _part(query, decision)
        of_fact.setdefault(part.fact, part)
    alone = _part(*best)
    return tuple(of_fact.values())[:ASKED] if alone.fact in of_fact else (alone,)


def _part(query: Query, decision: ScopeDecision) -> Part:
    assert decision.fact is not None
    return Part(query.text, decision.fact.id, decision.score, decision.similarity)
