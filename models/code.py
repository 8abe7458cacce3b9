"""Value code: a target's tokens, one slot each, and the clean-up that snaps a noisy readout back to tokens.

A slot is the token's input embedding in the decoder, centred and projected by PCA to whitened dimensions, and one
more dimension that says "occupied". An empty slot is the zero vector, so a code may be padded or widened with zeros
without changing what it says, and the memory may widen its matrices the same way.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

SLOTS = 8  # compared at a time: most targets are short, and codes as wide as the memory's longest
OCCUPIED = 8.0  # about the norm of a whitened slot: an empty slot is as far from a token as tokens are from each other


class SlotCode:
    """Token ids to codes and back.

    Args:
        mean: (d,) float32, mean of the decoder's embedding matrix.
        projection: (d, S - 1) float32, whitening PCA of that matrix.
        embeddings: (V, d) the decoder's input embedding matrix, any float dtype.
        max_slots: how many tokens a target may have.
    """

    def __init__(self, mean: Tensor, projection: Tensor, embeddings: Tensor, max_slots: int) -> None:
        self.mean, self.projection, self.max_slots = mean, projection, max_slots
        self.slot_dim = projection.shape[1] + 1
        vocabulary = embeddings.shape[0]
        table = torch.zeros(vocabulary + 1, self.slot_dim, dtype=torch.float32, device=embeddings.device)
        for start in range(0, vocabulary, 8192):
            rows = embeddings[start : start + 8192].float()
            table[start : start + len(rows), :-1] = (rows - mean.to(rows.device)) @ projection.to(rows.device)
        table[:vocabulary, -1] = OCCUPIED
        self.empty = vocabulary  # the last row stays zero: the empty slot
        self.table = table  # (V + 1, S)
        self._half_norms = 0.5 * table.square().sum(1)  # (V + 1,)

    @staticmethod
    def fit(embeddings: Tensor, slot_dim: int) -> tuple[Tensor, Tensor]:
        """Mean (d,) and whitening projection (d, slot_dim - 1) of an embedding matrix (V, d), float32."""
        rows = embeddings.double().cpu()
        mean = rows.mean(0)
        centred = rows - mean
        variances, axes = torch.linalg.eigh(centred.T @ centred / len(rows))  # ascending
        top = slice(-(slot_dim - 1), None)
        projection = axes[:, top] / variances[top].clamp_min(1e-12).sqrt()
        return mean.float(), projection.float()

    def encode(self, token_ids: Sequence[int]) -> Tensor:
        """Token ids to a code (n * S,) float32, n = number of tokens, on the CPU."""
        if not 0 < len(token_ids) <= self.max_slots:
            raise AssertionError(f"{len(token_ids)} tokens do not fit {self.max_slots} slots")
        return self.table[list(token_ids)].flatten().cpu()

    def clean(self, readout: Tensor) -> list[int]:
        """Snap a readout (W,) to the nearest token in each slot, up to the first empty slot (associative clean-up)."""
        slots, tokens = readout.reshape(-1, self.slot_dim).to(self.table), list[int]()
        for at in range(0, len(slots), SLOTS):
            tokens += (slots[at : at + SLOTS] @ self.table.T - self._half_norms).argmax(1).tolist()  # argmin of the squared distance
            if self.empty in tokens:
                return tokens[: tokens.index(self.empty)]
        return tokens
