"""The room that is left on a tenant's pages."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from itertools import chain, count


class FreeSlots:
    """How many facts each page still takes, and which pages take any, in the order of their numbers."""

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._free: dict[int, int] = {}
        self._open: list[int] = []  # pages with room, sorted
        self._new = 0  # the first page that there is not yet

    def note(self, page: int, facts: int) -> None:
        """The page holds so many facts now."""
        free, at = self._slots - facts, bisect_left(self._open, page)
        listed = self._open[at : at + 1] == [page]
        if free > 0 and not listed:
            self._open.insert(at, page)
        elif free <= 0 and listed:
            self._open.pop(at)
        self._free[page], self._new = free, max(self._new, page + 1)

    def free(self, page: int) -> int:
        """How many facts the page takes; a page that is not there yet takes all its slots."""
        return self._free.get(page, self._slots)

    def pages(self) -> Iterator[int]:
        """Pages with room, the lowest first; then new ones without end. Nothing may be noted meanwhile."""
        return chain(self._open, count(self._new))
