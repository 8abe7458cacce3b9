"""The public data sets the adapter learns from, read once from a folder (each set's source is in the README)."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.errors import DataMissing

# Whole relations never trained on: validation, and the unseen-relation figures, are taken from these.
HELD_OUT = frozenset(
    {
        "company CEO",
        "person university",
        "star constellation name",
        "task done by tool",
        "food from country",
        "country currency",
        "superhero archnemesis",
        "person father",
        "landmark on continent",
        "pokemon evolution",
    }
)
# Each set's file and the fields that its records must have (none: running text).
SETS = {
    "trex_facts.jsonl.gz": ("relation", "subject", "object"),
    "pararel_patterns.jsonl.gz": ("relation", "pattern"),
    "lre_relations.jsonl.gz": ("name", "samples", "prompt_templates", "prompt_templates_zs"),
    "nq_open_dev.jsonl.gz": ("question", "answer"),
    "simple_questions.jsonl.gz": ("question",),
    "paraqa.jsonl.gz": ("question", "statements"),
    "squad_qa.jsonl.gz": ("question", "answer"),
    "creak_claims.jsonl.gz": ("sentence",),
    "wikitext2_valid_test.txt.gz": (),
}


def read_lines(path: Path) -> list[str]:
    """Lines of a text file, gzipped or not.

    Raises:
        DataMissing: no such file, not a text file, or nothing in it.
    """
    if not path.is_file():
        raise DataMissing(f"no such data file: {path}")
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8") as file:
            lines = [line.rstrip("\n") for line in file]
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise DataMissing(f"{path} cannot be read as text: {error}") from error
    if not any(line.strip() for line in lines):
        raise DataMissing(f"{path} is empty")
    return lines


def read_records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, record) of a JSON-lines file, or of one JSON list (EasyEdit ships both).

    Raises:
        DataMissing: as `read_lines`, or a line that is no JSON object.
    """
    lines = read_lines(path)
    if lines[0].lstrip().startswith("["):
        numbered: Iterable[tuple[int, Any]] = enumerate(_parse("\n".join(lines), path, 1), 1)
    else:
        numbered = ((number, _parse(line, path, number)) for number, line in enumerate(lines, 1) if line.strip())
    for number, record in numbered:
        if not isinstance(record, dict):
            raise DataMissing(f"{path}, record {number}: expected a JSON object, got {type(record).__name__}")
        yield number, record


