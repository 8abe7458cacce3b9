"""FT and FT-L: fine-tune one layer's MLP output matrix; for FT-L each weight is kept within ε of where it was.

Zhu et al. 2020 (arXiv 2012.00363), with the constants that EasyEdit gives for GPT-2 XL (hparams/FT/gpt2-xl.yaml): Adam,
learning rate 5e-4, at most 25 steps, ε = 5e-4 in the maximum norm. An edit ends early once its loss is below 0.01.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from models.engine.decoder import Decoder
from models.evaluation.baselines.editor import Edit, layers_of


class FineTuning:
    """FT-L, or FT.

    Args:
        layer: which block's MLP.
        within: ε; None: unbounded, FT.
    """

    def __init__(
        self, decoder: Decoder, layer: int, *, steps: int = 25, rate: float = 5e-4, within: float | None = 5e-4, enough: float = 1e-2
    ) -> None:
        self.name = "FT" if within is None else "FT-L"
        self.decoder, self.steps, self.rate, self.within, self.enough = decoder, steps, rate, within, enough
        self._weight = layers_of(decoder.model)[layer].mlp.down_proj.weight

    @contextmanager
    def edited(self, prompt: str, target: str) -> Iterator[None]:
        """The layer is fine-tuned on entering; its weights come back on leaving."""
        edit, before = Edit(self.decoder, prompt, target), self._weight.detach().clone()
        self._weight.requires_grad_(True)
        optimiser = torch.optim.Adam([self._weight], lr=self.rate)
        try:
            for _ in range(self.steps):
                optimiser.zero_grad()
                loss = edit.loss()
                if float(loss.detach()) < self.enough:
                    break
                loss.backward()  # type: ignore[no-untyped-call]  # torch's
                optimiser.step()
                if self.within is None:
                    continue
                with torch.no_grad():
                    self._weight.copy_(torch.clamp(self._weight, before - self.within, before + self.within))
            self._weight.requires_grad_(False)
            yield
        finally:
            self._weight.requires_grad_(False)
            self._weight.grad = None
            self._weight.copy_(before)
