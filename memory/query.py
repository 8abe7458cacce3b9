"""A query, what decides whether a fact is asked for, and what reading a tenant's memory gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from torch import Tensor

from memory.fact import Fact

ASKED = 3  # how many facts one prompt may ask for; the model keeps room for as many answers


@dataclass(frozen=True, eq=False)
class Query:
    """One sentence of a prompt and its address key (D,) float32.

    Attributes:
        part: which of the prompt's questions it is, where the prompt asks several; None for its other sentences.
        statement: (S,) float32, to be compared with the statement keys of facts; None where there are none.
        before: the turns of the conversation before it.
    """

    text: str
    key: Tensor
    part: int | None = None
    statement: Tensor | None = None
    before: str = ""


class Candidate(NamedTuple):
    """A fact that lies near a query.

    Attributes:
        similarity: cosine of the query with the fact's prompt.
        statement: cosine of the query with the whole fact; the similarity where the fact has no statement key.
    """

    fact: Fact
    similarity: float
    statement: float


class Considered(NamedTuple):
    """A fact that was weighed: the probability that it answers, and the characters of its prompt and target that do, if they are known."""

    fact: str
    probability: float
    span: tuple[int, int] | None = None


@dataclass(frozen=True)
class ScopeDecision:
    """The best candidate's; `fact` is None only where there is no candidate.

    Attributes:
        considered: the facts that were weighed, the likeliest first.
    """

    in_scope: bool
    score: float
    threshold: float
    similarity: float
    fact: Fact | None
    considered: tuple[Considered, ...] = ()


@dataclass(frozen=True)
class ScopeChoice:
    """What a server or a request wants otherwise than the detector has it; None leaves it.

    Attributes:
        threshold: the score that a fact must reach, however many there are.
    """

    threshold: float | None = None


AS_IT_IS = ScopeChoice()


class Detector(Protocol):
    """Decides whether queries ask for facts.

    Attributes:
        clean: what the model reads of a prompt; the same of two makes them one fact's.
        by_prompt, by_statement: how many of the nearest facts by either key it looks at.
    """

    @property
    def clean(self) -> Callable[[str], str]: ...
    @property
    def by_prompt(self) -> int: ...
    @property
    def by_statement(self) -> int: ...

    def chosen(self, choice: ScopeChoice) -> Detector:
        """The detector as somebody wants it."""
        ...

    def decide_all(
        self, queries: Sequence[Query], candidates: Sequence[Sequence[Candidate]], facts: int
    ) -> list[ScopeDecision]:
        """A decision for each query and its candidates, among `facts` facts."""
        ...


@dataclass(frozen=True)
class Part:
    """A question of a prompt, and the fact that answers it.

    Attributes:
        query: the question's text; fact: the fact's id; score, similarity: as those of a reading.
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
        code: (W,) float64 readout for the best query, at its fact's own key; None where the memory is empty.
        fact: id of the fact that the best query asks for, None where the memory is empty.
        facts: (id, weight) of those whose values are in that readout, most first, at most eight.
        query: the sentence that won.
        recalled: in scope, (fact id, readout) of each question of the prompt, in their order: one, or several where the
            prompt asks for several facts. Empty out of scope.
        parts: those questions, in the same order.
        considered: as that of the best query's decision.
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
        """Ids of the facts whose values are in the readouts."""
        return list(dict.fromkeys([part.fact for part in self.parts] + [fact for fact, _ in self.facts]))

    @property
    def readouts(self) -> tuple[Tensor, ...]:
        """What conditions the decoder: nothing out of scope."""
        return tuple(code for _, code in self.recalled)


def parts(best: tuple[Query, ScopeDecision], found: Sequence[tuple[Query, ScopeDecision]]) -> tuple[Part, ...]:
    """The prompt's questions that are in scope, each fact once, in their order; the best query alone unless its fact is theirs.

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
