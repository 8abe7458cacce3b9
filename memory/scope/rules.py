"""Scope by words and likeness, for a server without a reader.

It sees the query, and of the facts their prompts and targets; never an answer.

    score = likeness                                  cosine of the two sentence vectors
          − 0.20 · conflict                           both hold a name or number that the other lacks, or words that
                                                      exclude each other ("left" and "right")
          + 0.20 · agreement                          both hold names, and all of the fact's are in the query
          − suspicion                                 (0.45 + 0.55 · frame²) · frame: how much of the two is one frame
                                                      (memory.scope.shared_words), if they conflict or each has content words of its own:
                                                      the same sentence with a part exchanged asks for something else
          + 0.14 · news · likeness²                   content words that only the query has, at most 4, names left out: who
                                                      asks in really different words is far from the fact's words, too,
                                                      and yet near in meaning; at most what the likeness lacks
          − 0.25 · misfit                             the query wants another kind of answer ("who" does not fit a date)

A fact may be a whole sentence that holds its answer (a text taught sentence by sentence): then what it says beyond the query counts
for nothing, and agreement, three fifths of it, is that all of the query's names are in it.

In scope iff the score reaches a threshold that rises with the number of facts, since the nearest of many is nearer by
chance. How the constants were chosen is in docs/experiments.md.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from memory.fact import Fact
from memory.query import Candidate, Query, ScopeChoice, ScopeDecision
from memory.scope.answer_kind import misfits
from memory.scope.antonyms import contrasts
from memory.scope.proper_names import content, lacking, names, wording, words
from memory.scope.shared_words import shared_frame
from memory.spelling import as_asked, normalise

Literal = Callable[[str, str], float | None]


def _read(_prompt: str, _query: str) -> None:
    """The meaning of all texts is read."""


@dataclass(eq=False)
class _Candidate:
    """A fact that a query may ask for: its score, of which its `suspicion`, what a common frame costs, is taken."""

    fact: Fact
    likeness: float
    score: float
    suspicion: float

    def __post_init__(self) -> None:
        self.score -= self.suspicion


@dataclass(frozen=True)
class Scope:
    """The calibrated detector.

    Attributes:
        threshold: for one fact.
        rise: how much higher it is for many.
        conflict, agreement, frame, whole_frame, news, misfit: weights of the score's terms.
        stated: share of the agreement for facts that are whole sentences.
        candidates: how many of the nearest facts are looked at.
        meaning: width of the keys' first part, the sentence vector. 0: the likeness is the keys' cosine.
        clean: what the model reads of a prompt; the same of two makes them one fact's.
        literal: of a fact's prompt and a query in a script that is not read by meaning, how much of their wording is the same: their
            score, and 0 unless they are nearly the same words. None where their meaning is read.
    """

    threshold: float = 0.45
    rise: float = 0.12
    conflict: float = 0.20
    agreement: float = 0.20
    frame: float = 0.45
    whole_frame: float = 0.55
    news: float = 0.14
    misfit: float = 0.25
    stated: float = 0.6
    candidates: int = 4
    meaning: int = 0
    clean: Callable[[str], str] = str
    literal: Literal = _read

    def chosen(self, choice: ScopeChoice) -> Scope:
        """The detector as somebody wants it."""
        return self if choice.threshold is None else replace(self, threshold=choice.threshold, rise=0.0)

    @property
    def by_prompt(self) -> int:
        return self.candidates

    @property
    def by_statement(self) -> int:
        return 0

    def decide_all(
        self, queries: Sequence[Query], candidates: Sequence[Sequence[Candidate]], facts: int
    ) -> list[ScopeDecision]:
        """As of a Detector: one query after the other."""
        pairs = zip(queries, candidates, strict=True)
        return [self.decide(query.text, [(c.fact, c.similarity) for c in found], facts, query.key) for query, found in pairs]

    def threshold_for(self, facts: int) -> float:
        return self.threshold + self.rise * (1.0 - 1.0 / math.sqrt(max(1, facts)))

    def score(self, query: str, prompt: str, target: str, likeness: float) -> float:
        """The score of one query sentence with one fact, before anything is judged."""
        score, suspicion = self._weighed(query, prompt, target, likeness)
        return score - suspicion

    def _weighed(self, query: str, prompt: str, target: str, likeness: float) -> tuple[float, float]:
        """The score without what a common frame takes from it, and that."""
        asked, stored = words(query), words(prompt)
        # A name is lacking only if the other side does not have it in lower case either.
        named = names(prompt)
        asked_names = names(query)
        ours, theirs = lacking(asked_names, stored), lacking(named, asked)
        stated = words(target) <= stored  # the fact is a whole sentence, its answer included: who asks says less, and must not say other
        if stated:
            named, theirs = asked_names, ours
        score, suspicion = likeness, 0.0
        conflict = bool(ours and theirs) or contrasts(asked, stored)
        if conflict:
            score -= self.conflict
        elif named and not ours and not theirs:
            score += self.agreement * (self.stated if stated else 1.0)
        about, stored_about = content(query), content(prompt)
        new, missing = lacking(about, stored_about), lacking(stored_about, about)
        if conflict or (new and missing):
            shared = shared_frame(query, prompt)
            suspicion = (self.frame + self.whole_frame * shared**2) * shared
        score += min(self.news * min(4, len(set(new) - asked_names)) * max(0.0, likeness) ** 2, max(0.0, 1.0 - likeness))
        return score - self.misfit * misfits(query, prompt, target), suspicion

    def likeness(self, query: Tensor, fact: Fact, similarity: float) -> float:
        """Cosine of the meaning of two keys (D,)."""
        if not self.meaning:
            return similarity
        ours, theirs = query[: self.meaning], fact.key[: self.meaning]
        return float(ours @ theirs / (ours.norm() * theirs.norm()).clamp_min(1e-12))

    def decide(
        self,
        query: str,
        candidates: Sequence[tuple[Fact, float]],
        facts: int,
        key: Tensor | None = None,
    ) -> ScopeDecision:
        """The best of the candidates (fact, cosine similarity) for one query sentence, among `facts` facts.

        Args:
            key: (D,) of the query; without it the similarities are taken as they are.
        """
        threshold, query = self.threshold_for(facts), unicodedata.normalize("NFC", query)
        best, highest, asked = ScopeDecision(False, -1.0, threshold, 0.0, None), (False, False, -math.inf), wording(query)
        prompts = [as_asked(fact.prompt, query) for fact, _ in candidates]
        likenesses = [similarity if key is None else self.likeness(key, fact, similarity) for fact, similarity in candidates]
        weighed = [
            _Candidate(fact, like, *self._weighed(query, prompt, fact.target, like))
            for (fact, _), prompt, like in zip(candidates, prompts, likenesses, strict=True)
        ]
        literal = [self.literal(self.clean(prompt), query) for prompt in prompts]
        # whether the query is the fact's own words
        owned = [wording(p) == asked if same is None else same > 0 for p, same in zip(prompts, literal, strict=True)]
        for candidate, same in zip(weighed, literal, strict=True):
            candidate.score = candidate.score if same is None else same
        for (fact, similarity), candidate, own in zip(candidates, weighed, owned, strict=True):
            exact = own and normalise(self.clean(fact.prompt)) == normalise(query)
            rank = (exact, own, candidate.score)  # no other fact comes before the one whose own words these are
            if best.fact is None or rank > highest:
                best, highest = ScopeDecision(candidate.score >= threshold, candidate.score, threshold, similarity, fact), rank
        return best
