"""A query and what reading a tenant's memory with it gives."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Query:
    """One sentence of a prompt and its address key (D,) float32."""

    text: str
    key: Tensor


@dataclass(frozen=True, eq=False)
class Reading:
    """The best query's decision and, in scope, its readout.

    Attributes:
        score, threshold: of the scope decision; in scope iff score ≥ threshold.
        similarity: cosine of the query with the nearest fact's key; 0 for an empty memory.
        variance: posterior variance at the query; 1 for an empty memory.
        code: (W,) float64 readout, None where the memory is empty.
        facts: (id, weight) of those that spoke most, at most eight.
        query: the sentence that won.
    """

    in_scope: bool
    score: float
    threshold: float
    similarity: float
    variance: float
    code: Tensor | None
    facts: tuple[tuple[str, float], ...]
    query: str
