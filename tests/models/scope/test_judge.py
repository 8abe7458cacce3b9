"""The judge: how it reads pairs, how it is kept and trained, and that the shipped one does what it is for."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from app.server.settings import Settings
from memory.scope.shared_words import shared_frame
from models.adapter import shipped
from models.bert import BertTrunk
from models.errors import AdapterCorrupt, AdapterMismatch
from models.lora import LowRank
from models.model_files import ENCODER
from models.scope.judge import APART, Judge, JudgeUpdate, head_of
from models.training.corpus import Corpus
from models.training.judge_training import Pairs, Schedule, separation, train
from models.training.synonyms import Synonyms
from models.training.wordings import HELD_OUT, Kind, kinds
from models.weights import locate
from tests.models import toys

TOWNS = Kind("town", ("rome", "paris", "berlin", "kal"), (("who runs {s}", "{s} runs", "does {s}"), ("where is {s}", "capital {s}")))

SYNONYMS, NONE = Synonyms.read(), Synonyms([])


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return Corpus.read(toys.write_corpus(tmp_path_factory.mktemp("corpus")))


def update(seed: int = 0) -> JudgeUpdate:
    """Random, for the toy encoder."""
    trunk: Any = toys.encoder().trunk
    generator = torch.Generator().manual_seed(seed)
    weight = trunk.encoder.layer[0].output.dense.weight
    shapes = (2, weight.shape[1]), (weight.shape[0], 2)
    factors = {"encoder.layer.0.output.dense": tuple(torch.randn(shape, generator=generator) for shape in shapes)}
    own = {"embeddings.token_type_embeddings.weight": torch.randn(trunk.embeddings.token_type_embeddings.weight.shape, generator=generator)}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        head = head_of(trunk.config.hidden_size).state_dict()
    return JudgeUpdate(LowRank(factors), own, dict(head), {"encoder_fingerprint": "e"})  # type: ignore[arg-type]


PAIRS = [("the capital of paris is", "where is paris"), ("who runs acme", "acme rockets"), ("red", "what is the river of kal does now")]


def test_words_that_the_tokenizer_does_not_know_keep_texts_apart() -> None:
    of = toys.encoder()
    judge = Judge(of.trunk, of.tokenizer, update())
    texts = ["the code of 🦊 is", "who has the code of 🐻", "who has the code of 🦊", "who has the code"]
    fox, bear, same, less = texts
    pairs = [(fox, bear), (bear, fox), (fox, same), (fox, less), (less, fox)]
    with_, without = judge(pairs), [judge([(a.replace("🐻", "🦊"), b.replace("🐻", "🦊"))])[0] for a, b in pairs]
    assert with_ == [min(odds, APART) for odds in without[:2]] + without[2:] and max(without) > APART


def test_both_forward_passes_agree_and_a_pair_does_not_depend_on_its_company() -> None:
    of = toys.encoder()
    judge = Judge(of.trunk, of.tokenizer, update())
    assert isinstance(judge._packed, BertTrunk)
    together = judge(PAIRS)
    assert together == [judge([pair])[0] for pair in PAIRS] == judge(PAIRS[::-1])[::-1] and judge([]) == []
    judge._packed = None
    assert judge(PAIRS) == pytest.approx(together, abs=1e-4)
    assert judge([(a, b) for b, a in PAIRS]) != pytest.approx(together, abs=1e-3)  # first and second text are told apart
    assert len(set(together)) == len(PAIRS)


def test_a_long_pair_is_cut(corpus: Corpus) -> None:  # noqa: ARG001
    of = toys.encoder()
    judge = Judge(of.trunk, of.tokenizer, update())
    assert torch.isfinite(torch.tensor(judge([("paris " * 500, "rome " * 500), ("paris", ""), ("", "paris")]))).all()


def test_an_update_is_read_as_it_was_written_and_damage_is_found(tmp_path: Path) -> None:
    written = update()
    written.save(path := tmp_path / "judge.safetensors")
    loaded = JudgeUpdate.load(path)
    assert loaded.about == written.about and all(torch.equal(loaded.own[n], t) for n, t in written.own.items())
    one, other = (Judge(toys.encoder().trunk, toys.encoder().tokenizer, part)(PAIRS) for part in (written, loaded))
    assert one == other
    loaded.check("e")
    with pytest.raises(AdapterMismatch, match="train-judge"):
        loaded.check("another")
    for damaged in toys.damages(path):
        with pytest.raises(AdapterCorrupt):
            JudgeUpdate.load(damaged)


@given(st.integers(0, 10_000), st.integers(1, 96))
@settings(deadline=None)
def test_draws_are_the_same_for_the_same_state(corpus: Corpus, seed: int, count: int) -> None:
    pairs = Pairs(corpus, kinds()[:-HELD_OUT], SYNONYMS)
    first, again = (pairs.draw(random.Random(seed), count) for _ in range(2))
    assert first == again and len(first) == count and all(pair.prompt and pair.question for pair in first)


def test_near_misses_share_the_subject_or_the_words(corpus: Corpus) -> None:
    drawn = Pairs(corpus, kinds()[:-HELD_OUT], SYNONYMS).draw(random.Random(0), 2000)
    misses = [pair for pair in drawn if not pair.same]
    assert 0.5 < len(misses) / len(drawn) < 0.8
    shared = [len(set(p.prompt.casefold().split()) & set(p.question.casefold().split())) > 0 for p in misses]
    assert sum(shared) / len(shared) > 0.8


def test_some_pairs_of_one_want_share_nearly_all_their_words(corpus: Corpus) -> None:
    drawn = Pairs(corpus, kinds()[:-HELD_OUT], SYNONYMS).draw(random.Random(0), 2000)
    close = [pair.same for pair in drawn if shared_frame(pair.question, pair.prompt) > 0.6]
    assert 0.2 < sum(close) / len(close) < 0.8  # the frame alone does not tell


def test_training_goes_on_from_an_update(corpus: Corpus) -> None:
    pairs, schedule = Pairs(corpus, [TOWNS], SYNONYMS), Schedule(steps=2, pairs=8, rank=4, learning_rate=0.0)
    first = train(toys.encoder().trunk, toys.encoder().tokenizer, pairs, [TOWNS], replace(schedule, learning_rate=1e-2), lambda _: None)
    again = train(toys.encoder().trunk, toys.encoder().tokenizer, pairs, [TOWNS], schedule, lambda _: None, first)
    told, wanted = (Judge(toys.encoder().trunk, toys.encoder().tokenizer, update)(PAIRS) for update in (again, first))
    assert told == wanted


def test_training_tells_wants_apart_and_the_trained_judge_is_the_served_one(corpus: Corpus) -> None:
    of, told = toys.encoder(), list[dict[str, float]]()
    schedule = Schedule(steps=120, pairs=24, rank=4, learning_rate=1e-2)
    made = train(of.trunk, of.tokenizer, Pairs(corpus, [TOWNS], NONE), [TOWNS], schedule, told.append)
    assert told[-1]["step"] == 120 and told[-1]["relation"] > 0.9
    judge = Judge(toys.encoder().trunk, of.tokenizer, made)
    assert separation(judge, [TOWNS], NONE)["relation"] == pytest.approx(told[-1]["relation"], abs=0.02)


@pytest.mark.model
def test_the_shipped_judge_tells_relations_apart_in_kinds_that_it_never_saw() -> None:
    found = locate(ENCODER, Settings().weights_dir, lambda _: None)
    shipped_update = JudgeUpdate.load(shipped(f"{ENCODER}-judge"))
    shipped_update.check(found.fingerprint)
    told = separation(Judge.load(found.folder, torch.device("cpu"), shipped_update), kinds()[-HELD_OUT:], SYNONYMS, seed=7)
    assert told["relation"] > 0.85 and told["subject"] > 0.95 and told["close"] > 0.85
