"""Facts written one after the other: how many of the first, the last and any of them are recalled as the memory fills."""

from __future__ import annotations

import random
from collections.abc import Sequence
from statistics import median
from typing import Any

from rich.table import Table

from app.experiments.recall import Recall
from app.experiments.setup import Setup, bar
from models.evaluation.records import Record

CHECKPOINTS = (1, 10, 100, 512, 1_000, 2_000, 5_000, 10_000)


def retention(setup: Setup) -> Table:
    """Write `facts_in_memory` facts once each (paper, figures 3 and 4) and examine up to n of each group at every checkpoint.

    A fact is recalled by a prompt if the prompt is in scope and the readout, cleaned up, is the fact's target, token for
    token. No decoder speaks: from the right readout it says the right answer (`counterfact`).

    Raises:
        ModelError: bad data or weights.
    """
    records = setup.all_records("counterfact")
    recall = setup.recall(records[:1], quiet=True)
    rng, rows = random.Random(setup.seed), list[dict[str, Any]]()
    with bar("retention", len(records)) as report:
        for count in (*(c for c in CHECKPOINTS if c < len(records)), len(records)):
            for record in records[len(recall.memory) : count]:
                recall.teach(record)
            report(count)
            sample = min(setup.n, count)
            groups = {"first": records[:sample], "last": records[count - sample : count], "any": rng.sample(records[:count], sample)}
            row: dict[str, Any] = {"facts": count, "write_ms": 1e3 * median(recall.write_s[-1000:])}
            for name, group in groups.items():
                row[name] = {"prompt": recalled(recall, group, rephrased=False), "rephrase": recalled(recall, group, rephrased=True)}
            rows.append(row)
    setup.write({"retention": rows})
    table = Table(
        "facts", title=f"retention: percent recalled by the prompt / a rephrase, up to {setup.n} facts a group", title_justify="left"
    )
    for column in ("first", "last", "any", "a write, ms"):
        table.add_column(column, justify="right")
    for row in rows:
        shown = (f"{100 * row[name]['prompt']:.1f} / {100 * row[name]['rephrase']:.1f}" for name in ("first", "last", "any"))
        table.add_row(f"{row['facts']:,}", *shown, f"{row['write_ms']:.1f}")
    return table


def recalled(recall: Recall, records: Sequence[Record], *, rephrased: bool) -> float:
    """Rate of records whose target the memory gives for the prompt, or for the first rephrase."""
    right = 0
    for record in records:
        reading = recall.read(record.rephrases[0] if rephrased else record.prompt)
        right += any(recall.model.read_code(readout) == record.target.strip() for readout in reading.readouts)
    return right / len(records)
