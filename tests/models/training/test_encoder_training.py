"""The encoder's update: what it is taught with, how it is kept, and that the shipped one does what it is for."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from app.server.settings import Settings
from models.adapter import shipped
from models.encoder import read
from models.errors import AdapterCorrupt, AdapterMismatch
from models.lora import LowRank, attach, switched_off
from models.model_files import ENCODER
from models.training.corpus import Corpus
from models.training.encoder_training import Schedule, contrast, refine, separation
from models.training.wordings import HELD_OUT, Kind, Wants, fill, kinds, mistaken
from models.weights import locate
from tests.models import toys


@pytest.fixture(scope="module")
def wants(tmp_path_factory: pytest.TempPathFactory) -> Wants:
    return Wants(Corpus.read(toys.write_corpus(tmp_path_factory.mktemp("corpus"))), kinds()[:-HELD_OUT])


def test_every_wording_names_its_subject_once_and_none_stands_twice() -> None:
    for kind in kinds():
        assert len(set(kind.subjects)) == len(kind.subjects) >= 8
        wordings = [wording for relation in kind.relations for wording in relation]
        assert all(wording.count("{s}") == 1 for wording in wordings)
        assert len(set(wordings)) == len(wordings) and min(map(len, kind.relations)) >= 3


@given(st.integers(0, 10_000), st.integers(2, 48))
def test_a_batch_is_the_same_for_the_same_state_and_its_pairs_are_two_wordings(wants: Wants, seed: int, count: int) -> None:
    first, again = (wants.draw(random.Random(seed), count) for _ in range(2))
    assert first == again and 0 < len(first) <= count
    assert all(pair.one and pair.other and pair.want for pair in first)


def test_batches_hold_near_neighbours(wants: Wants) -> None:
    pairs = [pair for seed in range(20) for pair in wants.draw(random.Random(seed), 48) if len(pair.want) == 3]
    assert any(a.want[:2] == b.want[:2] and a.want[2] != b.want[2] for a in pairs for b in pairs)
    assert any(a.want[::2] == b.want[::2] and a.want[1] != b.want[1] for a in pairs for b in pairs)


@given(st.integers(0, 10_000))
def test_a_mistaken_name_is_like_the_subject_and_no_longer_it(seed: int) -> None:
    rng = random.Random(seed)
    kind = rng.choice(kinds())
    for subject in kind.subjects:
        if like := mistaken(rng, subject, kind.subjects):
            ours, theirs = subject.split(), like.split()
            assert len(ours) == len(theirs) and sum(a != b for a, b in zip(ours, theirs, strict=True)) == 1
    assert mistaken(rng, "the boiler", ["Acme"]) is None and mistaken(rng, "bay 7", []) != "bay 7"


def test_a_subject_begins_its_sentence_with_a_capital() -> None:
    assert fill("{s} is run by", "the gate") == "The gate is run by"
    assert fill("who runs {s}", "the gate") == "who runs the gate"


def test_the_loss_falls_when_texts_of_one_want_come_together() -> None:
    wants_ = [("a",), ("a",), ("b",), ("b",)]
    apart = torch.eye(4)
    together = torch.eye(4)[[0, 0, 1, 1]]
    losses = [float(contrast(x, wants_, 0.05)) for x in (together, apart, together[[0, 2, 0, 2]])]
    assert losses == sorted(losses) and losses[0] == pytest.approx(0, abs=1e-6) and losses[1] == pytest.approx(math.log(3))


def test_merged_weights_compute_what_the_trained_layers_do() -> None:
    torch.manual_seed(0)
    frozen, other = toys.encoder().trunk, toys.encoder().trunk
    inputs = {"input_ids": torch.tensor([[2, 5, 6, 3]])}
    before = frozen(**inputs).last_hidden_state
    added = attach(frozen, 3, seed=1)
    assert torch.equal(frozen(**inputs).last_hidden_state, before)  # it starts at zero
    for layer in added.values():
        nn.init.normal_(layer.b, std=0.1)
    taught = frozen(**inputs).last_hidden_state
    with switched_off(added):
        assert torch.equal(frozen(**inputs).last_hidden_state, before)
    LowRank({name: (layer.a.detach(), layer.b.detach()) for name, layer in added.items()}).merge(other)
    torch.testing.assert_close(other(**inputs).last_hidden_state, taught, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(taught, before, atol=1e-3)


def test_an_update_is_read_as_it_was_written_and_damage_is_found(tmp_path: Path) -> None:
    update = LowRank({"layer.0": (torch.randn(2, 5), torch.randn(4, 2))}, {"encoder_fingerprint": "e"})
    update.save(path := tmp_path / "update.safetensors")
    loaded = LowRank.load(path)
    assert loaded.fingerprint == update.fingerprint and loaded.about == update.about
    loaded.check("e")
    with pytest.raises(AdapterMismatch, match="train-encoder"):
        loaded.check("another")
    for damaged in toys.damages(path):
        with pytest.raises(AdapterCorrupt):
            LowRank.load(damaged)
    with pytest.raises(AdapterCorrupt):
        LowRank.load(tmp_path / "none")


def test_training_tells_wants_apart(wants: Wants) -> None:
    reader, told = toys.encoder(), list[dict[str, float]]()
    few = [
        Kind(
            "town",
            ("rome", "paris", "berlin", "kal"),
            (("who runs {s}", "the river of {s} is", "what runs {s}"), ("where is {s}", "capital {s}")),
        )
    ]
    learner = Wants(wants.corpus, few)
    before = separation(reader.trunk, reader.tokenizer, few)
    refine(
        reader.trunk,
        reader.tokenizer,
        learner,
        few,
        Schedule(steps=60, pairs=12, held=2, rank=4, hold=0.0, learning_rate=1e-2),
        told.append,
    )
    assert told[-1]["step"] == 60 and told[-1]["relation"] > before["relation"]


@pytest.mark.model
def test_the_shipped_update_tells_relations_apart_in_kinds_that_it_never_saw() -> None:
    trunk, tokenizer = read(locate(ENCODER, Settings().weights_dir, lambda _: None).folder)
    update, held_out = LowRank.load(shipped(ENCODER)), kinds()[-HELD_OUT:]
    before = separation(trunk, tokenizer, held_out, seed=7)
    update.merge(trunk)
    after = separation(trunk, tokenizer, held_out, seed=7)
    assert after["relation"] > before["relation"] + 0.1 and after["subject"] > 0.97
    assert json.dumps(update.about)  # where it comes from
