"""Which page a new fact goes to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


class Placement:
    """Places the new facts of one block, one after the other.

    A fact goes to the page of its nearest neighbour, so that facts that interfere are solved together, while that page
    has room; else to the last page, else to a new one.

    Args:
        keys: (B, D) of the block's facts.
        neighbours: for each the page of its nearest stored fact and their similarity; None in an empty memory.
        rows: how many facts each page holds.
        slots: how many a page may hold.
    """

    def __init__(
        self, keys: Tensor, neighbours: Sequence[tuple[int, float] | None], rows: Mapping[int, int], slots: int
    ) -> None:
        self._neighbours, self._rows, self._slots = neighbours, dict(rows), slots
        self._among = torch.tril(keys @ keys.T + 2.0, diagonal=-1)  # (B, B) above zero for earlier facts only
        self._pages: list[int] = []

    def next(self, superseded: int | None) -> int:
        """The page of the next fact; one that supersedes another takes its place."""
        page = superseded if superseded is not None else self._free(self._nearest(len(self._pages)))
        self._pages.append(page)
        if superseded is None:
            self._rows[page] = self._rows.get(page, 0) + 1
        return page

    def _nearest(self, fact: int) -> int | None:
        stored = self._neighbours[fact]
        if fact:
            similarity, earlier = self._among[fact].max(0)
            if stored is None or float(similarity) - 2.0 > stored[1]:
                return self._pages[int(earlier)]
        return None if stored is None else stored[0]

    def _free(self, wanted: int | None) -> int:
        last = max(self._rows, default=0)
        for page in (wanted, last):
            if page is not None and self._rows.get(page, 0) < self._slots:
                return page
        return last + 1
