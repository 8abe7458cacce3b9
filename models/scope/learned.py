"""Scope as a learned reader decides it: what may ask for a fact is read beside the facts that lie near it.

A query that repeats a fact's own words is that fact's without being read; a text in a script that the encoder does not read is found
by its own words alone (models.scope.script). All pairs of a request go through the reader in one batch, the likeliest four of each
query first and the others only where none of these is in scope.

A statement beside a statement is a branch of its own: "Danielle Darrieux, a native" goes on where "The mother tongue of Danielle
Darrieux is" would, and yet asks nothing that the fact answers. Where the reader finds no fact for such a beginning, words and
likeness may (memory.scope.rules).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from memory.fact import Fact
from memory.query import Candidate, Considered, Query, ScopeChoice, ScopeDecision
from memory.scope.answer_kind import is_question
from memory.scope.rules import Scope
from memory.spelling import as_asked, normalise, seen
from models.scope.decision import BY_ADDRESS, BY_STATEMENT, FIRST, Calibration, Features, choose, is_unfinished, needs_more
from models.scope.reader import Judgement, Pair, PairReader, statement

MOST_FIRST, MOST_FURTHER = 16, 8  # pairs of one prompt that are read in the first and in the second round


@dataclass(eq=False)
class _Asked:
    """A query, the candidates that are worth reading, and what the reader has said of them so far."""

    query: Query
    nearest: Candidate | None
    candidates: Sequence[Candidate]
    own: tuple[Candidate, float, bool] | None = None  # meant by its own words: how much of them is the same, and whether all is
    judged: list[Judgement] = field(default_factory=list)

    @property
    def nearness(self) -> float:
        return max((max(one.similarity, one.statement) for one in self.candidates), default=-1.0)


@dataclass(frozen=True)
class LearnedScope:
    """The detector (memory.query.Detector).

    Attributes:
        reader: what reads a question beside a fact.
        calibration: what its log-odds mean.
        clean: what the model reads of a prompt.
        literal: how much of the wording of a fact's prompt and a query is the same, where one of them is not read by meaning; else None.
        threshold: probability that a request wants, in place of the calibrated one.
        beginnings: decides about beginnings of statements where the reader finds no fact; None: nothing does.
    """

    reader: PairReader
    calibration: Calibration
    clean: Callable[[str], str] = str
    literal: Callable[[str, str], float | None] = lambda prompt, query: None  # noqa: ARG005
    threshold: float | None = None
    by_prompt: int = BY_ADDRESS
    by_statement: int = BY_STATEMENT
    beginnings: Scope | None = None

    @property
    def least(self) -> float:
        """The probability from which a fact is in scope."""
        return self.calibration.threshold if self.threshold is None else self.threshold

    def chosen(self, choice: ScopeChoice) -> LearnedScope:
        return self if choice.threshold is None else replace(self, threshold=choice.threshold)

    def decide_all(self, queries: Sequence[Query], candidates: Sequence[Sequence[Candidate]], facts: int) -> list[ScopeDecision]:
        """As of a Detector."""
        asked = [self._asked(query, found) for query, found in zip(queries, candidates, strict=True)]
        to_read = sorted((one for one in asked if one.own is None), key=lambda one: -one.nearness)
        self._read(to_read, FIRST, MOST_FIRST)
        if not any(one.own or not needs_more(self._logits(one), self.least) for one in asked):
            self._read(to_read, max((len(one.candidates) for one in to_read), default=0), MOST_FURTHER)
        decisions = [self._decision(one) for one in asked]
        if self.beginnings is None or self.threshold is not None or any(decision.in_scope for decision in decisions):
            return decisions
        return [self._as_beginning(self.beginnings, one, decision, facts) for one, decision in zip(asked, decisions, strict=True)]

    def _as_beginning(self, rules: Scope, one: _Asked, decision: ScopeDecision, facts: int) -> ScopeDecision:
        """The decision about a query that the reader finds no fact for, if it is the beginning of a statement."""
        if not is_beginning(one.query.text):
            return decision
        begun = [(c.fact, c.similarity) for c in one.candidates if is_unfinished(c.fact.prompt)]
        found = rules.decide(one.query.text, begun, facts, one.query.key)
        if not found.in_scope or found.fact is None:
            return decision
        return replace(decision, in_scope=True, score=self.least, similarity=found.similarity, fact=found.fact)

    def _asked(self, query: Query, found: Sequence[Candidate]) -> _Asked:
        text = unicodedata.normalize("NFC", query.text)
        worth, own = list[Candidate](), list[tuple[Candidate, float, bool]]()
        for candidate in found:
            prompt = self.clean(as_asked(candidate.fact.prompt, text))
            same = self.literal(prompt, text)
            if same is None and seen(normalise(prompt)) == seen(normalise(text)):
                same = 1.0
            if same:
                own.append((candidate, same, normalise(self.clean(candidate.fact.prompt)) == normalise(text)))
            elif same is None and max(candidate.similarity, candidate.statement) >= self.calibration.nearness:
                worth.append(candidate)
        meant = max(own, key=lambda one: (one[2], one[1], one[0].similarity), default=None)
        return _Asked(query, found[0] if found else None, worth, meant)

    def _read(self, asked: Sequence[_Asked], each: int, most: int) -> None:
        """Read up to `each` candidates of every query, and `most` more pairs in all, those of the likeliest queries."""
        pairs: list[tuple[_Asked, Pair]] = []
        for one in asked:
            if one.judged and not needs_more(self._logits(one), self.least):
                continue
            further = one.candidates[len(one.judged) : each][: most - len(pairs)]
            pairs += [(one, Pair(one.query.text, _statement(one, c.fact), one.query.before)) for c in further]
        judged = self.reader([pair for _, pair in pairs]) if pairs else []
        for (one, _), judgement in zip(pairs, judged, strict=True):
            one.judged.append(judgement)

    def _logits(self, one: _Asked) -> list[float]:
        read = zip(one.candidates, one.judged, strict=False)
        return [
            self.calibration.logit(one.query.text, c.fact.prompt, Features(judgement.answers, c.similarity, c.statement))
            for c, judgement in read
        ]

    def _decision(self, one: _Asked) -> ScopeDecision:
        if one.own is not None:
            candidate, same, _ = one.own
            weighed = (Considered(candidate.fact.id, same),)
            return ScopeDecision(same >= self.least, same, self.least, candidate.similarity, candidate.fact, weighed)
        chosen = choose(self._logits(one), self.least)
        if chosen.index is None:
            nearest = (0.0, None) if one.nearest is None else (one.nearest.similarity, one.nearest.fact)
            return ScopeDecision(False, 0.0, self.least, *nearest)
        candidate = one.candidates[chosen.index]
        read = zip(one.candidates, chosen.probabilities, one.judged, strict=False)
        considered = [Considered(c.fact.id, p, j.span) for c, p, j in read]
        considered.sort(key=lambda seen: -seen.probability)
        p = chosen.probability
        return ScopeDecision(p >= self.least, p, self.least, candidate.similarity, candidate.fact, tuple(considered))


def _statement(one: _Asked, fact: Fact) -> str:
    """The fact as the reader reads it: without the accents that the query leaves out, unless another candidate has none."""
    prompt = as_asked(fact.prompt, one.query.text)
    others = (c.fact.prompt for c in one.candidates if c.fact.id != fact.id)
    return statement(fact.prompt if prompt in others else prompt, fact.target)


def is_beginning(text: str) -> bool:
    """Whether a text is written as the beginning of a statement: not in lower case or capitals alone as keywords are, no question, and
    without the mark that would end it."""
    text = text.strip()
    if len(text.split()) < 2 or text[:1].islower() or text.isupper():
        return False
    return is_unfinished(text) and not is_question(text)
