"""What the editors share: a prompt and target as the decoder sees them, and where in the decoder they work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor

from models.engine.decoder import Decoder


class Editor(Protocol):
    """Changes a decoder so that it answers a prompt with a target, until the context ends."""

    name: str

    def edited(self, prompt: str, target: str) -> AbstractContextManager[None]:
        """The edit is made on entering and taken back on leaving."""


class Edit:
    """One prompt and target, and the loss that an editor lowers."""

    def __init__(self, decoder: Decoder, prompt: str, target: str) -> None:
        self.decoder = decoder
        self.prompt, self.target = decoder.tokens(prompt), decoder.answer_tokens(target.strip())
        self.last = len(self.prompt) - 1  # position of the prompt's last token

    def loss(self) -> Tensor:
        """Mean negative log-likelihood of the target's tokens after the prompt, with gradients."""
        ids = torch.tensor([[*self.prompt, *self.target]], device=self.decoder.device)
        logits: Tensor = self.decoder.model(ids[:, :-1]).logits[0, self.last :]  # (n, V)
        return torch.nn.functional.cross_entropy(logits.float(), ids[0, self.last + 1 :])


def layers_of(model: Any) -> Any:
    """The decoder's blocks."""
    return model.base_model.layers


@contextmanager
def hooked(module: Any, hook: Any) -> Iterator[None]:
    """A forward hook that stays as long as the context."""
    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()
