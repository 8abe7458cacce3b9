"""Selective forgetting (paper, section 5.4): half of a memory's facts are forgotten, the other half must stay."""

from __future__ import annotations

import random
import time
from typing import Any

from rich.table import Table

from app.experiments.retention import recalled
from app.experiments.setup import Setup, bar
from models.evaluation.records import Record


def selective(setup: Setup) -> Table:
    """Memories of N = K / 2, K, 2 K, … facts, up to `facts_in_memory`, with K facts to a page; up to n examined of each half.

    A fact is recalled as in `retention`: in scope, and the readout is its target, token for token.

    Raises:
        ModelError: bad data or weights.
    """
    slots, most = setup.pages.slots, setup.facts_in_memory
    records = setup.all_records("counterfact")
    sizes = sorted({most, *(size for size in (slots // 2, slots, 2 * slots, 4 * slots) if 2 <= size <= most)})
    rows = []
    with bar("selective", len(sizes)) as report:
        for number, size in enumerate(sizes, 1):
            rows.append(_halved(setup, records[:size]))
            report(number)
    setup.write({"selective": {"slots": slots, "rows": rows}})
    title = f"selective forgetting: half of N facts, {slots} to a page; percent recalled by the prompt / a rephrase"
    table = Table("N", title=title, title_justify="left")
    for column in ("known before", "forgotten", "retained", "residual, worst", "a forget, ms"):
        table.add_column(column, justify="right")
    for row in rows:
        shown = (f"{100 * row[name]['prompt']:.1f} / {100 * row[name]['rephrase']:.1f}" for name in ("before", "forgotten", "retained"))
        table.add_row(f"{row['facts']:,}", *shown, f"{row['residual']:.1e}", f"{row['forget_ms']:.1f}")
    return table


def _halved(setup: Setup, records: list[Record]) -> dict[str, Any]:
    rng, recall = random.Random(setup.seed), setup.recall(records, quiet=True)
    ids = {fact.prompt: fact.id for fact in recall.memory.facts(limit=len(records))}
    gone = set(rng.sample(range(len(records)), len(records) // 2))
    groups = {
        "forgotten": [record for at, record in enumerate(records) if at in gone],
        "retained": [record for at, record in enumerate(records) if at not in gone],
    }
    examined = {name: rng.sample(group, min(setup.n, len(group))) for name, group in groups.items()}

    def rates(group: list[Record]) -> dict[str, float]:
        return {"prompt": recalled(recall, group, rephrased=False), "rephrase": recalled(recall, group, rephrased=True)}

    before = rates([*examined["forgotten"], *examined["retained"]])
    started = time.perf_counter()
    residual = max(recall.forget(ids[record.prompt]) for record in groups["forgotten"])
    forget_ms = 1e3 * (time.perf_counter() - started) / len(groups["forgotten"])
    after = {name: rates(group) for name, group in examined.items()}
    return {"facts": len(records), "before": before, **after, "residual": residual, "forget_ms": forget_ms}
