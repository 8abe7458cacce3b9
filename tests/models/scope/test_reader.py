"""The reader: pairs as rows, spans, and its update as a file. Weights are small and random; the shipped ones are asked plain things."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from tokenizers import Tokenizer

from app.server.settings import Settings
from models.adapter import shipped
from models.errors import AdapterCorrupt, AdapterMismatch
from models.model_files import READER
from models.scope.reader import (
    FORMAT,
    LONGEST_SPAN,
    MAX_BEFORE,
    MAX_FACT,
    MAX_QUESTION,
    Judgement,
    Pair,
    PairTokenizer,
    Reader,
    ReaderUpdate,
    best_span,
    statement,
)
from models.scope.transformer import KINDS
from models.weights import fingerprint, locate
from tests.models import toys

PAIRS = [
    Pair("who runs acme", "acme rockets is what zor runs"),
    Pair("where is rome", "the river of kal is red", "what is the capital please"),
    Pair("is it blue now", "berlin"),
    Pair("zor", "the capital of paris is rome now"),
    *(Pair(f"who runs {' '.join(toys.WORDS[:n])}", " ".join(toys.WORDS[n:])) for n in range(20)),
]


@pytest.fixture(scope="module", params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toys.encoder_folder(tmp_path_factory.mktemp("encoder"), request.param)


@pytest.fixture(scope="module")
def reader(folder: Path) -> Reader:
    return Reader(folder, toys.reader_update(folder))


def test_a_pair_is_a_row_of_two_texts_or_three(folder: Path) -> None:
    rows, words = PairTokenizer(folder), {word: n for n, word in enumerate(toys.WORDS, 4)}
    begin, end = rows.begin, rows.end
    who, runs, acme, is_, red, now = (words[word] for word in ("who", "runs", "acme", "is", "red", "now"))
    row = rows(Pair("Who runs", "acme  is red"))
    assert row.ids == [begin, who, runs, end, end, acme, is_, red, end]
    assert (row.ids[row.question], row.ids[row.fact]) == ([who, runs], [acme, is_, red])
    assert row.offsets == [(0, 4), (6, 8), (9, 12)]
    told = rows(Pair("Who runs", "acme", "red now"))
    assert told.ids == [begin, red, now, end, who, runs, end, end, acme, end]
    assert (told.ids[told.question], told.ids[told.fact]) == ([who, runs], [acme])
    assert rows.text("acme is") == [begin, acme, is_, end] and rows.text("acme is", 1) == [begin, acme, end]


def test_what_is_long_is_cut_where_it_matters_least(folder: Path) -> None:
    rows = PairTokenizer(folder)
    long = " ".join(toys.WORDS * 20)
    whole = rows.text(long, 10_000)[1:-1]
    row = rows(Pair(long, long, long))
    assert row.ids[1 : 1 + MAX_BEFORE] == whole[-MAX_BEFORE:]
    assert row.ids[row.question] == whole[-MAX_QUESTION:]  # who asks says it last
    assert row.ids[row.fact] == whole[:MAX_FACT] and len(row.offsets) == MAX_FACT
    assert len(row.ids) == MAX_BEFORE + MAX_QUESTION + MAX_FACT + 5


def test_a_separator_in_a_users_text_is_text(folder: Path) -> None:
    rows = PairTokenizer(folder)
    for sign in ("<s>", "</s>", "[CLS]", "[SEP]", "<pad>"):
        row = rows(Pair(f"who {sign} runs", f"acme {sign} is", f"red {sign}"))
        inside = [*row.ids[row.question], *row.ids[row.fact]]
        assert not {rows.begin, rows.end, 1} & {*inside}
        assert row.ids.count(rows.end) == 4 and row.ids.count(rows.begin) == 1


def test_a_tokenizer_without_separators_is_refused(folder: Path, tmp_path: Path) -> None:
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["added_tokens"] = []
    vocabulary = tokenizer["model"]["vocab"]
    tokenizer["model"]["vocab"] = {name.strip("<>[]/") + "x" if n < 3 else name: n for name, n in vocabulary.items()}
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ValueError, match="neither <s> and </s> nor"):
        PairTokenizer(tmp_path)


def test_a_judgement_does_not_depend_on_order_or_company(reader: Reader) -> None:
    together = reader(PAIRS)
    assert together == [reader([pair])[0] for pair in PAIRS] == reader(PAIRS[::-1])[::-1] and reader([]) == []
    assert len({judged.answers for judged in together}) == len(PAIRS)
    swapped = reader([Pair(pair.fact, pair.question) for pair in PAIRS[:4]])
    assert all(one.answers != other.answers for one, other in zip(swapped, together, strict=False))
    assert reader([PAIRS[1]._replace(before="")])[0].answers != together[1].answers


def test_texts_without_a_piece_are_judged_too(reader: Reader) -> None:
    for judged in reader([Pair("\u200b", "acme"), Pair("acme", "\u200b"), Pair("", ""), Pair("acme", "rome", "\u200b")]):
        assert judged.same is not None and torch.isfinite(torch.tensor([judged.answers, judged.same])).all()
    assert reader([Pair("acme", "")])[0].span is None


@given(st.integers(0, 80), st.integers(0, 999))
def test_a_span_is_the_best_that_is_none_too_long(pieces: int, seed: int) -> None:
    scores = torch.randn(pieces, 2, generator=torch.Generator().manual_seed(seed))
    offsets = [(3 * n, 3 * n + 2) for n in range(pieces)]
    span = best_span(scores, offsets)
    if span is None:
        assert not pieces
        return
    begin, end = span[0] // 3, span[1] // 3
    assert 0 <= begin <= end < pieces and end - begin < LONGEST_SPAN
    best = max(float(scores[i, 0] + scores[j, 1]) for i in range(pieces) for j in range(i, min(pieces, i + LONGEST_SPAN)))
    assert float(scores[begin, 0] + scores[end, 1]) == pytest.approx(best)


def test_a_fact_is_read_once_with_its_target() -> None:
    assert statement("The head of Acme is", "Ann") == "The head of Acme is Ann"
    assert statement("How many are there in 2 boxes?", "2") == "How many are there in 2 boxes? 2"  # the words of the prompt are no answer
    sentence = "Acme was founded in 1998 by Ann."
    assert statement(sentence, sentence) == sentence == statement(sentence, "It was founded in 1998 by Ann.")


def test_an_update_is_read_as_it_was_written_and_damage_is_found(folder: Path, tmp_path: Path) -> None:
    written = toys.reader_update(folder)
    written.save(path := tmp_path / "reader.safetensors")
    loaded = ReaderUpdate.load(path)
    assert loaded.about == written.about and loaded.fingerprint == written.fingerprint == Reader(folder, loaded).fingerprint
    assert Reader(folder, loaded)(PAIRS) == Reader(folder, written)(PAIRS)
    assert toys.reader_update(folder, seed=1).fingerprint != written.fingerprint
    loaded.check(fingerprint(folder))
    with pytest.raises(AdapterMismatch, match="train-reader"):
        loaded.check("another")
    for damaged in toys.damages(path):
        with pytest.raises(AdapterCorrupt):
            ReaderUpdate.load(damaged)


@pytest.mark.parametrize(
    ("header", "says"),
    [({}, "has format None"), ({"format": FORMAT}, "lacks a part"), ({"format": FORMAT, "about": "{}"}, "lacks a part")],
)
def test_a_file_of_another_kind_is_refused(tmp_path: Path, header: dict[str, str], says: str) -> None:
    save_file({"other.x": torch.zeros(1)}, path := tmp_path / "reader.safetensors", header)
    with pytest.raises(AdapterCorrupt, match=says):
        ReaderUpdate.load(path)


@pytest.mark.model
def test_the_shipped_reader_tells_who_is_asked_about() -> None:
    found = locate(READER, Settings().weights_dir, lambda _: None)
    update = ReaderUpdate.load(shipped(f"{READER}-reader"))
    update.check(found.fingerprint)
    fact = statement("The CEO of Acme Rockets is", "Wile E. Coyote")
    asked = ("Who runs Acme Rockets?", "Who runs Apex Rockets?", "Where is Acme Rockets?", "How are you today?")
    yes, *others = Reader(found.folder, update)([Pair(question, fact) for question in asked])
    assert isinstance(yes, Judgement) and all(yes.answers > other.answers + 1 for other in others)
