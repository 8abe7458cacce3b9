"""All address keys of a tenant in one matrix: one product finds the nearest facts."""

from __future__ import annotations

import torch
from torch import Tensor


class Directory:
    """Ids and their keys (n, D) float32, contiguous; removal swaps the last row in."""

    def __init__(self, dim: int) -> None:
        self.ids: list[str] = []
        self._row: dict[str, int] = {}
        self._keys = torch.zeros(16, dim)

    def __len__(self) -> int:
        return len(self.ids)

    def add(self, fact_id: str, key: Tensor) -> None:
        if len(self) == len(self._keys):
            self._keys = torch.cat([self._keys, torch.zeros_like(self._keys)])
        self._keys[len(self)] = key
        self._row[fact_id] = len(self)
        self.ids.append(fact_id)

    def remove(self, fact_id: str) -> None:
        row, last = self._row.pop(fact_id), len(self) - 1
        if row != last:
            self._keys[row] = self._keys[last]
            self.ids[row] = self.ids[last]
            self._row[self.ids[row]] = row
        self._keys[last] = 0  # what is removed is not kept
        self.ids.pop()

    def nearest(self, queries: Tensor, count: int) -> list[list[tuple[str, float]]]:
        """For each query (B, D) the `count` nearest (id, cosine similarity), nearest first."""
        if not self.ids:
            return [[] for _ in queries]
        similarities = queries @ self._keys[: len(self)].T  # (B, n)
        top = similarities.topk(min(count, len(self)), dim=1)
        return [
            [(self.ids[i], s) for i, s in zip(rows, values, strict=True)]
            for rows, values in zip(top.indices.tolist(), top.values.tolist(), strict=True)
        ]
