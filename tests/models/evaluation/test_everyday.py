"""Files of everyday facts: every form, and what is wrong with a line."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from models.evaluation.everyday import EverydayFact, read_facts
from models.training.reader_training import HAND, KEPT_OUT, training_files

PAIR = "P|library|Books can be borrowed for|28 days|How long?;; loan period ;;|How many books?;;Who pays?"
ASKED = "Q|dentist|Do I need to book?|No, come at 8|Must I call?|What does it cost?"
TEXT = "T|bakery|Our sourdough rests for 36 hours. Ann Lee bakes it. On Mondays we are closed."
WORDS = "F|36 hours|How long does it rest?|How long is it baked?;;Who bakes it?"


def read(tmp_path: Path, *lines: str) -> list[EverydayFact]:
    (tmp_path / "facts.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return read_facts(tmp_path / "facts.txt")


def test_every_form_is_read(tmp_path: Path) -> None:
    pair, asked, text = read(tmp_path, PAIR, "", ASKED, TEXT, WORDS)
    assert (pair.form, pair.domain, pair.prompt, pair.target) == ("pair", "library", "Books can be borrowed for", "28 days")
    assert pair.questions == ("How long?", "loan period") and pair.near == ("How many books?", "Who pays?") and not pair.text
    assert pair.statement == "Books can be borrowed for 28 days" and asked.statement == "Do I need to book? No, come at 8"
    assert (asked.form, asked.domain) == ("qa", "dentist") and (text.form, text.domain) == ("text", "bakery")
    assert text.statement == text.prompt == text.text[0] == "Our sourdough rests for 36 hours." and len(text.text) == 3
    for fact in (pair, asked, text):
        assert fact.span is not None and fact.statement[slice(*fact.span)] == fact.target


def test_a_sentence_with_a_pronoun_is_read_as_it_is_stored(tmp_path: Path) -> None:
    text = "T|firm|Acme Rockets was founded in 1998. It builds small rockets in Kal."
    (fact,) = read(tmp_path, text, "F|small rockets|What does Acme build?|Where is Apex?")
    assert fact.prompt == "Acme Rockets builds small rockets in Kal." and fact.prompt in fact.text
    (whole,) = read(tmp_path, text, "F|It builds small rockets|What does Acme build?|Where is Apex?")
    assert whole.prompt == fact.prompt and whole.span is None


def test_json_lines_say_the_same(tmp_path: Path) -> None:
    facts = read(tmp_path, PAIR, ASKED, TEXT, WORDS)
    rows = [
        {"queries": fact.questions, "near": fact.near} | {name: getattr(fact, name) for name in ("form", "domain", "prompt", "target")}
        for fact in facts
    ]
    rows[2] |= {"text": TEXT.split("|")[2]}
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "facts.jsonl").write_text(lines)
    (tmp_path / "facts.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    assert read_facts(tmp_path / "facts.jsonl") == read_facts(tmp_path / "facts.jsonl.gz") == facts


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("P|library|Books|28 days|How long?", "line 2: not enough values"),
        ("P|library|Books|28 days|a|b|c", "line 2: too many values"),
        ("X|library|Books|28 days|a|b", "line 2: 'X'"),
        ("F|37 hours|How long?|Why?", "line 2: no sentence of the text holds '37 hours'"),
        ('{"form": "pair", "prompt": "p", "target": "t", "near": []}', "line 2: 'queries'"),
        ('{"form": ', "line 2: Expecting value"),
        ("T|library", "line 2: "),
    ],
)
def test_what_is_wrong_is_told_with_file_and_line(tmp_path: Path, line: str, says: str) -> None:
    with pytest.raises(ValueError, match=r"^facts\.txt, ") as found:
        read(tmp_path, TEXT, line)
    assert says in str(found.value)


def test_every_file_that_is_shipped_is_read_and_the_ones_kept_out_are_not_trained_on() -> None:
    files = sorted((HAND / "everyday").glob("*.txt"))
    assert {*KEPT_OUT} < {path.stem for path in files} and not {*KEPT_OUT} & {path.stem for path in training_files()}
    assert len(training_files()) > 10
    for path in files:
        facts = read_facts(path)
        assert len(facts) >= 50, path
        assert all(fact.questions and fact.near and fact.target.strip() and fact.prompt.strip() for fact in facts), path
        assert sum(fact.span is not None for fact in facts) > 0.9 * len(facts), path
