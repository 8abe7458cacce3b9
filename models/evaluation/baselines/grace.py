"""A codebook entry at one block, in the style of GRACE (Hartvigsen et al. 2023, arXiv 2211.11031).

The key is the block's input at the prompt's last token; the value, learned by gradient steps, replaces the block's output
there whenever a prompt's key lies within a radius of it. Differences: one entry at a time, so nothing is split or merged; 50
steps of Adam where EasyEdit's GPT-2 XL takes 200 of its own; and the radius is a share of the key's norm, since the scale of
hidden states differs between decoders.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from models.engine.decoder import Decoder
from models.evaluation.baselines.editor import Edit, hooked, layers_of


class Codebook:
    """GRACE-style.

    Args:
        layer: which block.
        steps, rate: of Adam on the value.
        radius: within which a key is met, as a share of its norm.
    """

    name = "GRACE-style"

    def __init__(self, decoder: Decoder, layer: int, *, steps: int = 50, rate: float = 1.0, radius: float = 0.2) -> None:
        self.decoder, self.steps, self.rate, self.radius = decoder, steps, rate, radius
        self._block = layers_of(decoder.model)[layer]

    @contextmanager
    def edited(self, prompt: str, target: str) -> Iterator[None]:
        """The entry is there as long as the context."""
        edit = Edit(self.decoder, prompt, target)
        key, value = self._learn(edit)
        radius = self.radius * float(key.norm())

        def defer(_module: Any, inputs: Any, output: Any) -> Any:
            hidden, asked = _hidden(output), inputs[0]
            if asked.shape[1] < 2 or float((asked[0, -1] - key).norm()) > radius:  # a token of the answer, or another prompt
                return output
            spoken = hidden.clone()
            spoken[0, -1] = value
            return _with(output, spoken)

        with hooked(self._block, defer):
            yield

    def _learn(self, edit: Edit) -> tuple[Tensor, Tensor]:
        seen: dict[str, Tensor] = {}

        def look(_module: Any, inputs: Any, output: Any) -> None:
            seen["key"], seen["value"] = inputs[0][0, -1].detach().clone(), _hidden(output)[0, -1].detach().clone()

        with torch.no_grad(), hooked(self._block, look):
            self.decoder.model(torch.tensor([edit.prompt], device=self.decoder.device))
        value = seen["value"].requires_grad_(True)

        def say(_module: Any, _inputs: Any, output: Any) -> Any:
            spoken = _hidden(output).clone()
            spoken[0, edit.last] = value
            return _with(output, spoken)

        optimiser = torch.optim.Adam([value], lr=self.rate)
        with hooked(self._block, say):
            for _ in range(self.steps):
                optimiser.zero_grad()
                edit.loss().backward()  # type: ignore[no-untyped-call]  # torch's
                optimiser.step()
        return seen["key"], value.detach()


def _hidden(output: Any) -> Tensor:
    found: Tensor = output[0] if isinstance(output, tuple) else output
    return found


def _with(output: Any, hidden: Tensor) -> Any:
    return (hidden, *output[1:]) if isinstance(output, tuple) else hidden
