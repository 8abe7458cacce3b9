"""Many facts at once: in the memory, or all of them in the prompt (the paper's experiment on context length)."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from statistics import median
from typing import Any

from rich.table import Table

from app.experiments.recall import Recall
from app.experiments.setup import Setup, bar
from models.errors import PromptTooLong
from models.evaluation.examiner import Examiner
from models.evaluation.records import Record
from models.evaluation.systems import Ask, in_prompt

COUNTS = (1, 4, 16, 64, 256)
TOKENS = 16


def context(setup: Setup) -> Table:
    """n facts, each asked for by its prompt and a rephrase among 1 to `facts_in_memory` others, half way through the order.

    In the prompt all facts stand as sentences before the question; where they pass the decoder's context it says nothing, which
    `fits` tells. `seconds` is the median of one answer, one at a time.

    Raises:
        ModelError: as `editing`.
    """
    records = setup.with_memory_of(max(setup.n, setup.facts_in_memory)).all_records("counterfact")
    rng, rows = random.Random(setup.seed), list[dict[str, Any]]()
    counts = [count for count in COUNTS if count <= setup.facts_in_memory]
    with bar("context", setup.n * len(counts)) as report:
        for count in counts:
            measured = _Measured(setup)
            for at, record in enumerate(records[: setup.n]):
                others = rng.sample([r for r in records if r is not record], count - 1)
                measured.take(record, [*others[: count // 2], record, *others[count // 2 :]])
                report(len(rows) * setup.n + at + 1)
            rows.append({"facts": count} | measured.figures())
    setup.write({"context": rows})
    title = f"facts in memory or in the prompt: {setup.n} facts, percent said after the prompt / a rephrase"
    table = Table("facts", title=title, title_justify="left")
    for column in ("larimar", "in the prompt", "larimar, s", "in the prompt, s", "prompt, tokens"):
        table.add_column(column, justify="right")
    for row in rows:
        shown = [f"{100 * row[name]['edit']:.1f} / {100 * row[name]['rephrase']:.1f}" for name in ("larimar", "prompt")]
        times = [f"{row[name]['seconds']:.2f}" for name in ("larimar", "prompt")]
        table.add_row(f"{row['facts']}", *shown, *times, f"{row['prompt']['tokens']:,}")
    return table


class _Measured:
    """Answers of both ways among so many facts."""

    def __init__(self, setup: Setup) -> None:
        self._setup, self._examiner = setup, Examiner(setup.model, capacity=0)
        self._right: dict[tuple[str, str], list[bool]] = {}
        self._seconds: dict[str, list[float]] = {"larimar": [], "prompt": []}
        self._tokens: list[int] = []
        self._too_long = 0

    def take(self, record: Record, facts: Sequence[Record]) -> None:
        recall: Recall = self._setup.recall(facts, quiet=True)
        for examined, prompt in (("edit", record.prompt), ("rephrase", record.rephrases[0])):
            started = time.perf_counter()
            asks = {"larimar": recall.asks([prompt])[0]}
            read_s = time.perf_counter() - started
            asks["prompt"] = Ask(in_prompt([(fact.prompt, fact.target) for fact in facts], prompt))
            self._tokens.append(len(self._setup.model.decoder.tokens(asks["prompt"].prompt)))
            for name, ask in asks.items():
                started = time.perf_counter()
                text = self._said(ask)
                self._seconds[name].append(time.perf_counter() - started + (read_s if name == "larimar" else 0.0))
                self._right.setdefault((name, examined), []).append(text.strip().startswith(record.target.strip()))

    def _said(self, ask: Ask) -> str:
        try:
            return self._examiner.say([ask], TOKENS)[0]
        except PromptTooLong:
            self._too_long += 1
            return ""

    def figures(self) -> dict[str, dict[str, float]]:
        found = {
            name: {examined: sum(rows) / len(rows) for (system, examined), rows in self._right.items() if system == name}
            | {"seconds": median(self._seconds[name])}
            for name in self._seconds
        }
        found["prompt"] |= {"tokens": int(median(self._tokens)), "fits": 1.0 - self._too_long / len(self._tokens)}
        return found
