"""Everyday facts as people ask for them: what is read rightly, what gets another fact, and which near misses are let in."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.table import Table

from app.experiments.recall import Recall
from app.experiments.setup import steps
from memory.page import PageSettings
from memory.query import Detector
from models.evaluation.everyday import EverydayFact, read_facts
from models.evaluation.records import Record
from models.model import Model


@dataclass(frozen=True)
class Outcome:
    """A question of a file, and what came of it.

    Attributes:
        language: as the file's domains have it; "en" where they have none.
        near: it asks for something that its fact does not say, so nothing should be in scope.
        in_scope: a fact answered; right: it was the question's own.
        probability: of the likeliest fact; candidates: prompts of the facts that were read and their probabilities, the likeliest first.
    """

    file: str
    form: str
    language: str
    question: str
    near: bool
    in_scope: bool
    right: bool
    probability: float
    threshold: float
    candidates: Sequence[tuple[str, float]]


@dataclass(frozen=True)
class Share:
    """`count` of `of`."""

    count: int
    of: int

    def wilson(self, z: float = 1.96) -> tuple[float, float]:
        """The interval that holds the true share with 95% at z = 1.96 (Wilson 1927); 0 to 1 of nothing."""
        if not self.of:
            return 0.0, 1.0
        share, n = self.count / self.of, self.of
        middle = share + z * z / (2 * n)
        half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
        return max(0.0, (middle - half) / (1 + z * z / n)), min(1.0, (middle + half) / (1 + z * z / n))

    def __str__(self) -> str:
        if not self.of:
            return "-"
        low, high = self.wilson()
        return f"{100 * self.count / self.of:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def language_of(fact: EverydayFact) -> str:
    """Of a domain "LANG:topic"; English has no such mark."""
    head, colon, _ = fact.domain.partition(":")
    return head if colon and len(head) == 2 else "en"


def examine(path: Path, model: Model, scope: Detector) -> list[Outcome]:
    """Teach a file's facts to an empty memory, all of them, and ask every question and near miss, as `POST /query` reads it.

    Raises:
        ValueError: a line is no fact. ModelError: a fact cannot be encoded.
    """
    facts = read_facts(path)
    recall, ids = Recall(model, PageSettings(), scope), dict[str, str]()
    taught = {s: (s, s) for fact in facts for s in fact.text} | {f.statement: (f.prompt, f.target) for f in facts if not f.text}
    for statement, (prompt, target) in steps(f"{path.name}: teaching", list(taught.items())):
        ids[statement] = recall.teach(Record(0, prompt, target, "", (), ()))
    asked = [(fact, question, near) for fact in facts for near, qs in ((False, fact.questions), (True, fact.near)) for question in qs]
    return [_outcome(path, recall, fact, question, near, ids) for fact, question, near in steps(f"{path.name}: asking", asked)]


def _outcome(path: Path, recall: Recall, fact: EverydayFact, question: str, near: bool, ids: dict[str, str]) -> Outcome:
    reading = recall.read(question)
    return Outcome(
        path.name.split(".")[0],
        fact.form,
        language_of(fact),
        question,
        near,
        reading.in_scope,
        reading.in_scope and not near and reading.fact == ids[fact.statement],
        reading.score,
        reading.threshold,
        [(recall.memory.get(seen.fact).prompt, seen.probability) for seen in reading.considered],
    )


def everyday_facts(files: Sequence[Path], model: Model, scope: Detector, rows: Path | None = None) -> Table:
    """A table of the shares with their 95% intervals, of each file, and of all by form and by language.

    Args:
        rows: every outcome is written there as a line of JSON, file by file.
    """
    found: list[Outcome] = []
    if rows is not None:
        rows.write_text("")
    for path in files:
        outcomes = examine(path, model, scope)
        found += outcomes
        if rows is not None:
            with rows.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(asdict(outcome), ensure_ascii=False) + "\n" for outcome in outcomes)
    title = "everyday facts, a file to a memory (percent, with 95% intervals)"
    table = Table("", title=title, title_justify="left")
    for column in ("questions", "right", "wrong fact", "near misses", "let in"):
        table.add_column(column, justify="right")
    for name, group in _groups(found):
        asked, near = [o for o in group if not o.near], [o for o in group if o.near]
        right, wrong = sum(o.right for o in asked), sum(o.in_scope and not o.right for o in asked)
        shares = (Share(right, len(asked)), Share(wrong, len(asked)), Share(sum(o.in_scope for o in near), len(near)))
        table.add_row(name, str(len(asked)), str(shares[0]), str(shares[1]), str(len(near)), str(shares[2]))
    return table


def _groups(found: Sequence[Outcome]) -> Iterator[tuple[str, Sequence[Outcome]]]:
    """Each file; and of all files each form and each language, where there are several."""
    kinds: dict[str, Callable[[Outcome], str]] = {"": lambda o: o.file, "form ": lambda o: o.form, "language ": lambda o: o.language}
    for kind, of in kinds.items():
        names = list(dict.fromkeys(map(of, found)))
        if not kind or len(names) > 1:
            yield from ((f"{kind}{name}", [o for o in found if of(o) == name]) for name in names)
    if len({o.file for o in found}) > 1:
        yield "all", found
