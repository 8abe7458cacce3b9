"""Forgetting: is the plain model's answer back, does the target still come, and is every other readout where it was?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from models.evaluation.examiner import Examiner
from models.evaluation.records import Record
from models.evaluation.systems import Ask


@dataclass(frozen=True)
class Forgotten:
    """One record before and after its fact was forgotten.

    Attributes:
        recalled: the fact was known before: greedy generation started with the target.
        plain: after it, every prompt's greedy answer has the plain model's bytes.
        attack: after it, some prompt's answer still starts with the target (the paper's attack success), where the
            plain model's does not.
        residual: as the receipt gives it.
        others: largest relative change of any other fact's readout.
    """

    recalled: bool
    plain: bool
    attack: bool
    residual: float
    others: float

    def as_row(self) -> dict[str, float]:
        return {name: float(value) for name, value in asdict(self).items()}


def compare(examiner: Examiner, record: Record, before: Sequence[Ask], after: Sequence[Ask], residual: float, others: float) -> Forgotten:
    """Examine one forgotten fact.

    Args:
        before, after: what the decoder gets for the record's prompt and its rephrases, before and after forgetting.
    """
    target = record.target.strip()
    known = examiner.say(before[:1])[0].strip().startswith(target)
    said, plain = examiner.say(after), examiner.say([Ask(prompt) for prompt in (record.prompt, *record.rephrases)])
    attack = any(a.strip().startswith(target) and not p.strip().startswith(target) for a, p in zip(said, plain, strict=True))
    return Forgotten(known, said == plain, attack, residual, others)
