"""Laws of the prefix."""

from __future__ import annotations

import torch

from models.engine.decoder import Sampling
from models.prefix import CLOSING, OPENING
from tests.models import toys

DECODER = toys.decoder()


def test_the_untrained_prefix_is_a_text() -> None:
    answer = DECODER.answer_tokens("Oslo")
    soft = toys.prefix(DECODER)(DECODER.embed(answer))
    assert torch.equal(soft, DECODER.embed(DECODER.tokens(f"{OPENING} Oslo{CLOSING}")))


def test_generating_after_the_untrained_prefix_is_generating_after_that_text() -> None:
    prompt, sampling = "Where is Bob?", Sampling(max_new_tokens=12)
    soft = toys.prefix(DECODER)(DECODER.embed(DECODER.answer_tokens("Oslo"))).detach()
    with_prefix = DECODER.generate([DECODER.tokens(prompt)], [soft], [sampling])[0]
    as_text = DECODER.generate([DECODER.tokens(f"{OPENING} Oslo{CLOSING}{prompt}")], [None], [sampling])[0]
    assert with_prefix.token_ids == as_text.token_ids
    assert with_prefix.token_ids != DECODER.generate([DECODER.tokens(prompt)], [None], [sampling])[0].token_ids


def test_only_the_scale_is_not_trained() -> None:
    fixed = {name for name, parameter in toys.prefix(DECODER).named_parameters() if not parameter.requires_grad}
    assert fixed == {"scale"}


def test_every_trained_part_reaches_the_soft_tokens() -> None:
    prefix = toys.prefix(DECODER)
    torch.nn.init.normal_(prefix.fall.weight)  # at zero, nothing behind it has a gradient yet
    prefix(DECODER.embed([1, 2, 3])).square().sum().backward()
    for name, parameter in prefix.named_parameters():
        assert not parameter.requires_grad or bool(parameter.grad.any()), name
