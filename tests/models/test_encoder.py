"""Laws of the address key."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.encoder import LEXICAL_DIM, SEED, _direction, inverse_document_frequency, unknown_words
from tests.models import toys

ROOT = Path(__file__).parents[2]
ENCODER = toys.encoder()
SENTENCE = st.lists(st.sampled_from(toys.WORDS), min_size=1, max_size=12)


def lexical(words: list[str]) -> torch.Tensor:
    return ENCODER.lexical(ENCODER.pieces([" ".join(words)])[0])


@given(st.lists(SENTENCE, min_size=1, max_size=5))
@settings(deadline=None, max_examples=20)
def test_keys_are_unit_vectors_that_do_not_depend_on_the_batch(sentences: list[list[str]]) -> None:
    texts = [" ".join(words) for words in sentences]
    keys = ENCODER.keys(texts)
    assert keys.shape == (len(texts), ENCODER.key_dim) and keys.dtype == torch.float32
    assert torch.allclose(keys.norm(dim=1), torch.ones(len(texts)), atol=1e-6)
    for text, key in zip(texts, keys, strict=True):
        assert torch.allclose(ENCODER.keys([text])[0], key, atol=1e-5)


def test_the_packed_forward_is_that_of_transformers_and_no_text_minds_its_company() -> None:
    ids = ENCODER.pieces(["the capital of rome is", "river", " ".join(toys.WORDS[:20])])
    assert ENCODER._packed is not None
    means = ENCODER._packed.means(ids)
    for row, mean in zip(ids, means, strict=True):
        with torch.inference_mode():
            wanted = ENCODER.trunk(input_ids=torch.tensor([row])).last_hidden_state[0].mean(0)
        assert torch.allclose(mean, wanted, atol=1e-5)
        assert torch.equal(ENCODER._packed.means([row])[0], mean)


def test_more_texts_than_one_forward_pass_holds() -> None:
    texts = [f"{a} {b}" for a in toys.WORDS[:7] for b in toys.WORDS[:7]]
    assert torch.allclose(ENCODER.keys(texts)[40], ENCODER.keys([texts[40]])[0], atol=1e-5)


@given(SENTENCE, st.randoms())
@settings(deadline=None, max_examples=30)
def test_the_lexical_vector_is_of_the_set_of_words(words: list[str], random: object) -> None:
    shuffled = [*words, words[0]]
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert torch.equal(lexical(shuffled), lexical(words))
    assert torch.equal(lexical([w.upper() for w in words]), lexical(words))


def test_words_that_share_nothing_are_nearly_orthogonal_and_shared_ones_are_not() -> None:
    assert abs(float(lexical(["paris", "rome"]) @ lexical(["zor", "kal"]))) < 4 / LEXICAL_DIM**0.5
    assert float(lexical(["paris", "rome"]) @ lexical(["paris", "kal"])) > 0.3


def test_a_rare_word_weighs_more_than_a_frequent_one() -> None:
    both = lexical(["the", "zor"])
    assert float(both @ lexical(["zor"])) > float(both @ lexical(["the"])) + 0.1


def test_inverse_document_frequency_falls_with_the_number_of_texts_and_is_zero_for_a_word_of_all() -> None:
    idf = inverse_document_frequency(toys.word_tokenizer(), ["the red the", "the river", "the river acme"])
    weight = dict(zip(toys.WORDS, idf[4:].tolist(), strict=True))
    assert weight["the"] == 0.0
    assert 0 < weight["river"] < weight["acme"] == weight["red"] < weight["zor"]


def test_without_any_word_there_is_no_lexical_part_but_still_a_key() -> None:
    assert not ENCODER.lexical([]).any()
    assert torch.allclose(ENCODER.keys([""]).norm(), torch.tensor(1.0), atol=1e-6)


def test_stored_keys_stay_valid_in_another_process() -> None:
    program = "from tests.models.toys import *; print(encoder().lexical([5, 9, 11], ['🦊', '鑫']).numpy().tobytes().hex())"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ENCODER.lexical([11, 9, 5], ["鑫", "🦊"]).numpy().tobytes().hex()


def test_words_that_the_tokenizer_does_not_know_are_still_told_apart() -> None:
    fox, bear, again = ENCODER.keys(["the river of 🦊 is", "the river of 🐻 is", "the river of 🦊 is"])
    assert torch.equal(fox, again) and float(fox @ bear) < 0.95
    ids = ENCODER.pieces(["the Strasse of Straße 🦊 is"])[0]
    assert unknown_words(ENCODER.tokenizer, "the Strasse of Straße 🦊 is", ids) == {"strasse", "🦊"}
    assert unknown_words(ENCODER.tokenizer, "the river", ENCODER.pieces(["the river"])[0]) == frozenset()


def test_a_text_longer_than_the_trunk_reads_is_cut() -> None:
    long = " ".join(toys.WORDS * 10)
    assert len(ENCODER.pieces([long])[0]) == ENCODER.max_tokens
    assert torch.isfinite(ENCODER.keys([long])).all()


def test_directions_are_those_that_stored_keys_were_made_with_whichever_thread_asks() -> None:
    pieces = range(4, 204)
    wanted = {piece: np.random.RandomState([SEED, piece]).standard_normal(LEXICAL_DIM) / LEXICAL_DIM**0.5 for piece in pieces}
    with ThreadPoolExecutor(8) as threads:
        for piece, drawn in zip([*pieces] * 5, threads.map(_direction, [*pieces] * 5), strict=True):
            assert np.array_equal(drawn, wanted[piece])


def test_no_word_is_kept_when_keys_are_made() -> None:
    """Neither a piece of the vocabulary nor a word that has none, whose digest would tell it."""
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for number in range(2000):
            ENCODER.lexical([5], [f"word {number}"])
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 100_000  # a direction takes 4 KB
