"""Laws of the value code and its clean-up."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models.code import OCCUPIED, SlotCode
from tests.models import toys

CODE = toys.code(toys.decoder())
TOKENS = st.lists(st.integers(0, CODE.empty - 1), min_size=1, max_size=CODE.max_slots)


def half_gap(code: SlotCode) -> Tensor:
    """(V,) half the distance of each token to its nearest other, or to the empty slot: what the clean-up may be off by."""
    distances = torch.cdist(code.table.double(), code.table.double())
    distances.fill_diagonal_(torch.inf)
    return distances[:-1].min(1).values / 2


@given(TOKENS)
@settings(deadline=None)
def test_what_was_encoded_is_read_back(tokens: list[int]) -> None:
    assert CODE.clean(CODE.encode(tokens)) == tokens


@given(tokens=TOKENS, seed=st.integers(0, 1000), share=st.floats(0, 0.99))
@settings(deadline=None)
def test_noise_below_half_the_distance_to_the_nearest_token_is_cleaned_away(tokens: list[int], seed: int, share: float) -> None:
    noise = torch.randn(len(tokens), CODE.slot_dim, generator=torch.Generator().manual_seed(seed))
    noise = torch.nn.functional.normalize(noise) * (share * half_gap(CODE)[tokens])[:, None]
    assert CODE.clean(CODE.encode(tokens) + noise.flatten()) == tokens


@given(TOKENS, st.integers(0, 5))
@settings(deadline=None)
def test_empty_slots_say_nothing(tokens: list[int], empty: int) -> None:
    padded = torch.cat([CODE.encode(tokens), torch.zeros(empty * CODE.slot_dim)])
    assert CODE.clean(padded) == tokens
    assert CODE.clean(torch.zeros((empty + 1) * CODE.slot_dim)) == []


def test_what_follows_an_empty_slot_is_not_read() -> None:
    assert CODE.clean(torch.cat([CODE.encode([7]), torch.zeros(CODE.slot_dim), CODE.encode([9])])) == [7]


def test_a_faint_slot_is_empty() -> None:
    assert CODE.clean(0.05 * CODE.encode([7])) == []


def test_the_projection_whitens_the_embeddings() -> None:
    embeddings = torch.randn(400, 20) @ torch.randn(20, 20)
    mean, projection = SlotCode.fit(embeddings, 13)
    projected = (embeddings - mean) @ projection
    assert torch.allclose(projected.T @ projected / 400, torch.eye(12), atol=1e-4)
    assert torch.allclose(projected.mean(0), torch.zeros(12), atol=1e-4)


def test_a_slot_is_a_token_and_a_mark_that_it_is_occupied() -> None:
    slots = CODE.encode([3, 4]).reshape(2, -1)
    assert slots.shape == (2, toys.SLOT_DIM)
    assert slots[:, -1].tolist() == [OCCUPIED, OCCUPIED]


@pytest.mark.parametrize("tokens", [[], [1] * (CODE.max_slots + 1)])
def test_no_code_for_no_tokens_or_too_many(tokens: list[int]) -> None:
    with pytest.raises(AssertionError, match="do not fit"):
        CODE.encode(tokens)
