"""Prompts that need two or three facts, all taught: are all their answers said?"""

from __future__ import annotations

from rich.table import Table

from app.experiments.setup import Setup, steps
from models.evaluation.composed import several as compose
from models.evaluation.examiner import Examiner
from models.evaluation.records import read
from models.evaluation.systems import Ask, in_prompt

TOKENS = 48


def several(setup: Setup) -> Table:
    """`all`: every answer is in the generated text; `each`: rate of answers that are. Beside it the facts in the prompt.

    Raises:
        ModelError: as `editing`.
    """
    own = read(setup.data, "zsre")
    taught = own[: setup.facts_in_memory] if setup.facts_in_memory > 1 else []
    examiner = Examiner(setup.model)
    found: dict[str, list[list[bool]]] = {"larimar": [], "prompt": [], "plain": []}
    shared = setup.recall(taught) if taught else None
    for item in steps("several", compose(taught or own, setup.n, setup.seed)):
        recall = shared or setup.recall(item.facts, quiet=True)
        asks = {
            "larimar": recall.asks([item.prompt])[0],
            "prompt": Ask(in_prompt([(f.prompt, f.target) for f in item.facts], item.prompt)),
            "plain": Ask(item.prompt),
        }
        for name, text in zip(asks, examiner.say(list(asks.values()), TOKENS), strict=True):
            found[name].append([fact.target.strip() in text for fact in item.facts])
    figures = {
        name: {"all": sum(map(all, rows)) / len(rows), "each": sum(map(sum, rows)) / sum(map(len, rows))}
        for name, rows in found.items()
    }
    setup.write({"several": figures})
    table = Table("", *figures, title=f"several facts: {setup.n} prompts (percent)", title_justify="left")
    for measure in ("all", "each"):
        table.add_row(f"{measure} answers said", *(f"{100 * figures[name][measure]:.1f}" for name in figures))
    return table
