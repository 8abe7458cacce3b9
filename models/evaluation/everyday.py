"""Hand-written everyday facts, with questions that they answer and near misses that they do not (data/everyday/FORMAT.md)."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from models.scope.sentences import standing_alone

Form = Literal["pair", "qa", "text"]


@dataclass(frozen=True)
class EverydayFact:
    """One fact as it is taught, and what is asked of it.

    Attributes:
        prompt, target: of a text's sentence, the sentence as it is stored and the words of it that answer.
        text: the sentences of its text as they are stored; empty where the fact stands alone.
        domain: who would write it.
    """

    form: Form
    domain: str
    prompt: str
    target: str
    questions: tuple[str, ...]
    near: tuple[str, ...]
    text: tuple[str, ...] = ()

    @property
    def statement(self) -> str:
        return self.prompt if self.form == "text" else f"{self.prompt} {self.target}"

    @property
    def span(self) -> tuple[int, int] | None:
        """Where the words that answer stand in the statement; None where a pronoun among them was replaced."""
        start = self.statement.rfind(self.target)
        return None if start < 0 else (start, start + len(self.target))


def _several(field: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in field.split(";;") if part.strip())


def read_facts(path: Path) -> list[EverydayFact]:
    """The facts of a file of P|Q|T|F lines, or of JSON lines (gzip or plain). Raises ValueError with the line's number."""
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8") as lines:
        return list(_facts(path.name, lines))


def _facts(name: str, lines: Iterator[str]) -> Iterator[EverydayFact]:
    text: list[tuple[str, str]] = []
    domain = ""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            if line.startswith("{"):
                yield _of_json(json.loads(line))
                continue
            kind, *fields = line.rstrip("\n").split("|")
            if kind == "T":
                domain, paragraph = fields
                text = standing_alone(paragraph)
            elif kind == "F":
                words, questions, near = fields
                yield _of_text(domain, text, words, _several(questions), _several(near))
            else:
                form: Form = {"P": "pair", "Q": "qa"}[kind]  # type: ignore[assignment]
                domain_, prompt, target, questions, near = fields
                yield EverydayFact(form, domain_, prompt, target, _several(questions), _several(near))
        except (ValueError, KeyError) as error:
            raise ValueError(f"{name}, line {number}: {error}") from error


def _of_json(row: dict[str, Any]) -> EverydayFact:
    questions, near = tuple(map(str, row["queries"])), tuple(map(str, row["near"]))
    domain, target = str(row.get("domain", "")), str(row["target"])
    if row["form"] != "text":
        return EverydayFact(row["form"], domain, str(row["prompt"]), target, questions, near)
    return _of_text(domain, standing_alone(str(row["text"])), target, questions, near)


def _of_text(
    domain: str, text: list[tuple[str, str]], words: str, questions: tuple[str, ...], near: tuple[str, ...]
) -> EverydayFact:
    found = [stored for stored, original in text if words in original]
    if not found:
        raise ValueError(f"no sentence of the text holds {words!r}")
    return EverydayFact("text", domain, found[0], words, questions, near, tuple(stored for stored, _ in text))
