"""All address keys of a tenant in one matrix: one product finds the nearest facts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

COARSE_AT = 8192  # from so many facts on, half the bytes are read first: 100,000 keys are 358 MB in float32
SHORTLIST = 32  # how many more than asked for are then compared in float32


class Directory:
    """Ids and their keys (n, D) float32, contiguous, with a bfloat16 copy; removal swaps the last row in."""

    def __init__(self, dim: int) -> None:
        self.ids: list[str] = []
        self._row: dict[str, int] = {}
        self._keys = torch.zeros(16, dim)
        self._coarse = torch.zeros(16, dim, dtype=torch.bfloat16)

    def __len__(self) -> int:
        return len(self.ids)

    def add(self, ids: Sequence[str], keys: Tensor) -> None:
        """Add facts with keys (B, D)."""
        n, total = len(self), len(self) + len(ids)
        if total > len(self._keys):
            self._keys, self._coarse = (_grown(matrix, n, max(total, 2 * n)) for matrix in (self._keys, self._coarse))
        self._keys[n:total] = keys
        self._coarse[n:total] = keys.bfloat16()
        self._row.update(zip(ids, range(n, total), strict=True))
        self.ids += ids

    def remove(self, fact_id: str) -> None:
        row, last = self._row.pop(fact_id), len(self) - 1
        for matrix in (self._keys, self._coarse):
            matrix[row] = matrix[last]
            matrix[last] = 0  # what is removed is not kept
        if row != last:
            self.ids[row] = self.ids[last]
            self._row[self.ids[row]] = row
        self.ids.pop()

    def nearest(self, queries: Tensor, count: int) -> list[list[tuple[str, float]]]:
        """For each query (B, D) the `count` nearest (id, cosine similarity), nearest first."""
        n = len(self)
        if not n:
            return [[] for _ in queries]
        count = min(count, n)
        if n < COARSE_AT:
            top = (queries @ self._keys[:n].T).topk(count, dim=1)  # (B, n)
            return [self._named(rows, values) for rows, values in zip(top.indices, top.values, strict=True)]
        shortlists = (queries.bfloat16() @ self._coarse[:n].T).topk(count + SHORTLIST, dim=1).indices  # (B, count + SHORTLIST)
        return [self._best(query, rows, count) for query, rows in zip(queries, shortlists, strict=True)]

    def _best(self, query: Tensor, rows: Tensor, count: int) -> list[tuple[str, float]]:
        top = torch.mv(self._keys[rows], query).topk(count)
        return self._named(rows[top.indices], top.values)

    def _named(self, rows: Tensor, similarities: Tensor) -> list[tuple[str, float]]:
        return [(self.ids[row], similarity) for row, similarity in zip(rows.tolist(), similarities.tolist(), strict=True)]


def _grown(matrix: Tensor, rows: int, size: int) -> Tensor:
    larger = torch.zeros(size, matrix.shape[1], dtype=matrix.dtype)
    larger[:rows] = matrix[:rows]
    return larger
