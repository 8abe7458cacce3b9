"""Scope alone: rephrases against neighbours, at every threshold and for growing memories."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from rich.table import Table

from app.experiments.recall import Recall
from app.experiments.setup import Setup, steps
from memory.spelling import normalise
from models.evaluation.detection import equal_error_rate, rates
from models.evaluation.records import Record

SIZES = (1, 40, 1_000, 5_000, 10_000)
OFFSETS = tuple(step / 100 for step in range(-15, 16))  # around the calibrated threshold


def scope(setup: Setup) -> Table:
    """Equal error rate, and what the calibrated threshold misses and lets in, in memories of up to `facts_in_memory` facts.

    A rephrase counts as missed at any threshold if the best fact is another one's. A neighbour whose very prompt is taught
    to the memory asks for that fact, and is left out.

    Args:
        setup: its data in CounterFact's or the private format.

    Raises:
        ModelError: bad data or weights.
    """
    form, figures = setup.form(), {}
    for size in sorted({*SIZES, setup.facts_in_memory}):
        if size == 1 or setup.n <= size <= setup.facts_in_memory:
            own = setup.with_memory_of(size)
            figures[f"{size}"] = _examine(own, *own.records(form))
    setup.write({"scope": figures})
    table = Table("facts", title=f"scope: {setup.n} records (percent)", title_justify="left")
    for column in ("equal error rate", "threshold", "missed", "let in", "asked / others"):
        table.add_column(column, justify="right")
    for facts, found in figures.items():
        shown = (f"{100 * found[name]:.1f}" for name in ("missed", "let_in"))
        counts = f"{found['asking']} / {found['others']}"
        table.add_row(f"{int(facts):,}", f"{100 * found['eer']:.1f}", f"{found['threshold']:.3f}", *shown, counts)
    return table


def _examine(setup: Setup, examined: Sequence[Record], taught: Sequence[Record]) -> dict[str, Any]:
    recall = setup.recall(taught)
    known = {normalise(record.prompt) for record in taught}
    asking: list[float] = []
    others: list[float] = []
    for record in steps(f"{max(1, len(taught)):,} facts", examined):
        recall.prepare(record)
        asking += [_score(recall, prompt, record) for prompt in record.rephrases]
        others += [_score(recall, prompt) for prompt, _ in record.neighbours if normalise(prompt) not in known]
    threshold = recall.read(examined[0].prompt).threshold
    missed, let_in = rates(asking, others, threshold)
    curve = [(offset, *rates(asking, others, threshold + offset)) for offset in OFFSETS]
    return {
        "eer": equal_error_rate(asking, others),
        "threshold": threshold,
        "missed": missed,
        "let_in": let_in,
        "asking": len(asking),
        "others": len(others),
        "curve": [dict(zip(("threshold", "missed", "let_in"), (threshold + o, m, i), strict=True)) for o, m, i in curve],
    }


def _score(recall: Recall, prompt: str, record: Record | None = None) -> float:
    """The score of the best fact; if `record` is given and another fact is best, none."""
    reading = recall.read(prompt)
    if record is not None and reading.fact is not None and recall.memory.get(reading.fact).prompt != record.prompt:
        return -math.inf
    return reading.score
