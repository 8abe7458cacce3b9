"""The encoder's layers agree with transformers' own; frozen, a text's bits are its own; factors beside and merged are the same."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch
from transformers import AutoModel
from transformers.models.mpnet.modeling_mpnet import MPNetEncoder

from models.scope.transformer import KINDS, Transformer, relative_buckets
from tests.models import toys

TOKENS = 4 + len(toys.WORDS)


@pytest.fixture(scope="module", params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toys.encoder_folder(tmp_path_factory.mktemp("encoder"), request.param, layers=3)


def texts(*lengths: int, seed: int = 0) -> list[list[int]]:
    rng = random.Random(seed)
    return [[rng.randrange(2, TOKENS) for _ in range(length)] for length in lengths]  # 1 is padding


def apart(a: torch.Tensor, b: torch.Tensor) -> float:
    """Root of the mean square of the difference, by that of `b`."""
    return float((a - b).square().mean().sqrt() / b.square().mean().sqrt())


@torch.inference_mode()
def test_it_agrees_with_transformers(folder: Path) -> None:
    theirs, ours = AutoModel.from_pretrained(folder, dtype=torch.float32).eval(), Transformer(folder)
    asked = texts(1, 2, 9, 60, 300)
    for text, found in zip(asked, ours(asked), strict=True):
        wanted = theirs(torch.tensor([text])).last_hidden_state[0]
        assert found.dtype == torch.float32 and found.shape == wanted.shape and apart(found, wanted) < 0.02
        if len(text) > 8:
            other = theirs(torch.tensor([text[::-1]])).last_hidden_state[0].flip(0)  # which the order of the words alone tells apart
            assert apart(other, wanted) > 0.1


@torch.inference_mode()
def test_frozen_a_texts_bits_do_not_depend_on_its_company(folder: Path) -> None:
    frozen, loose = Transformer(folder), Transformer(folder)
    frozen.freeze()
    asked = texts(1, 2, 3, 7, 31, 64, 65, 130)
    together = frozen(asked)
    for order in (asked[::-1], asked[:3], asked[3:]):
        for text, found in zip(order, frozen(order), strict=True):
            assert torch.equal(found, together[asked.index(text)])
    for text, found, wanted in zip(asked, together, loose(asked), strict=True):
        assert torch.equal(found, frozen([text])[0]) and apart(found, wanted) < 0.02


@torch.inference_mode()
def test_merged_factors_do_what_they_do_beside_the_weights(folder: Path) -> None:
    factors, asked = toys.reader_update(folder).factors, texts(5, 40)
    plain, merged = Transformer(folder), Transformer(folder)
    merged.merge(factors)
    for text, found, wanted, bare in zip(asked, merged(asked), plain(asked, factors), plain(asked), strict=True):
        assert apart(found, wanted) < 0.03 < 0.2 < apart(bare, wanted), len(text)


def test_factors_are_learnt(folder: Path) -> None:
    factors = {name: factor.float().requires_grad_() for name, factor in toys.reader_update(folder).factors.items()}
    outputs = Transformer(folder)(texts(6), {name: factor.bfloat16() for name, factor in factors.items()})
    torch.manual_seed(0)
    (outputs[0] * torch.randn_like(outputs[0])).sum().backward()  # type: ignore[no-untyped-call]  # torch's
    assert all(factor.grad is not None and factor.grad.abs().max() > 0 for factor in factors.values())


@pytest.mark.parametrize("length", [1, 2, 40, 300])
def test_distances_are_in_mpnets_buckets(length: int) -> None:
    at = torch.arange(length)
    assert torch.equal(relative_buckets(length, 32), MPNetEncoder.relative_position_bucket(at[None, :] - at[:, None], num_buckets=32))


def test_another_kind_of_model_is_refused(tmp_path: Path) -> None:
    folder = toys.encoder_folder(tmp_path, "bert", layers=1)
    config = json.loads((folder / "config.json").read_text())
    for change in ({"model_type": "roberta"}, {"hidden_act": "relu"}):
        (folder / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(ValueError, match="wanted one of bert, mpnet with gelu"):
            Transformer(folder)
