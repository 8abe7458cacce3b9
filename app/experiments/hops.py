"""Questions that need two facts, the second being about the first one's answer (MQuAKE style)."""

from __future__ import annotations

from rich.table import Table

from app.experiments.setup import Setup, steps
from models.evaluation.composed import two_hops
from models.evaluation.examiner import Examiner
from models.evaluation.systems import Ask, in_prompt

TOKENS = 16


def hops(setup: Setup) -> Table:
    """Rate of answers that begin with the second fact's target: by statement and by question, both facts taught to one memory
    with those of all other chains, or both before the prompt (and no others).

    Raises:
        ModelError: as `editing`.
    """
    chains = two_hops(setup.data, setup.n, setup.seed)
    facts = {fact.prompt: fact for chain in chains for fact in chain.facts}
    recall, examiner = setup.recall(list(facts.values())), Examiner(setup.model)
    right: dict[str, list[list[bool]]] = {name: [] for name in ("larimar", "larimar, one hop", "prompt", "plain")}
    for chain in steps("hops", chains):
        known = [(fact.prompt, fact.target) for fact in chain.facts]
        asks = {
            "larimar": recall.asks(chain.prompts, hops=2),
            "larimar, one hop": recall.asks(chain.prompts),
            "prompt": [Ask(in_prompt(known, prompt)) for prompt in chain.prompts],
            "plain": [Ask(prompt) for prompt in chain.prompts],
        }
        for name, asked in asks.items():
            said = examiner.say(asked, TOKENS)
            right[name].append([text.strip().startswith(chain.answer) for text in said])
    figures = {name: [sum(row[form] for row in rows) / len(rows) for form in (0, 1)] for name, rows in right.items()}
    setup.write({"hops": {name: dict(zip(("statement", "question"), rates, strict=True)) for name, rates in figures.items()}})
    table = Table("", *figures, title=f"two hops: {setup.n} chains, {len(recall.memory)} facts in memory (percent)", title_justify="left")
    for form, name in enumerate(("statement", "question")):
        table.add_row(name, *(f"{100 * rates[form]:.1f}" for rates in figures.values()))
    return table
