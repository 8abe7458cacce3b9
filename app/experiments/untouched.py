"""Ordinary text with a full memory: is the plain decoder's work what it was?"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from rich.table import Table

from app.experiments.setup import Setup, steps
from models.engine.decoder import Forced
from models.evaluation.examiner import Examiner
from models.evaluation.systems import Ask
from models.training.corpus import paragraphs

PROMPT_WORDS, TEXT_WORDS, TOKENS = 64, 32, 16


def untouched(setup: Setup) -> Table:
    """Perplexity and last words of n passages of running text, with `facts_in_memory` facts of the --fill file and without.

    A passage is the prompt's 64 words and the 32 that follow. `answered with a fact` is the rate of prompts that scope let in;
    every other one's figures are the plain decoder's, bit for bit.

    Raises:
        ModelError: as `editing`.
    """
    recall = setup.recall(setup.filling())
    examiner = Examiner(setup.model)
    asked: list[tuple[Ask, Ask, str]] = []
    for prompt, text in steps("reading", _passages(setup)):
        (ask,) = recall.asks([prompt])
        asked.append((ask, Ask(prompt), text))
    texts = [text for *_, text in asked]
    figures, said = {}, {}
    for name, column in (("with the memory", 0), ("plain", 1)):
        asks = [item[column] for item in asked]
        forced = examiner.force(asks, texts)  # type: ignore[arg-type]  # the first two columns are asks
        said[name] = examiner.say(asks, TOKENS)  # type: ignore[arg-type]
        figures[name] = {"perplexity": _perplexity(forced), "next_word": _next_word(said[name], texts)}
    answered = sum(bool(ask.readouts) for ask, *_ in asked) / len(asked)
    same = sum(a == b for a, b in zip(*said.values(), strict=True)) / len(asked)
    setup.write({"untouched": figures | {"answered": answered, "same": same}})
    title = f"ordinary text: {setup.n} passages, {len(recall.memory):,} facts in memory"
    table = Table("", *figures, title=title, title_justify="left")
    table.add_row("perplexity", *(f"{found['perplexity']:.3f}" for found in figures.values()))
    table.add_row("next word right, percent", *(f"{100 * found['next_word']:.1f}" for found in figures.values()))
    table.add_row(f"{TOKENS} tokens as the plain model's, percent", f"{100 * same:.1f}", "100.0")
    table.add_row("answered with a fact, percent", f"{100 * answered:.1f}", "-")
    return table


def _passages(setup: Setup) -> list[tuple[str, str]]:
    words = [found for text in paragraphs(setup.data) if len(found := text.split()) >= PROMPT_WORDS + TEXT_WORDS]
    chosen = random.Random(setup.seed).sample(words, min(setup.n, len(words)))
    return [(" ".join(w[:PROMPT_WORDS]), " ".join(w[PROMPT_WORDS : PROMPT_WORDS + TEXT_WORDS])) for w in chosen]


def _perplexity(forced: Sequence[Forced]) -> float:
    return math.exp(-sum(float(f.log_probs.sum()) for f in forced) / sum(len(f.log_probs) for f in forced))


def _next_word(said: Sequence[str], texts: Sequence[str]) -> float:
    return sum(s.split()[:1] == t.split()[:1] for s, t in zip(said, texts, strict=True)) / len(texts)
