"""Records composed from those of the public sets: relations never trained on, long answers, several facts in one prompt."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from models.corpus import HELD_OUT, read_records
from models.errors import DataMissing
from models.evaluation.records import Record


def unseen_relations(path: Path, seed: int) -> list[Record]:
    """One record a (subject, template) of the LRE relations that training leaves out, with another subject's object as target.

    Args:
        path: LRE relations as JSON lines (name, prompt_templates, prompt_templates_zs, samples).

    Raises:
        DataMissing: none of those relations is in the file.
    """
    rng = random.Random(seed)
    out: list[Record] = []
    for line, raw in read_records(path):
        if raw.get("name") not in HELD_OUT:
            continue
        templates = list(dict.fromkeys([*raw["prompt_templates"], *raw["prompt_templates_zs"]]))
        samples = [(s["subject"], s["object"]) for s in raw["samples"]]
        if len(samples) < 2:
            continue
        for subject, truth in samples:
            others = [o for _, o in samples if o != truth]
            neighbour, known = rng.choice([s for s in samples if s[0] != subject])
            first, *more = (t.replace("{}", subject) for t in templates)
            neighbours = ((templates[0].replace("{}", neighbour), known),)
            if others:
                out.append(Record(line, first, rng.choice(others), truth, tuple(more) or (first,), neighbours))
    if not out:
        raise DataMissing(f"{path} has none of the relations that training leaves out")
    return out


def long_answers(questions: Sequence[Record], texts: Sequence[Record], length: Callable[[str], int], seed: int) -> list[Record]:
    """The questions with answers of 9 to 64 tokens, made of one to four statements of `texts`.

    Args:
        length: tokens of an answer.
    """
    rng = random.Random(seed)
    out = []
    for record in questions:
        parts = [f"{t.prompt} {t.target}" for t in rng.sample(list(texts), rng.randint(1, 4))]
        answer = ", and ".join(parts)
        if 9 <= length(answer) <= 64:
            out.append(Record(record.line, record.prompt, answer, "", record.rephrases, record.neighbours))
    return out


@dataclass(frozen=True)
class Several:
    """A prompt that needs several facts."""

    prompt: str
    facts: tuple[Record, ...]


def several(records: Sequence[Record], n: int, seed: int) -> list[Several]:
    """n prompts that ask the questions of two (three in four) or three records, in three forms."""
    rng = random.Random(seed)
    questions = [r for r in records if r.prompt.endswith("?")]
    out = []
    for _ in range(n):
        chosen = tuple(rng.sample(questions, rng.choice([2, 2, 2, 3])))
        asked = [r.rephrases[0] if r.rephrases[0].endswith("?") else r.prompt for r in chosen]
        heads = [a.rstrip("? ") for a in asked]
        lowered = [heads[0], *(h[0].lower() + h[1:] for h in heads[1:])]
        forms = (" ".join(asked), " and ".join(lowered) + "?", ", and ".join(lowered) + "?")
        out.append(Several(rng.choice(forms), chosen))
    return out
