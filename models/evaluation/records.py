"""Records of the editing benchmarks, in the formats that EasyEdit publishes, and of private facts in a format of ours."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.errors import DataMissing
from models.training.corpus import read_records


@dataclass(frozen=True)
class Record:
    """One edit and how it is examined.

    Attributes:
        line: in its file, from 1.
        target: the answer to write; truth: what was right before it, empty if the format names none.
        rephrases: other wordings of the prompt.
        neighbours: prompts that ask for something else, each with its right answer (empty if the format names none).
    """

    line: int
    prompt: str
    target: str
    truth: str
    rephrases: tuple[str, ...]
    neighbours: tuple[tuple[str, str], ...]


class _Fields:
    """One record's fields, which must be there."""

    def __init__(self, path: Path, line: int, raw: dict[str, Any]) -> None:
        self.path, self.line, self.raw = path, line, raw

    def text(self, name: str) -> str:
        value = self.raw.get(name)
        if isinstance(value, list) and value:
            value = value[0]
        if not isinstance(value, str) or not value.strip():
            raise DataMissing(f"{self.path}, line {self.line}: field {name!r} is missing or empty, wanted text")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        value = self.raw.get(name)
        if not isinstance(value, list) or not value or not all(isinstance(v, str) and v.strip() for v in value):
            raise DataMissing(f"{self.path}, line {self.line}: field {name!r} must be a list of texts, got {type(value).__name__}")
        return tuple(value)


def _counterfact(f: _Fields) -> Record:
    return Record(
        f.line,
        f.text("prompt"),
        f.text("target_new"),
        f.text("ground_truth"),
        (f.text("rephrase_prompt"),),
        ((f.text("locality_prompt"), f.text("locality_ground_truth")),),
    )


def _zsre(f: _Fields) -> Record:
    return Record(f.line, f.text("src"), f.text("alt"), "", (f.text("rephrase"),), ((f.text("loc"), ""),))


def _private(f: _Fields) -> Record:
    neighbours = tuple((prompt, "") for prompt in f.texts("near_misses"))
    return Record(f.line, f.text("prompt"), f.text("target"), "", f.texts("rephrases"), neighbours)


TARGET = {"counterfact": "target_new", "zsre": "alt", "private": "target"}
FORMATS: dict[str, Callable[[_Fields], Record]] = {"counterfact": _counterfact, "zsre": _zsre, "private": _private}


def read(path: Path, form: str) -> list[Record]:
    """All records of a file, in its order; those whose target is an empty text have nothing to teach and are left out.

    Args:
        form: `counterfact` (prompt, target_new, ground_truth, rephrase_prompt, locality_prompt, locality_ground_truth),
            `zsre` (src, alt, rephrase, loc) or `private` (prompt, target, rephrases: list, near_misses: list).

    Raises:
        DataMissing: no such file, an empty one, or a record without a field (names line and field).
    """
    return [FORMATS[form](_Fields(path, line, raw)) for line, raw in read_records(path) if raw.get(TARGET[form]) != ""]


def choose(records: Sequence[Record], n: int, seed: int) -> list[Record]:
    """n records with different prompts, drawn by `seed`.

    Raises:
        DataMissing: there are fewer.
    """
    distinct = list({record.prompt.casefold(): record for record in records}.values())
    if len(distinct) < n:
        raise DataMissing(f"{n} records with different prompts are needed, the file has {len(distinct)}")
    return random.Random(seed).sample(distinct, n)
