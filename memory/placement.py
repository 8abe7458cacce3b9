"""Placement: the page of a new fact."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from memory.free_slots import FreeSlots


class Placement:
    """Chooses pages for the new facts of one block, one after the other.

    A fact goes to the page of its nearest neighbour, so that interfering facts are solved together. If that page is full, it goes
    to the first page with a free slot, and to a new page only if all are full: a tenant has no more pages than its greatest number
    of facts fills. Only the writer places; a replay takes the page from the log.

    Args:
        keys: (B, D) of the block's facts.
        neighbours: for each fact the page of its nearest stored fact and their similarity; None in an empty memory.
        room: free slots before the block.
    """

    def __init__(self, keys: Tensor, neighbours: Sequence[tuple[int, float] | None], room: FreeSlots) -> None:
        self._neighbours, self._free_slots = neighbours, room
        self._among = torch.tril(keys @ keys.T + 2.0, diagonal=-1)  # (B, B) above zero for earlier facts only
        self._pages: list[int] = []
        self._added = Counter[int]()
        self._open = room.pages()
        self._first = next(self._open)

    def next(self, superseded: int | None) -> int:
        """The page of the next fact; `superseded` is the page of the fact that it replaces, and is kept."""
        page = superseded if superseded is not None else self._free(self._nearest(len(self._pages)))
        self._pages.append(page)
        if superseded is None:
            self._added[page] += 1
        return page

    def _nearest(self, fact: int) -> int | None:
        stored = self._neighbours[fact]
        if fact:
            similarity, earlier = self._among[fact].max(0)
            if stored is None or float(similarity) - 2.0 > stored[1]:
                return self._pages[int(earlier)]
        return None if stored is None else stored[0]

    def _free(self, wanted: int | None) -> int:
        if wanted is not None and self._has_room(wanted):
            return wanted
        while not self._has_room(self._first):
            self._first = next(self._open)
        return self._first

    def _has_room(self, page: int) -> bool:
        return self._added[page] < self._free_slots.free(page)
