"""Forgetting facts one by one, each taught again before the next."""

from __future__ import annotations

from typing import Any

import torch
from rich.table import Table
from torch import Tensor

from app.experiments.recall import Recall
from app.experiments.setup import Setup, steps
from models.evaluation.examiner import Examiner
from models.evaluation.forgotten import compare
from models.evaluation.records import Record


def forgetting(setup: Setup) -> Table:
    """Is the plain model's answer back, does the target still come, and is every other readout where it was?

    Raises:
        ModelError: as `editing`.
    """
    records, taught = setup.records("counterfact")
    recall, examiner, partial = setup.recall(taught), Examiner(setup.model), setup.partial()
    for at, record in enumerate(steps("forgetting", records)):
        if at not in partial.chunks:
            partial.add(at, _forget(examiner, recall, record, shared=bool(taught)))
    rows = [partial.chunks[at] for at in range(setup.n)]
    rates = {name: sum(row[name] for row in rows) / len(rows) for name in ("recalled", "plain", "attack")}
    worst = {f"{name}_max": max(row[name] for row in rows) for name in ("residual", "others")}
    setup.write({"forgetting": rates | worst})
    partial.done()
    table = Table(title=f"forgetting: {setup.n} facts one by one, facts in memory: {setup.facts_in_memory}", title_justify="left")
    for column in ("known before", "plain bytes after", "attack success", "residual, worst", "other readouts moved, worst"):
        table.add_column(column, justify="right")
    table.add_row(*(f"{100 * rate:.1f}%" for rate in rates.values()), *(f"{value:.1e}" for value in worst.values()))
    return table


def _forget(examiner: Examiner, recall: Recall, record: Record, *, shared: bool) -> dict[str, Any]:
    prompts = [record.prompt, *record.rephrases]
    before = recall.ask(record, prompts)
    memory = recall.memory
    facts = memory.facts(limit=len(memory))
    gone = next(fact for fact in facts if fact.prompt == record.prompt)
    readouts = {fact.id: memory.recall(fact.id) for fact in facts if fact.id != gone.id}
    residual = recall.forget(gone.id)
    moved = max((_moved(memory.recall(i), readout) for i, readout in readouts.items()), default=0.0)
    row = compare(examiner, record, before, recall.asks(prompts), residual, moved).as_row()
    if shared:
        recall.teach(record)
    return row


def _moved(now: Tensor, before: Tensor) -> float:
    """Relative change of a readout; its page may have lost columns of zeros."""
    width = min(len(now), len(before))
    return float(torch.linalg.norm(now[:width] - before[:width]) / torch.linalg.norm(before))
