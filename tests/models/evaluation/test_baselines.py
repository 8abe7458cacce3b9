"""The editors ours is measured against: each does what it is for, and leaves no trace."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from models.engine.decoder import Decoder, Sampling
from models.engine.trunk import TransformersTrunk
from models.evaluation.baselines.editor import Edit, Editor
from models.evaluation.baselines.fine_tuning import FineTuning
from models.evaluation.baselines.grace import Codebook
from models.evaluation.baselines.rome import RankOne
from tests.models import toys

PROMPT, TARGET = "the capital of zor is", "Kal"
EDITORS: dict[str, Callable[[Decoder], Editor]] = {
    "FT": lambda decoder: FineTuning(decoder, 0, rate=2e-2, within=None, steps=60),
    "FT-L": lambda decoder: FineTuning(decoder, 0, rate=2e-2, within=1.0, steps=60),  # a toy's weights are far larger
    "ROME-style": lambda decoder: RankOne(decoder, 0, ["some ordinary text", "and some more of it"], steps=60),
    "GRACE-style": lambda decoder: Codebook(decoder, 1, steps=60),
}


@pytest.fixture
def decoder() -> Decoder:
    decoder = toys.decoder()
    decoder.__dict__["trunk"] = TransformersTrunk(decoder.model)
    return decoder


def say(decoder: Decoder, prompt: str) -> str:
    return decoder.generate([decoder.tokens(prompt)], [None], [Sampling(4)])[0].text


@pytest.mark.parametrize("name", EDITORS)
def test_an_edit_makes_the_target_likelier_and_leaves_no_trace(decoder: Decoder, name: str) -> None:
    editor = EDITORS[name](decoder)
    assert editor.name == name
    before = {key: value.clone() for key, value in decoder.model.state_dict().items()}
    plain = say(decoder, PROMPT)
    with torch.no_grad():
        loss = float(Edit(decoder, PROMPT, TARGET).loss())
    with editor.edited(PROMPT, TARGET):
        told = say(decoder, PROMPT)
        if name != "GRACE-style":  # whose entry speaks after prompts, not in the middle of a forced text
            with torch.no_grad():
                assert float(Edit(decoder, PROMPT, TARGET).loss()) < 0.9 * loss
        assert told != plain
    assert say(decoder, PROMPT) == plain
    after = decoder.model.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert not any(parameter.requires_grad for parameter in decoder.model.parameters())


def test_a_codebook_entry_speaks_only_within_its_radius(decoder: Decoder) -> None:
    other = "rockets are red now"
    plain = say(decoder, other)
    with Codebook(decoder, 1, radius=1e-4).edited(PROMPT, TARGET):
        assert say(decoder, other) == plain


def test_fine_tuning_keeps_within_its_bound(decoder: Decoder) -> None:
    editor = FineTuning(decoder, 0, rate=1e-2, within=1e-3)
    before = editor._weight.clone()
    with editor.edited(PROMPT, TARGET):
        change = float((editor._weight - before).abs().max())
    assert 0 < change <= 1e-3 * 1.01
