"""Timings as percentiles."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

Summary = dict[str, float]


def summary(seconds: Sequence[float]) -> Summary:
    """Count, mean and percentiles of timings in seconds, in milliseconds."""
    ordered = sorted(1e3 * s for s in seconds)
    if not ordered:
        return {"n": 0}
    return {"n": len(ordered), "mean_ms": statistics.fmean(ordered)} | {f"p{p}_ms": percentile(ordered, p) for p in (50, 90, 99)}


def percentile(ordered: Sequence[float], p: int) -> float:
    """The nearest-rank percentile of ordered values."""
    return ordered[min(len(ordered) - 1, max(0, -(-p * len(ordered) // 100) - 1))]


def timed(work: Callable[[], object], repeats: int, warm_up: int = 2) -> list[float]:
    """Seconds of each of `repeats` calls, after some that do not count."""
    out = []
    for number in range(warm_up + repeats):
        started = time.perf_counter()
        work()
        if number >= warm_up:
            out.append(time.perf_counter() - started)
    return out
