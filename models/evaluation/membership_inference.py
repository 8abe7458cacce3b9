"""Membership inference: can who looks at a memory tell whether a fact was ever in it?"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Attack:
    """How well one observation tells two groups apart.

    Attributes:
        auc: area under the ROC curve; 0.5 tells nothing.
        low, high: 95% interval, by bootstrap.
    """

    auc: float
    low: float
    high: float

    @property
    def nothing(self) -> bool:
        """Whether the interval holds 0.5."""
        return self.low <= 0.5 <= self.high


def attack(members: Sequence[float], others: Sequence[float], seed: int = 0, rounds: int = 1000) -> Attack:
    """An observation's values for facts that are or were in the memory, and for facts that never were."""
    rng = random.Random(seed)
    drawn = sorted(area(rng.choices(members, k=len(members)), rng.choices(others, k=len(others))) for _ in range(rounds))
    return Attack(area(members, others), drawn[int(0.025 * rounds)], drawn[min(rounds - 1, int(0.975 * rounds))])


def area(members: Sequence[float], others: Sequence[float]) -> float:
    """Probability that a member's value is the higher one, ties half (Mann and Whitney 1947)."""
    ordered = sorted([(value, True) for value in members] + [(value, False) for value in others])
    rank_sum, at = 0.0, 0
    while at < len(ordered):
        end = at
        while end < len(ordered) and ordered[end][0] == ordered[at][0]:
            end += 1
        rank_sum += (at + end + 1) / 2 * sum(member for _, member in ordered[at:end])  # the ties' mean rank, from 1
        at = end
    count = len(members)
    return (rank_sum - count * (count + 1) / 2) / (count * len(others))
