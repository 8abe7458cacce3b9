"""The key index: all address keys of a tenant in one matrix, so that one product finds the nearest facts."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

# From this number of facts on an 8-bit copy is searched first: 100,000 keys are 358 MB in float32. Without AVX-512 VNNI torch's product
# of 8-bit integers takes longer than that of float32, twice as long for one query and 17 times as long for 140.
COARSE_AT = 4096 if torch.cpu.get_capabilities().get("avx512_vnni") else math.inf
SHORTLIST = 32  # additional candidates that are compared in float32
SPARE = 8  # a matrix that is copied gets 1/SPARE spare rows: amortised, each addition copies eight rows


class KeyIndex:
    """Ids and their keys (n, D) float32, contiguous, with an 8-bit copy; removal moves the last row into the gap. The matrix grows and
    shrinks in steps: at most a third of the rows in use, and one step, are spare.

    The copy has a scale for each row and errs by about 4e-4 in a cosine (keys of 896 dimensions), so a shortlist is compared in
    float32. A product of 8-bit integers reads 100,000 keys in 1.9 ms on two cores with AVX-512 VNNI, one of bfloat16 in
    6.1, one of float32 in 21.
    """

    def __init__(self, dim: int) -> None:
        self.ids: list[str] = []
        self._row: dict[str, int] = {}
        self._keys = torch.zeros(0, dim)
        self._coarse = torch.zeros(0, dim, dtype=torch.int8)
        self._scale = torch.zeros(0)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def dim(self) -> int:
        return self._keys.shape[1]

    @property
    def spare_bytes(self) -> int:
        """Bytes of the rows that no fact uses."""
        row = sum(rows[:1].nbytes for rows in (self._keys, self._coarse, self._scale))
        return row * (len(self._keys) - len(self))

    def add(self, ids: Sequence[str], keys: Tensor) -> None:
        """Add facts with keys (B, D)."""
        n, total = len(self), len(self) + len(ids)
        if total > len(self._keys):
            self._resize(total)
        self._keys[n:total] = keys
        self._coarse[n:total], self._scale[n:total] = _quantised(keys)
        self._row.update(zip(ids, range(n, total), strict=True))
        self.ids += ids

    def remove(self, fact_id: str) -> None:
        row, last = self._row.pop(fact_id), len(self) - 1
        for rows in (self._keys, self._coarse, self._scale):
            rows[row] = rows[last]
            rows[last] = 0  # keeps nothing of a removed key
        if row != last:
            self.ids[row] = self.ids[last]
            self._row[self.ids[row]] = row
        self.ids.pop()
        if 4 * len(self) < 3 * len(self._keys) - SPARE:
            self._resize(len(self))
            self._row = dict(self._row)  # a dictionary does not shrink by itself

    def _resize(self, wanted: int) -> None:
        """Copy the rows in use into a matrix with `wanted` rows and spare ones."""
        n, size = len(self), wanted + wanted // SPARE
        self._keys, self._coarse, self._scale = (_copied(rows, n, size) for rows in (self._keys, self._coarse, self._scale))

    def nearest(self, queries: Tensor, count: int) -> list[list[tuple[str, float]]]:
        """For each query (B, D) the `count` nearest (id, cosine similarity), nearest first."""
        n = len(self)
        if not n:
            return [[] for _ in queries]
        count = min(count, n)
        if n < COARSE_AT:
            top = (queries @ self._keys[:n].T).topk(count, dim=1)  # (B, n)
            return [self._named(rows, values) for rows, values in zip(top.indices, top.values, strict=True)]
        asked, _ = _quantised(queries)  # a query's own scale does not change the order
        coarse = torch._int_mm(asked, self._coarse[:n].T).float().mul_(self._scale[:n])  # (B, n)
        shortlists = coarse.topk(min(n, count + SHORTLIST), dim=1).indices
        return [self._best(query, rows, count) for query, rows in zip(queries, shortlists, strict=True)]

    def _best(self, query: Tensor, rows: Tensor, count: int) -> list[tuple[str, float]]:
        top = torch.mv(self._keys[rows], query).topk(count)
        return self._named(rows[top.indices], top.values)

    def _named(self, rows: Tensor, similarities: Tensor) -> list[tuple[str, float]]:
        return [(self.ids[row], similarity) for row, similarity in zip(rows.tolist(), similarities.tolist(), strict=True)]


def _quantised(keys: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (B, D) as 8-bit integers and the scale (B,) of each."""
    scale = keys.abs().amax(1).clamp_min(1e-12) / 127
    return (keys / scale[:, None]).round().to(torch.int8), scale


def _copied(rows: Tensor, kept: int, size: int) -> Tensor:
    """The first `kept` rows, followed by zeros up to `size` rows."""
    fresh = torch.zeros(size, *rows.shape[1:], dtype=rows.dtype)
    fresh[:kept] = rows[:kept]
    return fresh
