"""Prefix (the paper's W_M): a cleaned readout becomes soft tokens in the decoder's input embedding space.

    opening constants · e_i + MLP(e_i) + position_i for each slot · closing constants · the prompt

The e_i are the decoder's exact embeddings of the snapped tokens; the MLP and the positions start at zero and the
constants at the embeddings of "The answer is:" and two newlines, so the untrained prefix is that very text.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

OPENING, CLOSING = "The answer is:", "\n\n"


class Prefix(nn.Module):
    """Soft tokens of width d from token embeddings.

    Args:
        opening: (k, d) float32 start values of the opening constants.
        closing: (m, d) float32 start values of the closing constants.
        max_slots: longest target in tokens.
        hidden: width of the MLP.
    """

    def __init__(self, opening: Tensor, closing: Tensor, *, max_slots: int, hidden: int) -> None:
        super().__init__()
        width = opening.shape[1]
        self.opening = nn.Parameter(opening.clone().float())
        self.closing = nn.Parameter(closing.clone().float())
        self.position = nn.Parameter(torch.zeros(max_slots, width))
        self.rise = nn.Linear(width, hidden)
        self.fall = nn.Linear(hidden, width)
        nn.init.zeros_(self.fall.weight)
        nn.init.zeros_(self.fall.bias)
        # Embeddings are small (about 0.1 a dimension): scale them to unit variance before the MLP.
        self.scale = nn.Parameter(torch.tensor(1.0 / max(opening.std().item(), 1e-6)), requires_grad=False)

    def forward(self, embeddings: Tensor) -> Tensor:
        """(n, d) embeddings of one target's tokens to (k + n + m, d) soft tokens, float32."""
        e = embeddings.float()
        slots = e + self.fall(nn.functional.gelu(self.rise(e * self.scale))) + self.position[: len(e)]
        return torch.cat([self.opening, slots, self.closing])
