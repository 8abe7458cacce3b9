"""Scope: does a query ask for a fact? It sees the query, and of the facts their prompts and targets; never an answer.

    score = likeness                                  cosine of the two sentence vectors
          − 0.15 · conflict                           both hold a name or number that the other lacks, or words that
                                                      exclude each other ("left" and "right")
          + 0.20 · agreement                          both hold names, and all of the fact's are in the query
          − (0.20 + 0.50 · frame²) · frame            how much of the two is one frame (memory.frame), if they conflict or
                                                      each has content words of its own: the same sentence with a part
                                                      exchanged asks for something else
          + 0.14 · news · likeness²                   content words that only the query has, at most 4, names left out: who
                                                      asks in really different words is far from the fact's words, too,
                                                      and yet near in meaning; at most what the likeness lacks
          − 0.25 · misfit                             the query wants another kind of answer ("who" does not fit a date)
          + 0.06 · judgement, in [−10, 6]             log-odds of the judge, which reads both side by side, + 1.25: a third of the pairs
                                                      that it learnt from want the same, of the queries that it is asked more do.
                                                      Asked where the score leaves doubt, if the query is a question, or in the
                                                      fact's frame

A fact may be a whole sentence that holds its answer (a text taught sentence by sentence): then what it says beyond the query counts
for nothing, and agreement, three fifths of it, is that all of the query's names are in it.

In scope iff the score reaches a threshold that rises with the number of facts, since the nearest of many is nearer by
chance. How the constants were chosen is in docs/experiments.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from memory.contrast import contrasts
from memory.expectation import is_question, misfits
from memory.fact import Fact
from memory.frame import shared_frame
from memory.names import content, lacking, names, sequence, words

Judge = Callable[[Sequence[tuple[str, str]]], list[float]]
STRICT = 0.2  # `judged_frame` of a strict detector


@dataclass(frozen=True)
class ScopeDecision:
    """The best candidate's; `fact` is None only where there is no candidate."""

    in_scope: bool
    score: float
    threshold: float
    similarity: float
    fact: Fact | None


@dataclass(frozen=True)
class Scope:
    """The calibrated detector.

    Attributes:
        threshold: for one fact.
        rise: how much higher it is for many.
        conflict, agreement, frame, whole_frame, news, misfit: weights of the score's terms.
        stated: share of the agreement for facts that are whole sentences.
        judgement: weight of the judge's log-odds, which count up to `sure` for and `against` once `prior` is added.
        judged_frame: how much common frame has a statement judged.
        candidates: how many of the nearest facts are looked at.
        meaning: width of the keys' first part, the sentence vector. 0: the likeness is the keys' cosine.
        clean: what the model reads of a prompt; the same of two makes them one fact's.
        judge: the log-odds of each (fact's prompt, query) that both want the same answer; None: nobody is asked.
    """

    threshold: float = 0.58
    rise: float = 0.096
    conflict: float = 0.15
    agreement: float = 0.20
    frame: float = 0.20
    whole_frame: float = 0.50
    news: float = 0.14
    misfit: float = 0.25
    stated: float = 0.6
    judgement: float = 0.06
    sure: float = 6.0
    against: float = 10.0
    prior: float = 1.25
    judged_frame: float = 0.6
    candidates: int = 4
    meaning: int = 0
    clean: Callable[[str], str] = str
    judge: Judge | None = None

    def threshold_for(self, facts: int) -> float:
        return self.threshold + self.rise * (1.0 - 1.0 / math.sqrt(max(1, facts)))

    def score(self, query: str, prompt: str, target: str, likeness: float) -> float:
        """The score of one query sentence with one fact."""
        asked, stored = words(query), words(prompt)
        # A name is lacking only if the other side does not have it in lower case either.
        named = names(prompt)
        asked_names = names(query)
        ours, theirs = lacking(asked_names, stored), lacking(named, asked)
        stated = words(target) <= stored  # the fact is a whole sentence, its answer included: who asks says less, and must not say other
        if stated:
            named, theirs = asked_names, ours
        score = likeness
        conflict = bool(ours and theirs) or contrasts(asked, stored)
        if conflict:
            score -= self.conflict
        elif named and not ours and not theirs:
            score += self.agreement * (self.stated if stated else 1.0)
        about, stored_about = content(query), content(prompt)
        new, missing = lacking(about, stored_about), lacking(stored_about, about)
        if conflict or (new and missing):
            shared = shared_frame(query, prompt)
            score -= (self.frame + self.whole_frame * shared**2) * shared
        score += min(self.news * min(4, len(set(new) - asked_names)) * max(0.0, likeness) ** 2, max(0.0, 1.0 - likeness))
        return score - self.misfit * misfits(query, prompt, target)

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
        threshold: float | None = None,
    ) -> ScopeDecision:
        """The best of the candidates (fact, cosine similarity) for one query sentence, among `facts` facts.

        Args:
            key: (D,) of the query; without it the similarities are taken as they are.
            threshold: instead of the calibrated one.
        """
        threshold = self.threshold_for(facts) if threshold is None else threshold
        best, highest, asked = ScopeDecision(False, -1.0, threshold, 0.0, None), (False, -math.inf), sequence(query)
        likenesses = [similarity if key is None else self.likeness(key, fact, similarity) for fact, similarity in candidates]
        scores = [self.score(query, fact.prompt, fact.target, like) for (fact, _), like in zip(candidates, likenesses, strict=True)]
        owned = [sequence(fact.prompt) == asked for fact, _ in candidates]  # whether the query is the fact's own words
        if self.judge is not None:
            if any(owned):  # a fact's own words need no judge
                scores = [score + self.judgement * self.sure for score in scores]
            else:
                self._judge(self.judge, query, [fact for fact, _ in candidates], scores, threshold)
        for (fact, similarity), score, own in zip(candidates, scores, owned, strict=True):
            rank = (own, score)  # no other fact comes before the one whose own words these are
            if best.fact is None or rank > highest:
                best, highest = ScopeDecision(score >= threshold, score, threshold, similarity, fact), rank
        return best

    def _judge(self, judge: Judge, query: str, facts: Sequence[Fact], scores: list[float], threshold: float) -> None:
        """Adds the judgement to the scores that it may decide: to the highest first, then to those that may still come before it.
        Statements are only spoken against: of those some are judged and some are not, and none shall win by it."""
        asks = is_question(query)
        most = self.sure if asks else 0.0
        doubtful = [
            number
            for number, fact in enumerate(facts)
            if scores[number] > threshold - self.judgement * self.sure and (asks or shared_frame(query, fact.prompt) >= self.judged_frame)
        ]
        doubtful.sort(key=lambda number: -scores[number])
        for part in (slice(1), slice(1, None)):
            asked = [number for number in doubtful[part] if scores[number] + self.judgement * most >= max(scores)]
            for number, odds in zip(asked, judge([(facts[at].prompt, query) for at in asked]) if asked else (), strict=True):
                scores[number] += self.judgement * max(-self.against, min(most, odds + self.prior))
