"""A rank-one edit of one MLP in the style of ROME (Meng et al. 2022, arXiv 2202.05262).

The MLP's output matrix is a linear memory of keys k. A value v is found by gradient steps so that the target follows the
prompt when the MLP says v there; then W ← W + (v − W k)(C⁻¹ k)ᵀ / (kᵀ C⁻¹ k) puts it in, with C the second moment of the
keys over ordinary text. Steps and rate are the authors' for GPT-2 XL (20 and 0.5). Differences: the key is that of the prompt's
last token, since records need not name their subject; no random contexts are put before the prompt; no term keeps the
subject's essence and no clamp the value's size, whose decay is another; the second moment is of a few hundred short texts,
not of 100,000. They make the edit faster, and some make it worse.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from models.engine.decoder import Decoder
from models.evaluation.baselines.editor import Edit, hooked, layers_of


class RankOne:
    """ROME-style.

    Args:
        layer: which block's MLP.
        texts: ordinary text, from which the keys' second moment is taken once.
        steps, rate, decay: of Adam on the value, and its pull to the old one.
    """

    name = "ROME-style"

    def __init__(
        self, decoder: Decoder, layer: int, texts: Sequence[str], *, steps: int = 20, rate: float = 0.5, decay: float = 0.01
    ) -> None:
        self.decoder, self.steps, self.rate, self.decay = decoder, steps, rate, decay
        self._mlp = layers_of(decoder.model)[layer].mlp.down_proj
        keys = torch.cat([self._keys(decoder.tokens(text)) for text in texts]).double()  # (n, k)
        moment = keys.T @ keys / len(keys)
        moment.diagonal().add_(1e-2 * moment.diagonal().mean())
        self._inverse = torch.linalg.inv(moment)

    def _keys(self, tokens: list[int]) -> Tensor:
        """(T, k) inputs of the MLP's output matrix."""
        seen: list[Tensor] = []
        with torch.no_grad(), hooked(self._mlp, lambda _module, inputs, _output: seen.append(inputs[0][0].detach())):
            self.decoder.model(torch.tensor([tokens], device=self.decoder.device))
        return seen[0]

    @contextmanager
    def edited(self, prompt: str, target: str) -> Iterator[None]:
        """The matrix is changed on entering and comes back on leaving."""
        edit, weight = Edit(self.decoder, prompt, target), self._mlp.weight
        before = weight.detach().clone()
        key = self._keys(edit.prompt)[-1]
        old = (before @ key).detach()
        value = self._value(edit, old)
        direction = (self._inverse @ key.double()).to(key)
        with torch.no_grad():
            weight.add_(torch.outer(value - old, direction / torch.dot(direction, key)).to(weight))
        try:
            yield
        finally:
            weight.copy_(before)

    def _value(self, edit: Edit, old: Tensor) -> Tensor:
        change = torch.zeros_like(old, requires_grad=True)

        def say(_module: Any, _inputs: Any, output: Tensor) -> Tensor:
            spoken = output.clone()
            spoken[0, edit.last] = spoken[0, edit.last] + change
            return spoken

        optimiser = torch.optim.Adam([change], lr=self.rate)
        with hooked(self._mlp, say):
            for _ in range(self.steps):
                optimiser.zero_grad()
                loss = edit.loss() + self.decay * change.square().sum() / old.square().sum()
                loss.backward()  # type: ignore[no-untyped-call]  # torch's
                optimiser.step()
        return old + change.detach()
