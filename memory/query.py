"""A query and what reading a tenant's memory with it gives."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Query:
    """One sentence of a prompt and its address key (D,) float32.

    Attributes:
        part: which of the prompt's questions it is, where the prompt asks several; None for its other sentences.
    """

    text: str
    key: Tensor
    part: int | None = None


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

    @property
    def spoke(self) -> list[str]:
        """Ids of the facts whose values are in the readouts."""
        return list(dict.fromkeys([part.fact for part in self.parts] + [fact for fact, _ in self.facts]))

    @property
    def readouts(self) -> tuple[Tensor, ...]:
        """What conditions the decoder: nothing out of scope."""
        return tuple(code for _, code in self.recalled)