def _complete(path: Path, fields: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Records that have all of these fields."""
    for number, record in read_records(path):
        if lacking := [name for name in fields if name not in record]:
            raise DataMissing(f"{path}, record {number}: lacks {', '.join(lacking)}")
        yield record


def _parse(text: str, path: Path, number: int) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataMissing(f"{path}, line {number + error.lineno - 1}: not JSON ({error.msg})") from error


@dataclass(frozen=True)
class Corpus:
    """What the mixture draws from; `[X]` is the subject and `[Y]` the object in a template."""

    facts: dict[str, list[tuple[str, str]]]  # ParaRel relation → (subject, object)
    templates: dict[str, list[str]]  # ParaRel relation → statements that end in the object
    relations: dict[str, tuple[list[str], list[tuple[str, str]]]]  # LRE relation → templates with {}, (subject, object)
    questions: list[str]
    answered: list[tuple[str, str]]  # questions whose answer is known
    stated: list[tuple[str, ...]]  # a question and the statements that answer it, the answer left out
    claims: list[str]
    sentences: list[str]  # running text
    answers: list[str]  # objects and answers of all sets
    held_out: dict[str, tuple[list[str], list[tuple[str, str]]]]
    hashes: dict[str, str]  # file name → SHA-256

    def worded(self, source: str) -> tuple[dict[str, list[str]], dict[str, list[tuple[str, str]]]]:
        """Wordings and (subject, object) of each relation: of ParaRel (`templates`) or LRE (`relations`)."""
        if source == "templates":
            return self.templates, self.facts
        return {name: own for name, (own, _) in self.relations.items()}, {name: pairs for name, (_, pairs) in self.relations.items()}

    @classmethod
    def read(cls, folder: Path) -> Corpus:
        """Read all sets of a folder.

        Raises:
            DataMissing: a set is missing or damaged.
        """
        paths = {name: folder / name for name in SETS}
        missing = [name for name, path in paths.items() if not path.is_file()]
        if missing:
            raise DataMissing(f"{folder} lacks {', '.join(missing)}; the README names each set's public source")
        rows = {name: list(_complete(paths[name], fields)) for name, fields in SETS.items() if fields}
        facts: dict[str, list[tuple[str, str]]] = {}
        for r in rows["trex_facts.jsonl.gz"]:
            facts.setdefault(r["relation"], []).append((r["subject"], r["object"]))
        templates: dict[str, list[str]] = {}
        for r in rows["pararel_patterns.jsonl.gz"]:
            if (pattern := _statement(r["pattern"])) and r["relation"] in facts:
                templates.setdefault(r["relation"], []).append(pattern)
        relations, held_out = _relations(rows["lre_relations.jsonl.gz"])
        paraqa = rows["paraqa.jsonl.gz"]
        questions = [r["question"] for r in rows["nq_open_dev.jsonl.gz"] + rows["squad_qa.jsonl.gz"] + paraqa]
        questions += [r["question"] for r in rows["simple_questions.jsonl.gz"][::4]]
        answers = [a for r in rows["nq_open_dev.jsonl.gz"] for a in r["answer"]]
        answers += [r["answer"] for r in rows["squad_qa.jsonl.gz"]]
        answered = [(r["question"], r["answer"][0]) for r in rows["nq_open_dev.jsonl.gz"]]
        answered += [(r["question"], r["answer"]) for r in rows["squad_qa.jsonl.gz"]]
        answers += [a for r in paraqa for s in r["statements"][:1] for a in _bracketed(s)]
        answers += [o for pairs in facts.values() for _, o in pairs[::3]]
        answers += [o for _, pairs in relations.values() for _, o in pairs]
        return cls(
            facts={k: v for k, v in facts.items() if k in templates},
            templates=templates,
            relations=relations,
            questions=[q for q in (_spaces(q) for q in questions) if 8 <= len(q) <= 200],
            answered=[(q, a) for q, a in ((_spaces(q), _spaces(a)) for q, a in answered) if len(q) <= 200 and 0 < len(a) <= 80],
            stated=[texts for texts in map(_stated, paraqa) if len(texts) > 1],
            claims=[r["sentence"] for r in rows["creak_claims.jsonl.gz"]],
            sentences=_sentences(read_lines(paths["wikitext2_valid_test.txt.gz"])),
            answers=[a for a in (_spaces(a) for a in answers) if 0 < len(a) <= 80],
            held_out=held_out,
            hashes={name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in paths.items()},
        )


def _spaces(text: str) -> str:
    return " ".join(text.split())


def _statement(pattern: str) -> str | None:
    """A ParaRel pattern cut before [Y], if [Y] ends it: what a decoder can complete."""
    cut = re.sub(r"\s*[.,]?\s*$", "", pattern)
    return cut.removesuffix("[Y]").rstrip() if cut.endswith("[Y]") and "[X]" in cut else None


def _stated(row: dict[str, Any]) -> tuple[str, ...]:
    statements = (_spaces(re.sub(r"\s*\[[^\]]*\]\s*\.?", " ", text)) for text in row["statements"])
    return tuple(dict.fromkeys((_spaces(row["question"]), *(text for text in statements if len(text) > 15))))


def _relations(rows: list[dict[str, Any]]) -> tuple[dict[str, Any], dict[str, Any]]:
    seen: dict[str, Any] = {}
    held: dict[str, Any] = {}
    for r in rows:
        pairs = [(s["subject"], s["object"]) for s in r["samples"]]
        templates = list(dict.fromkeys(r["prompt_templates"] + r["prompt_templates_zs"]))
        (held if r["name"] in HELD_OUT else seen)[r["name"]] = (templates, pairs)
    return seen, held


def _bracketed(statement: str) -> list[str]:
    found = re.search(r"\[([^\]]+)\]", statement)
    parts = [p.strip(" *'") for p in found.group(1).split(",")] if found else []
    return [p for p in parts if p and p != "answer"][:3]


def paragraphs(path: Path) -> list[str]:
    """Paragraphs of wikitext with its tokenisation artefacts undone, without headings. Raises DataMissing as `read_lines`."""
    return [text for line in read_lines(path) if (text := _plain(line))]


def _plain(line: str) -> str:
    """A line of wikitext as it was written, without its sentences that lack words; empty for a heading."""
    if line.lstrip().startswith("="):
        return ""
    line = re.sub(r"[^.]*<unk>[^.]*\.", "", line)
    line = re.sub(r" @([,.-])@ ", r"\1", line)
    line = re.sub(r" ([.,;:?!')%])", r"\1", line).replace("( ", "(").replace(" n't", "n't")
    return re.sub(r'" ([^"]*) "', r'"\1"', line).strip()


def _sentences(lines: list[str]) -> list[str]:
    """Sentences of wikitext."""
    out = []
    for text in map(_plain, lines):
        out += [s for s in re.split(r"(?<=[.?!])\s+(?=[A-Z])", text) if 25 <= len(s) <= 220 and "<unk>" not in s]
    return out
