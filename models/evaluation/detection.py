"""How well scores tell what asks for a fact from what does not."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence


def rates(asking: Sequence[float], others: Sequence[float], threshold: float) -> tuple[float, float]:
    """Rate of asking scores below the threshold (missed), and of others at or above it (let in)."""
    ordered, opposed = sorted(asking), sorted(others)
    return bisect_left(ordered, threshold) / len(ordered), 1.0 - bisect_left(opposed, threshold) / len(opposed)


def equal_error_rate(asking: Sequence[float], others: Sequence[float]) -> float:
    """Where as many of one are missed as of the other let in: the mean of both rates where they are nearest."""
    both = (rates(asking, others, threshold) for threshold in sorted({*asking, *others}))
    missed, let_in = min(both, key=lambda pair: abs(pair[0] - pair[1]))
    return (missed + let_in) / 2
