"""Which of a prompt's questions are answered by which facts."""

from __future__ import annotations

from collections.abc import Sequence

from memory.query import Part, Query
from memory.scope.rules import ScopeDecision

ASKED = 3  # how many facts one prompt may ask for; the model keeps room for as many answers


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
