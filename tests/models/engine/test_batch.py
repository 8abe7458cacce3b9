"""A sequence says the same in any company."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.engine.batch import CHUNK
from models.engine.decoder import Decoder, Sampling
from models.engine.pointer import Pointer
from models.engine.sequence import TextSequence
from tests.models.architectures import toy_decoder


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    return toy_decoder()


def alone(decoder: Decoder, prompt: str, sampling: Sampling) -> str:
    return decoder.generate([decoder.tokens(prompt)], [None], [sampling])[0].text


def run(decoder: Decoder, sequences: list[TextSequence], join_at: list[int]) -> None:
    """Decode sequences that join at their own steps."""
    batch, step = decoder.batch(), 0
    while len(batch) or step <= max(join_at):
        for sequence, at in zip(sequences, join_at, strict=True):
            if at == step:
                batch.add(sequence)
        batch.step()
        step += 1


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_joining_and_leaving_does_not_change_a_text(decoder: Decoder, temperature: float) -> None:
    rng = random.Random(0)
    texts = ["".join(rng.choices("abcdef ", k=rng.randint(1, 2 * CHUNK + 9))) for _ in range(11)]
    samplings = [Sampling(rng.randint(1, 30), temperature, 0.9, seed) for seed in range(len(texts))]
    wanted = [alone(decoder, text, sampling) for text, sampling in zip(texts, samplings, strict=True)]
    sequences = [decoder.sequence(decoder.tokens(t), None, s) for t, s in zip(texts, samplings, strict=True)]
    run(decoder, sequences, [rng.randint(0, 12) for _ in texts])
    assert [sequence.text for sequence in sequences] == wanted


def test_a_prefix_beside_a_plain_prompt_changes_only_its_own_text(decoder: Decoder) -> None:
    prompt = decoder.tokens("The colour is")
    prefix = decoder.embed(decoder.tokens("remember: "))
    plain, told = decoder.generate([prompt, prompt], [None, prefix], [Sampling(20)] * 2)
    assert plain.text == alone(decoder, "The colour is", Sampling(20))
    assert told.text == alone(decoder, "remember: The colour is", Sampling(20))


def test_once_the_answer_is_said_the_decoder_goes_on_as_without_a_prefix(decoder: Decoder) -> None:
    prompt, answer = decoder.tokens("The colour is"), decoder.answer_tokens("ultramarine")
    prefix = decoder.embed(decoder.tokens("remember: "))
    asked = [(prompt, prefix, Sampling(40), Certain([answer])), (prompt, None, Sampling(40)), (prompt, prefix, Sampling(40))]
    told, plain, held = (decoder.sequence(*one) for one in asked)
    run(decoder, [told, plain, held], [0, 2, 3])
    own = decoder.generate([[*prompt, *answer]], [None], [Sampling(40 - len(answer))])[0]
    assert told.ids == [*answer, *own.token_ids] and len(told.ids) == 40
    assert plain.text == alone(decoder, "The colour is", Sampling(40))
    assert held.text == alone(decoder, "remember: The colour is", Sampling(40))


@pytest.mark.parametrize("kind", ["llama", "gemma3", "gpt2"])
def test_what_every_prefix_begins_with_is_read_once(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    told, fresh = toy_decoder(kind), toy_decoder(kind)
    opening, prompt = told.embed(told.answer_tokens("remember", "")), told.tokens("The colour is")
    prefixes = [torch.cat([opening, told.embed(told.answer_tokens(answer))]) for answer in ("blue", "ultramarine")]
    other = told.embed(told.answer_tokens("or remember"))
    told.read_ahead(opening)
    read = list[int]()
    extend = told.trunk.extend
    monkeypatch.setattr(told.trunk, "extend", lambda rows, cache: (read.append(len(rows)), extend(rows, cache))[1])
    asked = [[prompt] * 4, [*prefixes, other, None], [Sampling(1)] * 4]
    told.generate(*asked)
    assert read == [len(prefix) - len(opening) + len(prompt) for prefix in prefixes] + [len(other) + len(prompt), len(prompt)]
    monkeypatch.undo()
    asked[2] = [Sampling(20)] * 4
    assert [made.token_ids for made in told.generate(*asked)] == [made.token_ids for made in fresh.generate(*asked)]
    assert told.sequence(prompt, prefixes[0], Sampling(20)).capacity == len(prefixes[0]) + len(prompt) + 20


def test_a_text_that_ends_with_its_answer_ends(decoder: Decoder) -> None:
    sequence = decoder.sequence([1, 2], decoder.embed([3]), Sampling(9), Certain([[5]]))
    sequence.extend(torch.zeros(300), 0)
    sequence.extend(torch.zeros(300), next(iter(decoder.end_ids)))
    assert (sequence.ids, sequence.finish) == ([5], "stop")


class Certain(Pointer):
    """A pointer that an untrained decoder cannot but follow."""

    @property
    def bonus(self) -> dict[int, float]:
        return dict.fromkeys(super().bonus, 1e4)


def test_one_that_is_removed_stops_at_once_and_the_others_go_on(decoder: Decoder) -> None:
    batch = decoder.batch()
    gone, stays = (decoder.sequence(decoder.tokens(t), None, Sampling(12)) for t in ("gone", "stays"))
    batch.add(gone)
    batch.add(stays)
    batch.step()
    batch.remove(gone)
    batch.remove(gone)
    while len(batch):
        batch.step()
    assert len(gone.ids) == 1
    assert stays.text == alone(decoder, "stays", Sampling(12))
    assert batch.tokens == 0


def test_a_new_prompt_has_its_first_token_at_the_next_step(decoder: Decoder) -> None:
    batch = decoder.batch()
    early, late = (decoder.sequence(decoder.tokens(t), None, Sampling(12)) for t in ("early", "late"))
    batch.add(early)
    batch.step()
    batch.add(late)
    assert batch.step() == [early, late]


def test_a_long_prompt_does_not_hold_up_the_others(decoder: Decoder) -> None:
    batch = decoder.batch()
    quick = decoder.sequence(decoder.tokens("quick"), None, Sampling(12))
    long = decoder.sequence(decoder.tokens("x" * (3 * CHUNK + 1)), None, Sampling(12))
    batch.add(quick)
    batch.step()
    batch.add(long)
    assert [batch.step() for _ in range(4)] == [[quick]] * 3 + [[quick, long]]


@settings(deadline=None, max_examples=30)
@given(st.text(min_size=1, max_size=12), st.lists(st.text(min_size=1, max_size=4), max_size=3))
def test_stop_texts_cut_wherever_the_token_borders_are(text: str, stops: list[str]) -> None:
    """Fed byte by byte; what has been streamed is never taken back."""
    sampling = Sampling(1000, stop=tuple(stops))
    sequence = TextSequence(torch.empty(1, 4), 1, sampling, lambda ids: bytes(ids).decode(errors="replace"), frozenset())
    streamed = ""
    for byte in text.encode():
        if sequence.finish:
            break
        sequence.extend(torch.zeros(256), byte)
        assert sequence.settled.startswith(streamed)
        streamed = sequence.settled
    found = [at for stop in stops if (at := text.find(stop)) >= 0]
    assert sequence.text == (text[: min(found)].rstrip("\ufffd") if found else text)
    assert sequence.finish == ("stop" if found else None)


@pytest.mark.parametrize(
    ("said", "sampling", "text"),
    [
        ("理想".encode()[:1], Sampling(1), ""),
        ("理想".encode()[:5], Sampling(5), "理"),
        ("理想".encode(), Sampling(6), "理想"),
        ("理🎉".encode()[:-1], Sampling(6), "理"),
        ("理".encode()[:2] + b"a", Sampling(3), "\ufffda"),
        ("理".encode()[:2] + b"a" + "é".encode()[:1], Sampling(4), "\ufffda"),
        ("理想".encode()[:5] + b"END", Sampling(9, stop=("END",)), "理"),
        ("理想".encode()[:4] + b"Ex", Sampling(6, stop=("END",)), "理\ufffdEx"),
        ([*"理想".encode()[:5], 256], Sampling(9), "理"),
    ],
)
def test_no_text_ends_with_half_a_character(decoder: Decoder, said: Sequence[int], sampling: Sampling, text: str) -> None:
    """However it ends; what was streamed is its beginning, and the tokens are told as they were said."""
    sequence, streamed = decoder.sequence([1], None, sampling), ""
    for token in said:
        assert sequence.finish is None
        sequence.extend(torch.zeros(300), token)
        assert sequence.settled.startswith(streamed)
        streamed = sequence.settled
    assert sequence.finish is not None and streamed == sequence.generation.text == text
    assert sequence.generation.token_ids == tuple(token for token in said if token < 256)


def test_an_answer_alone_does_not_end_with_half_a_character(decoder: Decoder) -> None:
    said = "理想".encode()[:5]
    sequence = decoder.sequence([1], decoder.embed([3]), Sampling(9, answer_only=True), Certain([list(said)]))
    for token in said:
        sequence.extend(torch.zeros(300), token)
    assert (sequence.text, sequence.finish) == ("理", "stop")


def test_sampling_keeps_to_top_k_and_seed(decoder: Decoder) -> None:
    greedy = alone(decoder, "dice", Sampling(16))
    assert alone(decoder, "dice", Sampling(16, temperature=2.0, top_k=1, seed=1)) == greedy
    loose = [alone(decoder, "dice", Sampling(16, temperature=2.0, seed=seed)) for seed in (1, 1, 2)]
    assert loose[0] == loose[1] != loose[2]


def test_log_probabilities_are_those_of_the_chosen_tokens(decoder: Decoder) -> None:
    prompt = decoder.tokens("sure")
    (made,) = decoder.generate([prompt], [None], [Sampling(6, logprobs=3)])
    forced = decoder.force([prompt], [list(made.token_ids)], [None])[0]
    assert [p.token_id for p in made.log_probs] == list(made.token_ids)
    assert torch.allclose(torch.tensor([p.log_prob for p in made.log_probs]), forced.log_probs, atol=1e-3)
    for p in made.log_probs:
        assert len(p.top) == 3 and p.top[0] == (p.token_id, pytest.approx(p.log_prob))
