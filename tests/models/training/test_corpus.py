"""Reading the public data sets: their forms, and what is wrong with a file."""

from __future__ import annotations

import gzip
import hashlib
import json
import random
from pathlib import Path

import pytest

from models.errors import DataMissing
from models.training.corpus import HELD_OUT, SETS, Corpus, read_records
from models.training.mixture import Mixture
from models.training.random_answers import random_answer
from tests.models import toys


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return toys.write_corpus(tmp_path / "data")


def test_every_set_is_read_in_its_own_form(folder: Path) -> None:
    corpus = Corpus.read(folder)
    assert corpus.facts == {"P1": [("Ann", "Rome"), ("Bob", "Oslo"), ("Cy", "Bonn")]}
    assert corpus.templates == {"P1": ["[X] is in"]}, "a statement ends in its object"
    assert corpus.relations["home"][0] == ["{} lives in", "Where is {}?"]
    assert {"who has the key", "what is up there", "Where is the sea?", "When was it made?"} == set(corpus.questions)
    assert {"Ann", "Bob", "1901", "Oslo"} <= set(corpus.answers)
    assert corpus.sentences == ["The quick fox ran over the hill.", "It saw a small red house there."]
    assert corpus.hashes == {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in SETS}


def test_held_out_relations_are_in_no_training_example(folder: Path) -> None:
    corpus = Corpus.read(folder)
    assert set(corpus.held_out) == {"country currency"} <= HELD_OUT
    assert not HELD_OUT & corpus.relations.keys()


@pytest.mark.parametrize("name", SETS)
def test_a_missing_set_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(DataMissing, match=f"lacks {name}"):
        Corpus.read(folder)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "is empty"),
        (b'{"a": 1}\n\n{"a": }\n', "line 3: not JSON"),
        (b'{"a": 1}\n17\n', "record 2: expected a JSON object, got int"),
        (b'[{"a": 1},\n{"a" 2}]', "line 2: not JSON"),
        (b"\xff\xfe\x00", "cannot be read as text"),
    ],
)
def test_a_bad_file_is_named_with_its_line(tmp_path: Path, content: bytes, complaint: str) -> None:
    path = tmp_path / "records.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataMissing, match=complaint) as refused:
        list(read_records(path))
    assert str(path) in str(refused.value)


@pytest.mark.parametrize("name", [name for name, fields in SETS.items() if fields])
def test_a_record_that_lacks_a_field_is_named(folder: Path, name: str) -> None:
    with gzip.open(folder / name, "at") as file:
        file.write("{}\n")
    with pytest.raises(DataMissing, match=rf"{name}, record \d: lacks {', '.join(SETS[name])}"):
        Corpus.read(folder)


def test_a_torn_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"a": 1}\n' * 1000)[:-9])
    with pytest.raises(DataMissing, match="cannot be read as text"):
        list(read_records(path))


def test_lines_and_a_list_are_the_same_records(tmp_path: Path) -> None:
    records = [{"a": 1}, {"a": "ä"}]
    (tmp_path / "lines").write_text("\n".join(map(json.dumps, records)) + "\n")
    (tmp_path / "list").write_text(json.dumps(records, indent=1))
    assert [r for _, r in read_records(tmp_path / "lines")] == [r for _, r in read_records(tmp_path / "list")] == records


def test_a_list_of_anything_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "list").write_text("[1, 2]")
    with pytest.raises(DataMissing, match="expected a JSON object, got int"):
        list(read_records(tmp_path / "list"))


def test_the_same_generator_state_draws_the_same_example(folder: Path) -> None:
    corpus = Corpus.read(folder)
    mixture = Mixture(corpus, toys.decoder())
    drawn = [[mixture.draw(rng) for _ in range(300)] for rng in (random.Random(1), random.Random(1))]
    assert drawn[0] == drawn[1]
    assert {example.after for example in drawn[0]} == {"end", "text", "plain"}
    assert all(example.prompt.strip() and example.said.strip() for example in drawn[0])


def test_answers_vary_from_one_token_to_long_ones(folder: Path) -> None:
    corpus, rng = Corpus.read(folder), random.Random(2)
    answers = [random_answer(rng, corpus) for _ in range(500)]
    assert all(a == a.strip() != "" for a in answers)
    assert len(set(answers)) > 200
    assert min(map(len, answers)) <= 2 and max(map(len, answers)) > 60
