"""Records composed from those of the public sets: relations never trained on, long answers, several facts in one prompt."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from models.errors import DataMissing
from models.evaluation.records import Record
from models.training.corpus import HELD_OUT, read_records


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


LENGTHS = {"long": (9, 64), "passages": (65, 256)}  # tokens of answers


def long_answers(
    questions: Sequence[Record], texts: Sequence[Record], length: Callable[[str], int], seed: int, form: str = "long"
) -> list[Record]:
    """The questions with answers made of one to four statements of `texts`, or for passages of four to sixteen.

    Args:
        length: tokens of an answer.
        form: of LENGTHS.
    """
    least, most = LENGTHS[form]
    statements = (1, 4) if form == "long" else (4, 16)
    rng = random.Random(seed)
    out = []
    for record in questions:
        parts = [f"{t.prompt} {t.target}" for t in rng.sample(list(texts), min(len(texts), rng.randint(*statements)))]
        answer = ", and ".join(parts)
        if least <= length(answer) <= most:
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


@dataclass(frozen=True)
class TwoHop:
    """A question that needs two facts, the second being about the first one's answer."""

    prompts: tuple[str, ...]
    facts: tuple[Record, Record]

    @property
    def answer(self) -> str:
        return self.facts[1].target


# What the first fact answers, as a part of a question; and the statement and the question that ask the second.
_FIRST = {
    "landmark in country": "the country where {} is located",
    "city in country": "the country that {} is part of",
    "food from country": "the country that {} comes from",
    "product by company": "the company that makes {}",
    "person father": "the father of {}",
}
_SECOND = {
    "country capital city": ("The capital of {} is", "What is the capital of {}?"),
    "country currency": ("The currency of {} is the", "What is the currency of {}?"),
    "country language": ("People in {} speak", "Which language do people in {} speak?"),
    "country largest city": ("The largest city in {} is", "What is the largest city in {}?"),
    "company CEO": ("The CEO of {} is", "Who is the CEO of {}?"),
    "person mother": ("The mother of {} is", "Who is the mother of {}?"),
}
_CHAINS = {"product by company": ("company CEO",), "person father": ("person mother",)}
_COUNTRY = ("country capital city", "country currency", "country language", "country largest city")


def two_hops(path: Path, n: int, seed: int) -> list[TwoHop]:
    """n chains of two facts that are not so in the world (MQuAKE, Zhong et al. 2023), in one world: no two facts contradict.

    Each is asked by a statement to complete and by a question. A first fact moves its subject to another object that the second
    relation has as a subject, and the second gives that one the object of another subject.

    Args:
        path: LRE relations, as `unseen_relations`.

    Raises:
        DataMissing: the file has fewer chains.
    """
    rng = random.Random(seed)
    relations = {raw["name"]: raw for _, raw in read_records(path) if raw.get("name") in {*_FIRST, *_SECOND}}
    pairs = {name: {s["subject"]: s["object"] for s in raw["samples"]} for name, raw in relations.items()}
    starts = [(name, subject) for name in _FIRST for subject in pairs.get(name, {})]
    rng.shuffle(starts)
    world: dict[tuple[str, str], str] = {}
    out: list[TwoHop] = []
    for first, subject in sorted(starts, key=lambda start: sum(start[0] == other[0] for other in starts))[: 4 * n]:
        second = rng.choice([name for name in _CHAINS.get(first, _COUNTRY) if name in pairs])
        middle = rng.choice([s for s in pairs[second] if s != pairs[first][subject]])
        truth = pairs[second][middle]
        last = world.setdefault((second, middle), rng.choice([o for o in pairs[second].values() if o != truth]))
        prompt = relations[first]["prompt_templates"][0].replace("{}", subject)
        statement, question = _SECOND[second]
        facts = (_fact(prompt, middle, pairs[first][subject]), _fact(statement.replace("{}", middle), last, truth))
        asked = _FIRST[first].replace("{}", subject)
        out.append(TwoHop((statement.replace("{}", asked), question.replace("{}", asked)), facts))
    if len(out) < n:
        raise DataMissing(f"{path} has {len(out)} chains of two relations, wanted {n}")
    return rng.sample(out, n)


def _fact(prompt: str, target: str, truth: str) -> Record:
    return Record(0, prompt, target, truth, (), ())
