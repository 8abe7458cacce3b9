"""A memory that lives: random writes, updates and forgets, and what it recalls along the way."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

from rich.table import Table

from app.experiments.recall import Recall
from app.experiments.retention import recalled
from app.experiments.setup import Setup, bar
from models.evaluation.records import Record

CHANGES = 10_000
EVERY = 1_000


def evolution(setup: Setup) -> Table:
    """10,000 random changes of a memory of about `facts_in_memory` facts; up to n facts of each sort examined every thousand.

    Raises:
        ModelError: bad data or weights.
    """
    records = setup.all_records("counterfact")
    rng, recall = random.Random(setup.seed), setup.recall(records[:1], quiet=True)
    first = records[0]
    held: dict[str, tuple[str, Record]] = {first.prompt: (recall.memory.facts(limit=1)[0].id, first)}
    gone: dict[str, Record] = {}
    count, rows, residual = {"write": 1, "update": 0, "forget": 0}, list[dict[str, Any]](), 0.0
    with bar("evolution", CHANGES) as report:
        for change in range(1, CHANGES + 1):
            record = rng.choice(records)
            full = rng.random() < len(held) / max(1, setup.facts_in_memory)
            if full or (record.prompt in held and rng.random() < 0.5):
                prompt = record.prompt if record.prompt in held else rng.choice(list(held))
                fact_id, old = held.pop(prompt)
                residual, gone[prompt] = max(residual, recall.forget(fact_id)), old
                count["forget"] += 1
            else:
                taught = replace(record, target=rng.choice(records).target) if record.prompt in held else record
                count["update" if record.prompt in held else "write"] += 1
                held[record.prompt] = recall.teach(taught), taught
                gone.pop(record.prompt, None)
            if change % EVERY == 0:
                rows.append(
                    _examine(setup, recall, rng, held, gone) | {"changes": change, "facts": len(held), "residual": residual} | count
                )
            report(change)
    setup.write({"evolution": rows})
    table = Table("changes", title=f"evolution: percent of up to {setup.n} facts a sort", title_justify="left")
    for column in ("facts", "recalled by the prompt", "by a rephrase", "forgotten ones recalled", "residual, worst"):
        table.add_column(column, justify="right")
    for row in rows:
        rates = (f"{100 * row[name]:.1f}" for name in ("prompt", "rephrase", "forgotten"))
        table.add_row(f"{row['changes']:,}", f"{row['facts']:,}", *rates, f"{row['residual']:.1e}")
    return table


def _examine(
    setup: Setup, recall: Recall, rng: random.Random, held: dict[str, tuple[str, Record]], gone: dict[str, Record]
) -> dict[str, float]:
    present = [record for _, record in rng.sample(list(held.values()), min(setup.n, len(held)))]
    absent = rng.sample(list(gone.values()), min(setup.n, len(gone)))
    return {
        "prompt": recalled(recall, present, rephrased=False),
        "rephrase": recalled(recall, present, rephrased=True),
        "forgotten": recalled(recall, absent, rephrased=False) if absent else 0.0,
    }
